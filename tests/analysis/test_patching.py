"""Experiments on running models, against runs that are made by hand."""

import time

import numpy as np
import pytest

from miniattn import analysis, masks, models, nn, trace

OPTIONS = [
    {"positions": "rotary", "norm": "rms", "num_kv_heads": 2},
    {"positions": "learned", "bias": True, "activation": "swiglu"},
]


def gpt(rng, **options):
    model = models.GPT(
        7, 8, embed_dim=16, num_heads=4, num_layers=2, rng=rng, dtype=np.float64, **options
    )
    for p in model.parameters():  # as after training: nothing is nearly 0
        p.data[...] += 0.3 * rng.standard_normal(p.shape)
    return model


@pytest.fixture(params=OPTIONS, ids=["rotary", "learned"])
def model(request, rng):
    return gpt(rng, **request.param)


CLEAN, CORRUPTED = (
    np.array([[1, 2, 3, 4, 5], [2, 2, 6, 1, 0]]),
    np.array([[1, 6, 3, 4, 5], [2, 0, 6, 1, 0]]),
)
METRIC = analysis.LogitDifference([1, 2], [3, 0])
ATTENTION = [f"blocks.layers.{i}.attn.heads" for i in range(2)]


def test_the_metric_has_its_gradient(rng):
    logits, h = rng.standard_normal((2, 3, 7)), 1e-6
    gradient = METRIC.gradient(logits)
    for index in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += h
        down[index] -= h
        assert gradient[index] == pytest.approx((METRIC(up) - METRIC(down)) / (2 * h), abs=1e-8)


def test_patching_everything_is_running_the_other_input(model):
    names = ["blocks.input", "blocks.layers.0", "blocks.layers.1.middle", "head"]
    grid = analysis.activation_patching(model, CORRUPTED, CLEAN, METRIC, names)
    np.testing.assert_allclose(grid[:, 0], METRIC(model(CLEAN)), rtol=1e-12)


def test_patching_runs_no_more_than_it_must(model, monkeypatch):
    """Once for the source, and once for each name and place."""
    calls = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    names, places = ["blocks.layers.0", "blocks.layers.1"], analysis.tokens_of(2)
    analysis.activation_patching(model, CLEAN, CORRUPTED, METRIC, names, places=places)
    assert len(calls) == 1 + 2 * 2


def test_patching_by_places_is_an_edit_by_hand(model):
    grid = analysis.activation_patching(
        model, CORRUPTED, CLEAN, METRIC, ATTENTION, places=analysis.heads_of(4)
    )
    _, t = trace.run(model, CLEAN)
    for i, name in enumerate(ATTENTION):
        for h in range(4):
            edit = trace.at[:, h](t[name][:, h].copy())
            y, _ = trace.run(model, CORRUPTED, edits={name: edit})
            assert grid[i, h] == METRIC(y)


def test_ablation_is_taking_the_columns_of_the_output_away(model):
    """A head writes through its own columns of ``out_proj``."""
    grid = analysis.ablation(model, CLEAN, METRIC, ATTENTION, places=analysis.heads_of(4))
    for i in range(2):
        for h in range(4):
            state = model.state_dict()
            model.blocks.layers[i].attn.out_proj.weight.data[:, 4 * h : 4 * h + 4] = 0
            assert grid[i, h] == pytest.approx(METRIC(model(CLEAN)), rel=1e-12)
            model.load_state_dict(state)


def test_the_mean_of_equal_rows_takes_nothing_out(model):
    same = np.repeat(CLEAN[:1], 3, axis=0)
    metric = analysis.LogitDifference([1] * 3, [3] * 3)
    left = analysis.ablation(model, same, metric, ATTENTION, edit="mean")
    np.testing.assert_allclose(left, metric(model(same)), rtol=1e-12)
    scaled = analysis.ablation(model, same, metric, ATTENTION, edit=trace.scale(1.0))
    np.testing.assert_allclose(scaled, metric(model(same)), rtol=1e-12)


