"""Attention as what it is made of: q kᵀ, softmax, times v, each as a matrix."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from miniattn import _checks, reference
from miniattn._typing import Array, MaskLike
from miniattn.plot import _grid
from miniattn.plot._canvas import Figure, points
from miniattn.plot._maps import both_labels
from miniattn.plot._numbers import write
from miniattn.plot._source import layers
from miniattn.plot._text import Tokens, em
from miniattn.plot._ticks import label, room

SIGNED = "RdBu_r"
_CELL, _LEAST = 0.45, 0.08  # inches of a cell that holds a number, and of the smallest
_WIDEST = 13.0  # inches of all cells of a row together


class _Matrix(NamedTuple):
    name: str
    values: Array
    hidden: Array
    rows: list[str] | None
    columns: list[str] | None
    sign: str
    """What stands to the right of it."""


def attention_steps(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    *,
    mask: MaskLike = None,
    scale: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw attention of one head as matrices: q × kᵀ = scores, softmax, weights × v = out.

    Small matrices have their numbers in the cells.

    Parameters
    ----------
    q, k, v : arrays (T, D), (S, D), (S, Dv)
        Of one head; of a trace for example ``t["layers.0.attn.q"][0, 0]``.
    tokens, key_tokens : sequences of T and of S tokens, optional
        As in `attention_map`.
    mask : masks.Mask or bool array that broadcasts to (T, S), optional
        True = may attend. What it hides is hatched, in the scores and in the weights.
    scale : float, optional
        Factor of the product, by default 1 / sqrt(D).
    title : str, optional
        Title of the figure.

    Returns
    -------
    Figure
        A panel for each matrix, in the order of the formula.

    Raises
    ------
    TypeError, ValueError
        If the arrays are no finite matrices, or their shapes do not fit.

    Notes
    -----
    Colours of signed numbers are centred at 0, for each matrix by itself; those of weights are of
    ``rcParams["image.cmap"]``, from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks, plot
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 4, 2))
    >>> fig = plot.attention_steps(q, k, v, ["the", "cat", "sat", "."], mask=masks.causal())
    >>> [ax.get_title() for ax in fig.axes]
    ['q', 'kᵀ', 'scores', 'weights', 'v', 'out']
    """
    q, k, v = _matrix("q", q, "T, D"), _matrix("k", k, "S, D"), _matrix("v", v, "S, Dv")
    if k.shape[1] != q.shape[1]:
        raise ValueError(f"k: expected shape (S, D) with D = {q.shape[1]} of q, got {k.shape}")
    if len(v) != len(k):
        raise ValueError(f"v: expected shape (S, Dv) with S = {len(k)} of k, got {v.shape}")
    factor = q.shape[1] ** -0.5 if scale is None else _checks.number("scale", scale)
    scores = q @ k.T * factor
    [given] = layers(np.zeros(scores.shape), mask=mask)
    hidden = given.hidden[0]
    weights = reference.softmax(scores, mask=~hidden)
    q_labels, k_labels = both_labels(tokens, key_tokens, scores.shape)
    times = "/ √D =" if scale is None else f"× {factor:.3g} ="
    drawn = [
        _Matrix("q", q, _none(q), q_labels, None, "×"),
        _Matrix("kᵀ", k.T, _none(k.T), None, k_labels, times),
        _Matrix("scores", scores, hidden, q_labels, k_labels, "softmax →"),
        _Matrix("weights", weights, hidden, q_labels, k_labels, "×"),
        _Matrix("v", v, _none(v), k_labels, None, "="),
        _Matrix("out", weights @ v, _none(q @ k.T @ v), q_labels, None, ""),
    ]
    return _row(drawn, title)


def _matrix(name: str, x: ArrayLike, letters: str) -> Array:
    array = _checks.float_array(name, np.asarray(x, np.float64))
    _checks.shape(name, array, letters)
    if array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array}")
    return array


def _none(x: Array) -> Array:
    return np.zeros(x.shape, np.bool_)


def _row(drawn: list[_Matrix], title: str | None) -> Figure:
    """Draw the matrices beside each other, with cells of one size; a layout would stretch them."""
    wide = sum(m.values.shape[1] for m in drawn)
    cell = float(np.clip(_WIDEST / wide, _LEAST, _CELL))
    tall = max(m.values.shape[0] for m in drawn) * cell
    rooms = [room(m.rows, m.columns, (len(m.values), m.values.shape[1])) for m in drawn]
    signs = [em(m.sign) * points("large") / 72 + 0.2 if m.sign else 0.1 for m in drawn]
    below, above = max(below for _, below in rooms), 0.4 + 0.4 * (title is not None)
    width = wide * cell + sum(beside for beside, _ in rooms) + sum(signs)
    height = below + tall + above
    fig, left = Figure(figsize=(width, height)), 0.0
    for matrix, (beside, _), sign in zip(drawn, rooms, signs, strict=True):
        high, across = (n * cell for n in matrix.values.shape)
        left += beside
        box = (left, below + (tall - high) / 2, across, high)
        ax = fig.add_axes(tuple(np.divide(box, (width, height, width, height))))
        _draw(ax, matrix, cell)
        left += across
        place = (left + sign / 2) / width, (below + tall / 2) / height
        fig.text(*place, matrix.sign, ha="center", va="center", fontsize="large")
        left += sign
    if title is not None:
        fig.suptitle(title)
    return fig


def _draw(ax: Axes, matrix: _Matrix, cell: float) -> None:
    """Draw one matrix, and its numbers where there is room."""
    values, hidden = matrix.values, matrix.hidden
    shape = (values.shape[0], values.shape[1])
    weights = matrix.name == "weights"
    panel = _grid.Panel(values, hidden, np.asarray(hidden.all(axis=1)), shape, shape)
    panel = panel._replace(value="weights" if weights else "gradient")
    shown = panel._replace(values=np.where(hidden, 0.0, values))
    norm = _grid.norm([panel], "linear", 1.0) if weights else _grid.norm([shown], "linear")
    image = _grid.draw(ax, panel, norm, cmap=None if weights else SIGNED)
    ax.set_aspect("equal")
    label(ax.yaxis, matrix.rows, shape[0])
    upright = matrix.columns is not None and max(map(len, matrix.columns)) > 2
    label(ax.xaxis, matrix.columns, shape[1], upright=upright)
    ax.tick_params(length=0)
    ax.set_title(matrix.name)
    if cell >= 0.75 * _CELL:
        write(ax, image, np.ma.masked_array(values, hidden), _short, width=cell / _CELL)


def _short(value: float) -> str:
    """Return two decimals, less where the number is large."""
    return f"{value:.0f}" if abs(value) >= 9.995 else f"{value:.2f}".replace("-0.00", "0.00")
