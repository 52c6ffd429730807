"""MultiHeadAttention: gradients, PyTorch, masks, options, caches."""

import numpy as np
import pytest

from miniattn import gradcheck, masks, nn

F64 = {"dtype": np.float64}
B, T, S, E, H = 2, 4, 3, 8, 4


def shaken(rng, **options):
    """An attention layer in float64 whose biases are not 0."""
    attn = nn.MultiHeadAttention(E, H, rng=rng, **{**F64, **options})
    for parameter in attn.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.shape)
    return attn


SELF = {
    "plain": {},
    "no bias": {"bias": False},
    "grouped": {"num_kv_heads": 2},
    "multi-query": {"num_kv_heads": 1},
    "softcap": {"softcap": 1.5},
    "sigmoid": {"normalizer": "sigmoid"},
    "entmax15": {"normalizer": "entmax15", "num_kv_heads": 2, "dropout": 0.2},
    "rotary": {"rotary": nn.Rotary(base=50.0)},
    "interleaved rotary": {"rotary": nn.Rotary(interleaved=True), "num_kv_heads": 2},
    "part of each head turned": {"rotary": nn.Rotary(frequencies=[0.5])},
    "alibi": {"alibi": True},
    "window": {"window": (1, 0)},
    "window and sinks": {"window": (1, 0), "sinks": 1},
    "dropout": {"dropout": 0.4},
}


@pytest.mark.parametrize("name", SELF)
def test_self_attention_gradients(name, rng):
    attn = shaken(rng, **SELF[name])
    report = gradcheck(
        attn,
        {"query": rng.standard_normal((B, T, E))},
        samples=24,
        mask=masks.causal() & masks.padding([T, 2]),
        rng=np.random.default_rng(1),
    )
    assert report.passed


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 3}, {"rotary": nn.Rotary()}])
def test_cross_attention_gradients(options, rng):
    attn = shaken(rng, **options)
    inputs = {
        "query": rng.standard_normal((B, T, E)),
        "key": rng.standard_normal((B, S, attn.kdim)),
        "value": rng.standard_normal((B, S, attn.vdim)),
    }
    assert gradcheck(attn, inputs, samples=24, mask=masks.padding([S, 1])).passed


def test_value_is_the_key_where_it_is_not_given(rng):
    attn = shaken(rng)
    query, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, E))
    assert gradcheck(attn, {"query": query, "key": memory}, samples=24).passed
    np.testing.assert_array_equal(attn(query, memory), attn(query, memory, memory))
    np.testing.assert_array_equal(attn(query), attn(query, query, query))


@pytest.mark.parametrize("shape", [(B, H, T, T), (T, T), (H, 1, 1), (1, 1, 1, T)])
@pytest.mark.parametrize("alibi", [False, True])
def test_the_gradient_of_a_bias_has_its_shape(shape, alibi, rng):
    attn = shaken(rng, alibi=alibi)
    inputs = {"query": rng.standard_normal((B, T, E)), "bias": rng.standard_normal(shape)}
    assert gradcheck(attn, inputs, samples=16).passed


def test_bias_gradient_follows_those_of_query_key_and_value(rng):
    attn = shaken(rng)
    query, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, E))
    y, ctx = attn.forward(query, memory, memory, bias=np.zeros((T, S)))
    grads = attn.backward(y, ctx)
    assert [g.shape for g in grads] == [(B, T, E), (B, S, E), (B, S, E), (T, S)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [{}, {"kdim": 5, "vdim": 3}])
