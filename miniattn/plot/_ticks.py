"""Labels that never overlap: smaller if all fit so, else fewer, at the moment of drawing."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, Locator

from miniattn.plot._canvas import points
from miniattn.plot._text import em, families

LINE = 1.2  # font sizes from one line of labels to the next
LEAST = 6.0  # points: what can still be read in print


class IndexLocator(Locator):
    """Ticks at every k-th whole index, with the least k for which labels have room.

    Labels become smaller, down to ``least`` points, if that makes room for all of them. The room
    is looked at when the figure is drawn, after its layout and after every zoom.
    """

    axis: Any  # matplotlib's own type admits what has no axes

    def __init__(self, count: int, pitch: float, size: float, least: float) -> None:
        self.count = count
        self.pitch = pitch  # font sizes from one label to the next
        self.size = self.shown = size  # points, as asked for and as drawn
        self.least = least

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
        length = pixels * 72 / axes.figure.dpi
        room = length / max(self.pitch * span, 1e-9)  # the font size at which all labels fit
        size = self._usual()
        fits = min(size, self.least) <= room
        self._show(min(size, room) if fits else size)
        least = 1.0 if fits else size / max(room, 1e-9)
        decade: int = 10 ** int(np.log10(least))
        return next(decade * k for k in (1, 2, 5, 10) if decade * k >= least * (1 - 1e-9))

    def _usual(self) -> float:
        """Return the font size that was asked for last, by rcParams or by ``tick_params``."""
        now = points(self.axis.get_tick_params().get("labelsize", self.shown))
        if now != self.shown:
            self.size = self.shown = now
        return self.size

    def _show(self, size: float) -> None:
        if size != self.shown:
            self.shown = size
            self.axis.set_tick_params(labelsize=size)


def label_axes(
    ax: Axes, q_labels: Sequence[str] | None, k_labels: Sequence[str] | None, shape: tuple[int, int]
) -> None:
    """Label the queries downwards and the keys rightwards, with tokens or else with indices."""
    label(ax.yaxis, q_labels, shape[0])
    label(ax.xaxis, k_labels, shape[1], upright=k_labels is not None and _widest(k_labels) > 2)


def room(
    q_labels: Sequence[str] | None, k_labels: Sequence[str] | None, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return the inches that the labels of both axes take: beside the axes, and below them."""
    rc = mpl.rcParams
    across, down = points(rc["ytick.labelsize"]) / 72, points(rc["xtick.labelsize"]) / 72
    beside, below = (
        _longest(names, n) for names, n in zip((q_labels, k_labels), shape, strict=True)
    )
    if k_labels is None or _widest(k_labels) <= 2:
        below = 1.0  # a line of level labels
    return (beside + 2.5) * across, (below + 2.5) * down


def _longest(names: Sequence[str] | None, count: int) -> float:
    """Return the length of the longest label in font sizes."""
    return max(map(em, names), default=0.0) if names is not None else em(str(count - 1))


def label(
    axis: Axis, names: Sequence[str] | None, count: int, *, upright: bool | None = None
) -> None:
    """Label the indices 0..count-1 of an axis; upright is None on a vertical one."""
    rc = mpl.rcParams
    size = points(rc["ytick.labelsize"] if upright is None else rc["xtick.labelsize"])
    widest = len(str(count - 1)) if names is None else _widest(names)
    pitch = 0.65 * widest + 0.8 if upright is False else LINE
    # Numbers are as well left out; a token that is left out can't be guessed.
    axis.set_major_locator(IndexLocator(count, pitch, size, size if names is None else LEAST))
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
