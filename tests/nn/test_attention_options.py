"""Options of attention, and attention with another middle, against plain NumPy."""

import numpy as np
import pytest

from miniattn import masks, nn, reference

B, T, E, H = 2, 5, 12, 4


def shaken(attn, rng):
    """A layer whose parameters are all random, biases and mixes too."""
    for parameter in attn.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return attn


def of(cls, rng, **options):
    return shaken(cls(E, H, rng=rng, dtype=np.float64, **options), rng)


def heads_of(attn, x):
    """q, k, v (B, H or G, T, D) of a layer without norms and rotary."""
    return [
        proj(x).reshape(*x.shape[:2], -1, attn.head_dim).swapaxes(1, 2)
        for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
    ]


def merged(attn, out):
    return attn.out_proj(np.ascontiguousarray(out.swapaxes(1, 2)).reshape(*out[:, 0].shape[:2], -1))


def rms(x, weight, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


MIDDLES = {
    "head width, some biases": (nn.MultiHeadAttention, {"head_dim": 5, "bias": ("q", "out")}),
    "norms of heads, gate": (nn.MultiHeadAttention, {"qk_norm": "head", "gate": "head"}),
    "norm of all, gates": (
        nn.MultiHeadAttention,
        {"qk_norm": "full", "gate": "full", "num_kv_heads": 2, "rotary": nn.Rotary(dim=2)},
    ),
    "differential": (
        nn.DifferentialAttention,
        {"head_dim": 4, "num_kv_heads": 2, "rotary": nn.Rotary()},
    ),
    "talking": (nn.TalkingHeadsAttention, {"num_kv_heads": 2, "window": (2, 0)}),
    "memory": (nn.MemoryAttention, {"slots": 3, "num_kv_heads": 2, "window": (2, 0)}),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_decoding_with_a_cache_equals_one_causal_forward(name, rng):
    cls, options = MIDDLES[name]
    attn = of(cls, rng, **options)
    x = rng.standard_normal((B, T, E))
    wanted, ctx = attn.forward(x, mask=masks.causal())
    cache = attn.new_cache(B, T)
    got = [attn(x[:, a:b], cache=cache) for a, b in ((0, 2), (2, 3), (3, 5))]
    np.testing.assert_allclose(np.concatenate(got, axis=1), wanted, rtol=1e-10, atol=1e-12)
    assert attn.weights(ctx).shape == (B, H, T, T)


@pytest.mark.parametrize("name", MIDDLES)
def test_hidden_keys_reach_nothing(name, rng):
    cls, options = MIDDLES[name]
    attn = of(cls, rng, **options)
    x, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, T, E))
    mask = masks.padding([T, 2])
    y, ctx = attn.forward(x, memory, mask=mask)
    dquery = attn.backward(np.ones_like(y), ctx).dquery
    memory[1, 2:] = np.nan
    poisoned, ctx = attn.forward(x, memory, mask=mask)
    np.testing.assert_allclose(poisoned, y, rtol=1e-12, atol=1e-14)
    again = attn.backward(np.ones_like(y), ctx).dquery
    np.testing.assert_allclose(again, dquery, rtol=1e-12, atol=1e-14)


def test_the_scale_replaces_that_of_the_width(rng):
    attn = of(nn.MultiHeadAttention, rng, scale=0.3)
    x = rng.standard_normal((B, T, E))
    q, k, v = heads_of(attn, x)
    wanted = merged(attn, reference.attention(q, k, v, scale=0.3).out)
    np.testing.assert_allclose(attn(x), wanted, rtol=1e-12)


def test_norms_of_q_and_k_are_those_of_each_head_or_of_all(rng):
    x = rng.standard_normal((B, T, E))
    for over in ("head", "full"):
        attn = of(nn.MultiHeadAttention, rng, qk_norm=over, qk_norm_eps=0.01)
        q, k, v = heads_of(attn, x)
        if over == "head":
            q, k = rms(q, attn.q_norm.weight.data, 0.01), rms(k, attn.k_norm.weight.data, 0.01)
        else:
            q, k = (
                rms(proj(x), norm.weight.data, 0.01).reshape(B, T, H, -1).swapaxes(1, 2)
                for proj, norm in ((attn.q_proj, attn.q_norm), (attn.k_proj, attn.k_norm))
            )
        wanted = merged(attn, reference.attention(q, k, v).out)
        np.testing.assert_allclose(attn(x), wanted, rtol=1e-11)


