"""What joins the parts of a module: each mistake in it is told from the numbers alone."""

import inspect
import sys
import textwrap

import numpy as np
import pytest
from samples import dice, normal

import miniattn as ma
from miniattn import nn, trace
from miniattn._causes import by_parts
from miniattn._gradjoins import joined
from miniattn._gradsubject import Subject, Way
from miniattn.nn._residual import ResidualLayer

SUM = "return F._elementwise.add(dx, dy if onto is None else onto), grads"
ATTN = "dx, grads = self._backward(dmiddle, self.norm1, self.attn, first, dvalues=dvalues)"
FFN = "dmiddle, _ = self._backward(dy, self.norm2, self.ffn, second)"
NORM = "dx = norm.backward(_first(grads), ctx.norm)"
LAYERS = "for i in reversed(range(len(self.layers))):"
LAYER = "grads = self.layers[i].backward(dx, contexts[i], **given)"
LAST = "dx = dy if self.norm is None else self.norm.backward(dy, ctx.norm)"
COMES_IN = "the gradient that comes in"


def layer():
    return nn.TransformerEncoderLayer(
        4, 2, ffn_dim=6, dropout=0.2, rng=dice(), dtype=np.float64, activation="relu"
    )


def stack():
    return nn.TransformerEncoder(2, 4, 2, ffn_dim=6, dropout=0.2, rng=dice(), dtype=np.float64)


def feed_forward():
    return nn.FeedForward(4, 6, dropout=0.3, rng=dice(), dtype=np.float64)


def plant(monkeypatch, owner, name, old, new):
    """Write one line of a method in another way."""
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(old) == 1
    scope = {}
    exec(source.replace(old, new), vars(sys.modules[owner.__module__]), scope)
    monkeypatch.setattr(owner, name, scope[name])


def cause(module, *shape):
    """Why the gradients of a module are wrong, whose parts are right."""
    subject = Subject(module, normal(*(shape or (1, 3, 4))), None, {"rng": dice()})
    subject.dout = normal(*subject.run()[0].shape)
    return joined(module, subject, Way(1, 1e-6, 1e-3), 0)


# What is wrong, in which module, which gradient is the first wrong one, and what is said of it.
MISTAKES = {
    "the straight path left out": (
        *(layer, ResidualLayer, "_backward", SUM, "return dx, grads"),
        *("overwritten", "middle", f"{COMES_IN} is overwritten by what comes back through `norm2`"),
    ),
    "a sublayer left out of the sum": (
        *(layer, ResidualLayer, "_backward", SUM, "return 1.0 * dy, grads"),
        *("term", "middle", "what comes back through `norm2` is left out, where it is to be added"),
    ),
    "a sign": (
        *(layer, ResidualLayer, "_backward", SUM, "return dx - dy, grads"),
        *("sign", "middle", f"{COMES_IN} has the other sign"),
    ),
    "twice": (
        *(layer, ResidualLayer, "_backward", SUM, "return dx + 2 * dy, grads"),
        *("factor", "middle", f"{COMES_IN} is there 2 times, not once"),
    ),
    "half of the sum": (
        *(layer, ResidualLayer, "_backward", SUM, "return 0.5 * (dx + dy), grads"),
        *("factor", "middle", "the sum of "),
    ),
    "before the dropout": (
        *(layer, ResidualLayer, "_backward", SUM, "return dx + dh, grads"),
        *("stale", "middle", f"the gradient of `ffn` stands where {COMES_IN} belongs"),
    ),
    "a norm passed over": (
        *(layer, ResidualLayer, "_backward", NORM, "dx = _first(grads)"),
        *("left out", "norm2", "is the backward of: `norm2`, `norm1`"),
    ),
    "a sublayer passed over": (
        *(layer, ResidualLayer, "_backward", NORM, "dx = norm.backward(dh, ctx.norm)"),
        *("stale", "norm2", "the gradient of `ffn` stands where what comes back through `ffn`"),
    ),
    "half of a layer left out": (
        *(layer, nn.TransformerEncoderLayer, "backward", FFN, "dmiddle = dy"),
        *("left out", "dropout#2", "is the backward of: `dropout#2`, `ffn`, `norm2`"),
    ),
    "a gradient of before": (
        *(layer, nn.TransformerEncoderLayer, "backward", ATTN, ATTN.replace("dmiddle", "dy")),
        *("stale", "dropout", f"{COMES_IN} stands where the gradient of `middle` belongs"),
    ),
    "one too many": (
        *(layer, nn.TransformerEncoderLayer, "backward", ATTN, f"{ATTN}\n        dx = dx + dy"),
        *("term", "input", f"{COMES_IN} is added to it, and is not to be"),
    ),
    "the last norm left out": (
        *(stack, nn.TransformerEncoder, "backward", LAST, "dx = dy"),
        *("left out", "norm", "is the backward of: `norm`"),
    ),
    "each layer is given the same": (
        *(stack, nn.TransformerEncoder, "backward", LAYER, LAYER.replace("(dx", "(dy")),
        *("stale", "layers.1", f"{COMES_IN} stands where what comes back through `norm` belongs"),
    ),
    "a layer left out": (
        *(stack, nn.TransformerEncoder, "backward", LAYERS, LAYERS.replace("(len", "(1, len")),
        *("left out", "layers.0", "is the backward of: `layers.0`"),
    ),
    "layers in the order of the forward": (
        *(stack, nn.TransformerEncoder, "backward", LAYERS, "for i in range(len(self.layers)):"),
        *("stale", "layers.1", "stands where what comes back through `norm` belongs"),
    ),
    "the hidden units' own": (
        *(feed_forward, nn.FeedForward, "backward"),
        *("return self.up.backward(dh, ctx.up)", "return self.up.backward(-dh, ctx.up)"),
        *("sign", "up", "what comes back through `activation` has the other sign"),
    ),
}


