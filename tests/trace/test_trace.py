"""Every intermediate by name: values, gradients, edits, and that nobody else notices."""

import threading

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import masks, models, nn, trace
from miniattn.trace import _taps

V, B, T, S = 11, 2, 5, 4
TINY = {"embed_dim": 8, "num_heads": 4, "dtype": np.float64}


def shaken(model, rng):
    for parameter in model.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return model


def gpt(rng, **options):
    small = {
        "num_layers": 2,
        "num_kv_heads": 2,
        "positions": "rotary",
        "window": (2, 0),
        "softcap": 3.0,
    }
    model = models.GPT(V, 8, rng=rng, **{**TINY, **small, **options})
    return shaken(model, rng), (rng.integers(0, V, (B, T)),), {}


def classifier(rng):
    model = models.SequenceClassifier(
        3, input_dim=2, num_layers=1, activation="swiglu", rng=rng, **TINY
    )
    return shaken(model, rng), (rng.standard_normal((B, T, 2)), [5, 3]), {}


def encoder_decoder(rng):
    model = models.EncoderDecoder(
        V,
        num_encoder_layers=1,
        num_decoder_layers=1,
        positions="rotary",
        norm_first=False,
        rng=rng,
        **TINY,
    )
    source, target = rng.integers(0, V, (B, S)), rng.integers(0, V, (B, T))
    return shaken(model, rng), (source, target, [4, 2]), {}


def with_dropout(rng):
    model = nn.TransformerEncoder(1, 8, 2, num_kv_heads=1, dropout=0.3, rng=rng, dtype=np.float64)
    options = {"mask": masks.causal(), "bias": rng.standard_normal((2, T, T))}
    return shaken(model, rng), (rng.standard_normal((B, T, 8)),), options


def of_options(rng):
    """Parallel sublayers, sandwich norms, values of the first layer, norms of q and k."""
    options = {"value_residual": True, "sandwich": True, "parallel": True, "qk_norm": "head"}
    model = nn.TransformerEncoder(
        2, 8, 2, activation="swiglu", rng=rng, dtype=np.float64, **options
    )
    return shaken(model, rng), (rng.standard_normal((B, T, 8)),), {"mask": masks.causal()}


def one_layer(rng):
    return gpt(rng, num_layers=1)


MODELS = {f.__name__: f for f in (one_layer, classifier, encoder_decoder, of_options, with_dropout)}


def drawn(make):
    """Dropout that is drawn anew, the same in every call."""
    return {"rng": np.random.default_rng(3)} if make is with_dropout else {}


KINDS = ("input", "q", "k", "v", "scores", "weights", "heads", "hidden", "middle", "memory")


def central(loss, h=1e-4):
    """The slope of loss(step) at 0, to the fourth order."""
    return (8 * (loss(h) - loss(-h)) - loss(2 * h) + loss(-2 * h)) / (12 * h)


@pytest.mark.parametrize("name", MODELS)
def test_every_gradient_is_that_of_central_differences(name, rng):
    make = MODELS[name]
    model, inputs, options = make(rng)
    y, t = trace.run(model, *inputs, **options, **drawn(make))
    np.testing.assert_array_equal(y, model.forward(*inputs, **options, **drawn(make))[0])
    dy = rng.standard_normal(y.shape)
    g = t.gradients(dy)
    without = {n for n in t.names if n not in g}
    assert all(t[n].dtype.kind == "i" for n in without), without
    along = {at: rng.standard_normal(t[at].shape) for at in g}
    for at in along:
        if at.endswith("scores"):
            along[at][np.isneginf(t[at])] = 0

    def loss(step, names):
        # Edited, "name" would be every use of it.
        edits = {at if "#" in at else f"{at}#1": trace.add(step * along[at]) for at in names}
        y, _ = trace.run(model, *inputs, keep=(), edits=edits, **options, **drawn(make))
        return (y * dy).sum()

    # All names at once, as one that is wrong would show, and those of each kind.
    kinds = [[at for at in g if at.split("#")[0].endswith(end)] for end in KINDS]
    for names in (list(g), *filter(None, kinds)):
        found = sum((g[at] * along[at]).sum() for at in names)
        expected = central(lambda step, names=names: loss(step, names))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=str(names))


