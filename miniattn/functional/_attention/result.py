"""Attention, of which nothing but the result is wanted: what it is, and its options."""

from typing import Literal, Unpack, overload

import numpy as np

from miniattn import _checks
from miniattn._options import spelled_out
from miniattn._typing import Array
from miniattn.functional._attention.operation import attention_forward
from miniattn.functional._attention.options import Weighing, WeighingOptions
from miniattn.functional._attention.weights import weights_of


class _Options(WeighingOptions, total=False):
    """Options of `attention`, for its overloads."""

    dropout: float
    rng: np.random.Generator | None


@overload
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    return_weights: Literal[False] = False,
    **options: Unpack[_Options],
) -> Array: ...


@overload
def attention(
    q: Array, k: Array, v: Array, *, return_weights: Literal[True], **options: Unpack[_Options]
) -> tuple[Array, Array]: ...


@overload
def attention(
    q: Array, k: Array, v: Array, *, return_weights: bool, **options: Unpack[_Options]
) -> Array | tuple[Array, Array]: ...


@spelled_out(Weighing)
def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    return_weights: bool = False,
    **weighing: Unpack[WeighingOptions],
) -> Array | tuple[Array, Array]:
    r"""Attention: ``out = dropout(softmax(score(cap(scale * q @ k^T)) + bias + mask)) @ v``.

    Or another ``normalizer`` in the place of softmax.

    Parameters
    ----------
    q : (B, H, T, D) float32 or float64
        Queries. Leading axes may be missing in q, k and v alike: (H, T, D) or (T, D).
    k : (B, G, S, D)
        Keys, of the same dtype. G divides H: query head h uses key/value head h // (H // G).
    v : (B, G, S, Dv)
        Values.
    mask : Mask, bool array or None
        What each query may attend to (True = may attend): ``masks.causal()``,
        ``masks.padding(lengths)``, ..., or a bool array that broadcasts to (B, H, T, S).
    bias : float array, optional
        Added to the scores; broadcasts to (B, H, T, S). A -inf gives that key weight 0.
    scale : float, optional
        Default 1 / sqrt(D).
    softcap : float > 0, optional
        c in ``c * tanh(scores / c)``, applied before score, bias and mask.
    score : Score, optional
        A function of each score and its place, with its tables: ``scores.alibi(H)``, or one of your
        own under ``@scores.function``.
    sink : (H,) array, optional
        Logits that take part in the softmax of their head and carry no value: weights then sum to
        less than 1. Sigmoid has no place for one.
    normalizer : str
        What makes weights of scores: ``"softmax"``; ``"sparsemax"`` or ``"entmax15"``, under which
        most weights may be exactly 0; ``"sigmoid"``, each score by itself.
    dropout : float in [0, 1)
        The probability that a weight is set to 0; the others are divided by ``1 - dropout``.
    rng : numpy.random.Generator
        Required where ``dropout > 0``.
    return_weights : bool
        Return ``(out, weights)``: weights (B, H, T, S) before dropout. It takes T x S memory, and
        ``out`` has the same bits with and without.

    Returns
    -------
    (B, H, T, Dv) array, or a pair of arrays

    Raises
    ------
    TypeError
        If an array is not float32 or float64, or the dtypes differ; for a mask of another kind.
    ValueError
        If shapes don't fit or a number is out of its range.

    Notes
    -----
    A query that may attend to nothing gets exactly 0. What a hidden key or value holds, NaN
    included, cannot reach the queries that it is hidden from. A row whose scores contain +inf
    is NaN. The result has the same bits for any number of threads; docs/bits.md says what
    may change them.

    Finite numbers of every size give what float64 says, rounded. A float32 call with scores beyond
    1,024, or with numbers that float32 cannot hold on the way, is therefore done once more in
    float64. A bias of -1e9 for all keys of a query makes it one; a mask doesn't. Derivation and
    kernel: docs/derivations/attention.md, docs/kernel.md; of the other normalizers:
    docs/derivations/attention.md#other-normalizers.

    Weights of a sigmoid sum to about S / 2 at first. Ramapuram et al. add -log(S) to every score:
    ``bias=np.array(-np.log(S), q.dtype)``.

    References
    ----------
    Vaswani et al. "Attention Is All You Need" (2017), section 3.2.1.
    Ainslie et al. "GQA" (2023), section 2.2 (grouped heads).
    Martins, Astudillo. "From softmax to sparsemax" (2016), section 2.
    Peters, Niculae, Martins. "Sparse sequence-to-sequence models" (2019), section 3 (entmax-1.5).
    Ramapuram et al. "Theory, analysis, and best practices for sigmoid self-attention" (2024).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> from miniattn.functional import attention
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> attention(x, x, x, mask=masks.causal()).round(2)
    array([[1.  , 0.  ],
           [0.33, 0.67],
           [0.75, 0.75]])
    >>> attention(4 * x, x, x, normalizer="sparsemax").round(2)
    array([[1. , 0.5],
           [0.5, 1. ],
           [1. , 1. ]])
    """
    return_weights = _checks.flag("return_weights", return_weights)
    out, ctx = attention_forward(q, k, v, dropout=dropout, rng=rng, **weighing)
    return (out, weights_of(ctx)) if return_weights else out
