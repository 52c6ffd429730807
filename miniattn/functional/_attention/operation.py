"""Attention, forward and backward: arguments checked, laid out, and handed to the kernels."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from miniattn import _checks, _tracing
from miniattn._memory import zeros
from miniattn._options import given, spelled_out
from miniattn._typing import Array
from miniattn.functional._attention.context import (
    INPUTS,
    AttentionContext,
    AttentionGrads,
    Input,
    ScoredAttentionGrads,
    check_lse,
    grads_of,
)
from miniattn.functional._attention.inputs import (
    add_bias,
    add_sink,
    check_keys,
    check_values,
    checked_weighing,
    drop_axes,
    empty_like,
    four_axes,
)
from miniattn.functional._attention.options import Weighing, WeighingOptions
from miniattn.functional._attention.sinks import sink_gradient
from miniattn.functional._attention_calls import Besides, Options
from miniattn.functional._doubles import run
from miniattn.functional._scores import gradients, learned
from miniattn.kernels.attention.problem import NORMALIZERS
from miniattn.kernels.compile.tables import strided


@spelled_out(Weighing)
def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    *,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    **weighing: Unpack[WeighingOptions],
) -> tuple[Array, AttentionContext]:
    """Compute `attention` and keep what its backward needs: O(T) beside inputs and output.

    Parameters
    ----------
    q, k, v, mask, bias, scale, softcap, score, sink, normalizer, dropout, rng
        As in `attention`.

    Returns
    -------
    out : (B, H, T, Dv) array
        Laid out in memory like q: heads interleaved where q's are.
    ctx : AttentionContext
        ``ctx.lse`` (B, H, T) is the log-sum-exp of each row of scores, -inf for an empty row, and
        NaN under another normalizer than softmax.
        `merge_attention` combines attention over disjoint sets of keys.
        The context holds q, k, v, bias, sink and out themselves: before the backward, write to a
        copy.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.functional import attention_forward
    >>> zero = np.zeros((2, 4))
    >>> out, ctx = attention_forward(zero, zero, np.eye(2))
    >>> out, ctx.lse.round(4)
    (array([[0.5, 0.5],
           [0.5, 0.5]]), array([0.6931, 0.6931]))
    """
    tracer = _tracing.current()
    if tracer is not None:
        return tracer.attention_forward(q, k, v, dropout=dropout, rng=rng, **weighing)
    told: Weighing = given("attention_forward", Weighing, weighing)
    q, k, v = _checks.float_array("q", q), _checks.float_array("k", k), _checks.float_array("v", v)
    if not q.dtype == k.dtype == v.dtype:
        _checks.same_dtype(q=q, k=k, v=v)
    check_keys(q.shape, k.shape)
    check_values(q.shape, k.shape, v.shape)
    mask, bias, scale, softcap, score, sink, normalizer = checked_weighing(told, q, k)
    dropout = _checks.probability("dropout", dropout)
    if dropout or rng is not None:
        rng = _checks.generator("rng", rng)
    seed = int(rng.integers(2**63)) if rng is not None and dropout else 0

    four_q, four_k, four_v = four_axes(q), four_axes(k), four_axes(v)
    out = empty_like(four_q, v.shape[-1])
    lse, stats = np.empty(out.shape[:3], q.dtype), np.empty((2, *out.shape[:3]), q.dtype)
    arrays = {"q": four_q, "k": four_k, "v": four_v, "out": out, "stats": stats}
    written = ["out", "stats"]
    if normalizer == "softmax":
        arrays["lse"] = lse
        written.append("lse")
    else:
        lse[...] = np.nan
    add_bias(arrays, bias)
    add_sink(arrays, sink)
    options = Options(scale, softcap, dropout, normalizer=NORMALIZERS.index(normalizer))
    used = run("forward", arrays, written, options, Besides(mask, seed, score))
    ctx = AttentionContext(
        q,
        k,
        v,
        drop_axes(out, 4 - q.ndim),
        drop_axes(lse, 4 - q.ndim),
        used["stats"],
        mask,
        bias,
        scale,
        softcap,
        dropout,
        seed,
        score,
        sink,
        normalizer,
    )
    return ctx.out, ctx


def attention_backward(
    dout: Array,
    ctx: AttentionContext,
    *,
    dlse: Array | None = None,
    needs: Sequence[Input] = INPUTS,
) -> AttentionGrads | ScoredAttentionGrads:
    """Return the gradients of `attention_forward`.

    With P the weights and delta_i = sum_e dout_ie out_ie::

        dv = P^T dout    dS = P * (dout v^T - delta)    dq = scale dS k    dk = scale dS^T q

    under softmax, and dbias the sum of dS over what was broadcast (dS before the softcap's slope;
    dropout keeps in P^T dout and dout v^T what it kept in the forward direction). Where lse was
    used, too, dS gets ``P * dlse`` on top. For the dS of other normalizers see
    docs/derivations/attention.md.

    Parameters
    ----------
    dout : (B, H, T, Dv) array
        The gradient with respect to out.
    ctx : AttentionContext
        From `attention_forward`, whose inputs and output must not have changed since.
    dlse : (B, H, T) array, optional
        The gradient with respect to ``ctx.lse``, as from `merge_attention_backward`.
    needs : names of inputs
        Those whose gradients are wanted: all of ``("q", "k", "v", "bias", "sink", "score")``. That
        of a bias costs two products more; the others come from one pass, and to leave some of them
        out saves nothing but their memory.

    Returns
    -------
    AttentionGrads
        ``(dq, dk, dv, dbias)``, each of its input's shape; of a call with a score or a sink
        `ScoredAttentionGrads`, which has ``dsink`` and ``dscore``, one for each table, too. None
        for what is not needed, and for what was not given.

    Raises
    ------
    TypeError, ValueError
        If dout has not the dtype and the shape of out, or dlse those of lse, or ``needs`` are not
        names of inputs; if the score has no backward half; if dlse is given of another normalizer
        than softmax, which has no lse.

    Notes
    -----
    Weights are recomputed tile by tile from ``ctx.stats``: nothing of size T x S exists. The
    gradients of rows that see nothing are 0. Derivation: docs/derivations/attention.md.

    References
    ----------
    Dao et al. "FlashAttention" (2022), appendix B.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.functional import attention_backward, attention_forward
    >>> x = np.eye(2)
    >>> out, ctx = attention_forward(x, x, x)
    >>> attention_backward(np.ones((2, 2)), ctx).dv.round(4)
    array([[1., 1.],
           [1., 1.]])
    """
    ctx = _checks.context(ctx, AttentionContext)
    of_q, of_k, of_v, of_bias, of_sink, of_score = _checks.needs(needs, INPUTS)
    dout = _checks.gradient("dout", dout, ctx.out.shape, ctx.out.dtype)
    if dlse is not None:
        check_lse("dlse", ctx)
        dlse = _checks.gradient("dlse", dlse, ctx.lse.shape, ctx.lse.dtype)
    tracer = _tracing.current()
    if tracer is not None:
        traced: AttentionGrads | ScoredAttentionGrads = tracer.attention_backward(
            dout, ctx, dlse=dlse, needs=needs
        )
        return traced
    q, k, v = (four_axes(x) for x in (ctx.q, ctx.k, ctx.v))
    arrays = {
        "q": q,
        "k": k,
        "v": v,
        "out": four_axes(ctx.out),
        "stats": ctx.stats,
        "dout": four_axes(dout),
    }
    dq, dk, dv = (empty_like(x, x.shape[-1]) for x in (q, k, v))
    arrays |= {"dq": dq, "dk": dk, "dv": dv}
    add_bias(arrays, ctx.bias)
    add_sink(arrays, ctx.sink)
    if dlse is not None:
        arrays["dlse"] = strided(dlse.reshape(q.shape[:-1]))
    dbias, written = None, ["dq", "dk", "dv"]
    if ctx.normalizer == "softmax":
        arrays["lse"] = ctx.lse.reshape(q.shape[:-1])
    elif ctx.sink is not None:
        arrays["delta"] = np.empty(q.shape[:-1], q.dtype)
        written.append("delta")
    if ctx.bias is not None and of_bias:
        dbias = zeros(ctx.bias.shape, q.dtype)
        arrays["dbias"] = dbias.reshape((1,) * (4 - dbias.ndim) + dbias.shape)
        written.append("dbias")
    numbers = ctx.scale, ctx.softcap, ctx.dropout
    options = Options(*numbers, normalizer=NORMALIZERS.index(ctx.normalizer))
    besides = Besides(ctx.mask, ctx.seed, ctx.score)
    lost = ctx.stats.dtype != q.dtype  # float32 could not hold what came in between
    used = run("backward", arrays, written, options, besides, in_doubles=lost)
    dscore = None
    if of_score and ctx.score is not None and besides.dtables is not None and learned(ctx.score):
        dscore = gradients(ctx.score, besides.dtables, q.dtype)
    missing = 4 - ctx.q.ndim
    of_inputs = (
        drop_axes(dq, missing) if of_q else None,
        drop_axes(dk, missing) if of_k else None,
        drop_axes(dv, missing) if of_v else None,
        dbias,
    )
    dsink = sink_gradient(used, ctx.normalizer) if of_sink and ctx.sink is not None else None
    return grads_of(ctx, of_inputs, dsink, dscore)