@pytest.mark.parametrize("name", MODELS)
def test_a_traced_backward_is_the_backward(name, rng):
    make = MODELS[name]
    model, inputs, options = make(rng)
    y, ctx = model.forward(*inputs, **options, **drawn(make))
    dy = rng.standard_normal(y.shape)
    model.backward(dy, ctx)
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    _, t = trace.run(model, *inputs, **options, **drawn(make))
    g = t.gradients(dy)
    first = g[g.names[-1]]
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_array_equal(parameter.grad, grad)
    again = t.gradients(dy)  # and once more, which adds
    assert again.names == g.names
    np.testing.assert_array_equal(again[g.names[-1]], first)
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.grad, 2 * grad, rtol=1e-12, atol=1e-12)


def test_names_of_attention_are_what_they_say(rng):
    model, inputs, _ = gpt(rng)
    _, t = trace.run(model, *inputs)
    at = "blocks.layers.1.attn"
    q, k, v = t[f"{at}.q"], t[f"{at}.k"], t[f"{at}.v"]
    mask = masks.causal() & masks.window(2, 0)
    visible = mask.to_array(B, 4, T, T)
    expected = 3.0 * np.tanh(q @ np.repeat(k, 2, axis=1).swapaxes(2, 3) / np.sqrt(2) / 3.0)
    np.testing.assert_allclose(t[f"{at}.scores"], np.where(visible, expected, -np.inf), rtol=1e-12)
    weights = F.softmax(expected, mask=visible)
    np.testing.assert_allclose(t[f"{at}.weights"], weights, rtol=1e-12)
    np.testing.assert_allclose(t[f"{at}.heads"], weights @ np.repeat(v, 2, axis=1), rtol=1e-12)
    ffn = model.blocks.layers[0].ffn
    np.testing.assert_array_equal(
        t["blocks.layers.0.ffn.hidden"], ffn.activation(ffn.up(t["blocks.layers.0.ffn.input"]))
    )
    into, added = t["blocks.layers.0.input"], t["blocks.layers.0.attn"]
    np.testing.assert_array_equal(t["blocks.layers.0.middle"], into + added)
    names = t.names
    order = ["input", "tokens", f"{at}.q", f"{at}.scores", f"{at}.weights", f"{at}.heads", "output"]
    assert sorted(order, key=names.index) == order


# --- Edits ---------------------------------------------------------------------------------------


def slopes(layer, x, rng, edits, options):
    """The slope of a random loss along a random direction of input and parameters.

    By backward, and by central differences.
    """
    arrays = [x, *(p.data for p in layer.parameters())]
    along = [rng.standard_normal(a.shape) for a in arrays]
    y, t = trace.run(layer, x, keep=(), edits=edits, **options())
    dy = rng.standard_normal(y.shape)
    layer.zero_grad()
    grads = [t.gradients(dy).returned, *(p.grad for p in layer.parameters())]
    by_hand = sum((a * g).sum() for a, g in zip(along, grads, strict=True) if g is not None)

    def loss(step):
        for a, d in zip(arrays, along, strict=True):
            a += step * d
        y, _ = trace.run(layer, x, keep=(), edits=edits, **options())
        for a, d in zip(arrays, along, strict=True):
            a -= step * d
        return (y * dy).sum()

    return by_hand, central(loss)


def of(x, rng):
    """An edit of each kind, for an intermediate like x."""
    v = rng.standard_normal(x.shape)
    half = (slice(None), slice(0, None, 2))
    return {
        "array": v,
        "pair": (F.tanh_forward, F.tanh_backward),
        "module": Squared(),
        "zero": trace.zero,
        "scale": trace.scale(-1.5),
        "scale by an array": trace.scale(v),
        "add": trace.add(v[0]),
        "at": trace.at[half](trace.scale(2.0)),
        "several": [trace.add(0.5), trace.at[0, ..., 1](trace.zero), trace.scale(0.5)],
    }