def test_attribution_is_the_change_for_small_changes(model, rng):
    """The embedding of the other run is a small step away: first order is all there is."""
    start, h = "blocks.input", 1e-5
    names = ["blocks.layers.0", "blocks.layers.0.middle", *ATTENTION]
    step = h * rng.standard_normal(model.tokens.weight.shape)

    def moved(call):
        model.tokens.weight.data += step
        try:
            return call()
        finally:
            model.tokens.weight.data -= step

    other = moved(lambda: trace.run(model, CLEAN, keep=[start])[1][start].copy())
    base = METRIC(model(CLEAN))
    _, t = trace.run(model, CLEAN, keep=names, edits={start: other})
    patched = []
    for name in names:
        patched.append(METRIC(trace.run(model, CLEAN, edits={name: t[name].copy()})[0]) - base)
    _, t0 = trace.run(model, CLEAN, keep=names)
    g = t0.gradients(METRIC.gradient(model(CLEAN)))
    by_hand = [((t[n] - t0[n]) * g[n]).sum() for n in names]
    np.testing.assert_allclose(by_hand, patched, rtol=1e-3)


def test_attribution_by_hand(model):
    changes = analysis.attribution_patching(
        model, CLEAN, CORRUPTED, METRIC, ATTENTION, places=analysis.heads_of(4)
    )
    _, there = trace.run(model, CORRUPTED)
    y, here = trace.run(model, CLEAN)
    g = here.gradients(METRIC.gradient(y))
    for i, name in enumerate(ATTENTION):
        expected = ((there[name] - here[name]) * g[name]).sum(axis=(0, 2, 3))
        np.testing.assert_allclose(changes[i], expected, rtol=1e-12)


def test_nobodys_step_is_taken(model):
    for p in model.parameters():
        p.grad = np.ones(p.shape)
    held = [p.grad for p in model.parameters()]
    analysis.attribution_patching(model, CLEAN, CORRUPTED, METRIC, ["blocks.layers.0"])
    analysis.edge_attribution(model, CLEAN, CORRUPTED, METRIC)
    for p, grad in zip(model.parameters(), held, strict=True):
        assert p.grad is grad
        assert (grad == 1).all()


# ------------------------------------------------------------------------------ the residual stream


@pytest.mark.parametrize("heads", [False, True])
def test_parts_of_the_stream_add_up_to_the_logits(model, heads):
    logits, t = trace.run(model, CLEAN)
    names, values = analysis.stream_parts(t, model, heads=heads)
    assert (
        len(names)
        == len(values)
        == (
            1 + 4
            if not heads
            else 1 + 2 * 4 + 2 + 2 * (model.blocks.layers[0].attn.out_proj.bias is not None)
        )
    )
    np.testing.assert_allclose(values.sum(axis=0), t["blocks.norm.input"], rtol=1e-12, atol=1e-12)
    added, rest = analysis.logit_attribution(values, model.blocks.norm, model.head)
    np.testing.assert_allclose(added.sum(axis=0) + rest, logits, rtol=1e-12, atol=1e-12)


def test_a_classifier_has_a_stream_without_logits(rng):
    model = models.SequenceClassifier(3, input_dim=2, embed_dim=8, num_heads=2, rng=rng)
    stream = analysis.residual_stream(model)
    assert (stream.start, stream.norm) == ("encoder.input", "encoder.norm")
    assert len(stream.sublayers) == 4


def test_a_stack_is_its_own_stream(rng):
    stack = nn.TransformerEncoder(1, 8, 2, rng=rng)
    stream = analysis.residual_stream(stack)
    assert stream == (
        "input",
        (("layers.0.attn", "layers.0.norm1"), ("layers.0.ffn", "layers.0.norm2")),
        "norm",
        None,
    )


# ------------------------------------------------------------------------------------------ edges


