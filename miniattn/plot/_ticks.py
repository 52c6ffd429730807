"""Token labels that never overlap: as many as fit the axes at the moment of drawing."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator

from miniattn.plot._canvas import points
from miniattn.plot._text import families


class IndexLocator(Locator):
    """Ticks at every k-th whole index, with the least k for which labels have room.

    The room is looked at when the figure is drawn, after its layout and after every zoom.
    """

    axis: Any  # matplotlib's own type admits what has no axes

    def __init__(self, count: int, pitch: float) -> None:
        self.count = count
        self.pitch = pitch  # points from one label to the next

    def __call__(self) -> list[float]:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        step = self._step(high - low)
        first = int(np.ceil(max(low, 0) / step)) * step
        return list(range(first, min(int(np.floor(high)), self.count - 1) + 1, step))

    def _step(self, span: float) -> int:
        axes = self.axis.axes
        box = axes.get_window_extent()
        pixels = box.width if self.axis.axis_name == "x" else box.height
        length = pixels * 72 / axes.get_figure(root=True).dpi
        least = max(1.0, self.pitch * span / max(length, 1.0))
        decade: int = 10 ** int(np.log10(least))
        return next(decade * k for k in (1, 2, 5, 10) if decade * k >= least * (1 - 1e-9))


def label_axes(
    ax: Axes, q_labels: Sequence[str] | None, k_labels: Sequence[str] | None, shape: tuple[int, int]
) -> None:
    """Label the queries downwards and the keys rightwards, with tokens or else with indices."""
    label(ax.yaxis, q_labels, shape[0])
    label(ax.xaxis, k_labels, shape[1], upright=k_labels is not None and _widest(k_labels) > 2)


def label(
    axis: Axis, names: Sequence[str] | None, count: int, *, upright: bool | None = None
) -> None:
    """Label the indices 0..count-1 of an axis; upright is None on a vertical one."""
    rc = mpl.rcParams
    size = points(rc["ytick.labelsize"] if upright is None else rc["xtick.labelsize"])
    widest = len(str(count - 1)) if names is None else _widest(names)
    pitch = (0.65 * widest + 0.8) * size if upright is False else 1.3 * size
    axis.set_major_locator(IndexLocator(count, pitch))
    if names is not None:
        shown = list(names)
        axis.set_major_formatter(
            FuncFormatter(lambda x, _: shown[int(x)] if 0 <= x < len(shown) else "")
        )
        axis.set_tick_params(labelfontfamily=families(shown), length=0 if count < 50 else 2)
    if upright:
        axis.set_tick_params(rotation=90)


def _widest(names: Sequence[str]) -> int:
    return max(map(len, names), default=0)
