"""Attention over several ranks is attention: every option, both layouts, both ways, any ranks."""

import numpy as np
import pytest
from samples import begin, choose, dice, fresh, normal, source

import miniattn as ma
import miniattn.functional as F
from miniattn import distributed, masks
from miniattn.distributed import _blocks

simulate, share, collect = distributed.simulate, distributed.share, distributed.collect
RING = distributed.ring_attention_forward, distributed.ring_attention_backward
HEADS = distributed.head_attention_forward, distributed.head_attention_backward

B, H, G, T, D, DV = 2, 4, 2, 23, 8, 6


class Relative:
    """A learned bias by distance: table[h, j - i]."""

    def __init__(self, table):
        self.table, self.dtable = table, np.zeros_like(table)

    def __call__(self, i, j):
        return self.table[:, j - i[:, None] + T]

    def backward(self, dbias, i, j):
        dbias = dbias.reshape(-1, *dbias.shape[-3:]).sum(axis=0)
        np.add.at(self.dtable, (slice(None), j - i[:, None] + T), dbias)


def distance(i, j):
    """A bias without axes of batch or heads, and nothing to learn."""
    return -0.1 * np.abs(j - i[:, None])


begin(__name__)
IDS = np.sort(source().integers(0, 4, (B, T)), axis=1)
OPTIONS = {
    "plain": {},
    "causal": {"mask": masks.causal()},
    "an offset a row": {"mask": masks.causal(np.array([-3, 2]))},
    "window and sinks": {"mask": masks.window(5, 2, sinks=3)},
    "padding": {"mask": masks.padding([7, 20]) & masks.causal(1)},
    "documents": {"mask": masks.documents(IDS) & masks.causal()},
    "an array": {"mask": choose(B, H, T, T)},
    "softcap": {"mask": masks.causal(), "softcap": 2.0, "scale": 0.7},
    "dropout": {"dropout": 0.4, "rng": dice, "mask": masks.causal()},
    "bias": {"bias": Relative(normal(H, 2 * T + 1)), "mask": masks.causal()},
    "one bias for all": {"bias": distance, "dropout": 0.2, "rng": dice},
    "nothing to see": {"mask": masks.padding([0, 0])},
}


def inputs(dtype=np.float64, length=T):
    shapes = (B, H, length, D), (B, G, length, D), (B, G, length, DV), (B, H, length, DV)
    return [normal(*shape).astype(dtype) for shape in shapes]


def whole(q, k, v, dout, options):
    """Attention in one process: out, lse, dq, dk, dv, and of a learned bias its gradient."""
    bias, places = options.get("bias"), np.arange(q.shape[2])
    given = fresh(options) | ({} if bias is None else {"bias": bias(places, places)})
    out, ctx = F.attention_forward(q, k, v, **given)
    dq, dk, dv, dbias = F.attention_backward(dout, ctx)
    results = [out, dq, dk, dv]
    if hasattr(bias, "backward"):
        bias.dtable[...] = 0
        bias.backward(dbias, places, places)
        results.append(bias.dtable.copy())
    return results


def parts(comm, pair, arrays, options, layout):
    """The same on ranks, of which each is given its part; the whole is put together at the end."""
    forward, backward = pair
    q, k, v, dout = (share(x, comm, layout=layout) for x in arrays)
    options = fresh(options)
    bias = options.get("bias")
    if hasattr(bias, "backward"):
        options["bias"] = bias = Relative(bias.table)
    out, ctx = forward(q, k, v, comm=comm, layout=layout, **options)
    results = [collect(x, comm, layout=layout) for x in (out, *backward(dout, ctx))]
    return results, getattr(bias, "dtable", None)


def on_ranks(n, pair, arrays, options, layout):
    found = simulate(n).run(parts, pair, arrays, options, layout)
    results = found[0][0]
    if found[0][1] is not None:
        results = [*results, sum(dtable for _, dtable in found)]
    return results


