"""What is drawn of what was given: traces, masked arrays, lists of layers, odd numbers, tokens."""

import matplotlib as mpl
import numpy as np
import pytest

from miniattn import masks, nn, plot, trace
from miniattn.plot import _text
from miniattn.trace import Trace

T = 4
TOKENS = list("abcd")


def normal(rng, *shape):
    weights = rng.random(shape)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.fixture
def traced(rng):
    """Two layers of two heads on a batch of two, the second of which is padded."""
    model = nn.TransformerEncoder(2, 8, 2, rng=rng)
    x = rng.standard_normal((2, T, 8), dtype=np.float32)
    return trace.run(model, x, mask=masks.padding([4, 2]), tokens=TOKENS)[1]


def image_of(figure):
    return figure.axes[0].images[-1].get_array()


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


NAME = "layers.1.attn"
FROM_TRACE = {
    "attention_map": lambda t, **k: plot.attention_map(t, layer=NAME, head=1, **k),
    "attention_map, by number": lambda t, **k: plot.attention_map(t, layer=1, head=1, **k),
    "gradient_map": lambda t, **k: plot.gradient_map(t, np.ones((T, T)), layer=1, head=1, **k),
}


@pytest.mark.parametrize("name", FROM_TRACE)
def test_a_figure_of_one_head_takes_a_trace(name, traced):
    figure = FROM_TRACE[name](traced, batch=1)
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(drawn.mask, [[False, False, True, True]] * T)
    np.testing.assert_array_equal(drawn.data[:, :2], traced.weights[NAME][1, 1, :, :2])
    figure.draw_without_rendering()
    assert {*TOKENS, "masked"} <= set(texts(figure))


def test_figures_of_a_layer_take_a_trace(traced):
    figure = plot.attention_heads(traced, layer=0, batch=1)
    for ax, weights in zip(figure.axes, traced.weights["layers.0.attn"][1], strict=False):
        np.testing.assert_array_equal(ax.images[0].get_array().data, weights)
        assert ax.images[0].get_array().mask[:, 2:].all()
    ax = plot.attention_lines(traced, layer=0, batch=1, ax=plot.Figure().add_subplot())
    assert len(ax.collections) == 2
    layers = plot.attention_layers(traced, batch=1).axes[0].child_axes
    assert all(ax.images[0].get_array().mask[:, 2:].all() for ax in layers)


def test_a_trace_keeps_what_padding_bias_and_masks_hid(rng):
    model = nn.MultiHeadAttention(8, 2, rng=rng)
    x = rng.standard_normal((2, T, 8), dtype=np.float32)
    bias = np.zeros((T, T), np.float32)
    bias[0, 1] = -np.inf
    _, ctx = model.forward(x, mask=masks.padding([4, 2]), bias=bias)
    found = trace.attention_weights(ctx)
    [seen] = found.masks.values()
    expected = np.ones((2, 1, T, T), bool)
    expected[:, :, 0, 1] = expected[1, :, :, 2:] = False
    np.testing.assert_array_equal(seen.to_array(2, 1, T, T), expected)
    [weights] = found.weights.values()
    assert ((weights == 0) == ~expected).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: plot.attention_map(t), "layer: expected one of"),
        (lambda t: plot.attention_map(t, layer=2), "layer: expected one of"),
        (lambda t: plot.attention_map(t, layer=0), "choose a batch row or a head"),
        (lambda t: plot.attention_map(t, layer=0, head=2), "head: expected an index in [0, 2)"),
        (lambda t: plot.attention_map(t, layer=0, head=0, batch=2), "batch: expected an index in"),
        (lambda t: plot.attention_map(np.eye(2), layer=0), "layer: expected None"),
        (lambda t: plot.attention_heads(t), "layer: expected one of"),
        (lambda t: plot.attention_layers(Trace({})), "at least one layer, got an empty Trace"),
        (lambda t: plot.head_summary(Trace({})), "at least one layer, got an empty Trace"),
        (lambda t: plot.attention_map(Trace({})), "at least one layer, got an empty Trace"),
        (lambda t: plot.html(Trace({})), "at least one layer, got an empty Trace"),
        (lambda t: plot.html({}), "at least one layer, got an empty dict"),
        (lambda t: plot.attention_map([[1, 0], [1]]), "weights: expected an array (T, S), got a r"),
        (lambda t: plot.attention_layers([np.ones((2, 3)), [[1], [1, 0]]]), "weights[1]: expected"),
        (lambda t: plot.attention_layers([]), "at least one layer, got an empty list"),
        (lambda t: plot.attention_map(np.eye(2), np.ones((2, 2))), "tokens: expected one token a"),
    ],
)
def test_what_is_wrong_is_named(call, words, traced):
    with pytest.raises(ValueError) as error:
        call(traced)
    assert words in str(error.value)


