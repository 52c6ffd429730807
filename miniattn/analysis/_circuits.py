"""Circuits: what a head's weights do to any token, before any input is seen.

The four weights of a head always come in pairs: W_q W_kᵀ says which tokens it looks at, W_v W_o
what it writes when it does (Elhage et al., "A Mathematical Framework for Transformer Circuits",
2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from miniattn import _checks
from miniattn._typing import Array

if TYPE_CHECKING:
    from miniattn.nn import MultiHeadAttention

Composition = Literal["q", "k", "v"]


class HeadWeights(NamedTuple):
    """What each head of a layer multiplies a row vector with; biases are left out.

    Grouped keys and values are repeated, so that every head has its own.
    """

    q: Array
    """(H, E, D): the query of x (E,) is x @ q."""
    k: Array
    """(H, E, D)."""
    v: Array
    """(H, E, Dv)."""
    o: Array
    """(H, Dv, E): what the head adds to the residual stream is its mixture of values @ o."""


def head_weights(layer: MultiHeadAttention) -> HeadWeights:
    """Return the weights of a layer by heads, as row vectors meet them.

    Parameters
    ----------
    layer : nn.MultiHeadAttention

    Returns
    -------
    HeadWeights
        Views of the parameters, except for grouped keys and values, which are repeated.

    Raises
    ------
    TypeError
        If ``layer`` has no projections by heads.

    Notes
    -----
    Positions are not in the weights: a rotary layer's scores are q kᵀ only between tokens in the
    same place, elsewhere both are turned first. Biases of the projections are left out, too.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "Attention
    Heads as Information Movement".

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> layer = nn.MultiHeadAttention(8, 4, num_kv_heads=2, rng=np.random.default_rng(0))
    >>> {name: w.shape for name, w in analysis.head_weights(layer)._asdict().items()}
    {'q': (4, 8, 2), 'k': (4, 8, 2), 'v': (4, 8, 2), 'o': (4, 2, 8)}
    """
    for name in ("q_proj", "k_proj", "v_proj", "out_proj", "num_heads"):
        if not hasattr(layer, name):
            raise TypeError(
                f"layer: expected nn.MultiHeadAttention, got {_checks.brief(layer)}, "
                f"which has no {name}"
            )
    H, G = layer.num_heads, getattr(layer, "num_kv_heads", layer.num_heads)
    q = _in_heads(layer.q_proj.weight.data, H)
    k, v = (
        np.repeat(_in_heads(proj.weight.data, G), H // G, axis=0)
        if H != G
        else _in_heads(proj.weight.data, G)
        for proj in (layer.k_proj, layer.v_proj)
    )
    o = layer.out_proj.weight.data  # (E, H·Dv)
    return HeadWeights(q, k, v, o.T.reshape(H, -1, len(o)))


def qk_circuit(
    heads: HeadWeights,
    queries: Array | None = None,
    keys: Array | None = None,
    *,
    scale: float | None = None,
) -> Array:
    """Return which key each query looks for: scale · queries W_q W_kᵀ keysᵀ, for every head.

    Parameters
    ----------
    heads : HeadWeights
        Of `head_weights`.
    queries, keys : (n, E) and (m, E) float arrays, optional
        What stands in the residual stream, such as the rows of the token table; by default the
        stream's own axes, which gives the (E, E) form between directions.
    scale : float, optional
        1 / √D by default, so that an entry is the score of the layer.

    Returns
    -------
    (H, n, m) array

    Raises
    ------
    TypeError, ValueError
        If dtypes differ or the widths do not fit.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "Splitting
    Attention Head Terms into Circuits".

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> layer = nn.MultiHeadAttention(8, 2, rng=np.random.default_rng(0))
    >>> table = np.random.default_rng(1).standard_normal((5, 8), dtype=np.float32)
    >>> analysis.qk_circuit(analysis.head_weights(layer), table, table).shape
    (2, 5, 5)
    """
    heads = _heads(heads)
    scale = heads.q.shape[-1] ** -0.5 if scale is None else _checks.number("scale", scale)
    q = _read(heads.q, "queries", queries)
    k = _read(heads.k, "keys", keys)
    circuit: Array = (q * np.asarray(scale, q.dtype)) @ k.swapaxes(-1, -2)
    return circuit


def ov_circuit(
    heads: HeadWeights, inputs: Array | None = None, outputs: Array | None = None
) -> Array:
    """Return what each token writes where it is attended to: inputs W_v W_o outputsᵀ.

    Parameters
    ----------
    heads : HeadWeights
        Of `head_weights`.
    inputs : (n, E) float array, optional
        What is attended to, such as the rows of the token table; the stream's axes by default.
    outputs : (m, E) float array, optional
        Directions to read the result along, such as the rows of the output layer's weight (an
        entry is then what the head adds to a logit); the stream's axes by default.

    Returns
    -------
    (H, n, m) array
        What token n, attended to, adds along direction m.

    Raises
    ------
    TypeError, ValueError
        As `qk_circuit`, whose reference is that of this half, too.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> layer = nn.MultiHeadAttention(8, 2, rng=np.random.default_rng(0))
    >>> analysis.ov_circuit(analysis.head_weights(layer)).shape
    (2, 8, 8)
    """
    heads = _heads(heads)
    v = _read(heads.v, "inputs", inputs)
    circuit: Array = v @ _written(heads.o, "outputs", outputs)
    return circuit


def copying_score(
    heads: HeadWeights, inputs: Array | None = None, outputs: Array | None = None
) -> Array:
    """Return how much a head copies: Σ λ / Σ abs(λ) over the eigenvalues λ of its OV circuit.

    1 where every token raises what it is itself, −1 where it lowers that.

    Parameters
    ----------
    heads : HeadWeights
        Of `head_weights`.
    inputs, outputs : (V, E) float arrays, optional
        Token table and weight of the output layer; the stream's axes by default.

    Returns
    -------
    (H,) float64 array
        Between −1 and 1; NaN for a head that writes nothing.

    Raises
    ------
    TypeError, ValueError
        If dtypes differ or the shapes do not fit.

    Notes
    -----
    The circuit is a (V, V) product of thin matrices A B; the eigenvalues that are not 0 are those
    of the small B A, (Dv, Dv), whatever the size of the vocabulary.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "Detecting
    Copying Behavior".

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> q = k = v = np.eye(4)[None, :, :2]
    >>> copies = analysis.HeadWeights(q, k, v, v.swapaxes(1, 2))
    >>> analysis.copying_score(copies)
    array([1.])
    """
    heads = _heads(heads)
    thin, wide = _read(heads.v, "inputs", inputs), _written(heads.o, "outputs", outputs)
    if thin.shape[-2] != wide.shape[-1]:
        raise ValueError(
            f"outputs: expected as many rows as inputs = {thin.shape[-2]}, got {wide.shape[-1]}"
        )
    values = np.linalg.eigvals(wide.astype(np.float64) @ thin.astype(np.float64))
    size = np.abs(values).sum(axis=-1)
    score: Array = np.divide(
        values.sum(axis=-1).real, size, out=np.full(size.shape, np.nan), where=size > 0
    )
    return score


def composition_score(first: HeadWeights, second: HeadWeights, kind: Composition) -> Array:
    """Return how much a later head reads what an earlier one wrote, in its q, k or v.

    ``"q"`` is ‖OV₁ QK₂‖ / (‖OV₁‖ ‖QK₂‖), ``"k"`` the same with QK₂ᵀ, ``"v"`` with OV₂, where
    OV = W_v W_o and QK = W_q W_kᵀ act on row vectors and norms are Frobenius'.

    Parameters
    ----------
    first, second : HeadWeights
        Of an earlier layer and of a later one.
    kind : {"q", "k", "v"}

    Returns
    -------
    (H1, H2) float64 array
        Between 0 and 1. Heads that have nothing to do with each other are not at 0: random weights
        of width E score about 1 / √E, which is what to compare with.

    Raises
    ------
    TypeError, ValueError
        If widths differ or ``kind`` is not one of the three.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "Two-Layer
    Attention-Only Transformers".

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> rng = np.random.default_rng(0)
    >>> one, two = (analysis.head_weights(nn.MultiHeadAttention(8, 2, rng=rng)) for _ in range(2))
    >>> analysis.composition_score(one, two, "k").shape
    (2, 2)
    """
    _checks.choice("kind", kind, get_args(Composition))
    first, second = _heads(first, "first"), _heads(second, "second")
    if first.q.shape[1] != second.q.shape[1]:
        raise ValueError(
            f"second: expected width E = {first.q.shape[1]} as first has, got {second.q.shape[1]}"
        )
    ov = _product(first.v, first.o)
    later = {
        "q": lambda: _product(second.q, second.k.swapaxes(-1, -2)),
        "k": lambda: _product(second.k, second.q.swapaxes(-1, -2)),
        "v": lambda: _product(second.v, second.o),
    }[kind]()
    joint = np.linalg.norm(ov[:, None] @ later, axis=(-2, -1))
    alone = np.linalg.norm(ov, axis=(-2, -1))[:, None] * np.linalg.norm(later, axis=(-2, -1))
    score: Array = np.divide(joint, alone, out=np.zeros_like(joint), where=alone > 0)
    return score


# ------------------------------------------------------------------------------------ small helpers


def _in_heads(weight: Array, heads: int) -> Array:
    """View the (out, in) weight of a projection as (heads, in, D)."""
    return weight.reshape(heads, -1, weight.shape[1]).swapaxes(-1, -2)


def _heads(heads: object, name: str = "heads") -> HeadWeights:
    return _checks.instance(name, heads, HeadWeights)


def _read(weight: Array, name: str, rows: Array | None) -> Array:
    """Return ``rows`` through a weight (H, E, D) that reads the stream; the weight for None."""
    if rows is None:
        return weight
    rows = _checks.float_array(name, rows)
    _checks.shape(name, rows, "n, E", {"E": weight.shape[1]})
    _checks.like(name, rows, weight.dtype, "the weights")
    read: Array = rows @ weight
    return read


def _written(weight: Array, name: str, rows: Array | None) -> Array:
    """Return what a weight (H, Dv, E) writes, along ``rows``."""
    return _read(weight.swapaxes(-1, -2), name, rows).swapaxes(-1, -2)


def _product(a: Array, b: Array) -> Array:
    product: Array = a.astype(np.float64) @ b.astype(np.float64)
    return product
