"""What training may be given besides: averages of weights, logs, several seeds."""

import csv
import importlib.util

import numpy as np
import pytest

from miniattn import distributed, nn, optim, plot, training
from miniattn.data import Batch
from miniattn.training import CSVLog, EarlyStopping, TensorBoard, Trainer, WeightAveraging


class Line(nn.Module):
    """y = x · weight, without a kernel."""

    def __init__(self):
        self.weight = nn.Parameter(np.zeros(1))

    def forward(self, x, *, rng=None):
        return x @ self.weight.data, x

    def backward(self, dy, ctx):
        self.weight.accumulate(ctx.T @ dy)


class Squares:
    def forward(self, outputs, targets):
        return float(((outputs - targets) ** 2).mean()), outputs - targets

    def backward(self, dloss, ctx):
        return 2 * dloss * ctx / ctx.size

    def count(self, targets):
        return len(targets)

    def metrics(self, outputs, targets):
        return {}

    def __repr__(self):
        return "Squares()"


def collate(examples):
    return Batch((np.array([x for x, _ in examples]),), np.array([y for _, y in examples]))


EXAMPLES = [(np.array([x]), 3 * x + 0.5 * (-1) ** i) for i, x in enumerate(np.linspace(-1, 1, 8))]


class Seen(training.Callback):
    """The weight after every step, and at every evaluation."""

    def __init__(self):
        self.steps, self.evaluations = [], []

    def on_step(self, trainer):
        self.steps.append(float(trainer.model.weight.data[0]))

    def on_evaluation(self, trainer, result):
        self.evaluations.append(float(trainer.model.weight.data[0]))


def make(*callbacks, **more):
    model = Line()
    optimizer = optim.SGD(model.named_parameters(), lr=0.2)
    settings = {"loss": Squares(), "collate": collate, "batch_size": 2, "progress": False, **more}
    return Trainer(model, optimizer, rng=np.random.default_rng(0), callbacks=callbacks, **settings)


def test_the_mean_over_all_steps():
    seen = Seen()
    trainer = make(seen, WeightAveraging(start=3))
    trainer.fit(EXAMPLES, valid=EXAMPLES, steps=8, evaluate_every=2)
    np.testing.assert_allclose(trainer.model.weight.data[0], np.mean(seen.steps[3:]), rtol=1e-12)
    means = [np.mean(seen.steps[3:n]) if n > 3 else seen.steps[n - 1] for n in (2, 4, 6, 8)]
    np.testing.assert_allclose(seen.evaluations, means, rtol=1e-12)
    loss = trainer.evaluate(EXAMPLES)["loss"]
    np.testing.assert_allclose(trainer.history["valid_loss"].values[-1], loss, rtol=1e-12)


def test_the_exponential_mean():
    seen = Seen()
    trainer = make(seen, WeightAveraging(decay=0.4))
    trainer.fit(EXAMPLES, steps=6)
    average = seen.steps[0]
    for n, weight in enumerate(seen.steps[1:], 1):
        kept = min(0.4, (1 + n) / (10 + n))
        average = kept * average + (1 - kept) * weight
    np.testing.assert_allclose(trainer.model.weight.data[0], average, rtol=1e-12)


def test_training_does_not_depend_on_the_average():
    plain, averaged = Seen(), Seen()
    make(plain).fit(EXAMPLES, valid=EXAMPLES, steps=7)
    make(averaged, WeightAveraging()).fit(EXAMPLES, valid=EXAMPLES, steps=7)
    assert plain.steps == averaged.steps


def test_a_resume_of_averages_is_exact(tmp_path):
    whole = make(WeightAveraging(decay=0.9))
    whole.fit(EXAMPLES, steps=9)
    half = make(WeightAveraging(decay=0.9))
    half.fit(EXAMPLES, steps=4, save_to=tmp_path / "half.safetensors")
    rest = make(WeightAveraging(decay=0.9))
    rest.load(tmp_path / "half.safetensors")
    for trainer in (half, rest):
        trainer.fit(EXAMPLES, steps=9)
        np.testing.assert_array_equal(trainer.model.weight.data, whole.model.weight.data)


def test_early_stopping_before_an_average_keeps_the_best_average():
    stopping = EarlyStopping(2, restore_best=True)
    trainer = make(stopping, WeightAveraging())
    trainer.fit(EXAMPLES, valid=EXAMPLES, steps=30, evaluate_every=1)
    np.testing.assert_allclose(trainer.evaluate(EXAMPLES)["loss"], stopping.best, rtol=1e-12)


def test_a_table_has_every_step_once_after_a_resume(tmp_path):
    path, table = tmp_path / "run.safetensors", tmp_path / "run.csv"
    make(CSVLog(table)).fit(EXAMPLES, valid=EXAMPLES, steps=5, save_to=path)
    trainer = make(CSVLog(table))
    trainer.load(path)
    history = trainer.fit(EXAMPLES, valid=EXAMPLES, steps=9)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 10))
    assert [float(row["loss"]) for row in rows] == history["loss"].values.tolist()
    valid = [float(row["valid_loss"]) for row in rows if row["valid_loss"]]
    assert valid == history["valid_loss"].values.tolist()
    with pytest.raises(OSError):
        make(CSVLog(tmp_path / "no" / "run.csv")).fit(EXAMPLES, steps=1)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs the library tensorboard"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what the library imports
