"""The same operations in plain NumPy and float64: the specification, as short as it can be said.

Nothing here is fast, and nothing is shared with the kernels that are tested against it. Every
function converts its arrays to float64 and returns new ones. ``op(inputs, options)`` is the
forward direction; ``op_backward(dy, inputs, options)`` takes the same arguments, recomputes what
it needs and returns the gradients in the order of the inputs.

Masks *select*: a hidden entry is not multiplied by zero, it is never read. That is why NaN in a
hidden place cannot leak, and why a row that may see nothing is exactly 0 (and its log-sum-exp
-inf). The letters are B batch, H heads, G key/value heads, T queries, S keys, D and Dv widths.
"""

# mypy: warn-return-any=False

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn import _lazy, masks

__all__ = [
    "Attention",
    "AttentionGrads",
    "Merged",
    "attention",
    "attention_backward",
    "attention_map",
    "attention_weights",
    "batch_norm",
    "batch_norm_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "entmax15",
    "entmax15_backward",
    "gelu",
    "gelu_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "merge_attention",
    "merge_attention_backward",
    "mse",
    "mse_backward",
    "relu",
    "relu_backward",
    "rms_norm",
    "rms_norm_backward",
    "rotary",
    "rotary_backward",
    "scaled_dot_product_attention",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "sparsemax",
    "sparsemax_backward",
    "tanh",
    "tanh_backward",
]

__dir__ = _lazy.listed(__name__, __all__)

Array = NDArray[np.float64]
Mask = masks.Mask | NDArray[np.bool_] | None

_quiet = np.errstate(
    invalid="ignore", over="ignore", divide="ignore"
)  # NaN and inf are values here


# Softmax family: one row of visible numbers, then any axis of any array.


def _softmax_row(s: Array, temperature: float = 1.0) -> Array:
    """exp(s/t) / sum(exp(s/t)) of a vector; zeros where nothing has any weight."""
    e = np.exp((s - _top(s)) / temperature)
    return e / (e.sum() or 1.0)


def _log_softmax_row(s: Array, temperature: float = 1.0) -> Array:
    """s/t - log(sum(exp(s/t))) of a vector; -inf where nothing has any weight."""
    z = (s - _top(s)) / temperature
    return z - np.log(np.exp(z).sum() or 1.0)


def _logsumexp_row(s: Array) -> np.float64:
    """log(sum(exp(s))) of a vector; -inf where nothing has any weight."""
    return _top(s) + np.log(np.exp(s - _top(s)).sum())


def _top(s: Array) -> np.float64:
    """The largest entry, to be subtracted so that exp does not overflow; 0 where all are -inf."""
    top = s.max(initial=-np.inf)
    return np.zeros_like(top) if top == -np.inf else top


