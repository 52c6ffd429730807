"""The softmax family, and its relatives with zeros: one row, then any axis of any array."""

# mypy: warn-return-any=False

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn.reference._arrays import Array, f64, quiet


def softmax_row(s: Array, temperature: float = 1.0) -> Array:
    """exp(s/t) / sum(exp(s/t)) of a vector; zeros where nothing has any weight."""
    e = np.exp((s - _top(s)) / temperature)
    return e / (e.sum() or 1.0)


def _log_softmax_row(s: Array, temperature: float = 1.0) -> Array:
    """s/t - log(sum(exp(s/t))) of a vector; -inf where nothing has any weight."""
    z = (s - _top(s)) / temperature
    return z - np.log(np.exp(z).sum() or 1.0)


def logsumexp_row(s: Array) -> np.float64:
    """log(sum(exp(s))) of a vector; -inf where nothing has any weight."""
    return _top(s) + np.log(np.exp(s - _top(s)).sum())


def _top(s: Array) -> np.float64:
    """The largest entry, to be subtracted so that exp does not overflow; 0 where all are -inf."""
    top = s.max(initial=-np.inf)
    return np.zeros_like(top) if top == -np.inf else top


@quiet
def softmax(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """exp(x/t) / sum(exp(x/t)) over the visible entries of each row; 0 at hidden entries."""
    return _by_rows(softmax_row, x, axis, temperature, mask)


@quiet
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


@quiet
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


@quiet
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


@quiet
def logsumexp(x: ArrayLike, *, axis: int = -1, mask: ArrayLike | None = None) -> Array:
    """log(sum(exp(x))) over the visible entries; the axis disappears."""
    x, visible = _rows(x, axis, mask)
    y = np.empty(x.shape[:-1])
    for row in np.ndindex(y.shape):
        y[row] = logsumexp_row(x[row][visible[row]])
    return y


@quiet
def logsumexp_backward(
    dy: ArrayLike, x: ArrayLike, *, axis: int = -1, mask: ArrayLike | None = None
) -> Array:
    """dx = softmax(x) dy."""
    p, visible = _rows(softmax(x, axis=axis, mask=mask), axis, mask)
    return np.moveaxis(np.where(visible, p * f64(dy)[..., None], 0.0), -1, axis)


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


def weigh_row(s: Array, normalizer: str) -> Array:
    """The weights of a row of scores, by a normalizer's name."""
    if normalizer == "sigmoid":
        return 1 / (1 + np.exp(-s))
    rows = {"softmax": softmax_row, "sparsemax": _sparsemax_row, "entmax15": _entmax15_row}
    return rows[normalizer](s)


def weigh_row_backward(dp: Array, p: Array, normalizer: str) -> Array:
    """ds = u (dp - sum(u dp) / sum(u)), u the slope of each weight; of a sigmoid no sum is held."""
    if normalizer == "sigmoid":
        return p * (1 - p) * dp
    slopes = {"softmax": p, "sparsemax": np.where(p != 0, 1 + 0 * p, 0), "entmax15": np.sqrt(p)}
    u = slopes[normalizer]
    return np.where(u != 0, u * (dp - u @ dp / (u.sum() or 1)), 0.0)


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


@quiet
def sparsemax(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """max(0, x/t - s), s such that the visible entries of each row sum to 1."""
    return _by_rows(_sparsemax_row, x, axis, temperature, mask)


@quiet
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


@quiet
def entmax15(
    x: ArrayLike, *, axis: int = -1, temperature: float = 1.0, mask: ArrayLike | None = None
) -> Array:
    """max(0, x/2t - s)^2, s such that the visible entries of each row sum to 1."""
    return _by_rows(_entmax15_row, x, axis, temperature, mask)


@quiet
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


def _rows(x: ArrayLike, axis: int, mask: ArrayLike | None) -> tuple[Array, NDArray[np.bool_]]:
    """x and its mask with ``axis`` last."""
    x = f64(x)
    visible = np.broadcast_to(True if mask is None else np.asarray(mask, bool), x.shape)
    return np.moveaxis(x, axis, -1), np.moveaxis(visible, axis, -1)