def test_gates_open_and_close_heads_by_the_query(rng):
    attn = of(nn.MultiHeadAttention, rng, gate="head")
    x = rng.standard_normal((B, T, E))
    out = reference.attention(*heads_of(attn, x)).out
    gates = 1 / (1 + np.exp(-attn.gate.proj(x)))  # (B, T, H)
    wanted = merged(attn, out * gates.swapaxes(1, 2)[..., None])
    np.testing.assert_allclose(attn(x), wanted, rtol=1e-11)


def test_differential_attention_is_the_difference_of_two_maps(rng):
    attn = of(nn.DifferentialAttention, rng, lambda_init=0.3, head_dim=4)
    x = rng.standard_normal((B, T, E))
    q, k, v = heads_of(attn, x)
    first = reference.attention_weights(q[..., :2], k[..., :2])
    second = reference.attention_weights(q[..., 2:], k[..., 2:])
    q1, k1, q2, k2 = attn.lambdas.data
    share = np.exp(q1 @ k1) - np.exp(q2 @ k2) + 0.3
    y, ctx = attn.forward(x)
    np.testing.assert_allclose(attn.weights(ctx), first - share * second, rtol=1e-9, atol=1e-12)
    out = 0.7 * rms((first - share * second) @ v, attn.norm.weight.data, 1e-5)
    np.testing.assert_allclose(y, merged(attn, out), rtol=1e-9)


def test_a_memory_is_more_keys_that_all_see(rng):
    attn = of(nn.MemoryAttention, rng, slots=3)
    x = rng.standard_normal((B, T, E))
    q, k, v = heads_of(attn, x)
    keys, values = (
        np.concatenate([np.broadcast_to(p.data, (B, *p.shape)), seen], axis=2)
        for p, seen in ((attn.memory_keys, k), (attn.memory_values, v))
    )
    mask = np.concatenate([np.ones((T, 3), bool), np.tri(T, dtype=bool)], axis=1)
    y, ctx = attn.forward(x, mask=masks.causal())
    wanted = merged(attn, reference.attention(q, keys, values, mask=mask).out)
    np.testing.assert_allclose(y, wanted, rtol=1e-10)
    weights = reference.attention_weights(q, keys, mask=mask)[..., 3:]
    np.testing.assert_allclose(attn.weights(ctx), weights, rtol=1e-10, atol=1e-14)


def test_heads_that_do_not_talk_are_plain_heads_and_talking_mixes_them(rng):
    double = {"dtype": np.float64}
    plain = nn.MultiHeadAttention(E, H, rng=np.random.default_rng(0), **double)
    attn = nn.TalkingHeadsAttention(E, H, rng=np.random.default_rng(0), **double)
    x = rng.standard_normal((B, T, E))
    got, wanted = (layer(x, mask=masks.causal()) for layer in (attn, plain))
    np.testing.assert_allclose(got, wanted, rtol=1e-11)
    attn = of(nn.TalkingHeadsAttention, rng)
    q, k, v = heads_of(attn, x)
    scores = np.einsum("bhts,hg->bgts", q @ k.swapaxes(2, 3) / 3**0.5, attn.mix_scores.data)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhts,hg->bgts", weights, attn.mix_weights.data)
    y, ctx = attn.forward(x)
    np.testing.assert_allclose(attn.weights(ctx), mixed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y, merged(attn, mixed @ v), rtol=1e-9)


def test_values_of_the_first_layer_are_mixed_in(rng):
    first = of(nn.MultiHeadAttention, rng)
    later = of(nn.MultiHeadAttention, rng, value_residual=True)
    x = rng.standard_normal((B, T, E))
    _, ctx = first.forward(x)
    q, k, v = heads_of(later, x)
    mixed = later.mix.share.data[0] * v + later.mix.share.data[1] * ctx.values
    got = later(x, first_values=ctx.values)
    np.testing.assert_allclose(got, merged(later, reference.attention(q, k, mixed).out), rtol=1e-10)