def test_what_tensorboard_reads(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "run.safetensors"
    make(TensorBoard(tmp_path / "log")).fit(EXAMPLES, valid=EXAMPLES, steps=5, save_to=path)
    trainer = make(TensorBoard(tmp_path / "log"))
    trainer.load(path)
    history = trainer.fit(EXAMPLES, valid=EXAMPLES, steps=9)
    read = EventAccumulator(str(tmp_path / "log"), size_guidance={"tensors": 0})
    read.Reload()
    for name in ("loss", "valid_loss"):
        events = read.Tensors(name)
        assert [event.step for event in events] == history[name].steps.tolist()
        values = [event.tensor_proto.float_val[0] for event in events]
        np.testing.assert_allclose(values, history[name].values, rtol=1e-6)


def test_seeds_and_their_spread():
    def run(rng):
        trainer = make()
        trainer.model.weight.data[0] = rng.normal()
        return trainer.fit(EXAMPLES, valid=EXAMPLES, steps=6, evaluate_every=3)

    found = training.seeds(run, [3, 5, 7])
    assert list(found) == [3, 5, 7]
    losses = np.array([h["loss"].values for h in found.values()])
    [loss, *_] = plot.history(found).axes
    line = next(line for line in loss.lines if line.get_label() == "train")
    np.testing.assert_allclose(line.get_ydata(), losses.mean(axis=0))
    band = loss.collections[0].get_paths()[0].vertices
    for step in range(1, 7):
        ys = band[band[:, 0] == step, 1]
        np.testing.assert_allclose([ys.min(), ys.max()], [losses[:, step - 1].min(),
                                                          losses[:, step - 1].max()])  # fmt: skip
    assert plot.history(list(found.values())[:1]).axes[0].collections[:] == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.seeds(3), "run: expected a function"),
        (lambda: training.seeds(lambda rng: None, 1), "run: expected a History from it"),
        (lambda: training.seeds(lambda rng: None, 0), "seeds: expected an int >= 1"),
        (lambda: training.seeds(lambda rng: None, []), "seeds: expected at least one"),
        (lambda: make(augment=3), "augment: expected a function"),
        (lambda: WeightAveraging(1.0), "decay: expected"),
        (lambda: WeightAveraging(start=-1), "start: expected an int >= 0"),
        (lambda: CSVLog(3), "path: expected"),
        (lambda: plot.history([training.History()]), "records: expected at least one"),
        (lambda: plot.history({0: training.History()}, x="step"), "x: expected None"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert message in str(error.value)


def test_several_validation_sets():
    far = [(5 * x, y) for x, y in EXAMPLES]
    stopping = EarlyStopping(3, metric="far_loss")
    trainer = make(stopping)
    sets = {"near": EXAMPLES, "far": far}
    history = trainer.fit(EXAMPLES, valid=sets, steps=2, evaluate_every=1)
    for name, one in sets.items():
        assert history[f"valid_{name}_loss"].values[-1] == trainer.evaluate(one)["loss"]
    assert stopping.best == history["valid_far_loss"].values.min()
    with pytest.raises(ValueError, match="valid: expected names that are identifiers, got 'a b'"):
        trainer.fit(EXAMPLES, valid={"a b": far}, steps=3)
    with pytest.raises(TypeError, match=r"valid\['far'\]: expected a sequence of examples"):
        trainer.fit(EXAMPLES, valid={"far": 3}, steps=3)


def test_augmentation_is_another_in_every_epoch_and_the_same_after_a_resume(tmp_path):
    def given(steps, path=None, start=None):
        seen = []

        def augment(x, rng):
            noisy = x + rng.normal(0, 0.1, x.shape)
            seen.append((float(x[0]), float(noisy[0])))
            return noisy

        trainer = make(augment=augment)
        if start is not None:
            trainer.load(start)
        trainer.fit(EXAMPLES, valid=EXAMPLES, steps=steps, save_to=path)
        return seen, trainer.model.weight.data[0]

    whole, weight = given(8)  # an epoch is 4 steps of 2
    first, second = dict(whole[:8]), dict(whole[8:])
    assert len(whole) == 16  # none at evaluations
    assert first.keys() == second.keys() == {float(x[0]) for x, _ in EXAMPLES}
    assert all(first[x] != second[x] for x in first)
    half, _ = given(3, tmp_path / "half.safetensors")
    rest, resumed = given(8, start=tmp_path / "half.safetensors")
    assert half + rest == whole
    assert resumed == weight


def test_augmentation_is_the_same_on_any_number_of_ranks():
    def noisy(x, rng):
        return x + rng.normal(0, 0.1, x.shape)

    def run(comm):
        trainer = make(augment=noisy, comm=comm, pieces=2)
        trainer.fit(EXAMPLES, steps=6)
        return float(trainer.model.weight.data[0])

    alone, both = (distributed.simulate(n).run(run) for n in (1, 2))
    assert both == alone * 2
