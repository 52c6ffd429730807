"""The solutions are right: against differences of what is given, and against the package."""

import math
from pathlib import Path

import numpy as np
import pytest

from miniattn import lab, reference
from miniattn.lab._exercises import ORDER

DOCS = Path(__file__).parents[2] / "docs"


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def hidden_as_zero(x):
    return np.where(np.isfinite(x), x, 0.0)


# Of each exercise: the variables, and the loss as a function of them, with `g` what is given.
# Where the backward is given a result and not what it was made of, that is made again from it.
LOSSES = {
    "softmax": (lambda a: {"x": np.log(a["y"])}, lambda g, a, x: (a["dy"] * g["softmax"](x)).sum()),
    "softmax_temperature": (
        lambda a: {"x": np.log(a["y"]) * a["temperature"]},
        lambda g, a, x: (a["dy"] * g["softmax"](x, a["temperature"])).sum(),
    ),
    "softmax_masked": (
        lambda a: {"x": np.where(a["mask"], np.log(np.where(a["mask"], a["y"], 1)), 0.3)},
        lambda g, a, x: (hidden_as_zero(a["dy"]) * g["softmax"](x, a["mask"])).sum(),
    ),
    "logsumexp": (lambda a: {"x": a["x"]}, lambda g, a, x: a["dlse"] @ g["logsumexp"](x)),
    "log_softmax": (
        lambda a: {"x": a["y"]},
        lambda g, a, x: (a["dy"] * g["log_softmax"](x)).sum(),
    ),
    "cross_entropy": (
        lambda a: {"logits": a["logits"]},
        lambda g, a, logits: a["dloss"] * g["cross_entropy"](logits, a["targets"]),
    ),
    "mse": (
        lambda a: {"pred": a["pred"]},
        lambda g, a, pred: a["dloss"] * g["mse"](pred, a["target"]),
    ),
    "linear": (
        lambda a: {"x": a["x"], "weight": a["weight"], "bias": np.zeros(4)},
        lambda g, a, **v: (a["dy"] * g["linear"](**v)).sum(),
    ),
    "embedding": (
        lambda a: {"weight": a["weight"]},
        lambda g, a, weight: (a["dy"] * g["embedding"](a["ids"], weight)).sum(),
    ),
    "layer_norm": (
        lambda a: {"x": a["z"] * a["sigma"]},
        lambda g, a, x: (a["dz"] * g["normalise"](x)[0]).sum(),
    ),
    "layer_norm_affine": (
        lambda a: {"x": a["x"], "weight": a["weight"], "bias": np.zeros(4)},
        lambda g, a, **v: (a["dy"] * g["layer_norm"](**v)).sum(),
    ),
    "rms_norm": (
        lambda a: {"x": a["x"], "weight": a["weight"]},
        lambda g, a, **v: (a["dy"] * g["rms_norm"](**v)).sum(),
    ),
    "tanh": (lambda a: {"x": np.arctanh(a["y"])}, lambda g, a, x: (a["dy"] * g["tanh"](x)).sum()),
    **{
        name: (
            lambda a: {"x": a["x"]},
            lambda g, a, x, name=name: (a["dy"] * g[name](x)).sum(),
        )
        for name in ("relu", "silu", "gelu")
    },
    "dropout": (
        lambda a: {"x": np.ones((3, 4))},
        lambda g, a, x: (a["dy"] * g["dropout"](x, a["keep"], a["p"])).sum(),
    ),
    "rotary": (
        lambda a: {"x": np.ones((3, 4))},
        lambda g, a, x: (a["dy"] * g["rotary"](x, a["angle"])).sum(),
    ),
    "attention_dv": (
        lambda a: {"v": np.ones((4, 3))},
        lambda g, a, v: (a["dout"] * g["mix"](a["weights"], v)).sum(),
    ),
    "attention_dweights": (
        lambda a: {"weights": np.ones((4, 4))},
        lambda g, a, weights: (a["dout"] * g["mix"](weights, a["v"])).sum(),
    ),
    "attention_dscores": (
        lambda a: {"scores": np.log(a["weights"])},
        lambda g, a, scores: (a["dout"] * g["attention"](scores, a["v"])[0]).sum(),
    ),
    "attention_dq_dk": (
        lambda a: {"q": a["q"], "k": a["k"]},
        lambda g, a, **v: (a["dscores"] * g["score"](**v)).sum(),
    ),
    "attention": (
        lambda a: {"q": a["q"], "k": a["k"], "v": a["v"]},
        lambda g, a, **v: (a["dout"] * g["attention"](**v)).sum(),
    ),
    "causal": (
        lambda a: {"scores": a["scores"]},
        lambda g, a, scores: (hidden_as_zero(a["dweights"]) * g["causal_softmax"](scores)).sum(),
    ),
    "padding": (
        lambda a: {"q": a["q"], "k": a["k"], "v": a["v"]},
        lambda g, a, **v: (a["dout"] * g["attention"](lengths=a["lengths"], **v)[0]).sum(),
    ),
    "grouped_heads": (
        lambda a: {"q": a["q"], "k": a["k"]},
        lambda g, a, **v: (a["dscores"] * g["score"](**v)).sum(),
    ),
    "attention_bias": (
        lambda a: {"bias": np.zeros((3, 1, 3))},
        lambda g, a, bias: (a["dweights"] * g["biased"](np.log(a["weights"]), bias)).sum(),
    ),
    "softcap": (
        lambda a: {"scores": a["scores"]},
        lambda g, a, scores: (a["dcapped"] * g["softcap"](scores, a["cap"])).sum(),
    ),
    "attention_dropout": (
        lambda a: {"scores": np.log(a["weights"]), "v": a["v"]},
        lambda g, a, scores, v: (a["dout"] * g["mix"](softmax(scores), v, a["keep"], a["p"])).sum(),
    ),
    "tiled_backward": (
        lambda a: {"q": a["q"], "k": a["k"], "v": a["v"]},
        lambda g, a, **v: (a["dout"] * g["attention"](**v)[0]).sum(),
    ),
    "attention_lse": (
        lambda a: {"scores": np.log(a["weights"])},
        lambda g, a, scores: (
            (a["dout"] * g["attention"](scores, a["v"])[0]).sum()
            + a["dlse"] @ g["attention"](scores, a["v"])[1]
        ),
    ),
    "sink": (
        lambda a: {"scores": np.log(a["weights"] / a["share"][:, None]) + 0.5, "sink": 0.5},
        lambda g, a, scores, sink: (a["dout"] * g["attention"](scores, sink, a["v"])[0]).sum(),
    ),
    "heads": (
        lambda a: {"x": np.ones((4, 8))},
        lambda g, a, x: (a["dheads"] * g["cut"](x, 4)).sum(),
    ),
    "multi_head": (
        lambda a: {name: a[name] for name in ("x", "Wq", "Wk", "Wv", "Wo")},
        lambda g, a, **v: (a["dy"] * g["multi_head"](H=a["H"], **v)).sum(),
    ),
    "cross_attention": (
        lambda a: {"x": a["x"], "memory": a["memory"]},
        lambda g, a, **v: (a["dout"] * g["cross"](Wq=a["Wq"], Wk=a["Wk"], Wv=a["Wv"], **v)).sum(),
    ),
    "feed_forward": (
        lambda a: {name: a[name] for name in ("x", "W1", "W2")},
        lambda g, a, **v: (a["dy"] * g["feed_forward"](**v)).sum(),
    ),
    "residual": (
        lambda a: {"x": a["x"], "W": a["W"]},
        lambda g, a, **v: (a["dy"] * g["block"](**v)).sum(),
    ),
    "tied_weights": (
        lambda a: {"table": a["table"]},
        lambda g, a, table: (a["dlogits"] * g["logits"](a["ids"], table)).sum(),
    ),
    "encoder_layer": (
        lambda a: {name: a[name] for name in ("x", "Wv", "W1", "W2")},
        lambda g, a, **v: (a["dy"] * g["encoder_layer"](**v)).sum(),
    ),
    "gpt_step": (
        lambda a: {"table": a["table"]},
        lambda g, a, table: g["gpt_loss"](a["ids"], a["targets"], table),
    ),
    "lora": (
        lambda a: {name: a[name] for name in ("x", "A", "B")},
        lambda g, a, **v: (a["dy"] * g["lora"](W=a["W"], scale=a["scale"], **v)).sum(),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_solution_is_the_slope_of_what_is_given(name):
    exercise = lab.find(name)
    variables, loss = LOSSES[name]
    given, a = exercise.namespace(), exercise.inputs()
    point = {name: np.array(value, float) for name, value in variables(a).items()}
    assert exercise.results == tuple(f"d{name}" for name in point)
    for (variable, x), gradient in zip(point.items(), exercise.outputs(), strict=True):
        for index in np.ndindex(x.shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = x.copy()
                moved[index] += h
                sides.append(float(loss(given, a, **{**point, variable: moved})))
            slope = (sides[0] - sides[1]) / 2e-5
            assert np.asarray(gradient)[index] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_a_forward_of_softmax():
    a = lab.find("softmax_stable").inputs()
    np.testing.assert_allclose(lab.find("softmax_stable").outputs()[0], reference.softmax(a["x"]))


def test_online_softmax_and_tiles():
    a = lab.find("online_softmax").inputs()
    top, lse = lab.find("online_softmax").outputs()
    np.testing.assert_array_equal(top, a["scores"].max(-1))
    np.testing.assert_allclose(lse, reference.logsumexp(a["scores"]))
    a = lab.find("tiled_forward").inputs()
    whole = reference.attention(*(a[x][None, None] for x in "qkv"))
    for got, right in zip(lab.find("tiled_forward").outputs(), (whole.out, whole.lse), strict=True):
        np.testing.assert_allclose(got, right[0, 0])


def test_adam_by_hand():
    a = lab.find("adam").inputs()
    p, g, m, v = (float(a[x][0]) for x in ("p", "grad", "m", "v"))
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    p -= 0.1 * (m / (1 - 0.9**3)) / (math.sqrt(v / (1 - 0.99**3)) + 1e-2)
    np.testing.assert_allclose([x[0] for x in lab.find("adam").outputs()], [p, m, v])
    a = lab.find("weight_decay").inputs()
    p, g, v = (float(a[x][0]) for x in ("p", "grad", "v"))
    right = p - 0.1 * 0.3 * p - 0.1 * g / (math.sqrt(v) + 1e-2)
    assert lab.find("weight_decay").outputs()[0][0] == pytest.approx(right)


def test_clip():
    a, b = lab.find("clip").outputs()
    assert math.hypot(*a.ravel(), *b) == pytest.approx(1.5)


def test_every_solution_was_compared_with_something():
    here = {"softmax_stable", "online_softmax", "tiled_forward", "adam", "weight_decay", "clip"}
    assert set(LOSSES) | here == set(ORDER)
    assert len(ORDER) == len(set(ORDER)) >= 40


@pytest.mark.parametrize("name", ORDER)
def test_the_page_that_an_exercise_points_to_is_there(name):
    assert (DOCS / f"{lab.find(name).read}.md").is_file()


def test_the_guide_lists_all_of_them():
    text = (DOCS / "lab.md").read_text(encoding="utf-8")
    rows = [f"| `{exercise.name}` | {exercise.title} |" for exercise in lab.exercises()]
    assert "\n".join(rows) in text
    for page in (text, (DOCS / "index.md").read_text(encoding="utf-8")):
        assert f"{len(rows)} functions" in page