def by_hand(model, sender, receiver):
    """One edge of a two-layer GPT, by the layers' own calls."""
    layers, x = model.blocks.layers, {}
    for which, ids in (("clean", CLEAN), ("other", CORRUPTED)):
        _, x[which] = trace.run(model, ids)
    layer, head = sender
    heads = x["clean"][f"blocks.layers.{layer}.attn.heads"].copy()
    delta = np.zeros_like(heads)
    delta[:, head] = x["other"][f"blocks.layers.{layer}.attn.heads"][:, head] - heads[:, head]
    B, H, T, D = heads.shape
    o = layers[layer].attn.out_proj.weight.data
    change = delta.swapaxes(1, 2).reshape(B, T, H * D) @ o.T
    to_layer, of, to_head = receiver
    name = f"blocks.layers.{to_layer}"
    read = layers[to_layer].norm1(x["clean"][f"{name}.input"] + change)
    attn = layers[to_layer].attn
    count = attn.num_heads if of == "q" else attn.num_kv_heads
    projected = getattr(attn, f"{of}_proj")(read).reshape(B, T, count, D).swapaxes(1, 2)
    if attn.rotary is not None and of != "v":
        projected = attn.rotary.forward(projected, np.arange(T))[0]
    edit = trace.at[:, to_head](projected[:, to_head].copy())
    y, _ = trace.run(model, CLEAN, edits={f"{name}.attn.{of}": edit})
    return METRIC(y)


def test_a_path_is_patched_as_by_hand(model):
    senders = [f"blocks.layers.0.attn.heads[{h}]" for h in range(4)]
    receivers = [f"blocks.layers.1.attn.{of}[1]" for of in "qkv"]
    edges = analysis.path_patching(
        model, CLEAN, CORRUPTED, METRIC, senders=senders, receivers=receivers
    )
    for h in range(4):
        for j, of in enumerate("qkv"):
            expected = by_hand(model, (0, h), (1, of, 1))
            assert edges.values[h, j] == pytest.approx(expected, rel=1e-10)


def test_the_last_edges_share_out_the_direct_effect(model):
    """With every other part held, what a part does reaches the logits through the last norm."""
    edges = analysis.path_patching(model, CLEAN, CORRUPTED, METRIC, receivers=["end"])
    _, clean = trace.run(model, CLEAN)
    _, other = trace.run(model, CORRUPTED)
    parts, others = (analysis.stream_parts(t, model, heads=True) for t in (clean, other))
    total = parts.values.sum(axis=0)
    for sender, value in zip(edges.senders, edges.values[:, 0], strict=True):
        i = parts.names.index(sender)
        stream = total + others.values[i] - parts.values[i]
        assert value == pytest.approx(METRIC(model.head(model.blocks.norm(stream))), rel=1e-10)


def test_only_what_comes_before_is_read(model):
    senders, receivers = analysis.edge_names(model)
    edges = analysis.edge_attribution(model, CLEAN, CORRUPTED, METRIC)
    assert (edges.senders, edges.receivers) == (tuple(senders), tuple(receivers))
    row = edges.values[senders.index("blocks.layers.0.ffn")]
    known = {name for name, value in zip(receivers, row, strict=True) if not np.isnan(value)}
    groups = model.blocks.layers[0].attn.num_kv_heads
    assert len(known) == 4 + 2 * groups + 2  # layer 1's q, k, v, its ffn, the end
    assert not np.isnan(edges.values[0]).any()


class Linear(nn.Module):
    """Two linear sublayers on a stream that is read without a norm: all of it is linear."""

    def __init__(self, rng):
        self.embed = nn.Embedding(7, 6, rng=rng, dtype=np.float64)
        self.one, self.two = (nn.Linear(6, 6, rng=rng, dtype=np.float64) for _ in range(2))
        self.head = nn.Linear(6, 7, rng=rng, dtype=np.float64)

    def forward(self, ids, *, rng=None):
        x, embed = self.embed.forward(ids)
        h, one = self.one.forward(x)
        x = x + h
        h, two = self.two.forward(x)
        y, head = self.head.forward(x + h)
        return y, (embed, one, two, head)

    def backward(self, dy, ctx):
        embed, one, two, head = ctx
        # y = head(x + two(x))
        dx = self.head.backward(dy, head)
        dx = dx + self.two.backward(dx, two)
        # x = x + one(x)
        dx = dx + self.one.backward(dx, one)
        self.embed.backward(dx, embed)