@_quiet
def softmax(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """exp(x/t) / sum(exp(x/t)) over the visible entries of each row; 0 at hidden entries."""
    return _by_rows(_softmax_row, x, axis, temperature, mask)


@_quiet
def softmax_backward(
    dy: ArrayLike,
    x: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """dx = y (dy - sum(y dy)) / t, the sum taken over the visible entries of the row."""
    y, visible = _rows(softmax(x, axis=axis, temperature=temperature, mask=mask), axis, mask)
    dy, _ = _rows(dy, axis, mask)
    dx = np.zeros(y.shape)
    for row in np.ndindex(y.shape[:-1]):
        see = visible[row]
        p, dp = y[row][see], dy[row][see]
        dx[row][see] = p * (dp - (p * dp).sum()) / temperature
    return np.moveaxis(dx, -1, axis)


@_quiet
def log_softmax(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """x/t - logsumexp(x/t) over the visible entries of each row; -inf at hidden entries."""
    x, visible = _rows(x, axis, mask)
    y = np.full(x.shape, -np.inf)
    for row in np.ndindex(x.shape[:-1]):
        see = visible[row]
        y[row][see] = _log_softmax_row(x[row][see], temperature)
    return np.moveaxis(y, -1, axis)


@_quiet
def log_softmax_backward(
    dy: ArrayLike,
    x: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """dx = (dy - softmax(x/t) sum(dy)) / t, the sum taken over the visible entries of the row."""
    p, visible = _rows(softmax(x, axis=axis, temperature=temperature, mask=mask), axis, mask)
    dy, _ = _rows(dy, axis, mask)
    dx = np.zeros(p.shape)
    for row in np.ndindex(p.shape[:-1]):
        see = visible[row]
        dx[row][see] = (dy[row][see] - p[row][see] * dy[row][see].sum()) / temperature
    return np.moveaxis(dx, -1, axis)


@_quiet
def logsumexp(x: ArrayLike, *, axis: int = -1, mask: ArrayLike | None = None) -> Array:
    """log(sum(exp(x))) over the visible entries; the axis disappears."""
    x, visible = _rows(x, axis, mask)
    y = np.empty(x.shape[:-1])
    for row in np.ndindex(y.shape):
        y[row] = _logsumexp_row(x[row][visible[row]])
    return y


@_quiet
def logsumexp_backward(
    dy: ArrayLike, x: ArrayLike, *, axis: int = -1, mask: ArrayLike | None = None
) -> Array:
    """dx = softmax(x) dy."""
    p, visible = _rows(softmax(x, axis=axis, mask=mask), axis, mask)
    return np.moveaxis(np.where(visible, p * _f64(dy)[..., None], 0.0), -1, axis)


# Sparse relatives of softmax: the threshold is found by sorting, as the papers do.


def _sparsemax_row(s: Array, temperature: float = 1.0) -> Array:
    """max(0, z - t) of z = s/t', the point of the simplex nearest to it; 0 where nothing is."""
    z = (s - _top(s)) / temperature
    if np.isnan(z).any():
        return z + np.nan
    largest_first = np.sort(z[z > -np.inf])[::-1]
    count = np.arange(1, len(largest_first) + 1)
    shares = (1 - np.cumsum(largest_first)) / count
    inside = largest_first + shares > 0
    return np.maximum(z + shares[inside][-1], 0) if inside.any() else np.zeros_like(z)


def _entmax15_row(s: Array, temperature: float = 1.0) -> Array:
    """max(0, z - t)^2 of z = s/2t', with t such that they sum to 1; 0 where nothing is."""
    z = (s - _top(s)) / temperature / 2
    if np.isnan(z).any():
        return z + np.nan
    largest_first = np.sort(z[z > -np.inf])[::-1]
    for count in range(len(largest_first), 0, -1):
        inside = largest_first[:count]
        mean = inside.sum() / count
        spread = ((inside - mean) ** 2).sum()
        if spread < 1:
            t = mean - np.sqrt((1 - spread) / count)
            if inside[-1] > t:
                return np.maximum(z - t, 0) ** 2
    return np.zeros_like(z)


def _by_rows(
    weigh: Any, x: ArrayLike, axis: int, temperature: float, mask: ArrayLike | None
) -> Array:
    """A function of the visible entries of each row; 0 at hidden entries."""
    x, visible = _rows(x, axis, mask)
    y = np.zeros(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        see = visible[row]
        y[row][see] = weigh(x[row][see], temperature)
    return np.moveaxis(y, -1, axis)


def _by_rows_backward(
    dy: ArrayLike, u: Array, axis: int, temperature: float, mask: ArrayLike | None
) -> Array:
    """dx = u (dy - mean of dy weighted by u) / t, where u is the slope of each entry's weight."""
    u, visible = _rows(u, axis, mask)
    dy, _ = _rows(dy, axis, mask)
    dx = np.zeros(u.shape)
    for row in np.ndindex(u.shape[:-1]):
        see = visible[row] & (u[row] != 0)
        share = u[row][see] / u[row][see].sum()
        dx[row][see] = u[row][see] * (dy[row][see] - (share * dy[row][see]).sum()) / temperature
    return np.moveaxis(dx, -1, axis)


@_quiet
def sparsemax(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """max(0, x/t - s), s such that the visible entries of each row sum to 1."""
    return _by_rows(_sparsemax_row, x, axis, temperature, mask)


@_quiet
def sparsemax_backward(
    dy: ArrayLike,
    x: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """dx = (dy - mean(dy)) / t over the entries that are not 0."""
    y = sparsemax(x, axis=axis, temperature=temperature, mask=mask)
    return _by_rows_backward(dy, np.where(y != 0, 1.0 + 0 * y, 0.0), axis, temperature, mask)


@_quiet
def entmax15(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """max(0, x/2t - s)^2, s such that the visible entries of each row sum to 1."""
    return _by_rows(_entmax15_row, x, axis, temperature, mask)


@_quiet
def entmax15_backward(
    dy: ArrayLike,
    x: ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
) -> Array:
    """dx = sqrt(y) (dy - sum(sqrt(y) dy) / sum(sqrt(y))) / t."""
    y = entmax15(x, axis=axis, temperature=temperature, mask=mask)
    return _by_rows_backward(dy, np.sqrt(y), axis, temperature, mask)


# Losses.


@_quiet
def cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> float:
    """Mean of -sum(w q log p) over the counted targets; q is smoothed towards uniform."""
    logp, q, _, total = _target_distribution(
        logits, targets, ignore_index, label_smoothing, class_weights
    )
    return float(-np.sum(q * logp / total, where=q > 0))


@_quiet
def cross_entropy_backward(
    dloss: float,
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weights: ArrayLike | None = None,
) -> Array:
    """dlogits = dloss (p sum(w q) - w q) / total; 0 in the rows of ignored targets."""
    logp, q, counted, total = _target_distribution(
        logits, targets, ignore_index, label_smoothing, class_weights
    )
    dlogits = np.zeros(np.shape(logits))
    dlogits[counted] = dloss * (np.exp(logp) * q.sum(axis=-1, keepdims=True) - q) / total
    return dlogits


def _target_distribution(
    logits: ArrayLike,
    targets: ArrayLike,
    ignore_index: int,
    smoothing: float,
    class_weights: ArrayLike | None,
) -> tuple[Array, Array, NDArray[np.bool_], float]:
    """Log-probabilities and w q of the counted rows, which rows count, and the sum of weights."""
    targets = np.asarray(targets)
    logp = log_softmax(logits)
    classes = logp.shape[-1]
    w = np.ones(classes) if class_weights is None else _f64(class_weights)
    if targets.dtype.kind == "f":
        counted = np.ones(logp.shape[:-1], bool)
        q = (1.0 - smoothing) * _f64(targets)[counted] + smoothing / max(1, classes)
        return logp[counted], w * q, counted, max(1, len(q))
    counted = targets != ignore_index
    q = np.full(logp[counted].shape, smoothing / max(1, classes))
    q[np.arange(len(q)), targets[counted]] += 1.0 - smoothing
    total = float(np.sum(w[targets[counted]]))
    return logp[counted], w * q, counted, total or 1.0


@_quiet
def mse(pred: ArrayLike, target: ArrayLike) -> float:
    """Mean of (pred - target)^2 over all entries."""
    error = _f64(pred) - _f64(target)
    return float((error**2).sum() / max(1, error.size))


def mse_backward(dloss: float, pred: ArrayLike, target: ArrayLike) -> Array:
    """dpred = 2 dloss (pred - target) / n."""
    error = _f64(pred) - _f64(target)
    return 2.0 * (error / max(1, error.size) * dloss)


# Layers.


def linear(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y = x W^T + b."""
    y: Array = _f64(x) @ _f64(weight).T
    return y if bias is None else y + _f64(bias)


def linear_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None
) -> tuple[Array, Array, Array | None]:
    """dx = dy W,  dW = dy^T x,  db = sum(dy)."""
    dy, x, weight = _f64(dy), _f64(x), _f64(weight)
    dweight: Array = dy.reshape(-1, weight.shape[0]).T @ x.reshape(-1, weight.shape[1])
    dbias = None if bias is None else dy.reshape(-1, weight.shape[0]).sum(0)
    return dy @ weight, dweight, dbias


def embedding(ids: ArrayLike, weight: ArrayLike) -> Array:
    """Row ids[...] of the table."""
    return _f64(weight)[np.asarray(ids)]


def embedding_backward(dy: ArrayLike, ids: ArrayLike, weight: ArrayLike) -> Array:
    """Every row of dweight is the sum of dy over the places where its id stood."""
    dweight = np.zeros(np.shape(weight))
    np.add.at(dweight, np.asarray(ids), _f64(dy))
    return dweight


def dropout(x: ArrayLike, p: float, keep: ArrayLike) -> Array:
    """Kept entries divided by 1 - p, the others 0."""
    return np.where(np.asarray(keep, bool), _f64(x) / (1.0 - p), 0.0)


def dropout_backward(dy: ArrayLike, x: ArrayLike, p: float, keep: ArrayLike) -> Array:
    """The same map as forward: it is linear and diagonal."""
    return dropout(dy, p, keep)


@_quiet
def layer_norm(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, eps: float = 1e-5
) -> Array:
    """y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis."""
    y = _standardise(_f64(x), eps)[0] * _f64(weight)
    return y if bias is None else y + _f64(bias)


@_quiet
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array | None]:
    """dx = (g - mean(g) - z mean(g z)) / sigma with z = (x - mean) / sigma and g = dy weight."""
    dy = _f64(dy)
    z, sigma = _standardise(_f64(x), eps)
    g = dy * _f64(weight)
    dx = (g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)) / sigma
    rows = tuple(range(dy.ndim - 1))
    return dx, (dy * z).sum(rows), None if bias is None else dy.sum(rows)


def _standardise(x: Array, eps: float) -> tuple[Array, Array]:
    """(x - mean) / sigma and sigma = sqrt(var + eps).

    From the first entry on: the mean of equal numbers is then no rounded sum of them.
    """
    d = x - x[..., :1]
    return _over_rms(d - d.mean(-1, keepdims=True), eps)


def _over_rms(d: Array, eps: float) -> tuple[Array, Array]:
    """d / rms and rms = sqrt(mean(d^2) + eps), in a unit in which no square is out of range."""
    unit = np.maximum(np.abs(d).max(-1, keepdims=True, initial=0.0), math.sqrt(eps))
    unit = np.where((0 < unit) & (unit < np.inf), unit, 1.0)
    small = d / unit
    rms = np.sqrt((small**2).mean(-1, keepdims=True) + (math.sqrt(eps) / unit) ** 2)
    return small / rms, rms * unit


@_quiet
def batch_norm(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    eps: float = 1e-5,
) -> Array:
    """y = (x - mean) / sqrt(var + eps) * weight + bias, by features of the vectors that count."""
    x = _f64(x)
    real = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    y = np.zeros_like(x)
    y[real] = _standardise(x[real].T, eps)[0].T * _f64(weight)
    if bias is not None:
        y[real] += _f64(bias)
    return y


@_quiet
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array | None]:
    """As `layer_norm_backward`, but down the columns of the vectors that count."""
    x, dy = _f64(x), _f64(dy)
    real = np.ones(x.shape[:-1], bool) if mask is None else np.asarray(mask)
    z, sigma = _standardise(x[real].T, eps)
    g = dy[real].T
    dx = np.zeros_like(x)
    inner = (g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)) / sigma
    dx[real] = inner.T * _f64(weight)
    return dx, (g * z).sum(-1), None if bias is None else g.sum(-1)


@_quiet
def rms_norm(x: ArrayLike, weight: ArrayLike, *, eps: float = 1e-6) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return _over_rms(_f64(x), eps)[0] * _f64(weight)


@_quiet
def rms_norm_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, *, eps: float = 1e-6
) -> tuple[Array, Array]:
    """dx = (g - z mean(g z)) / rms with z = x / rms and g = dy weight."""
    dy = _f64(dy)
    z, rms = _over_rms(_f64(x), eps)
    g = dy * _f64(weight)
    dx = (g - z * (g * z).mean(-1, keepdims=True)) / rms
    return dx, (dy * z).sum(tuple(range(dy.ndim - 1)))


# Activations.


def relu(x: ArrayLike) -> Array:
    """max(x, 0); NaN stays NaN."""
    return np.maximum(_f64(x), 0.0)


def relu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dy where x > 0, else 0."""
    return np.where(_f64(x) > 0, _f64(dy), 0.0)


@_quiet
def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), written so that no exponential overflows."""
    return np.exp(-np.logaddexp(0.0, -_f64(x)))


def sigmoid_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy s (1 - s), and 1 - s(x) = s(-x)."""
    return _f64(dy) * sigmoid(x) * sigmoid(-_f64(x))


def tanh(x: ArrayLike) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(_f64(x))


@_quiet
def tanh_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy / cosh(x)^2 = dy (1 - y^2)."""
    return _f64(dy) / np.cosh(_f64(x)) ** 2


@_quiet
def silu(x: ArrayLike) -> Array:
    """x sigmoid(x)."""
    return _f64(x) * sigmoid(x)


@_quiet
def silu_backward(dy: ArrayLike, x: ArrayLike) -> Array:
    """dx = dy (s + x s (1 - s))."""
    s = sigmoid(x)
    return _f64(dy) * (s + _f64(x) * s * sigmoid(-_f64(x)))


_erfc = np.vectorize(math.erfc, otypes=[np.float64])
_GELU_TANH = math.sqrt(2.0 / math.pi)


@_quiet
def gelu(x: ArrayLike, *, approximate: str = "none") -> Array:
    """x Phi(x), Phi the normal distribution function, or its tanh approximation."""
    x = _f64(x)
    if approximate == "tanh":
        near = np.clip(x, -99.0, 99.0)  # past it tanh is 1
        return x * 0.5 * (1.0 + np.tanh(_GELU_TANH * (near + 0.044715 * near**3)))
    return x * 0.5 * _erfc(-x / math.sqrt(2.0))


@_quiet
def gelu_backward(dy: ArrayLike, x: ArrayLike, *, approximate: str = "none") -> Array:
    """dx = dy (Phi(x) + x Phi'(x))."""
    dy, x = _f64(dy), _f64(x)
    if approximate == "tanh":
        near = np.clip(x, -99.0, 99.0)  # past it the slope is 0 and its square no number
        t = np.tanh(_GELU_TANH * (near + 0.044715 * near**3))
        slope = 0.5 * (1.0 - t**2) * _GELU_TANH * (1.0 + 3.0 * 0.044715 * near**2)
        return dy * (0.5 * (1.0 + t) + x * slope)
    density = np.exp(-0.5 * x**2) / math.sqrt(2.0 * math.pi)
    return dy * (0.5 * _erfc(-x / math.sqrt(2.0)) + x * density)


# Positions.


def rotary(
    x: ArrayLike,
    positions: ArrayLike,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: ArrayLike | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Turn pair m of the dim/2 pairs of x (B, H, T, D) by the angle position base^(-2m/dim).

    A pair is read as a complex number, so that turning it is one product. The pairs are
    (x[m], x[m + dim/2]), or (x[2m], x[2m+1]) when interleaved. ``frequencies`` are the angles at
    position 1 where they are given. Pairs are multiplied by ``magnitude``, and entries from dim on
    are left alone.
    """
    x, positions = _f64(x), np.asarray(positions)
    if frequencies is None:
        width = x.shape[-1] if dim is None else dim
        frequencies = base ** (-2.0 * np.arange(width // 2) / width)
    rate = _f64(frequencies)
    width = 2 * rate.size
    first = np.s_[..., 0:width:2] if interleaved else np.s_[..., : width // 2]
    second = np.s_[..., 1:width:2] if interleaved else np.s_[..., width // 2 : width]
    angle = positions[..., None] * rate
    if positions.ndim == 2:
        angle = angle[:, None]  # (B, 1, T, dim/2): the same for every head
    turned = (x[first] + 1j * x[second]) * magnitude * np.exp(1j * angle)
    y = x.copy()
    y[first], y[second] = turned.real, turned.imag
    return y


def rotary_backward(
    dy: ArrayLike,
    x: ArrayLike,
    positions: ArrayLike,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: ArrayLike | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Turn back: the inverse of a rotation is its transpose; a magnitude is that of both."""
    return rotary(
        dy,
        -np.asarray(positions),
        base=base,
        interleaved=interleaved,
        dim=dim,
        frequencies=frequencies,
        magnitude=magnitude,
    )


# Attention: one query at a time.


class Attention(NamedTuple):
    """What attention computes: out (B,H,T,Dv), weights (B,H,T,S) before dropout, lse (B,H,T)."""

    out: Array
    weights: Array
    lse: Array


class AttentionGrads(NamedTuple):
    """Gradients of attention, each with the shape of its input; dbias is None without a bias."""

    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None


@_quiet
def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: Mask = None,
    bias: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    keep: ArrayLike | None = None,
) -> Attention:
    """out = dropout(softmax(cap(scale q k^T) + bias)) v, each query over the keys it may see.

    q (B,H,T,D), k (B,G,S,D), v (B,G,S,Dv); head h reads key/value head h // (H // G).
    ``keep`` (B,H,T,S) says which weights dropout keeps; ``dropout`` is the share it drops.
    """
    q, k, v, visible, bias, scale, kept = _prepare(q, k, v, mask, bias, scale, dropout, keep)
    weights, out = np.zeros(visible.shape), np.zeros((*q.shape[:-1], v.shape[-1]))
    lse = np.zeros(q.shape[:-1])
    for b, h, i in np.ndindex(q.shape[:-1]):
        g, see = h // (q.shape[1] // k.shape[1]), visible[b, h, i]
        s = scale * (k[b, g, see] @ q[b, h, i])
        if softcap is not None:
            s = softcap * np.tanh(s / softcap)
        s = s + bias[b, h, i, see]
        w = _softmax_row(s)
        lse[b, h, i] = _logsumexp_row(s)
        weights[b, h, i, see] = w
        out[b, h, i] = (w * kept[b, h, i, see]) @ v[b, g, see]
    return Attention(out, weights, lse)


@_quiet
def attention_backward(
    dout: ArrayLike,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    mask: Mask = None,
    bias: ArrayLike | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    keep: ArrayLike | None = None,
) -> AttentionGrads:
    """The lines of `attention`, read upwards; keys collect from every query that sees them."""
    weights = attention(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap).weights
    bias_shape = None if bias is None else np.shape(bias)
    q, k, v, visible, _, scale, kept = _prepare(q, k, v, mask, bias, scale, dropout, keep)
    dout = _f64(dout)
    dq, dk, dv, dbias = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(weights)
    for b, h, i in np.ndindex(q.shape[:-1]):
        g, see = h // (q.shape[1] // k.shape[1]), visible[b, h, i]
        w, m = weights[b, h, i, see], kept[b, h, i, see]
        # out = (w * m) @ v
        dv[b, g, see] += np.outer(w * m, dout[b, h, i])
        dw = m * (v[b, g, see] @ dout[b, h, i])
        # w = softmax(s)
        ds = w * (dw - w @ dw)
        # s = s + bias
        dbias[b, h, i, see] = ds
        # s = softcap * tanh(s / softcap)
        if softcap is not None:
            ds = ds / np.cosh(scale * (k[b, g, see] @ q[b, h, i]) / softcap) ** 2
        # s = scale * (k @ q)
        dq[b, h, i] = scale * (ds @ k[b, g, see])
        dk[b, g, see] += scale * np.outer(ds, q[b, h, i])
    return AttentionGrads(dq, dk, dv, None if bias_shape is None else _sum_to(dbias, bias_shape))


def attention_weights(q: ArrayLike, k: ArrayLike, **options: Any) -> Array:
    """The weights of `attention`, before dropout: (B, H, T, S), rows that sum to 1 or are 0."""
    return attention(q, k, np.zeros((*np.shape(k)[:-1], 1)), **options).weights


def attention_map(
    q: ArrayLike, k: ArrayLike, *, bins: tuple[int, int] = (256, 256), **options: Any
) -> Array:
    """The weights in bins: summed over the keys of a column, averaged over the queries of a row."""
    weights = attention_weights(q, k, **options)
    rows, columns = (_bins(n, most) for n, most in zip(weights.shape[-2:], bins, strict=True))
    pooled = np.zeros((*weights.shape[:-2], len(rows), len(columns)))
    for (r, here), (c, there) in itertools.product(enumerate(rows), enumerate(columns)):
        pooled[..., r, c] = weights[..., here, there].sum(-1).mean(-1)
    return pooled


def _bins(n: int, most: int) -> list[slice]:
    """Cut range(n) into at most ``most`` parts that are as even as can be."""
    count = min(n, most)
    return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


class Merged(NamedTuple):
    """What merging gives: out (..., T, Dv) and lse (..., T) over all keys."""

    out: Array
    lse: Array


@_quiet
def merge_attention(outs: Sequence[ArrayLike], lses: Sequence[ArrayLike]) -> Merged:
    """out = sum(softmax(lse) out) over parts that saw disjoint keys, and the joint lse."""
    lse = logsumexp(np.stack(lses), axis=0)
    shares = softmax(np.stack(lses), axis=0)[..., None]
    parts = np.stack([_f64(out) for out in outs])
    return Merged((shares * parts).sum(0), lse)


@_quiet
def merge_attention_backward(
    dout: ArrayLike,
    outs: Sequence[ArrayLike],
    lses: Sequence[ArrayLike],
    *,
    dlse: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """douts_n = w_n dout and dlses_n = w_n (dout (out_n - out) + dlse), w = softmax(lses)."""
    dout, shares = _f64(dout), softmax(np.stack(lses), axis=0)
    parts = np.stack([_f64(out) for out in outs])
    off = parts - (shares[..., None] * parts).sum(0)
    joint = _f64(0.0 if dlse is None else dlse)
    return shares[..., None] * dout, shares * ((dout * off).sum(-1) + joint)


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """PyTorch's function for (B, H, T, D) arrays: a bool mask selects, a float mask is added."""
    mask = None if attn_mask is None else np.asarray(attn_mask)
    t, s = np.shape(query)[-2], np.shape(key)[-2]
    visible = np.tri(t, s, dtype=bool) if is_causal else np.ones((t, s), bool)
    bias = None
    if mask is not None and mask.dtype == bool:
        visible = visible & mask
    elif mask is not None:
        bias = mask
    return attention(query, key, value, mask=visible, bias=bias, scale=scale).out


# Helpers.


def _f64(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def _rows(x: ArrayLike, axis: int, mask: ArrayLike | None) -> tuple[Array, NDArray[np.bool_]]:
    """x and its mask with ``axis`` last."""
    x = _f64(x)
    visible = np.broadcast_to(True if mask is None else np.asarray(mask, bool), x.shape)
    return np.moveaxis(x, axis, -1), np.moveaxis(visible, axis, -1)


def _prepare(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    mask: Mask,
    bias: ArrayLike | None,
    scale: float | None,
    dropout: float,
    keep: ArrayLike | None,
) -> tuple[Array, Array, Array, NDArray[np.bool_], Array, float, Array]:
    """Arrays in float64, and mask, bias and dropout factors spread out to (B, H, T, S)."""
    q, k, v = _f64(q), _f64(k), _f64(v)
    full = (*q.shape[:-1], k.shape[-2])
    rule = masks.as_mask(mask)
    visible = np.ones(full, bool) if rule is None else rule.to_array(*full)
    added = np.broadcast_to(_f64(0.0 if bias is None else bias), full)
    kept = np.broadcast_to(_f64(1.0 if keep is None else keep) / (1.0 - dropout), full)
    scale = 1.0 / math.sqrt(max(1, q.shape[-1])) if scale is None else scale
    return q, k, v, visible, added, scale, kept


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``x`` over the axes along which an array of ``shape`` was broadcast."""
    x = x.sum(tuple(range(x.ndim - len(shape))))
    return x.sum(tuple(a for a, n in enumerate(shape) if n == 1), keepdims=True).reshape(shape)