@pytest.mark.parametrize(
    ("build", "owner", "name", "old", "new", "kind", "first", "words"),
    MISTAKES.values(),
    ids=MISTAKES,
)
def test_a_mistake_between_parts_is_told(
    monkeypatch, build, owner, name, old, new, kind, first, words
):
    plant(monkeypatch, owner, name, old, new)
    found = cause(build())
    assert f"the first wrong gradient is that of `{first}`: " in found.text
    assert words in found.text
    assert found.kind == kind


@pytest.mark.parametrize("build", [layer, stack, feed_forward])
def test_nothing_is_said_of_what_is_right(build):
    assert cause(build()) is None


class Gated(nn.Module):
    """y = a(x) · b(x): what joins the parts is no sum."""

    def __init__(self):
        rng = dice()
        self.a, self.b = (nn.Linear(3, 3, rng=rng, dtype=np.float64) for _ in range(2))

    def forward(self, x, *, rng=None):
        (a, of_a), (b, of_b) = self.a.forward(x), self.b.forward(x)
        return trace.point("product", a * b), (a, b, of_a, of_b)

    def backward(self, dy, ctx):
        a, _, of_a, of_b = ctx
        dy = trace.point_backward("product", dy)
        return self.a.backward(dy, of_a) + self.b.backward(dy * a, of_b)


def test_a_factor_between_parts_is_told():
    found = cause(Gated(), 2, 3)
    assert found.text == "the first wrong gradient is that of `a`: the factor `b` is missing"


class Overwriting(nn.Module):
    """y = w x, whose gradient of w is put where that of other calls was."""

    def __init__(self):
        self.w = nn.Parameter(np.array([2.0, 3.0]))

    def forward(self, x, *, rng=None):
        return self.w.data * x, x

    def backward(self, dy, ctx):
        self.w.grad = (dy * ctx).sum(0)
        return dy * self.w.data


def test_a_gradient_that_is_overwritten_is_wrong():
    """One call alone would not show it."""
    report = ma.gradcheck(Overwriting(), normal(4, 2), raises=False)
    assert report.verdict == "failed"
    assert report.cause.kind == "overwritten"
    assert report.cause.text.startswith("dw: the gradient that is there is overwritten")
    used_twice = nn.Sequential(layer := Overwriting(), layer)
    assert ma.gradcheck(used_twice, normal(4, 2), raises=False).first_wrong.kind == "Overwriting"


def test_so_few_numbers_are_the_sum_of_anything():
    parts = {"a": np.array([1.0]), "b": np.array([3.0])}
    assert by_parts(np.array([7.0]), np.array([4.0]), parts) is None