class Squared(nn.Module):
    def forward(self, x, *, rng=None):
        return np.where(np.isfinite(x), x, 0) ** 2, x

    def backward(self, dy, ctx):
        return 2 * np.where(np.isfinite(ctx), ctx, 0) * dy


PLACES = ["input", "norm1", "attn.input", "attn.k_proj", "middle", "ffn.hidden", "ffn", "output"]
INSIDE = ["attn.q", "attn.k", "attn.v", "attn.scores", "attn.weights", "attn.heads"]


@pytest.fixture
def layer(rng):
    options = {"num_kv_heads": 1, "softcap": 2.0, "window": (3, 0), "rotary": nn.Rotary()}
    made = nn.TransformerEncoderLayer(4, 2, ffn_dim=4, rng=rng, dtype=np.float64, **options)
    return shaken(made, rng)


@pytest.mark.parametrize("place", [*PLACES, *INSIDE])
def test_backward_goes_through_every_edit(place, layer, rng):
    x = rng.standard_normal((B, T, 4))
    mask = masks.causal() & masks.padding([5, 3])
    _, t = trace.run(layer, x, mask=mask)
    for kind, edit in of(t[place], rng).items():
        found, expected = slopes(layer, x, rng, {place: edit}, lambda: {"mask": mask})
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=kind)


