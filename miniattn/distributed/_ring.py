"""Sequence parallel: keys and values go round a ring of ranks, past queries that stay.

Forward, on each rank::

    for every owner, the rank itself first, then its left neighbour, ...
        begin to send these keys and values to the right, and to receive the next from the left
        out, m, l = merge(what is known, attention(q, keys and values of the owner))

Backward goes the same way, and the gradients of keys and values with them: each rank adds its share
to what comes from the left, and the last one sends the sum home. ``out``, m and l are those over
all keys by then, so that every block's gradient is its share of the whole.

No rank holds more than its own part, one more of keys and values that is coming, and their
gradients: (T / n) (4 D + ...) numbers, whatever T.

References
----------
Liu, Zaharia, Abbeel. "Ring Attention with Blockwise Transformers for Near-Infinite Context" (2023),
section 3.
Brandon et al. "Striped Attention: Faster Ring Attention for Causal Transformers" (2023), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Unpack

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.distributed import _blocks
from miniattn.distributed._blocks import Block, Call, Rows
from miniattn.distributed._calls import AttentionOptions, as_given, shared
from miniattn.distributed._comm import GRADIENTS, KEYS, Comm, Request, checked, gather, mark, wait
from miniattn.distributed._layout import Stretch
from miniattn.functional._doubles import is_extreme


@context
class RingAttentionContext(NamedTuple):
    """What `ring_attention_backward` needs of a call of `ring_attention_forward`."""

    q: Array
    k: Array
    v: Array
    out: Array
    """As returned; (B, H, T/n, Dv) with all its axes."""
    lse: Array
    """(B, H, T/n): log-sum-exp of each row of scores, over the keys of all ranks."""
    rows: Rows
    """Output, maxima and sums over all keys, in float64 where float32 could not hold them."""
    call: Call
    queries: list[Stretch]
    keys: list[Stretch]
    comm: Comm


class RingAttentionGrads(NamedTuple):
    """Gradients of `ring_attention_forward`, of this rank's part of the inputs."""

    dq: Array
    dk: Array
    dv: Array


def ring_attention(
    q: Array, k: Array, v: Array, *, comm: Comm, **options: Unpack[AttentionOptions]
) -> Array:
    """Attention over a sequence that is dealt out to ranks: `ring_attention_forward`'s ``out``.

    Parameters
    ----------
    q, k, v, comm, **options
        As in `ring_attention_forward`.

    Returns
    -------
    (B, H, T/n, Dv) array
    """
    return ring_attention_forward(q, k, v, comm=comm, **options)[0]


def ring_attention_forward(
    q: Array, k: Array, v: Array, *, comm: Comm, **options: Unpack[AttentionOptions]
) -> tuple[Array, RingAttentionContext]:
    r"""Compute `functional.attention` over a sequence of which each rank holds a part.

    Parameters
    ----------
    q : (B, H, T/n, D) float32 or float64
        This rank's queries. Leading axes may be missing in q, k and v alike.
    k : (B, G, S/n, D)
        This rank's keys.
    v : (B, G, S/n, Dv)
        Their values.
    comm : Comm
        The ranks, each of which makes the same call.
    mask : Mask, bool array or None
        Over all T queries and S keys, by their positions in the whole sequence.
    bias : function of positions, optional
        ``bias(i, j)`` returns the bias of queries at positions i and keys at positions j, which
        broadcasts to (B, H, i.size, j.size). If it is learned, ``bias.backward(dbias, i, j)`` is
        given the gradients.
    scale, softcap, dropout, rng
        As in `functional.attention`. The seed of dropout is rank 0's; what is dropped depends on
        the positions in the whole sequence.
    layout : {"contiguous", "striped"}
        Which tokens a rank holds; see `positions`. Striped balances the work under a causal mask.

    Returns
    -------
    out : (B, H, T/n, Dv) array
        For this rank's queries.
    ctx : RingAttentionContext

    Raises
    ------
    TypeError, ValueError
        If arguments don't fit, or differ between ranks: on all ranks, before arrays are exchanged.

    Notes
    -----
    Blocks are merged by log-sum-exp, which is exact but for rounding. docs/distributed.md has a
    figure of who computes what when.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> from miniattn import distributed, masks
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 10, 4))
    >>> def attend(comm):
    ...     own = [distributed.share(x, comm, layout="striped") for x in (q, k, v)]
    ...     out = distributed.ring_attention(
    ...         *own, comm=comm, mask=masks.causal(), layout="striped"
    ...     )
    ...     return distributed.collect(out, comm, layout="striped")
    >>> out = distributed.simulate(3).run(attend)[0]
    >>> np.allclose(out, F.attention(q, k, v, mask=masks.causal()))
    True
    """
    comm = checked(comm)
    own = shared("ring_attention", q, k, v, comm, options)
    dtype = own.q.dtype
    rows, fit = None, dtype == np.float64 or not is_extreme(own.call.options)
    if fit:
        rows, fit = _forward(own.q, own.k, own.v, own.call, own.queries, own.keys, comm)
    if dtype != np.float64 and not all(gather(comm, fit)):
        wide_q, wide_k, wide_v = (x.astype(np.float64) for x in (own.q, own.k, own.v))
        rows, _ = _forward(wide_q, wide_k, wide_v, own.call, own.queries, own.keys, comm)
    assert rows is not None  # one of the two has run
    out = as_given(rows.out, own.missing, dtype)
    lse = as_given(_blocks.lse_of(rows, own.call.measure), own.missing, dtype)
    arrays = (own.q, own.k, own.v)
    return out, RingAttentionContext(*arrays, out, lse, rows, own.call, own.queries, own.keys, comm)


