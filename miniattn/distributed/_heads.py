"""Head parallel: from a part of the sequence with all heads to the whole with some, and back.

Attention's heads know nothing of each other. So each rank, which holds T / n tokens, sends to every
other one the heads that are the other's, and receives its own heads of the other's tokens. It then
has the whole sequence for H / n heads, attends as one process would, and the results go back the
same way::

    q (B, H, T/n, D)  -> all to all ->  (B, H/n, T, D)  -> attention ->  out  -> all to all ->  ...

Backward is read upwards: the same exchange for dout, attention's backward, and the way back for dq,
dk and dv. Every number travels once in each direction, whatever n, where a ring sends keys and
values n - 1 times; but n divides H, and each rank holds the whole sequence of its heads.

References
----------
Jacobs et al. "DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long
Sequence Transformer Models" (2023), section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.distributed import _blocks
from miniattn.distributed._blocks import Block, Call, Rows
from miniattn.distributed._calls import AttentionOptions, as_given, shared
from miniattn.distributed._comm import HEADS, Comm, checked, exchange, mark
from miniattn.distributed._layout import Stretch
from miniattn.functional._doubles import is_extreme


@context
class HeadAttentionContext(NamedTuple):
    """What `head_attention_backward` needs of a call of `head_attention_forward`."""

    q: Array
    """(B, H/n, T, D): this rank's heads of the whole sequence, as k and v."""
    k: Array
    v: Array
    out: Array
    """As returned: all heads of this rank's tokens."""
    rows: Rows
    """Output, maxima and sums of this rank's heads."""
    call: Call
    queries: list[Stretch]
    keys: list[Stretch]
    key_heads: list[slice]
    """Of each rank: the keys' heads that its queries' heads use."""
    comm: Comm


class HeadAttentionGrads(NamedTuple):
    """Gradients of `head_attention_forward`, of this rank's part of the inputs."""

    dq: Array
    dk: Array
    dv: Array


def head_attention(
    q: Array, k: Array, v: Array, *, comm: Comm, **options: Unpack[AttentionOptions]
) -> Array:
    """Attention over a sequence that is dealt out to ranks: `head_attention_forward`'s ``out``.

    Parameters
    ----------
    q, k, v, comm, **options
        As in `head_attention_forward`.

    Returns
    -------
    (B, H, T/n, Dv) array
    """
    return head_attention_forward(q, k, v, comm=comm, **options)[0]


def head_attention_forward(
    q: Array, k: Array, v: Array, *, comm: Comm, **options: Unpack[AttentionOptions]
) -> tuple[Array, HeadAttentionContext]:
    """Compute what `ring_attention_forward` does, each rank some heads of the whole sequence.

    Parameters
    ----------
    q, k, v, comm, **options
        As in `ring_attention_forward`. The number of ranks divides H, and either divides G or is
        a multiple of it.

    Returns
    -------
    out : (B, H, T/n, Dv) array
        For this rank's queries.
    ctx : HeadAttentionContext

    Raises
    ------
    TypeError, ValueError
        As for `ring_attention_forward`, and if heads can't be dealt out evenly.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> from miniattn import distributed
    >>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 7, 4))
    >>> def attend(comm):
    ...     own = [distributed.share(x, comm) for x in (q, k, v)]
    ...     return distributed.collect(distributed.head_attention(*own, comm=comm), comm)
    >>> np.allclose(distributed.simulate(2).run(attend)[0], F.attention(q, k, v))
    True
    """
    comm = checked(comm)
    own = shared("head_attention", q, k, v, comm, options)
    n, dtype = comm.Get_size(), own.q.dtype
    heads, key_heads = _dealt(own.q.shape[1], own.k.shape[1], n)
    # q, k, v = all heads of some tokens -> some heads of all tokens
    whole_q = _to_heads(own.q, heads, own.queries, comm)
    whole_k, whole_v = (_to_heads(x, key_heads, own.keys, comm) for x in (own.k, own.v))
    rows = _attend(whole_q, whole_k, whole_v, own.call, heads[comm.Get_rank()], comm)
    # out = some heads of all tokens -> all heads of some tokens
    out = _to_tokens(rows.out.astype(dtype, copy=False), heads, own.queries, comm)
    out = as_given(out, own.missing, dtype)
    arrays = (whole_q, whole_k, whole_v)
    return out, HeadAttentionContext(
        *arrays, out, rows, own.call, own.queries, own.keys, key_heads, comm
    )