@pytest.mark.parametrize("call", [plot.attention_on_image, lambda t: plot.animate(t, "x.gif")])
def test_a_trace_is_refused_by_name_where_it_says_nothing(call, traced):
    with pytest.raises(TypeError, match=r"expected an array .*, got a Trace; choose one of its"):
        call(traced)


def test_layers_that_differ_come_as_a_list(rng):
    layers = [normal(rng, 2, 3, 3), normal(rng, 1, 5, 4)]
    drawn = plot.attention_layers(layers).axes[0].child_axes
    assert [ax.images[0].get_array().shape for ax in drawn] == [(3, 3), (3, 3), (5, 4)]
    table = plot.head_summary(layers).axes[0].images[0].get_array()
    np.testing.assert_array_equal(table.mask, [[False, False], [False, True]])


# ---------------------------------------------------------------- numbers that are no weights


ONE = {
    "attention_map": lambda w, **k: plot.attention_map(w, **k),
    "attention_map, row": lambda w, **k: plot.attention_map(w, scale="row", **k),
    "attention_map, log": lambda w, **k: plot.attention_map(w, scale="log", **k),
    "attention_heads": lambda w, **k: plot.attention_heads(w[None], **k),
    "gradient_map": lambda w, **k: plot.gradient_map(w, w, **k),
    "attention_on_image": lambda w, **k: plot.attention_on_image(w, **k),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ONE)
def test_not_finite_numbers_are_drawn_as_such_and_named(name, bad, rng):
    weights = normal(rng, T, T)
    weights[1, 2] = bad
    figure = ONE[name](weights)
    drawn = image_of(figure)
    [[i, j]] = np.argwhere(np.isnan(drawn.data))
    assert (i, j) == (1, 2)
    assert "NaN or infinite" in texts(figure)
    others = np.delete(drawn.data[1], 2)
    assert (others > 0).all(), "a NaN spoils its own cell only"


