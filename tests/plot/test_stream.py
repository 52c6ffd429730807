"""The residual stream and tables of results, drawn: what is shown is what was measured."""

import numpy as np
import pytest

from miniattn import analysis, models, nn, plot, trace


@pytest.fixture(scope="module")
def traced():
    rng = np.random.default_rng(0)
    stack = nn.TransformerEncoder(2, 8, 2, rng=rng)
    x = rng.standard_normal((2, 5, 8), dtype=np.float32)
    y, t = trace.run(stack, x, tokens=list("abcde"))
    return t, t.gradients(rng.standard_normal(y.shape, dtype=np.float32))


def table(ax):
    """The numbers behind the cells of the axes."""
    [image] = ax.images
    return np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)


def texts(axis):
    axis.axes.figure.draw_without_rendering()
    return [label.get_text() for label in axis.get_ticklabels()]


PLACES = ["input", "layers.0.middle", "layers.0", "layers.1.middle", "layers.1"]


def test_norms_of_values_and_gradients(traced):
    fig = plot.residual_stream(*traced, batch=1)
    for ax, values in zip(fig.axes, traced, strict=False):
        expected = [np.linalg.norm(values[name][1], axis=-1) for name in PLACES]
        np.testing.assert_allclose(table(ax), expected, rtol=1e-6)
    assert texts(fig.axes[0].xaxis) == list("abcde")
    assert texts(fig.axes[0].yaxis) == PLACES


def test_values_alone_and_chosen_places(traced):
    fig = plot.residual_stream(traced[0], names=["layers.0.attn", "layers.1.attn"])
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ["norm of the value"]
    assert texts(fig.axes[0].yaxis) == ["layers.0.attn", "layers.1.attn"]


def test_edges_bring_their_names_and_leave_open_what_is_none():
    model = models.GPT(9, 4, embed_dim=8, num_heads=2, num_layers=1, rng=np.random.default_rng(0))
    metric = analysis.LogitDifference([1], [2])
    edges = analysis.path_patching(model, np.array([[1, 2, 3]]), np.array([[3, 2, 3]]), metric)
    fig = plot.patching(edges, baseline=metric(model(np.array([[1, 2, 3]]))))
    np.testing.assert_array_equal(table(fig.axes[0]), edges.values)
    assert texts(fig.axes[0].yaxis) == ["start", "attn.heads[0]", "attn.heads[1]", "ffn"]
    [image] = fig.axes[0].images
    low, high = image.get_clim()
    assert (low + high) / 2 == pytest.approx(metric(model(np.array([[1, 2, 3]]))))
    legend = fig.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["no such edge"]


def test_what_all_names_begin_with_is_left_out():
    names = [f"blocks.layers.{i}.attn.heads" for i in range(2)]
    fig = plot.patching(np.eye(2), names, ["a", "b"])
    assert texts(fig.axes[0].yaxis) == ["0.attn.heads", "1.attn.heads"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t, g: plot.residual_stream(g), TypeError, "trace: expected a Trace"),
        (lambda t, g: plot.residual_stream(t, t), TypeError, "gradients: expected a Gradients"),
        (lambda t, g: plot.residual_stream(t, batch=2), ValueError, "batch: expected a row of 2"),
        (
            lambda t, g: plot.residual_stream(t, names=["layers.0.attn.q"]),
            ValueError,
            r"names: expected values \(B, T, E\), got layers.0.attn.q",
        ),
        (lambda t, g: plot.residual_stream(t, tokens=["a"]), ValueError, "tokens: expected"),
        (lambda t, g: plot.patching([1.0]), ValueError, "values: expected shape"),
        (lambda t, g: plot.patching([[np.inf]]), ValueError, "values: expected finite numbers"),
        (lambda t, g: plot.patching([[1.0]], ["a", "b"]), ValueError, "rows: expected 1 names"),
        (lambda t, g: plot.patching([[1.0]], baseline="x"), TypeError, "baseline: expected"),
    ],
)
def test_wrong_calls(call, error, message, traced):
    with pytest.raises(error, match=message):
        call(*traced)


def test_a_model_without_layers_has_no_stream(rng):
    _, t = trace.run(nn.Linear(2, 2), np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="names: expected names of values"):
        plot.residual_stream(t)
