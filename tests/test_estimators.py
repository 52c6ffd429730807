"""The estimators: scikit-learn's own checks, sequences of every kind, one file and back."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import (
    check_classifiers_train,
    check_regressors_train,
    estimator_checks_generator,
)

from miniattn import checkpoint, estimators, nn
from miniattn.estimators import SequenceClassifierEstimator, SequenceRegressor

SMALL = {"embed_dim": 16, "num_heads": 2, "num_layers": 1, "epochs": 3, "random_state": 0}

# Why a check of scikit-learn's is not passed as it stands.
LATER = "three epochs are too few to learn anything; test_learns_as_scikit_learn_asks trains longer"
EXPECTED = {
    "check_classifiers_train": LATER,
    "check_regressors_train": LATER,
    "check_methods_subset_invariance": (
        "float32: a sequence alone and among others may differ in its last bits (docs/bits.md), "
        "and the check permits 1e-7"
    ),
}


def checks():
    for cls in (SequenceClassifierEstimator, SequenceRegressor):
        for estimator, check in estimator_checks_generator(cls(**SMALL)):
            name = getattr(check, "func", check).__name__
            yield pytest.param(estimator, check, name, id=f"{cls.__name__}-{name}")


@pytest.mark.filterwarnings("ignore")  # the checks provoke what they look for
@pytest.mark.parametrize(("estimator", "check", "name"), list(checks()))
def test_scikit_learns_checks(estimator, check, name):
    if name in EXPECTED:
        pytest.skip(EXPECTED[name])
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("check", "cls"),
    [
        (check_classifiers_train, SequenceClassifierEstimator),
        (check_regressors_train, SequenceRegressor),
    ],
)
def test_learns_as_scikit_learn_asks(check, cls):
    check(cls.__name__, cls(**{**SMALL, "epochs": 40}, lr=5e-3, dropout=0.0))


def waves(rng, count, width=1):
    """Series of different lengths, slow and fast."""
    X, y = [], []
    for i in range(count):
        n, label = int(rng.integers(8, 20)), i % 2
        t = np.arange(n)[:, None] + rng.random()
        X.append(np.sin((0.3, 1.4)[label] * t + np.arange(width)) + 0.05 * rng.standard_normal())
        y.append(("slow", "fast")[label])
    return X, np.array(y)


def one_kind(kind, rng):
    X, y = waves(rng, 40, width=2)
    match kind:
        case "arrays (T, width)":
            return X, y
        case "arrays (T,)":
            return [x[:, 0] for x in X], y
        case "lists of floats":
            return [x[:, 0].tolist() for x in X], y
        case "an array (n, T, width)":
            return np.stack([x[:8] for x in X]), y
        case "an array (n, T)":
            return np.stack([x[:8, 0] for x in X]), y
    words = {"slow": "a long way", "fast": "at once !"}
    texts = [f"{words[label]} {'and so on ' * (i % 3)}" for i, label in enumerate(y)]
    match kind:
        case "texts":
            return texts, y
        case "words":
            return ["".join(text.split()[:2]) for text in texts], y
        case "lists of strings":
            return [text.split() for text in texts], y
        case "lists of ints":
            return [[len(word) for word in text.split()] for text in texts], y
        case "arrays of ints":
            return [np.array([len(word) for word in text.split()]) for text in texts], y
    raise AssertionError(kind)


KINDS = {
    "arrays (T, width)": "series",
    "arrays (T,)": "series",
    "lists of floats": "series",
    "an array (n, T, width)": "series",
    "an array (n, T)": "table",
    "texts": "tokens",
    "words": "tokens",
    "lists of strings": "tokens",
    "lists of ints": "tokens",
    "arrays of ints": "tokens",
}


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_every_kind(kind, rng):
    X, y = one_kind(kind, rng)
    clf = SequenceClassifierEstimator(**{**SMALL, "epochs": 25}, lr=5e-3, dropout=0.0)
    assert clf.fit(X, y).score(X, y) >= 0.9
    assert clf.kind_ == KINDS[kind]
    p = clf.predict_proba(X[:3])
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    maps = clf.attention(X[:3])
    for row, weights in zip(X[:3], maps, strict=True):
        length = (
            len(clf._prepared(clf._taken([row], reset=False))[0])
            if kind != ("an array (n, T)")
            else len(row)
        )
        assert weights.shape == (1, 2, length, length)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("labels", [[True, False], [3, -1], [0.0, 1.0], ["ja", "nein"]])
def test_labels_of_any_kind(labels, rng):
    X, y = waves(rng, 8)
    y = np.array(labels)[(y == "fast").astype(int)]
    clf = SequenceClassifierEstimator(**SMALL).fit(X, y)
    assert clf.predict(X).dtype == y.dtype
    assert set(clf.classes_) == set(labels)


def test_classes_count_by_their_weight(rng):
    """Of two classes that look alike the one that counts more is predicted."""
    X, y = [np.ones(4)] * 12, np.array(["a", "b"] * 6)
    settings = {**SMALL, "epochs": 20, "lr": 2e-2, "dropout": 0.0}
    for heavy in "ab":
        clf = SequenceClassifierEstimator(
            **settings, class_weight={heavy: 5.0, "ab"[heavy == "a"]: 1.0}
        )
        assert set(clf.fit(X, y).predict(X)) == {heavy}
    rare = np.array(["a"] * 10 + ["b"] * 2)
    balanced = SequenceClassifierEstimator(**settings, class_weight="balanced")
    p = balanced.fit(X, rare).predict_proba(X)
    np.testing.assert_allclose(p, 0.5, atol=0.1)


def test_the_same_state_gives_the_same_bits(rng):
    X, y = waves(rng, 16)
    one, two, other = (
        SequenceClassifierEstimator(**{**SMALL, "random_state": s}).fit(X, y).predict_proba(X)
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_early_stopping_keeps_the_best(rng):
    X, y = waves(rng, 40)
    clf = SequenceClassifierEstimator(
        **{**SMALL, "epochs": 60}, lr=3e-2, early_stopping=True, patience=2, validation_share=0.25
    ).fit(X, y)
    losses = clf.history_["valid_loss"].values
    assert len(losses) < 60
    assert losses.argmin() == len(losses) - 3


def test_partial_fit_goes_on(rng):
    X, y = waves(rng, 32)
    clf = SequenceClassifierEstimator(**SMALL, lr=5e-3)
    with pytest.raises(ValueError, match="classes: expected all classes in the first call"):
        clf.partial_fit(X, y)
    for _ in range(12):
        clf.partial_fit(X[:16], y[:16], classes=["fast", "slow"])
    before = clf.model_
    clf.partial_fit(X[16:], y[16:])
    assert clf.model_ is before
    assert clf.score(X, y) >= 0.9
    with pytest.raises(ValueError, match=r"y: expected classes of \['fast', 'slow'\], got"):
        clf.partial_fit(X[:1], ["other"])


def test_several_numbers_of_a_sequence(rng):
    X = [rng.standard_normal((int(rng.integers(3, 7)), 2)) for _ in range(40)]
    y = np.stack([x.mean(axis=0) for x in X]) * [1, 1000] + [5, 0]
    model = SequenceRegressor(**{**SMALL, "epochs": 40}, lr=5e-3, dropout=0.0).fit(X, y)
    assert model.predict(X).shape == (40, 2)
    assert model.score(X, y) > 0.8


def test_what_scikit_learn_does_with_estimators(rng):
    X, y = waves(rng, 24)
    clf = SequenceClassifierEstimator(**SMALL)
    assert clone(clf).get_params() == clf.get_params()
    assert cross_val_score(clf, X, y, cv=2).shape == (2,)
    search = GridSearchCV(clf, {"embed_dim": [8, 16]}, cv=2).fit(X, y)
    assert search.best_params_["embed_dim"] in (8, 16)
    halved = make_pipeline(FunctionTransformer(lambda X: [x[::2] for x in X]), clf).fit(X, y)
    assert halved.predict(X).shape == (24,)
    clf.fit(X, y)
    twin = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("kind", ["arrays (T, width)", "an array (n, T)", "texts", "lists of ints"])
def test_one_file_and_back(kind, rng, tmp_path):
    X, y = one_kind(kind, rng)
    clf = SequenceClassifierEstimator(**SMALL).fit(X, y)
    clf.save(tmp_path / "clf.safetensors")
    twin = estimators.load(tmp_path / "clf.safetensors")
    np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert twin.get_params() == clf.get_params()
    assert twin.classes_.tolist() == clf.classes_.tolist()


def test_a_regressor_in_a_file_is_read_by_a_new_process(rng, tmp_path):
    X = [rng.standard_normal(int(rng.integers(3, 7))) for _ in range(16)]
    y = [x.mean() for x in X]
    model = SequenceRegressor(**SMALL).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", X[0])
    code = (
        "import numpy as np; from miniattn import estimators; "
        "m = estimators.load('model.safetensors'); print(repr(m.predict([np.load('x.npy')])[0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == repr(model.predict(X[:1])[0])


def test_a_file_of_something_else_is_none(tmp_path):
    checkpoint.save(tmp_path / "layer.safetensors", nn.Linear(2, 2))
    with pytest.raises(checkpoint.CheckpointError, match="expected a file that an estimator saved"):
        estimators.load(tmp_path / "layer.safetensors")


Y = ["a", "b"]


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        ("abc", Y, TypeError, "X: expected a list of sequences or an array, got str"),
        ([], [], ValueError, "X: expected at least 1 sequence"),
        (np.zeros((2, 3, 4, 5)), Y, ValueError, r"X: expected \(n, T\) or \(n, T, width\)"),
        (
            [[1.0, np.nan], [1.0, 2.0, 3.0]],
            Y,
            ValueError,
            r"X\[0\]: expected finite numbers, got NaN",
        ),
        ([np.ones((3, 2)), np.ones((3, 1))], Y, ValueError, r"X\[1\]: expected width 2"),
        ([np.ones(3), np.ones(0)], Y, ValueError, r"X\[1\]: expected at least 1 step"),
        ([["a", "b"], ["a", 0.5]], Y, TypeError, "X: expected tokens that are strings or ints"),
        ([np.ones(3), np.ones(2)], ["a"], ValueError, "y: expected one target for each of 2"),
        ([np.ones(3), np.ones(2)], ["a", "a"], ValueError, "y: expected at least 2 classes"),
        ([np.ones(3), np.ones(2)], None, ValueError, "y: expected labels"),
    ],
)
def test_wrong_calls(X, y, error, message):
    with pytest.raises(error, match=message):
        SequenceClassifierEstimator(**SMALL).fit(X, y)


def test_predicting_another_kind(rng):
    X, y = waves(rng, 8)
    numbers = SequenceClassifierEstimator(**SMALL).fit(X, y)
    with pytest.raises(TypeError, match="X: expected numbers, as in fit, got tokens"):
        numbers.predict(["words"])
    with pytest.raises(ValueError, match="X: expected width 1 as in fit, got 2"):
        numbers.predict([np.ones((3, 2))])
    words = SequenceClassifierEstimator(**SMALL).fit(["a b", "c d"], Y)
    with pytest.raises(TypeError, match="X: expected tokens, as in fit, got numbers"):
        words.predict([np.ones(3)])
    assert words.predict(["never seen"]).shape == (1,)
    assert words.predict([""]).shape == (1,)


def test_without_scikit_learn_it_says_so():
    code = "import sys; sys.modules['sklearn'] = None; import miniattn.estimators"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "miniattn[estimators]"' in done.stderr.splitlines()[-1]