def head_attention_backward(dout: Array, ctx: HeadAttentionContext) -> HeadAttentionGrads:
    """Return the gradients of `head_attention_forward` for this rank's q, k and v.

    Parameters
    ----------
    dout : (B, H, T/n, Dv) array
        The gradient with respect to ``out``.
    ctx : HeadAttentionContext
        From `head_attention_forward`.

    Returns
    -------
    HeadAttentionGrads
        ``(dq, dk, dv)``, those of keys and values summed over the queries of all ranks.

    Raises
    ------
    TypeError, ValueError
        If ``dout`` has not the dtype and the shape of ``out``.
    """
    ctx = _checks.context(ctx, HeadAttentionContext)
    dout = _checks.gradient("dout", dout, ctx.out.shape, ctx.out.dtype)
    missing, dtype, comm = 4 - ctx.out.ndim, ctx.out.dtype, ctx.comm
    H, rank = ctx.call.sizes[0], comm.Get_rank()
    heads, _ = _dealt(H, H, comm.Get_size())
    # out = to_tokens(rows.out)
    dout = np.ascontiguousarray(dout.reshape((1,) * missing + dout.shape))
    whole = _to_heads(dout, heads, ctx.queries, comm)
    # rows = attend(q, k, v)
    mark(comm, "heads, back")
    dq, dk, dv = _attend_backward(whole, ctx, heads[rank])
    mark(comm, "")
    # q, k, v = to_heads(...)
    dq = _to_tokens(dq, heads, ctx.queries, comm)
    dk, dv = (_to_tokens(x, ctx.key_heads, ctx.keys, comm) for x in (dk, dv))
    return HeadAttentionGrads(*(as_given(x, missing, dtype) for x in (dq, dk, dv)))


def _attend(q: Array, k: Array, v: Array, call: Call, heads: slice, comm: Comm) -> Rows:
    """Return attention of this rank's heads over all tokens; in float64 where that is needed."""
    mark(comm, "heads")
    found, fit = None, q.dtype == np.float64 or not is_extreme(call.options)
    if fit:
        found, fit = _blocks.forward_or_nothing(q, k, v, call, _whole(call, heads))
    if not fit and q.dtype != np.float64:
        q, k, v = (x.astype(np.float64) for x in (q, k, v))
        found, _ = _blocks.forward_or_nothing(q, k, v, call, _whole(call, heads))
    mark(comm, "")
    assert found is not None  # one of the two has run
    return found


def _attend_backward(dout: Array, ctx: HeadAttentionContext, heads: slice) -> list[Array]:
    """Return dq, dk and dv of this rank's heads."""
    block, arrays, rows = _whole(ctx.call, heads), (ctx.q, ctx.k, ctx.v), ctx.rows
    same = rows.out.dtype == ctx.q.dtype
    if same:
        found = _blocks.backward(dout, *arrays, rows, ctx.call, block)
        if found is None:
            return [np.zeros(x.shape, x.dtype) for x in arrays]
        if found[1] or dout.dtype == np.float64:
            return list(found[0])
    q, k, v, dout = (x.astype(np.float64) for x in (*arrays, dout))
    if same:  # they were fit for float32, their gradients aren't
        rows, _ = _blocks.forward_or_nothing(q, k, v, ctx.call, block)
    found = _blocks.backward(dout, q, k, v, rows, ctx.call, block)
    grads = [np.zeros(x.shape) for x in (q, k, v)] if found is None else found[0]
    with np.errstate(over="ignore"):  # what the result itself has
        return [x.astype(ctx.q.dtype) for x in grads]


def _whole(call: Call, heads: slice) -> Block:
    _, T, S = call.sizes
    return Block(Stretch(0, 1, T), Stretch(0, 1, S), heads)


def _dealt(H: int, G: int, n: int) -> tuple[list[slice], list[slice]]:
    """Return the heads of queries that each rank has, and the heads of keys that they use."""
    if H % n or (G % n and n % G):
        raise ValueError(
            f"comm: expected ranks that divide H = {H} heads, and G = {G} or a multiple of it, "
            f"got {n}"
        )
    heads = [slice(r * H // n, (r + 1) * H // n) for r in range(n)]
    group = H // G if G else 1
    key_heads = [slice(h.start // group, -(-h.stop // group)) for h in heads]
    return heads, key_heads


def _to_heads(x: Array, heads: list[slice], tokens: list[Stretch], comm: Comm) -> Array:
    """Return this rank's heads of all tokens, of all heads of this rank's tokens."""
    own = heads[comm.Get_rank()]
    B, _, _, D = x.shape
    size = own.stop - own.start
    coming = [empty((B, size, part.length, D), x.dtype) for part in tokens]
    exchange(comm, [np.ascontiguousarray(x[:, h]) for h in heads], coming, HEADS)
    whole = empty((B, size, sum(part.length for part in tokens), D), x.dtype)
    for part, received in zip(tokens, coming, strict=True):
        whole[:, :, part.places] = received
    return whole


def _to_tokens(x: Array, heads: list[slice], tokens: list[Stretch], comm: Comm) -> Array:
    """Undo `_to_heads`; where ranks have the same head, as of shared keys, the sum of theirs."""
    own = tokens[comm.Get_rank()]
    B, _, _, D = x.shape
    coming: list[Any] = [empty((B, h.stop - h.start, own.length, D), x.dtype) for h in heads]
    exchange(comm, [np.ascontiguousarray(x[:, :, part.places]) for part in tokens], coming, HEADS)
    all_heads = np.zeros((B, max(h.stop for h in heads), own.length, D), x.dtype)
    for part, received in zip(heads, coming, strict=True):
        all_heads[:, part] += received
    return all_heads