def test_equal_to_torch(bias, dims, rng):
    torch = pytest.importorskip("torch")
    ours = shaken(rng, bias=bias, **dims)
    theirs = torch.nn.MultiheadAttention(E, H, bias=bias, batch_first=True, **dims).double()
    projections = [ours.q_proj, ours.k_proj, ours.v_proj]
    with torch.no_grad():
        weights = [torch.from_numpy(p.weight.data) for p in projections]
        if dims:
            for name, weight in zip("qkv", weights, strict=True):
                getattr(theirs, f"{name}_proj_weight").copy_(weight)
        else:
            theirs.in_proj_weight.copy_(torch.cat(weights))
        theirs.out_proj.weight.copy_(torch.from_numpy(ours.out_proj.weight.data))
        if bias:
            theirs.in_proj_bias.copy_(
                torch.cat([torch.from_numpy(p.bias.data) for p in projections])
            )
            theirs.out_proj.bias.copy_(torch.from_numpy(ours.out_proj.bias.data))
    arrays = [
        rng.standard_normal((B, n, width)) for n, width in ((T, E), (S, ours.kdim), (S, ours.vdim))
    ]
    lengths = np.array([S, 2])
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    y_torch, w_torch = theirs(
        *tensors,
        key_padding_mask=torch.from_numpy(np.arange(S) >= lengths[:, None]),  # True = hidden
        average_attn_weights=False,
    )
    dy = rng.standard_normal((B, T, E))
    y_torch.backward(torch.from_numpy(dy))
    y, ctx = ours.forward(*arrays, mask=masks.padding(lengths))
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.weights(ctx), w_torch.detach().numpy(), rtol=1e-10, atol=1e-12)
    for got, tensor in zip(ours.backward(dy, ctx)[: len(tensors)], tensors, strict=True):
        np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        ours.out_proj.weight.grad, theirs.out_proj.weight.grad.numpy(), rtol=1e-9, atol=1e-12
    )
    if not dims:
        np.testing.assert_allclose(
            np.concatenate([p.weight.grad for p in projections]),
            theirs.in_proj_weight.grad.numpy(),
            rtol=1e-9,
            atol=1e-12,
        )


def test_gradients_are_named_after_the_inputs(rng):
    """The same names whatever was given, and None for what was not."""
    attn = shaken(rng)
    x, memory, bias = (rng.standard_normal(n) for n in ((B, T, E), (B, S, E), (H, T, T)))

    def gradients(*inputs, **options):
        y, ctx = attn.forward(*inputs, **options)
        return attn.backward(np.ones_like(y), ctx)

    assert gradients(x).shape == x.shape
    found = gradients(x, bias=bias)
    assert (found.dkey, found.dvalue) == (None, None)
    assert (found.dquery.shape, found.dbias.shape) == (x.shape, (H, T, T))
    found = gradients(x, memory)
    assert (found.dvalue, found.dbias) == (None, None)
    some = bias[..., :S]
    both = gradients(x, memory, memory, bias=some)
    np.testing.assert_allclose(both.dkey + both.dvalue, gradients(x, memory, bias=some).dkey)
    _, dkey, _, dbias = both
    assert dkey is both.dkey
    assert dbias.shape == some.shape
    encoder = nn.TransformerEncoder(2, E, H, rng=rng, **F64)
    y, ctx = encoder.forward(x, bias=bias)
    dx, dbias = grads = encoder.backward(y, ctx)
    assert grads.dx is dx
    assert grads.dbias is dbias
    decoder = nn.TransformerDecoder(2, E, H, rng=rng, **F64)
    y, ctx = decoder.forward(x, memory)
    dx, dmemory = grads = decoder.backward(y, ctx)
    assert (grads.dx is dx, grads.dmemory is dmemory) == (True, True)


def test_heads_are_views_of_the_projections(rng):
    attn = shaken(rng)
    _, ctx = attn.forward(rng.standard_normal((B, T, E)))
    assert ctx.attention.q.shape == (B, H, T, E // H)
    assert not ctx.attention.q.flags.owndata
    assert ctx.attention.q.swapaxes(1, 2).flags.c_contiguous


def test_weights_sum_to_one_over_what_is_visible(rng):
    attn = shaken(rng, dropout=0.5)
    _, ctx = attn.forward(rng.standard_normal((B, T, E)), mask=masks.padding([T, 0]), rng=rng)
    weights = attn.weights(ctx)
    np.testing.assert_allclose(weights[0].sum(axis=-1), 1)
    assert not weights[1].any()


def test_padding_cannot_be_noticed(rng):
    """NaN in the padding reaches neither the results nor the gradients of the real tokens."""
    attn = shaken(rng)
    x, dy = rng.standard_normal((2, 1, T, E))
    memory = rng.standard_normal((1, 5, E))
    poisoned = memory.copy()
    poisoned[:, 3:] = np.nan
    y, ctx = attn.forward(x, memory[:, :3])
    dx = attn.backward(dy, ctx)[0]
    y_poisoned, ctx = attn.forward(x, poisoned, mask=masks.padding([3]))
    dx_poisoned = attn.backward(dy, ctx)[0]
    np.testing.assert_allclose(y_poisoned, y, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dx_poisoned, dx, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["plain", "grouped", "rotary", "alibi", "window and sinks"])
@pytest.mark.parametrize("steps", [(6,), (1,) * 6, (3, 2, 1)])
def test_decoding_with_a_cache_equals_one_causal_forward(name, steps, rng):
    attn = shaken(rng, **SELF[name])
    x = rng.standard_normal((B, 6, E))
    wanted = attn(x, mask=masks.causal())
    cache = attn.new_cache(B, 6)
    got, start = [], 0
    for n in steps:
        got.append(attn(x[:, start : start + n], cache=cache))
        start += n
    np.testing.assert_allclose(np.concatenate(got, axis=1), wanted, rtol=1e-10, atol=1e-12)
    assert cache.lengths.tolist() == [6, 6]
    with pytest.raises(ValueError, match="k: expected at most 6 tokens in a row, got 7"):
        attn(x[:, :1], cache=cache)


def test_a_cross_attention_memory_is_projected_once(rng):
    attn = shaken(rng, rotary=nn.Rotary())
    query, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, E))
    held = attn.remember(memory)
    np.testing.assert_allclose(attn(query, held), attn(query, memory), rtol=1e-12)