def ring_attention_backward(dout: Array, ctx: RingAttentionContext) -> RingAttentionGrads:
    """Return the gradients of `ring_attention_forward` for this rank's q, k and v.

    Parameters
    ----------
    dout : (B, H, T/n, Dv) array
        The gradient with respect to ``out``.
    ctx : RingAttentionContext
        From `ring_attention_forward`.

    Returns
    -------
    RingAttentionGrads
        ``(dq, dk, dv)``, those of keys and values summed over the queries of all ranks.

    Raises
    ------
    TypeError, ValueError
        If ``dout`` has not the dtype and the shape of ``out``.
    """
    ctx = _checks.context(ctx, RingAttentionContext)
    dout = _checks.gradient("dout", dout, ctx.out.shape, ctx.out.dtype)
    missing, dtype = 4 - ctx.out.ndim, ctx.out.dtype
    dout = dout.reshape((1,) * missing + dout.shape)
    arrays, rows = (ctx.q, ctx.k, ctx.v), ctx.rows
    if rows.out.dtype == dtype:
        grads, fit = _backward(np.ascontiguousarray(dout), *arrays, rows, ctx)
        if dtype == np.float64 or all(gather(ctx.comm, fit)):
            return RingAttentionGrads(*(as_given(x, missing, dtype) for x in grads))
    q, k, v = (x.astype(np.float64) for x in arrays)
    if rows.out.dtype == dtype:  # they were fit for float32, their gradients aren't
        rows, _ = _forward(q, k, v, ctx.call, ctx.queries, ctx.keys, ctx.comm)
    grads, _ = _backward(np.ascontiguousarray(dout, np.float64), q, k, v, rows, ctx)
    return RingAttentionGrads(*(as_given(x, missing, dtype) for x in grads))


def _forward(
    q: Array,
    k: Array,
    v: Array,
    call: Call,
    queries: list[Stretch],
    keys: list[Stretch],
    comm: Comm,
) -> tuple[Rows, bool]:
    """Return what is known of each query after all blocks, and whether all were fit."""
    heads, rank = slice(0, q.shape[1]), comm.Get_rank()
    rows, fit = None, True
    for owner, its_k, its_v in _around(comm, k, v, keys):
        mark(comm, f"keys of rank {owner}")
        block = Block(queries[rank], keys[owner], heads)
        found = _blocks.forward(q, its_k, its_v, call, block)
        if found is not None:
            rows = _blocks.merge(rows, found[0], call.measure)
            fit &= found[1]
        mark(comm, "")
    return (_blocks.no_rows(q, v.shape[3]) if rows is None else rows), fit


def _backward(
    dout: Array, q: Array, k: Array, v: Array, rows: Rows, ctx: RingAttentionContext
) -> tuple[tuple[Array, Array, Array], bool]:
    """Return (dq, dk, dv) of this rank's part, and whether all blocks were fit."""
    comm, heads, fit = ctx.comm, slice(0, q.shape[1]), True
    rank, n = comm.Get_rank(), comm.Get_size()
    left, right = (rank - 1) % n, (rank + 1) % n
    dq = np.zeros(q.shape, q.dtype)
    leaving: list[Request] = []
    sums: list[Array] = []
    for owner, its_k, its_v in _around(comm, k, v, ctx.keys):
        # Undoing: rows = merge(rows, attention(q, keys of the owner)).
        mark(comm, f"keys of rank {owner}, back")
        block = Block(ctx.queries[rank], ctx.keys[owner], heads)
        found = _blocks.backward(dout, q, its_k, its_v, rows, ctx.call, block)
        mark(comm, "")
        own: list[Array] = [np.zeros(x.shape, x.dtype) for x in (its_k, its_v)]
        if found is not None:
            (more_q, *own), fits = found
            dq += more_q
            fit &= fits
            del more_q, found
        # The left neighbour has just computed it: asked for earlier, it would only take memory.
        before = [empty(x.shape, x.dtype) for x in own] if owner != rank else []
        wait([comm.Irecv(x, left, GRADIENTS) for x in before])
        for n_th, more in enumerate(before):
            own[n_th] += more
        wait(leaving)
        sums = own
        leaving = [comm.Isend(x, right, GRADIENTS) for x in sums] if n > 1 else []
    if n > 1:  # what has been all the way round comes home
        home = [empty(x.shape, x.dtype) for x in (k, v)]
        wait([comm.Irecv(x, left, GRADIENTS) for x in home])
        wait(leaving)
        sums = home
    return (dq, sums[0], sums[1]), fit


def _around(
    comm: Comm, k: Array, v: Array, keys: list[Stretch]
) -> Iterator[tuple[int, Array, Array]]:
    """Yield every rank's keys and values, own first; the next come while the caller computes."""
    rank, n = comm.Get_rank(), comm.Get_size()
    left, right = (rank - 1) % n, (rank + 1) % n
    for step in range(n):
        owner = (rank - step) % n
        requests: list[Request] = []
        following: list[Any] = [k, v]
        if step + 1 < n:
            length = keys[(owner - 1) % n].length
            following = [empty((*x.shape[:2], length, x.shape[3]), x.dtype) for x in (k, v)]
            requests = [comm.Irecv(x, left, KEYS) for x in following]
            requests += [comm.Isend(x, right, KEYS) for x in (k, v)]
        yield owner, k, v
        wait(requests)
        k, v = following
