"""Figures: what is drawn, conventions, and errors that state both numbers."""

import io
import re
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from miniattn import analysis, masks, nn, plot, trace
from miniattn.distributed import Span
from miniattn.training import History

T = 6
TOKENS = "the cat sat on the mat".split()  # noqa: SIM905


@pytest.fixture
def weights(rng: np.random.Generator) -> np.ndarray:
    """Causal maps (L, H, T, T)."""
    w = np.tril(rng.random((2, 3, T, T)))
    return w / w.sum(axis=-1, keepdims=True)


def pixels(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="raw", dpi=60)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(-1, 4)


def traced() -> tuple[trace.Trace, trace.Gradients]:
    model = nn.TransformerEncoder(2, 8, 2, rng=np.random.default_rng(0))
    y, t = trace.run(model, np.random.default_rng(1).standard_normal((2, 5, 8), np.float32))
    return t, t.gradients(np.ones_like(y))


def calls(weights: np.ndarray) -> dict[str, object]:
    """One call of every function that draws, by name."""
    one = weights[0, 0]
    return {
        "attention_map": lambda **k: plot.attention_map(one, TOKENS, **k),
        "attention_lines": lambda **k: plot.attention_lines(one, TOKENS, **k),
        "attention_on_image": lambda **k: plot.attention_on_image(one, np.ones((12, 12)), **k),
        "mask": lambda **k: plot.mask(masks.causal(), tokens=TOKENS, **k),
        "attention_heads": lambda: plot.attention_heads(weights[0], TOKENS),
        "attention_layers": lambda: plot.attention_layers(weights),
        "gradient_map": lambda: plot.gradient_map(one, one - 0.5, TOKENS),
        "head_summary": lambda: plot.head_summary(weights),
        "history": lambda: plot.history({"step": [1, 2], "loss": [2.0, 1.0]}),
        "timeline": lambda: plot.timeline(SPANS),
        "residual_stream": lambda: plot.residual_stream(*traced()),
        "temperatures": lambda: plot.temperatures(one[-1], [0.5, 1], TOKENS),
        "masked_weights": lambda: plot.masked_weights(one, tokens=TOKENS),
        "attention_steps": lambda: plot.attention_steps(one, one, one, TOKENS),
        "gradient_flow": lambda **k: plot.gradient_flow(traced()[1], **k),
        "patching": lambda **k: plot.patching(one - 0.5, **k),
    }


SPANS = [Span(0, "work", 0.0, 1.0), Span(1, "waiting", 0.0, 0.5)]
DRAWN_ON_AXES = ["attention_map", "attention_lines", "attention_on_image", "mask", "patching"]
DRAWN_ON_AXES += ["gradient_flow"]
OTHERS = ["attention_heads", "attention_layers", "gradient_map", "head_summary", "history"]
OTHERS += ["residual_stream", "timeline", "temperatures", "masked_weights", "attention_steps"]


@pytest.mark.parametrize("name", DRAWN_ON_AXES + OTHERS)
def test_a_figure_comes_back_and_pyplot_knows_nothing_of_it(name, weights):
    figure = calls(weights)[name]()
    assert isinstance(figure, plot.Figure)
    assert len(np.unique(pixels(figure), axis=0)) > 3, "an empty figure"
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", DRAWN_ON_AXES)
def test_axes_that_are_given_come_back(name, weights):
    ax = plot.Figure().add_subplot()
    assert calls(weights)[name](ax=ax) is ax
    assert ax.has_data() or ax.patches or ax.collections


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_files_of_every_kind(kind, weights, tmp_path):
    path = tmp_path / f"map.{kind}"
    plot.attention_map(weights[0, 0], TOKENS).savefig(path)
    assert 1_000 < path.stat().st_size < 300_000


def test_cells_are_an_image_in_vector_files(rng, tmp_path):
    plot.attention_map(rng.random((300, 300))).savefig(tmp_path / "map.svg")
    svg = (tmp_path / "map.svg").read_text()
    assert svg.count("<image") >= 1
    assert svg.count("<path") < 500, "a path a cell would be 90,000"


def test_a_masked_cell_is_not_drawn_as_zero(weights):
    one = weights[0, 0]
    ax = plot.attention_map(one, mask=masks.causal(), ax=plot.Figure().add_subplot())
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(drawn.mask, ~np.tri(T, dtype=bool))
    plain = pixels(plot.attention_map(one))
    assert not np.array_equal(plain, pixels(plot.attention_map(one, mask=masks.causal())))


