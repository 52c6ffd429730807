"""Numbers written into the cells that colours stand for."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from miniattn._typing import Array
from miniattn.plot._canvas import points

_LIGHT = np.array([0.3, 0.59, 0.11])  # how much of what the eye calls bright each colour is


def write(
    ax: Axes,
    image: ScalarMappable,
    values: Array,
    text: Callable[[float], str],
    *,
    width: float = 1.0,
) -> None:
    """Write each number over its cell, in black or white, whichever shows.

    ``values`` may be masked: what is masked, NaN or infinite is left out. ``width`` is that of a
    cell in units of four letters of 8 points.
    """
    table = np.ma.masked_invalid(values)
    filled = np.ma.filled(table.astype(np.float64), np.nan)
    shown = {at: text(float(v)) for at, v in np.ndenumerate(filled) if not np.isnan(v)}
    if not shown:
        return
    size = min(points("small"), width * 8.0 * 4 / max(map(len, shown.values())))
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": size}
    for (row, column), number in shown.items():
        light = float(np.dot(image.to_rgba(filled[row, column])[:3], _LIGHT))
        ax.text(column, row, number, color="white" if light < 0.5 else "black", **look)
