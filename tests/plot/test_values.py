"""Figures of gradients, of means over heads and of words: what is drawn is what was worked out."""

import numpy as np
import pytest

from miniattn import analysis, masks, nn, plot, trace
from miniattn.plot._values import NAMES

TOKENS = ["[CLS]", "un", "##able", "cat"]
T = len(TOKENS)
GROUPS = [0, 1, 1, 2]


@pytest.fixture(scope="module")
def traced():
    rng = np.random.default_rng(0)
    model = nn.TransformerEncoder(2, 8, 2, rng=rng)
    x = rng.standard_normal((2, T, 8), dtype=np.float32)
    y, t = trace.run(model, x, mask=masks.causal(), tokens=TOKENS)
    return t, t.gradients(rng.standard_normal(y.shape, dtype=np.float32))


def drawn(ax):
    return ax.images[-1].get_array()


SEEN = np.tri(T, dtype=bool)
NAME = "layers.1.attn"


def values(t, g, value, batch=1):
    w, dw = t.weights[NAME][batch], g.weights[NAME][batch]
    return {"weights": w, "gradient": dw, "weights*gradient": w * dw}[value]


@pytest.mark.parametrize("value", ["weights", "gradient", "weights*gradient"])
def test_each_figure_draws_the_value(value, traced):
    t, g = traced
    how = {"gradients": g, "value": value, "batch": 1}
    expected = values(t, g, value)
    one = drawn(plot.attention_map(t, layer=NAME, head=1, **how).axes[0])
    np.testing.assert_array_equal(one.mask, ~SEEN)
    np.testing.assert_array_equal(one.data[SEEN], expected[1][SEEN])
    for h, ax in enumerate(plot.attention_heads(t, layer=NAME, **how).axes[:2]):
        np.testing.assert_array_equal(drawn(ax).data[SEEN], expected[h][SEEN])
    axes = plot.attention_layers(t, **how).axes[0].child_axes
    np.testing.assert_array_equal(drawn(axes[3]).data[SEEN], expected[1][SEEN])
    low, high = axes[3].images[-1].get_clim()
    assert low == (0 if value == "weights" else -high)


@pytest.mark.parametrize("value", ["weights", "gradient", "weights*gradient"])
def test_means_and_words(value, traced):
    t, g = traced
    how = {"gradients": g, "value": value, "batch": 1, "words": True}
    mean = np.where(SEEN, values(t, g, value), 0).mean(axis=0, dtype=np.float64)
    keys = "mean" if value == "gradient" else "sum"
    expected = analysis.merge_words(mean, GROUPS, keys=keys)
    figure = plot.attention_map(t, layer=NAME, head="mean", **how)
    cells = drawn(figure.axes[0])
    np.testing.assert_array_equal(cells.mask, ~np.tri(3, dtype=bool))
    np.testing.assert_allclose(cells.data, expected, rtol=1e-5, atol=1e-9)
    figure.draw_without_rendering()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["[CLS]", "unable", "cat"]
    [_, small] = plot.attention_layers(t, heads="mean", **how).axes[0].child_axes
    np.testing.assert_array_equal(drawn(small), cells)
    given = plot.attention_map(t, layer=NAME, head="mean", **how | {"words": GROUPS})
    np.testing.assert_array_equal(drawn(given.axes[0]), cells)


@pytest.mark.parametrize("value", ["weights", "gradient", "weights*gradient"])
@pytest.mark.parametrize("heads", [[1], [0, 1], "mean"])
def test_lines_are_of_the_value(value, heads, traced):
    """A line for each number; below 0 dashed, and what is one head's in two colours."""
    t, g = traced
    how = {"gradients": g, "value": value, "batch": 1, "words": True, "threshold": 0.0}
    figure = plot.attention_lines(t, layer=NAME, heads=heads, **how)
    of = np.where(SEEN, values(t, g, value), 0)
    of = of.mean(axis=0, keepdims=True, dtype=np.float64) if heads == "mean" else of[heads]
    keys = "mean" if value == "gradient" else "sum"
    merged = analysis.merge_words(of, GROUPS, keys=keys)
    collections = figure.axes[0].collections
    for numbers, lines in zip(merged, collections, strict=True):
        flat = np.sort(abs(numbers[numbers != 0]))
        assert len(lines.get_paths()) == len(flat)
        solid = {tuple(c[:3]) for c, (_, dash) in looks(lines) if dash is None}
        dashed = {tuple(c[:3]) for c, (_, dash) in looks(lines) if dash is not None}
        if value == "weights":
            continue
        assert sum(dash is not None for _, (_, dash) in looks(lines)) == (numbers < 0).sum() > 0
        assert (solid == dashed) == (heads == [0, 1])
    names = [text.get_text() for text in getattr(figure.axes[0].get_legend(), "texts", ())]
    signed = [f"{NAMES[value]} > 0", f"{NAMES[value]} < 0"]
    several = ["head 0", "head 1"] if heads == [0, 1] else []
    assert names == several + (signed if value != "weights" else [])


def looks(lines):
    """The colour and the style of each line."""
    return list(zip(lines.get_colors(), lines.get_linestyles(), strict=True))


def test_a_threshold_of_gradients_is_a_share_of_the_greatest(traced):
    t, g = traced
    how = {"gradients": g, "value": "gradient", "batch": 1, "threshold": 0.5}
    ax = plot.attention_lines(t, layer=NAME, **how).axes[0]
    slopes = abs(np.where(SEEN, values(t, g, "gradient"), 0))
    found = [len(lines.get_paths()) for lines in ax.collections]
    assert found == [(slopes[h] >= 0.5 * slopes.max()).sum() for h in range(2)]
    assert 0 < sum(found) < 6


