"""Attention against PyTorch's, where it is installed: values and the meaning of arguments."""

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import masks

torch = pytest.importorskip("torch")
sdpa = torch.nn.functional.scaled_dot_product_attention


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


@pytest.mark.parametrize(
    ("T", "S", "options"),
    [
        (20, 20, {}),
        (20, 30, {"is_causal": True}),
        (30, 20, {"is_causal": True}),
        (20, 30, {"scale": 0.3}),
        (20, 30, {"attn_mask": "bool"}),
        (20, 30, {"attn_mask": "float"}),
        (20, 30, {"attn_mask": "keys"}),
        (20, 30, {"enable_gqa": True}),
    ],
)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_same_as_torch(T, S, options, lead):
    heads = 4
    kv_heads = 2 if options.get("enable_gqa") else heads
    q, k, v = draw((*lead, heads, T, 8), (*lead, kv_heads, S, 8), (*lead, kv_heads, S, 5))
    rng = np.random.default_rng(1)
    made = {
        "bool": lambda: rng.random((T, S)) < 0.5,
        "float": lambda: rng.standard_normal((*lead, heads, T, S)).astype(np.float32),
        "keys": lambda: rng.random((heads, 1, S)) < 0.5,
    }
    options = dict(options)
    if "attn_mask" in options:
        options["attn_mask"] = made[options["attn_mask"]]()
    theirs = {
        n: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for n, x in options.items()
    }
    want = sdpa(*map(torch.from_numpy, (q, k, v)), **theirs).numpy()
    got = F.scaled_dot_product_attention(q, k, v, **options)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_rows_without_a_key_are_zero_like_torch():
    q, k, v = draw((1, 1, 4, 8), (1, 1, 6, 8), (1, 1, 6, 8))
    visible = np.ones((4, 6), bool)
    visible[2] = False
    got = F.scaled_dot_product_attention(q, k, v, visible)
    assert (got[0, 0, 2] == 0).all()
    want = sdpa(*map(torch.from_numpy, (q, k, v)), torch.from_numpy(visible)).numpy()
    np.testing.assert_allclose(got[:, :, [0, 1, 3]], want[:, :, [0, 1, 3]], atol=2e-6)


def errors(shape, causal, spread, seed):
    """RMS errors in float32 over PyTorch's own, of the output and of each gradient."""
    B, H, T, S, D = shape
    q, k, v, dout = draw((B, H, T, D), (B, H, S, D), (B, H, S, D), (B, H, T, D), seed=seed)
    q *= np.float32(spread)  # from nearly even weights to peaked ones

    def by_torch(dtype):
        leaves = [torch.from_numpy(x).to(dtype).requires_grad_() for x in (q, k, v)]
        out = sdpa(*leaves, is_causal=causal)
        grads = torch.autograd.grad(out, leaves, torch.from_numpy(dout).to(dtype))
        return [x.detach().numpy() for x in (out, *grads)]

    out, ctx = F.attention_forward(q, k, v, mask=masks.causal() if causal else None)
    ours = [out, *F.attention_backward(dout, ctx)[:3]]
    for exact, mine, theirs in zip(
        by_torch(torch.float64), ours, by_torch(torch.float32), strict=True
    ):
        yield np.sqrt(((mine - exact) ** 2).mean() / ((theirs - exact) ** 2).mean())


def test_as_accurate_as_torch():
    shapes = [(2, 2, 17, 17, 32), (2, 2, 64, 64, 16), (1, 2, 200, 200, 64), (1, 2, 256, 256, 80)]
    shapes += [(1, 1, 1000, 1000, 64), (2, 2, 1, 2048, 64)]
    cases = [(s, c, x) for s in shapes for c in (False, True) for x in (1, 4) if s[2] > 1 or not c]
    ratios = [r for seed, case in enumerate(cases) for r in errors(*case, seed)]
    assert np.median(ratios) <= 1.0
    assert max(ratios) <= 2.0