def test_colours_follow_the_weights(weights):
    """The picture of another map is another picture, and the same map gives the same one."""
    one = weights[0, 0]
    np.testing.assert_array_equal(
        pixels(plot.attention_map(one)), pixels(plot.attention_map(one.copy()))
    )
    assert not np.array_equal(
        pixels(plot.attention_map(one)), pixels(plot.attention_map(weights[1, 1]))
    )


def test_an_empty_row_is_named_in_the_legend(weights):
    keys = masks.as_mask(np.array([[False] * T, *np.tri(T, dtype=bool)[1:]]))
    figure = plot.attention_map(weights[0, 0], mask=keys)
    texts = [t.get_text() for ax in figure.axes for t in ax.findobj(mpl.text.Text)]
    assert "empty row" in texts


@pytest.mark.parametrize("name", ["attention_map", "attention_lines"])
def test_a_wrong_number_of_tokens_states_both_numbers(name, weights):
    with pytest.raises(ValueError, match=r"tokens: expected T = 6 tokens, got 5"):
        getattr(plot, name)(weights[0, 0], TOKENS[:5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plot.attention_map(np.ones(3)), "weights: expected shape"),
        (lambda: plot.attention_map(np.eye(2), scale="cubic"), "scale: expected one of"),
        (lambda: plot.attention_heads(np.eye(2)), "weights: expected shape"),
        (lambda: plot.attention_heads(np.ones((0, 2, 2))), "weights: expected at least one head"),
        (
            lambda: plot.attention_map(np.ones((0, 2))),
            "at least one query and key, got (T, S) = (0",
        ),
        (lambda: plot.attention_lines(np.ones((2, 0))), "at least one query and key"),
        (lambda: plot.attention_layers(np.ones((1, 1, 0, 0))), "at least one query and key"),
        (lambda: plot.attention_on_image(np.eye(3), np.ones((8, 8))), "image: expected sides"),
        (lambda: plot.history([]), "records: expected at least one record"),
        (lambda: plot.timeline([]), "spans: expected at least one distributed.Span, got none"),
        (lambda: plot.timeline({}), "spans: expected at least one run, got none"),
        (lambda: plot.history(History()), "records: expected at least one"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_tokens_of_any_kind_are_drawn_without_a_warning(weights):
    hostile = ["$x$", "", "\n", "<b>", "猫", "a" * 200]
    pixels(plot.attention_map(weights[0, 0], hostile))
    pixels(plot.attention_lines(weights[0, 0], hostile))


@pytest.mark.parametrize("count", [30, 200, 2000])
def test_labels_never_overlap(count):
    figure = plot.attention_map(np.eye(count), [f"token{i}" for i in range(count)])
    figure.draw_without_rendering()
    renderer = figure._get_renderer()
    for axis in (figure.axes[0].yaxis, figure.axes[0].xaxis):
        boxes = [
            t.label1.get_window_extent(renderer)
            for t in axis.get_major_ticks()
            if t.label1.get_text()
        ]
        assert len(boxes) >= 10
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_a_history_has_steps_of_its_own_for_every_name():
    history = History()
    for step in range(1, 5):
        history.add(step, {"loss": 1 / step})
    history.add(4, {"valid_loss": 0.3})
    figure = plot.history(history)
    train, valid = figure.axes[0].get_lines()
    np.testing.assert_array_equal(train.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(valid.get_xdata(), [4])


def test_pooled_maps_are_drawn_at_their_true_length():
    ax = plot.attention_map(
        np.full((8, 8), 1 / 8),
        extent=(4096, 4096),
        mask=masks.causal(),
        ax=plot.Figure().add_subplot(),
    )
    assert ax.get_xlim()[1] == 4095.5
    np.testing.assert_array_equal(ax.images[0].get_array().mask, ~np.tri(8, dtype=bool))


def test_a_small_number_keeps_two_digits():
    w = np.zeros((1, 1, 2, 4))
    w[..., 0], w[..., 1] = 0.00412, 0.99588
    figure = plot.head_summary(w)
    assert [[t.get_text() for t in ax.texts] for ax in figure.axes[:3]][2] == ["0.0041"]


def test_links_that_are_not_drawn_are_counted():
    ax = plot.attention_lines(np.array([[0.5, 0.5], [0.02, 0.98]]), ax=plot.Figure().add_subplot())
    assert ax.get_xlabel() == "the strongest 3 of 4 links"
    ax = plot.attention_lines(np.eye(2), ax=plot.Figure().add_subplot())
    assert ax.get_xlabel() == ""


def test_head_summary_shows_the_analysis(weights):
    figure = plot.head_summary(weights)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, analysis.entropy(weights).mean(axis=-1))