def test_a_gradient_map_takes_the_gradients_of_a_trace(traced):
    t, g = traced
    figure = plot.gradient_map(t, g, layer=NAME, head=1, batch=1)
    weights, slopes = (drawn(ax) for ax in figure.axes[:2])
    np.testing.assert_array_equal(weights.data[SEEN], t.weights[NAME][1, 1][SEEN])
    np.testing.assert_array_equal(slopes.data[SEEN], g.weights[NAME][1, 1][SEEN])
    np.testing.assert_array_equal(slopes.mask, ~SEEN)
    alone = plot.gradient_map(t, g.weights[NAME][1, 1], layer=NAME, head=1, batch=1)
    np.testing.assert_array_equal(drawn(alone.axes[1]), slopes)


def test_numbers_below_0_are_marked_and_the_bar_says_what_they_are(traced):
    t, g = traced
    figure = plot.attention_map(t, layer=0, head=0, gradients=g, value="gradient")
    ax = figure.axes[0]
    cells = drawn(ax)
    marked = sum(len(line.get_xdata()) for line in ax.lines)
    assert marked == (cells < -0.02 * abs(cells).max()).sum() > 0
    assert figure.axes[1].get_ylabel() == "d loss / d weight"
    logarithmic = plot.attention_map(t, layer=0, head=0, gradients=g, value="gradient", scale="log")
    norm = logarithmic.axes[0].images[-1].norm
    assert norm(-norm.vmax) == 0
    assert norm(0) == pytest.approx(0.5)


def test_zeros_that_are_seen_have_a_dot():
    weights = np.array([[0.5, 0.0, 0.0], [0.2, 0.0, 0.1], [0.0, 0.3, 1e-30]])
    mask = np.ones((3, 3), bool)
    mask[0, 2] = False
    figure = plot.attention_map(weights, mask=mask, scale="log")
    [dots] = figure.axes[0].lines
    places = set(zip(dots.get_ydata().tolist(), dots.get_xdata().tolist(), strict=True))
    assert places == {(0, 1), (1, 1), (2, 0)}
    assert "but to 0.3 to 0.5" in figure.axes[1].get_ylabel()


def test_heads_may_hide_different_keys():
    """What one head hides counts as 0 in the mean; what all hide is hidden."""
    weights = np.array([[[1.0, 7.0], [0.5, 0.5]], [[1.0, -7.0], [0.0, 1.0]]])
    mask = np.array([[[1, 0], [1, 1]], [[1, 0], [0, 1]]], bool)
    cells = drawn(plot.attention_map(weights, mask=mask, head="mean").axes[0])
    np.testing.assert_array_equal(cells.mask, [[False, True], [False, False]])
    np.testing.assert_array_equal(cells.data, [[1.0, 0.0], [0.25, 0.75]])


def test_keys_may_have_words_of_their_own(rng):
    weights = rng.dirichlet(np.ones(3), 2)
    figure = plot.attention_map(weights, ["a", "b"], ["x", "##y", "z"], words=True)
    expected = analysis.merge_words(weights, [0, 1], [0, 0, 1])
    np.testing.assert_array_equal(drawn(figure.axes[0]), expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda t, g: plot.attention_layers(t, value="gradient"),
            ValueError,
            "gradients: expected",
        ),
        (lambda t, g: plot.attention_layers(t, value="dw"), ValueError, "value: expected one of"),
        (lambda t, g: plot.attention_layers(t, heads="max"), ValueError, "heads: expected one of"),
        (
            lambda t, g: plot.attention_map(np.eye(2), gradients=np.eye(3), value="gradient"),
            ValueError,
            r"gradients: expected the shape of the weights, \(2, 2\), got \(3, 3\)",
        ),
        (
            lambda t, g: plot.attention_layers(t, gradients={"other": np.eye(4)}),
            ValueError,
            "gradients: expected those of the layers",
        ),
        (lambda t, g: plot.attention_map(np.eye(2), words=True), ValueError, "words: expected tok"),
        (
            lambda t, g: plot.attention_map(np.eye(2), words=[0]),
            ValueError,
            "words: expected 2 num",
        ),
        (
            lambda t, g: plot.attention_map(np.eye(2), extent=(8, 8), words=[0] * 8),
            ValueError,
            "words: expected exact maps",
        ),
        (
            lambda t, g: plot.attention_map(np.eye(2), ["a"], words=[0, 0]),
            ValueError,
            "tokens: expected T = 2",
        ),
        (lambda t, g: plot.attention_lines(np.eye(2), value="gradient"), ValueError, "gradients"),
        (
            lambda t, g: plot.gradient_map(np.eye(4), g),
            ValueError,
            "dweights: expected those of the layers",
        ),
        (
            lambda t, g: plot.gradient_map(t, trace.Gradients(t, {}, None), layer=0, head=0),
            ValueError,
            "dweights: expected those of layers.0.attn, got none",
        ),
        (lambda t, g: plot.html(t, gradients=np.eye(3)), ValueError, "gradients: expected"),
        (lambda t, g: plot.html(t, words=[0]), ValueError, "words: expected 4 numbers"),
        (lambda t, g: plot.html(t, wards=True), TypeError, "wards"),
    ],
)
def test_wrong_calls(call, error, message, traced):
    with pytest.raises(error, match=message):
        call(*traced)