def test_a_row_with_nan_keeps_its_shares():
    weights = np.array([[0.2, 0.4, np.nan], [0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    drawn = image_of(plot.attention_map(weights, scale="row"))
    np.testing.assert_array_equal(drawn.data, [[0.5, 1.0, np.nan], [0, 0, 0], [1.0, 0.0, 0.5]])


@pytest.mark.parametrize("name", ONE)
def test_what_is_hidden_is_hidden_whatever_it_is(name, rng):
    weights = normal(rng, T, T)
    hidden = np.zeros((T, T), bool)
    hidden[0, 1:] = True
    weights[0, 1:] = [np.nan, -7.0, 1e9]
    masked = image_of(ONE[name](np.ma.masked_array(weights, hidden)))
    np.testing.assert_array_equal(masked.mask, hidden)
    assert np.isfinite(masked.data).all()
    assert masked.max() <= 1
    by_mask = image_of(ONE[name](weights, mask=~hidden))
    np.testing.assert_array_equal(by_mask.mask, hidden)
    np.testing.assert_array_equal(by_mask.data, masked.data)


SIGNED = [name for name in ONE if name != "gradient_map"]


@pytest.mark.parametrize("name", SIGNED)
def test_visible_numbers_below_0_are_pointed_at(name, rng):
    weights = normal(rng, T, T)
    weights[2, 1] = -0.25
    with pytest.raises(
        ValueError, match=r"numbers >= 0 .*gradient_map.* got -0.25 in .*y 2, key 1$"
    ):
        ONE[name](weights)


@pytest.mark.parametrize("call", [plot.attention_layers, plot.head_summary, plot.html])
def test_all_layers_follow_the_same_rule(call, rng):
    weights = normal(rng, 2, 2, T, T)
    weights[1, 0, 2, 1] = -0.25
    with pytest.raises(ValueError, match=r"got -0.25 in layer 1, head 0, query 2, key 1$"):
        call(weights)
    seen = np.ones((T, T), bool)
    seen[2, 1] = False
    call(np.ma.masked_array(weights, np.broadcast_to(~seen, weights.shape)))


def test_a_summary_shows_a_spoilt_head_as_such(rng):
    weights = normal(rng, 1, 2, T, T)
    weights[0, 1, 2, 2] = np.nan
    figure = plot.head_summary(weights)
    table = figure.axes[0].images[0].get_array()
    assert np.isnan(table.data[0, 1])
    assert table.data[0, 0] > 0
    assert "NaN or infinite" in texts(figure)


def test_lines_that_are_not_finite_are_drawn_and_named(rng):
    weights = normal(rng, T, T)
    weights[1, :2] = np.nan
    figure = plot.attention_lines(weights)
    bad = figure.axes[0].collections[0]
    assert len(bad.get_paths()) == 2
    assert "NaN or infinite" in texts(figure)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.eye(3), False),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), False),
        (np.full((3, 3), 1 / 3, np.float16), False),
        (2 * np.eye(3), True),
        (np.full((3, 3), 0.1), True),
        (np.array([[1.0, 0.0], [np.nan, 0.0]]), False),
    ],
)
def test_rows_that_do_not_sum_to_1_are_said_to(weights, said):
    label = plot.attention_map(weights).axes[1].get_ylabel()
    assert ("rows do not sum to 1" in label) == said
    summary = " ".join(texts(plot.head_summary(weights[None, None])))
    assert ("rows do not sum to 1" in summary) == said


def test_pooled_maps_may_sum_to_less():
    """A row of a pooled map is a mean over queries, some of which may read nothing."""
    half = plot.attention_map(np.full((2, 2), 0.25), extent=(8, 8)).axes[1].get_ylabel()
    assert "rows do not sum" not in half
    more = plot.attention_map(np.full((2, 2), 0.75), extent=(8, 8)).axes[1].get_ylabel()
    assert "rows do not sum" in more


# ------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("the", "the"),
        (" the", "␣the"),
        ("the  ", "the␣␣"),
        ("two words", "two words"),
        ("", "∅"),
        ("  ", "␣␣"),
        ("\n", r"\n"),
        ("Ġthe", "Ġthe"),
        ("a\u200db", "a\u200db"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("e\u0301", "e\u0301"),
        ("\u0301", "◌\u0301"),
        ("\u200d", r"\u200d"),
        ("\u202eevil", r"\u202eevil"),
        (b" the", "␣the"),
        (b"\xff", r"\xff"),
        (np.int64(7), "7"),
        (np.array(7), "7"),
        (np.str_("x"), "x"),
        (7, "7"),
    ],
)
def test_nothing_hides_in_a_token(token, shown):
    assert _text.visible(token) == shown


def test_ids_of_pytorch_are_numbers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    ids = torch.tensor([1, 23])
    assert _text.labels("tokens", ids, "T", 2) == ["1", "23"]
    ax = plot.attention_map(np.eye(2), ids).axes[0]
    ax.figure.draw_without_rendering()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "23"]
    assert '"tokens":[["1","23"]]' in plot.html(np.eye(2), list(ids)).text


def test_a_long_token_is_not_cut_within_a_character():
    families = "👩\u200d👩\u200d👧"
    assert _text.short(families * 30) == families * 17 + "…"
    assert _text.short("e\u0301" * 18) == "e\u0301" * 18


def test_dollars_are_no_formula_whether_there_are_formulas_or_not():
    assert _text.drawable("$x$") == r"\$x\$"
    with mpl.rc_context({"text.parse_math": False}):
        assert _text.drawable("$x$") == "$x$"