def test_a_cached_forward_has_no_backward(rng):
    attn = shaken(rng)
    y, ctx = attn.forward(rng.standard_normal((B, T, E)), cache=attn.new_cache(B, T))
    with pytest.raises(ValueError, match="ctx: expected a forward without a cache"):
        attn.backward(y, ctx)


def test_rows_of_a_cache_may_have_different_lengths(rng):
    cache = nn.KVCache(2, 1, 4, 2, **F64)
    k, v = rng.standard_normal((2, 2, 1, 3, 2))
    cache.append(k, v)
    cache.truncate([3, 1])
    assert cache.positions(2).tolist() == [[3, 4], [1, 2]]
    keys, values = cache.append(k[:, :, :1], v[:, :, :1])
    assert cache.lengths.tolist() == [4, 2]
    np.testing.assert_array_equal(keys[0, 0], [*k[0, 0], k[0, 0, 0]])
    np.testing.assert_array_equal(values[1, 0, :2], [v[1, 0, 0], v[1, 0, 0]])
    assert cache.held()[0].shape == (2, 1, 4, 2)
    with pytest.raises(ValueError, match=r"lengths: expected numbers in \[0, \[4, 2\]\]"):
        cache.truncate([4, 3])


def test_the_frozen_projection_keeps_no_gradient(rng):
    attn = shaken(rng)
    attn.k_proj.freeze()
    y, ctx = attn.forward(rng.standard_normal((B, T, E)))
    attn.backward(y, ctx)
    with_gradient = [name for name, p in attn.named_parameters() if p.grad is not None]
    assert with_gradient == [
        f"{part}_proj.{name}" for part in ("q", "v", "out") for name in ("weight", "bias")
    ]


X = np.ones((B, T, E), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.MultiHeadAttention(8, 3), ValueError, "num_heads: expected a divisor"),
        (lambda: nn.MultiHeadAttention(8, 0), ValueError, "num_heads: expected an int >= 1"),
        (lambda: nn.MultiHeadAttention(8, 4, num_kv_heads=3), ValueError, "num_kv_heads"),
        (lambda: nn.MultiHeadAttention(8, 4, dropout=1.0), ValueError, "dropout"),
        (lambda: nn.MultiHeadAttention(8, 4, softcap=-1.0), ValueError, "softcap"),
        (lambda: nn.MultiHeadAttention(8, 4, window=(-1, 0)), ValueError, "window: expected"),
        (lambda: nn.MultiHeadAttention(8, 4, sinks=2), ValueError, "sinks"),
        (lambda: nn.MultiHeadAttention(8, 4)(X[0]), ValueError, "query: expected shape"),
        (lambda: nn.MultiHeadAttention(8, 4)(X[..., :5]), ValueError, "query: .*E = 8"),
        (lambda: nn.MultiHeadAttention(8, 4)(X.astype(int)), TypeError, "query: expected a float"),
        (lambda: nn.MultiHeadAttention(8, 4)(X, X[:1]), ValueError, "key: .*B = 2"),
        (lambda: nn.MultiHeadAttention(8, 4)(X, X, X[:, :1]), ValueError, "value: .*S = 4"),
        (lambda: nn.MultiHeadAttention(8, 4)(X, value=X), TypeError, "value: expected None"),
        (
            lambda: nn.MultiHeadAttention(8, 4)(X, X, cache=nn.KVCache(B, 4, 4, 2)),
            ValueError,
            "cache: expected no key",
        ),
        (
            lambda: nn.MultiHeadAttention(8, 4)(X, cache=nn.KVCache(1, 4, 4, 2)),
            ValueError,
            "cache: expected a KVCache",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
