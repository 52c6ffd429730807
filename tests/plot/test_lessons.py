"""Figures for a lesson: softmax by temperature, under masks, attention in matrices, gradients."""

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import masks, nn, plot, trace


def cells(ax):
    """The numbers behind the cells of the axes; NaN where a cell is left open."""
    [image] = ax.images
    return np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)


def test_temperatures_are_bars_of_the_softmax():
    scores = np.array([2.0, 1.0, -np.inf, 0.0])
    fig = plot.temperatures(scores, [0.5, 2.0], list("abcd"))
    hidden, *drawn = [[bar.get_height() for bar in ax.patches] for ax in fig.axes]
    assert hidden == [2, 1, 0, 0]
    for heights, t in zip(drawn, [0.5, 2.0], strict=True):
        np.testing.assert_allclose(heights, F.softmax(scores, temperature=t))
    assert "hidden" in [text.get_text() for text in fig.axes[0].texts]


def test_the_entropy_of_equal_scores_is_the_logarithm_of_their_number():
    fig = plot.temperatures(np.zeros(5), [1.0])
    assert f"entropy {np.log(5):.2f}" in [text.get_text() for text in fig.axes[1].texts]


def test_each_mask_hides_its_own(rng):
    scores = rng.standard_normal((4, 4)) - 3
    rules = {"causal": masks.causal(), "padding": masks.padding([4, 2]), "open": None}
    fig = plot.masked_weights(scores, rules, batch=1)
    for ax, rule in zip(fig.axes, [np.tri(4) > 0, np.arange(4) < 2, np.ones(4) > 0], strict=False):
        right = F.softmax(scores, mask=np.broadcast_to(rule, (4, 4)))
        np.testing.assert_allclose(cells(ax), np.where(rule, right, np.nan), rtol=1e-12)
    assert len(plot.masked_weights(scores).axes) == 5  # the four that one learns first, and a bar


def test_the_matrices_are_the_steps_of_attention(rng):
    q, k, v = rng.standard_normal((3, 2)), rng.standard_normal((5, 2)), rng.standard_normal((5, 4))
    rule = masks.causal()
    fig = plot.attention_steps(q, k, v, mask=rule, scale=0.3)
    out, weights = F.attention(q, k, v, mask=rule, scale=0.3, return_weights=True)
    visible = rule.to_array(1, 1, 3, 5)[0, 0]
    right = [q, k.T, 0.3 * q @ k.T, weights, v, out]
    for ax, values in zip(fig.axes, right, strict=True):
        hides = ax.get_title() in ("scores", "weights")
        values = np.where(visible, values, np.nan) if hides else values
        np.testing.assert_allclose(cells(ax), values, atol=1e-12)
        finite = values[np.isfinite(values)]
        assert [float(t.get_text()) for t in ax.texts] == pytest.approx(finite, abs=0.0051)
    sizes = {
        tuple(np.round(ax.get_window_extent().size / np.array(cells(ax).shape)[::-1]))
        for ax in fig.axes
    }
    assert len(sizes) == 1, "cells of several sizes"


def test_matrices_too_large_for_numbers_have_none(rng):
    fig = plot.attention_steps(*rng.standard_normal((3, 30, 8)))
    assert [len(ax.texts) for ax in fig.axes] == [0] * 6


def gradients(norm_first=True):
    model = nn.TransformerEncoder(2, 8, 2, norm_first=norm_first, rng=np.random.default_rng(0))
    y, t = trace.run(model, np.random.default_rng(1).standard_normal((2, 3, 8), np.float32))
    return t.gradients(y)


def test_the_flow_is_the_length_of_each_gradient():
    runs = {"first": gradients(), "last": gradients(norm_first=False)}
    ax = plot.gradient_flow(runs, ax=plot.Figure().add_subplot())
    places = ["input", "layers.0.middle", "layers.0", "layers.1.middle", "layers.1"]
    for line, run in zip(ax.lines, runs.values(), strict=True):
        lengths = [np.linalg.norm(run[place].ravel()) for place in places]
        np.testing.assert_allclose(line.get_ydata(), lengths, rtol=1e-5)
    assert ax.get_yscale() == "log"


def test_the_flow_through_a_plain_stack():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    y, t = trace.run(model, np.ones((2, 4), np.float32))
    ax = plot.gradient_flow(t.gradients(np.zeros_like(y)), ax=plot.Figure().add_subplot())
    assert np.isnan(ax.lines[0].get_ydata()).all()  # zeros have no logarithm
    assert len(ax.lines[0].get_ydata()) == 3


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.temperatures([[1.0]]), ValueError, "scores: expected shape"),
        (lambda: plot.temperatures([np.inf]), ValueError, "scores: expected numbers below inf"),
        (lambda: plot.temperatures([1.0], [0.0]), ValueError, "temperatures: expected"),
        (lambda: plot.temperatures([1.0], []), ValueError, "temperatures: expected at least one"),
        (lambda: plot.temperatures([1.0], tokens=["a", "b"]), ValueError, "tokens: expected"),
        (lambda: plot.masked_weights([[np.nan]]), ValueError, "scores: expected finite numbers"),
        (lambda: plot.masked_weights([[1.0]], masks.causal()), TypeError, "masks: expected"),
        (lambda: plot.attention_steps([[1.0]], [[1.0, 2]], [[1.0]]), ValueError, "k: expected"),
        (lambda: plot.attention_steps([[1.0]], [[1.0]], [[1.0]] * 2), ValueError, "v: expected"),
        (lambda: plot.attention_steps([1.0], [[1.0]], [[1.0]]), ValueError, "q: expected shape"),
        (lambda: plot.gradient_flow({}), ValueError, "gradients: expected at least one"),
        (lambda: plot.gradient_flow(3), TypeError, "gradients: expected a Gradients"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_models_that_cannot_be_compared():
    model = nn.TransformerEncoder(1, 8, 2, rng=np.random.default_rng(0))
    y, t = trace.run(model, np.ones((1, 3, 8), np.float32))
    with pytest.raises(ValueError, match="models of the same places"):
        plot.gradient_flow({"one": t.gradients(y), "two": gradients()})