@pytest.mark.parametrize("layout", ["contiguous", "striped"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("pair", [RING, HEADS], ids=["ring", "heads"])
def test_it_is_attention(pair, name, layout):
    arrays = inputs()
    expected = whole(*arrays, OPTIONS[name])
    for n in (1, 2, 4) if pair is HEADS else (1, 2, 3, 5):
        found = on_ranks(n, pair, arrays, OPTIONS[name], layout)
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", [RING, HEADS], ids=["ring", "heads"])
def test_a_bias_is_made_in_pieces(pair, monkeypatch):
    monkeypatch.setattr(_blocks, "BIAS_ENTRIES", 64)
    monkeypatch.setattr(_blocks, "LEAST_ROWS", 3)
    arrays = inputs()
    for own, other in zip(
        on_ranks(2, pair, arrays, OPTIONS["bias"], "striped"),
        whole(*arrays, OPTIONS["bias"]),
        strict=True,
    ):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["dropout", "bias", "an array"])
@pytest.mark.parametrize("pair", [RING, HEADS], ids=["ring", "heads"])
def test_backward_takes_some_keys_at_a_time(pair, name, monkeypatch):
    monkeypatch.setattr(_blocks, "KEYS_AT_A_TIME", 5)
    arrays = inputs()
    found = on_ranks(2, pair, arrays, OPTIONS[name], "striped")
    for own, other in zip(found, whole(*arrays, OPTIONS[name]), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


def test_fewer_tokens_than_ranks():
    arrays = inputs(length=3)
    for pair in (RING, HEADS):
        for layout in ("contiguous", "striped"):
            options = {"mask": masks.causal()}
            found = on_ranks(4, pair, arrays, options, layout)
            for own, other in zip(found, whole(*arrays, options), strict=True):
                np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


def test_missing_axes_and_log_sums():
    q, k, v = normal(3, 10, 4)
    out, ctx = F.attention_forward(q, k, v, mask=masks.causal())

    def attend(comm):
        own = (share(x, comm) for x in (q, k, v))
        out, ctx = distributed.ring_attention_forward(*own, comm=comm, mask=masks.causal())
        return collect(out, comm), collect(ctx.lse, comm, axis=0)

    found = simulate(3).run(attend)[2]
    np.testing.assert_allclose(found[0], out, atol=1e-14)
    np.testing.assert_allclose(found[1], ctx.lse, atol=1e-14)


@pytest.mark.parametrize("size", [1.0, 40.0, 1e20])
@pytest.mark.parametrize("pair", [RING, HEADS], ids=["ring", "heads"])
def test_numbers_that_float32_cannot_hold_on_the_way(pair, size):
    """One block has scores that float32 cannot hold; what comes of it is all ranks' matter."""
    q, k, v, dout = inputs(np.float32)
    k[:, :, 20] *= size
    q[:, :, 3] *= size
    options = {"mask": masks.causal()}
    arrays = [q, k, v, dout]
    exact = whole(*(x.astype(np.float64) for x in arrays), options)
    alone = whole(*arrays, options)
    for own, one, other in zip(
        on_ranks(2, pair, arrays, options, "contiguous"), alone, exact, strict=True
    ):
        assert own.dtype == np.float32
        floor = 1e-6 * np.abs(other).max()
        assert np.abs(own - other).max() <= 2 * np.abs(one - other).max() + floor


@pytest.mark.parametrize("pair", [RING, HEADS], ids=["ring", "heads"])
def test_what_is_hidden_does_not_leak(pair):
    q, k, v, dout = inputs()
    clean = on_ranks(2, pair, [q, k, v, dout], {"mask": masks.causal()}, "striped")
    k[:, :, 15:], v[:, :, 15:], dout[:, :, 15:] = np.nan, np.inf, 0.0
    found = on_ranks(2, pair, [q, k, v, dout], {"mask": masks.causal()}, "striped")
    np.testing.assert_allclose(found[0][:, :, :15], clean[0][:, :, :15], rtol=0, atol=1e-14)
    assert np.isfinite(found[1][:, :, :15]).all()
    assert np.isnan(found[0][:, :, 15:]).all()


def test_gradcheck_through_the_ring():
    mask = masks.causal()

    def forward(q, k, v):
        def attend(comm):
            own = (share(x, comm, layout="striped") for x in (q, k, v))
            out, ctx = distributed.ring_attention_forward(
                *own, comm=comm, mask=mask, layout="striped"
            )
            return collect(out, comm, layout="striped"), ctx

        found = simulate(3).run(attend)
        return found[0][0], [ctx for _, ctx in found]

    def backward(dout, ctxs):
        def undo(comm):
            ctx = ctxs[comm.Get_rank()]._replace(comm=comm)
            own = share(dout, comm, layout="striped")
            grads = distributed.ring_attention_backward(own, ctx)
            return [collect(x, comm, layout="striped") for x in grads]

        return tuple(simulate(3).run(undo)[0])

    ma.gradcheck(forward, tuple(normal(3, 2, 5, 3)), backward=backward)


def test_striped_ranks_have_the_same_work():
    """Pairs that a rank sees under a causal mask: contiguous 1 to 7 on four ranks, striped even."""
    seen = masks.causal().to_array(1, 1, 64, 64)[0, 0]

    def pairs(comm, layout):
        return int(seen[distributed.positions(64, comm, layout=layout)].sum())

    contiguous, striped = (simulate(4).run(pairs, x) for x in ("contiguous", "striped"))
    assert contiguous[3] > 6 * contiguous[0]
    assert max(striped) < 1.1 * min(striped)


def test_no_rank_holds_more_than_its_part():
    """Bytes that a rank sends: keys and values n - 1 times, and their gradients n times."""
    n, length = 4, 64
    q, k, v = np.zeros((3, 1, 1, length // n, 8))

    def there(comm):
        distributed.ring_attention_forward(q, k, v, comm=comm)

    simulation = simulate(n)
    simulation.run(there)
    words = 256 * (n - 1)  # what ranks agree on
    assert {sent - 2 * k.nbytes * (n - 1) for sent in simulation.sent} <= set(range(4 * words))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"scale": lambda r: 0.5 + r}, ValueError, "scale: expected the same .*got 0.5 on rank 0"),
        (
            {"mask": lambda r: masks.causal(r)},
            ValueError,
            r"mask: expected the same on every rank, got causal\(offset=0\) on rank 0",
        ),
        ({"layout": lambda r: "spiral"}, ValueError, "layout: expected one of"),
        ({"bias": lambda r: np.zeros((2, 2))}, TypeError, "bias: expected a function of positions"),
        (
            {"bias": lambda r: lambda i, j: np.zeros(3)},
            ValueError,
            r"bias\(i, j\): expected a shape",
        ),
        ({"colour": lambda r: 3}, TypeError, "ring_attention: expected options of .*'colour'"),
        ({"dropout": lambda r: 0.5}, TypeError, "rng: expected a numpy.random.Generator"),
    ],
)
def test_wrong_calls(change, error, words):
    x = np.zeros((1, 2, 4, 2))

    def attend(comm):
        options = {name: value(comm.Get_rank()) for name, value in change.items()}
        distributed.ring_attention(x, x, x, comm=comm, **options)

    with pytest.raises(error, match=words):
        simulate(2).run(attend)


def test_shapes_that_differ_are_named_before_the_first_exchange():
    def attend(comm, shapes):
        x = np.zeros(shapes[comm.Get_rank()])
        distributed.ring_attention(x, x, x, comm=comm)

    with pytest.raises(ValueError, match="D: expected the same on every rank, got 2 on rank 0 and"):
        simulate(2).run(attend, [(1, 2, 4, 2), (1, 2, 4, 3)])
    with pytest.raises(ValueError, match="q: expected 4 of 9 tokens on rank 0, contiguous, got 3"):
        simulate(2).run(attend, [(1, 2, 3, 2), (1, 2, 6, 2)])
    words = "comm: expected ranks that divide H = 2 heads, and G = 2 or a multiple of it, got 3"
    x = np.zeros((1, 2, 4, 2))
    with pytest.raises(ValueError, match=words):
        simulate(3).run(lambda comm: distributed.head_attention(x, x, x, comm=comm))