@pytest.mark.parametrize("place", ["attn.scores", "attn.weights"])
def test_backward_goes_through_an_edit_and_dropout(place, rng):
    layer = shaken(
        nn.TransformerEncoderLayer(4, 2, attn_dropout=0.4, rng=rng, dtype=np.float64), rng
    )
    x, edits = rng.standard_normal((B, T, 4)), {place: trace.scale(1.5)}
    found, expected = slopes(layer, x, rng, edits, lambda: {"rng": np.random.default_rng(5)})
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("place", [*PLACES, *INSIDE])
def test_a_frozen_value_is_held(place, layer, rng):
    """No gradient passes what is frozen: as if its value were put there."""
    x = rng.standard_normal((B, T, 4))
    y, t = trace.run(layer, x)
    results = []
    for edit in (trace.freeze, t[place]):
        layer.zero_grad()
        frozen, u = trace.run(layer, x, edits={place: edit})
        np.testing.assert_allclose(frozen, y, rtol=1e-12, atol=1e-14)
        g = u.gradients(np.ones_like(y))
        results.append({"x": g.returned, **{n: p.grad for n, p in layer.named_parameters()}})
    for name, frozen in results[0].items():
        np.testing.assert_allclose(frozen, results[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


OPTIONS = {
    "plain": {},
    "grouped, causal, softcap": {"G": 2, "mask": masks.causal(), "softcap": 1.5},
    "bias that hides": {"bias": np.where(np.tri(T, S, dtype=bool), 0.5, -np.inf)},
    "rows that see nothing": {"mask": np.arange(T)[:, None] > np.arange(S)},
    "dropout, scale": {"G": 1, "dropout": 0.4, "scale": 0.7},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", OPTIONS)
def test_the_explicit_form_is_the_fused_one(case, dtype, rng):
    """With an edit that changes nothing, results and gradients are those of the kernels."""
    options = dict(OPTIONS[case])
    G = options.pop("G", 4)
    if "bias" in options:
        options["bias"] = options["bias"].astype(dtype)
    shapes = {"q": (B, 4, T, 3), "k": (B, G, S, 3), "v": (B, G, S, 2)}
    q, k, v = (rng.standard_normal(shape).astype(dtype) for shape in shapes.values())
    layer = Alone(options)
    dy = rng.standard_normal((B, 4, T, 2)).astype(dtype)
    fused, ctx = layer.forward(q, k, v)
    expected = layer.backward(dy, ctx)
    for edits in ({"weights": trace.scale(1)}, {"scores": trace.scale(1)}):
        out, t = trace.run(layer, q, k, v, edits=edits)
        g = t.gradients(dy)
        close = (
            {"rtol": 2e-6, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
        )
        np.testing.assert_allclose(out, fused, **close)
        np.testing.assert_allclose(t.ctx.lse, ctx.lse, **close)
        for name, grad in zip(("input", "input.k", "input.v"), expected, strict=False):
            np.testing.assert_allclose(g[name], grad, **close)


class Alone(nn.Module):
    """Attention called by hand."""

    def __init__(self, options):
        self.options = options

    def forward(self, q, k, v, *, rng=None):
        rng = np.random.default_rng(1) if "dropout" in self.options else None
        return F.attention_forward(q, k, v, rng=rng, **self.options)

    def backward(self, dy, ctx):
        return F.attention_backward(dy, ctx, dlse=np.full_like(ctx.lse, 0.5))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_hidden_stays_hidden_in_the_explicit_form(poison, rng):
    q, k, v = (rng.standard_normal((1, 1, 3, 2)) for _ in "qkv")
    clean = k.copy(), v.copy()
    k[0, 0, 2] = v[0, 0, 2] = poison
    layer = Alone({"mask": masks.causal()})
    dy = np.ones_like(q)
    dy[0, 0, 2] = 0
    edits = {"*s": trace.scale(1.0)}  # scores, weights, heads
    got, t = trace.run(layer, q, k, v, edits=edits)
    expected, u = trace.run(layer, q, *clean, edits=edits)
    np.testing.assert_array_equal(got[:, :, :2], expected[:, :, :2])
    assert np.isnan(got[0, 0, 2]).all()
    g, h = t.gradients(dy), u.gradients(dy)
    for name in ("q", "weights", "scores"):
        np.testing.assert_array_equal(g[name][:, :, :2, :2], h[name][:, :, :2, :2])


def test_one_head_one_token_one_layer_at_once(rng):
    model, inputs, _ = gpt(rng)
    _, t = trace.run(model, *inputs)
    edits = {
        "blocks.layers.0.attn.heads": trace.at[:, 1](trace.zero),
        "blocks.layers.1.attn.weights": trace.at[:, :, 2](trace.zero),
        "blocks.layers.0.ffn": np.zeros((B, T, 8)),
    }
    y, u = trace.run(model, *inputs, edits=edits)
    assert not u["blocks.layers.0.attn.heads"][:, 1].any()
    np.testing.assert_array_equal(
        u["blocks.layers.0.attn.heads"][:, 0], t["blocks.layers.0.attn.heads"][:, 0]
    )
    assert not u["blocks.layers.1.attn.heads"][:, :, 2].any()
    np.testing.assert_array_equal(u["blocks.layers.0"], u["blocks.layers.0.middle"])
    assert u["blocks.layers.1"].shape == (*y.shape[:2], 8)


def test_generation_is_steered_with_a_cache_and_without(rng):
    model, _, _ = gpt(rng)
    edits = {"blocks.layers.0": trace.add(rng.standard_normal(8)), "*.1.attn.v": trace.scale(2.0)}
    plain = model.generate([1, 2], 5, temperature=0)
    with trace.edited(model, edits):
        cached = model.generate([1, 2], 5, temperature=0)
        whole = model.generate([1, 2], 5, temperature=0, use_cache=False)
    np.testing.assert_array_equal(cached, whole)
    assert (cached != plain).any()
    np.testing.assert_array_equal(model.generate([1, 2], 5, temperature=0), plain)


def test_a_cached_call_has_names(rng):
    model, (ids,), _ = gpt(rng, window=None)
    caches = model.new_caches(B)
    model(ids[:, :3], caches=caches)
    y, t = trace.run(model, ids[:, 3:], caches=caches)
    np.testing.assert_allclose(y, model(ids)[:, 3:], rtol=1e-10)
    assert t["blocks.layers.1.attn.weights"].shape == (B, 4, 2, T)
    np.testing.assert_allclose(t["blocks.layers.1.attn.weights"].sum(-1), 1)
    assert t["blocks.layers.0.attn.k"].shape == (B, 2, T, 2)


# --- Modules of a user's own ---------------------------------------------------------------------


class Twice(nn.Module):
    """One layer used twice on the same array; a point of its own; attention by hand."""

    def __init__(self, rng):
        self.layer = Squared()
        self.out = nn.Linear(3, 3, rng=rng, dtype=np.float64)

    def forward(self, x, *, rng=None):
        a, first = self.layer.forward(x)
        b, second = self.layer.forward(x)
        h = trace.point("sum", a + 2 * b)
        attended, attention = F.attention_forward(h, h, h)
        y, out = self.out.forward(attended)
        return y, (first, second, attention, out)

    def backward(self, dy, ctx):
        first, second, attention, out = ctx
        # y = out(attention(h, h, h))
        dq, dk, dv, _ = F.attention_backward(self.out.backward(dy, out), attention)
        dh = trace.point_backward("sum", dq + dk + dv)
        # h = layer(x) + 2 layer(x)
        return self.layer.backward(dh, first) + self.layer.backward(2 * dh, second)


def test_a_module_of_ones_own(rng):
    model, x = Twice(rng), rng.standard_normal((4, 3))
    y, t = trace.run(model, x)
    assert t.names == [
        *("input", "layer.input", "layer", "layer.input#2", "layer#2", "sum", "q", "k", "v"),
        *("scores", "weights", "heads", "out.input", "out", "output"),
    ]
    g = t.gradients(np.ones_like(y))
    np.testing.assert_array_equal(g["layer"], g["sum"])
    np.testing.assert_array_equal(g["layer#2"], 2 * g["sum"])
    np.testing.assert_allclose(g["sum"], g["q"] + g["k"] + g["v"])
    assert t.weights[""].shape == (4, 4)
    for edit in ({"layer": trace.scale(3.0)}, {"layer#2": trace.zero}, {"layer#1": trace.zero}):
        np.testing.assert_allclose(*slopes(model, x, rng, edit, dict), rtol=1e-6)
    _, u = trace.run(model, x, edits={"layer#1": trace.zero})
    np.testing.assert_array_equal(u["sum"], 2 * t["layer"])


class Several(nn.Module):
    """Takes and returns several arrays."""

    def forward(self, a, b, *, rng=None):
        return (a * b, a), (a, b)

    def backward(self, dys, ctx):
        (dproduct, da), (a, b) = dys, ctx
        return dproduct * b + da, dproduct * a


def test_several_inputs_and_outputs(rng):
    a, b = rng.standard_normal((2, 3))
    _, t = trace.run(Several(), a, b=b)
    assert t.names == ["input", "input.b", "output.0", "output.1"]
    g = t.gradients((np.ones(3), np.zeros(3)))
    np.testing.assert_array_equal(g["input"], b)


def test_an_edit_that_backward_leaves_out_is_an_error(rng):
    class Forgetful(nn.Module):
        def forward(self, x, *, rng=None):
            return trace.point("h", 2 * x), None

        def backward(self, dy, ctx):
            return 2 * dy

    y, t = trace.run(Forgetful(), np.ones(3), edits={"h": trace.scale(2)})
    with pytest.raises(RuntimeError, match="h: expected a backward that undoes the edit"):
        t.gradients(y)


class Mean(nn.Module):
    """In the place of a layer's attention: the mean of what a token may see, no matter what."""

    def forward(self, x, *, mask=None, rng=None):
        like = np.zeros((*x.shape[:2], 1))
        out, ctx = F.attention_forward(like[:, None], like[:, None], x[:, None], mask=mask)
        return out[:, 0], ctx

    def backward(self, dy, ctx):
        return F.attention_backward(dy[:, None], ctx).dv[:, 0]


def test_attention_of_ones_own_in_a_model(rng):
    """It gets what is given, and no more; without a cache of its own it generates without."""
    model, inputs, _ = gpt(rng)
    model.blocks.layers[0].attn = Mean()
    y, t = trace.run(model, *inputs)
    expected = np.tri(T) / np.arange(1, T + 1)[:, None]
    weights = t["blocks.layers.0.attn.weights"]
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (B, 1, T, T)), rtol=1e-12)
    assert list(t.weights) == ["blocks.layers.0.attn", "blocks.layers.1.attn"]
    g = t.gradients(np.ones_like(y))
    assert g["blocks.layers.0.attn.weights"].shape == (B, 1, T, T)
    assert not isinstance(model.blocks.layers[0].attn, nn.SelfAttention)
    assert isinstance(model.blocks.layers[1].attn, nn.SelfAttention)
    assert model.generate([1, 2], 3, use_cache=False).shape == (5,)
    with pytest.raises(TypeError, match="attn: expected an object with new_cache, got Mean"):
        model.generate([1, 2], 3)
    decoder = nn.TransformerDecoderLayer(8, 2, rng=rng, dtype=np.float64)
    assert isinstance(decoder.cross_attn, nn.CrossAttention)
    decoder.self_attn = Mean()
    x, memory = rng.standard_normal((2, B, T, 8))
    _, ctx = decoder.forward(x, memory)
    assert decoder.backward(x, ctx).dmemory.shape == memory.shape


# --- Who is seen ---------------------------------------------------------------------------------


def test_kept_values_are_not_written_to_later(rng):
    layer = shaken(nn.LoRA(nn.Linear(3, 3, rng=rng), 1), rng)  # adds to what its base returned
    x = np.ones((2, 3), np.float32)
    y, t = trace.run(layer, x)
    np.testing.assert_array_equal(t["base"], layer.base(x))
    assert (t["base"] != y).any()


def test_other_threads_are_not_seen_and_taps_are_taken_off(rng):
    model, inputs, _ = gpt(rng)
    before = {id(m): set(vars(m)) for m in model.modules()}
    seen, other = [], []

    class Stop(Exception):
        pass

    def forward(x):
        worker = threading.Thread(target=lambda: other.append(model(*inputs)))
        worker.start()
        worker.join()
        seen.append(x)
        raise Stop

    with pytest.raises(Stop):
        trace.run(model, *inputs, edits={"blocks": (forward, None.__class__)})
    assert len(seen) == 1, "the edit was called in this thread alone"
    np.testing.assert_array_equal(other[0], model(*inputs))
    assert {id(m): set(vars(m)) for m in model.modules()} == before


def test_nothing_kept(rng):
    model, inputs, _ = gpt(rng)
    y, t = trace.run(model, *inputs, keep=())
    np.testing.assert_array_equal(y, model(*inputs))
    assert (t.names, len(t), repr(t)) == ([], 0, "Trace()")
    assert t.gradients(y).names == []
    assert all(p.grad is not None for p in model.parameters())


def test_patterns_and_names_of_transformerlens(rng):
    model, inputs, _ = gpt(rng)
    _, t = trace.run(model, *inputs, keep=["*.weights", "blocks.*.hook_resid_post"])
    layers = ("blocks.layers.0", "blocks.layers.1")
    assert t.names == [name for at in layers for name in (f"{at}.attn.weights", at)]
    assert t["blocks.1.attn.hook_pattern"] is t["blocks.layers.1.attn.weights"]
    assert "blocks.0.hook_resid_post" in t
    assert t.find("*.0.attn.*") == ["blocks.layers.0.attn.weights"]
    assert list(t) == t.names
    _, u = trace.run(model, *inputs)
    theirs = [
        *("hook_embed", "blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "unembed"),
        *("blocks.1.hook_attn_out", "blocks.1.hook_mlp_out", "blocks.0.ln2.hook_normalized"),
        *("blocks.0.attn.hook_q", "blocks.0.attn.hook_rot_k", "blocks.0.attn.hook_attn_scores"),
        *("blocks.0.attn.hook_z", "blocks.0.mlp.hook_pre", "blocks.0.mlp.hook_post"),
        "ln_final.hook_normalized",
    ]
    assert [name for name in theirs if name not in u] == []


def test_it_is_shown_as_a_short_tree(rng):
    model, inputs, _ = gpt(rng)
    _, t = trace.run(model, *inputs, keep=["*.weights", "*.q", "tokens", "*.ffn", "*.ffn.input"])
    assert repr(t).splitlines() == [
        "Trace",
        "  tokens             float64 (2, 5, 8)",
        "  blocks.layers.0-1",
        "    attn",
        "      q              float64 (2, 4, 5, 2)",
        "      weights        float64 (2, 4, 5, 5)",
        "    ffn              float64 (2, 5, 8)",
    ]


@pytest.mark.parametrize("kind", [nn.DifferentialAttention, nn.TalkingHeadsAttention])
def test_attention_of_other_kinds(kind, rng):
    """Each attention inside has its names; the map of the layer is what the layer says."""
    attn = shaken(kind(8, 2, num_kv_heads=1, rng=rng, dtype=np.float64), rng)
    x = rng.standard_normal((B, T, 8))
    y, ctx = attn.forward(x, mask=masks.causal())
    np.testing.assert_array_equal(trace.attention_weights(ctx).weights[""], attn.weights(ctx))
    _, t = trace.run(attn, x, mask=masks.causal())
    twice = kind is nn.DifferentialAttention
    assert t.find("weights") == ["weights", "weights#2"][: 1 + twice]
    g = t.gradients(y)
    for place in (*t.find("weights"), *t.find("q"), *t.find("k"), "scores", "heads"):
        assert g[place].shape == t[place].shape
        found = slopes(attn, x, rng, {place: trace.scale(1.5)}, lambda: {"mask": masks.causal()})
        np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "keep",
    [
        *("output", "input", "blocks.layers.1.attn.weights", "blocks.layers.0", "*.1.ffn.hidden"),
        *(
            "blocks.layers.*.attn.?",
            "*.rotary",
            "*.input.positions",
            "*k*",
            "tokens*",
            "*.*.*.input",
        ),
        *("blocks.*.attn.hook_pattern", "*.dropout#2", "blocks.layers.0.dropout#1", "head.input"),
        # One module in all layers:
        *("blocks.layers.1.attn.rotary", "blocks.layers.1.attn.rotary.input#2"),
    ],
)
def test_what_is_kept_alone_is_what_is_kept_with_all(keep, rng):
    """Only modules that are meant are looked at: no name is lost, nor another's found."""
    model, inputs, _ = gpt(rng)
    y, t = trace.run(model, *inputs)
    _, u = trace.run(model, *inputs, keep=keep)
    assert u.names == t.find(keep)
    assert u.names
    g, h = t.gradients(np.ones_like(y)), u.gradients(np.ones_like(y))
    assert h.names == [name for name in u.names if name in g]
    for name in h:
        np.testing.assert_array_equal(h[name], g[name])


def test_only_what_is_meant_is_tapped(rng, monkeypatch):
    """Nothing kept costs nothing; one map, its layer, whose projections run together as ever."""
    model, inputs, _ = gpt(rng)
    tapped = []
    monkeypatch.setattr(
        _taps, "_tap", lambda module, tap=_taps._tap: tapped.append(module) or tap(module)
    )
    trace.run(model, *inputs, keep=())
    assert tapped == []
    trace.run(model, *inputs, keep="blocks.layers.0.attn.weights")
    attn = model.blocks.layers[0].attn
    assert tapped == [attn]