@pytest.mark.parametrize("steps", [1, 3])
def test_edge_attribution_is_exact_where_all_is_linear(rng, steps):
    model = Linear(rng)
    sublayers = (analysis.Sublayer("one", None), analysis.Sublayer("two", None))
    stream = analysis.ResidualStream("embed", sublayers, None, "head")
    options = {"stream": stream}
    edges = analysis.edge_attribution(model, CLEAN, CORRUPTED, METRIC, steps=steps, **options)
    patched = analysis.path_patching(model, CLEAN, CORRUPTED, METRIC, **options)
    np.testing.assert_allclose(edges.values, patched.values - METRIC(model(CLEAN)), atol=1e-12)
    assert np.isnan(edges.values).sum() == 3


def test_integrated_gradients_add_up_better(rng):
    """The edges out of the embedding into the end and the layers are all there is to the change.

    With many steps the sum over what the start writes comes near the whole change.
    """
    model = gpt(rng, norm="rms")
    change = METRIC(model(CORRUPTED)) - METRIC(model(CLEAN))

    def error(steps):
        edges = analysis.edge_attribution(model, CLEAN, CORRUPTED, METRIC, steps=steps)
        return abs(np.nansum(edges.values[0]) - change)

    assert error(20) < 0.3 * error(1)


def test_a_whole_matrix_of_paths_in_a_second(rng):
    """2 layers, 8 heads, 64 tokens; the time is printed and not judged: machines differ."""
    model = models.GPT(50, 64, embed_dim=64, num_heads=8, num_layers=2, rng=rng)
    ids, other = rng.integers(0, 50, (2, 1, 64))
    metric = analysis.LogitDifference([1], [2])
    started = time.perf_counter()
    edges = analysis.path_patching(model, ids, other, metric)
    count, taken = np.isfinite(edges.values).sum(), time.perf_counter() - started
    print(f"path patching of {count} edges: {taken:.2f} s")
    assert edges.values.shape == (1 + 2 * (8 + 1), 2 * (3 * 8 + 1) + 1)


MODEL = models.GPT(7, 8, embed_dim=8, num_heads=2, num_layers=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: analysis.residual_stream(nn.Linear(2, 2)), ValueError, "model: expected one nn"),
        (
            lambda: analysis.residual_stream(nn.TransformerEncoder(1, 8, 2, norm_first=False)),
            ValueError,
            "model: expected pre-norm layers",
        ),
        (
            lambda: analysis.path_patching(MODEL, CLEAN, CORRUPTED, METRIC, senders=["start", "x"]),
            ValueError,
            "senders: expected names as edge_names gives them, got 'x'",
        ),
        (
            lambda: analysis.attribution_patching(MODEL, CLEAN, CORRUPTED, np.mean, ["head"]),
            TypeError,
            "metric: expected an object with gradient",
        ),
        (
            lambda: analysis.activation_patching(MODEL, CLEAN, CLEAN[:, :3], METRIC, ["head"]),
            ValueError,
            "source: expected head of shape",
        ),
        (lambda: analysis.stream_parts({}, MODEL), TypeError, "t: expected a Trace"),
        (lambda: analysis.edge_names(3), TypeError, "model: expected an object with named_modules"),
        (lambda: analysis.ablation(MODEL, CLEAN, METRIC, ["nothing"]), ValueError, "'nothing'"),
        (lambda: analysis.ablation(MODEL, CLEAN, METRIC, "head"), TypeError, "names: expected"),
        (lambda: analysis.ablation(MODEL, CLEAN, 3, ["head"]), TypeError, "metric: expected"),
        (
            lambda: analysis.ablation(MODEL, CLEAN, METRIC, ["head"], edit="median"),
            ValueError,
            "edit: expected one of",
        ),
        (
            lambda: analysis.edge_attribution(MODEL, CLEAN, CORRUPTED, METRIC, steps=0),
            ValueError,
            "steps: expected an int >= 1",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_masks_go_through_as_options(rng):
    stack = nn.TransformerEncoder(1, 8, 2, rng=rng, dtype=np.float64)
    x = rng.standard_normal((1, 4, 8))
    metric = lambda y: float(y[:, 0].sum())  # noqa: E731
    options = {"mask": masks.causal()}
    same = analysis.activation_patching(stack, x, x, metric, ["layers.0"], options=options)
    assert same[0, 0] == pytest.approx(metric(stack(x, mask=masks.causal())))
