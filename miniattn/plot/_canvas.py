"""Where a figure comes from, without pyplot: nothing global is made, so nothing can leak."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch

from miniattn.plot._text import em

TALLEST = 8.0  # inches: a map grows with its tokens up to here, then labels shrink or are thinned
WIDEST = 12.0  # inches: panels side by side shrink to this, though not below 1.8 each

# Okabe and Ito's colours, which any kind of colour vision tells apart; without the black and the
# yellow, which are lost on dark and on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


BELOW = -4  # drawn before everything else that makes a map: images, hatches, cells


class Figure(matplotlib.figure.Figure):
    """A matplotlib Figure that belongs to no window, and that a notebook shows as it is."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def draw(self, renderer: RendererBase) -> None:
        """Lay out, and draw."""
        # Laid out twice (Figure.draw does it again): labels are chosen, and squares become square,
        # in what the first time left, and may then be longer than it thought.
        if (layout := self.get_layout_engine()) is not None and renderer is not None:
            layout.execute(self)
        super().draw(renderer)


def figure(width: float, height: float) -> Figure:
    """Return an empty Figure of that many inches whose layout leaves room for all labels."""
    return Figure(figsize=(width, height), layout="compressed")


def axes_of(ax: Axes | None, width: float, height: float) -> tuple[Axes, Figure | Axes]:
    """Return (the axes to draw on, what the caller gets back: those axes, or the new Figure)."""
    if ax is not None:
        return ax, ax
    fig = figure(width, height)
    return fig.add_subplot(), fig


def grid(
    panels: int,
    columns: int | None,
    width: float,
    height: float,
    extra: tuple[float, float] = (0.0, 0.0),
) -> tuple[Figure, list[Axes]]:
    """Return a Figure with ``panels`` axes in rows of ``columns`` (None: wider than high).

    A panel is as many inches, less if the figure would be wider than a page; ``extra`` is added.
    """
    rows = -(-panels // (columns or int(np.ceil(np.sqrt(panels * 1.5)))))
    columns = min(panels, columns) if columns else -(-panels // rows)  # no more than rows need
    shrink = min(1.0, max(WIDEST / (columns * width), 1.8 / width))
    fig = figure(columns * width * shrink + extra[0], rows * height * shrink + extra[1])
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[panels:]:
        spare.remove()
    return fig, list(axes[:panels])


def points(size: object) -> float:
    """Return a font size of rcParams ("medium", 9, ...) in points."""
    return float(FontProperties(size=size).get_size_in_points())  # type: ignore[arg-type]


def steady(ax: Axes) -> None:
    """Fix what the meaning of a figure depends on, whatever style sheet made the axes.

    Fonts, colours of paper and ink, colour maps and widths of lines remain the user's. What is
    drawn over or between cells does not: grids, and ticks that point inwards or stand between.
    """
    ax.grid(visible=False, which="both")
    ax.minorticks_off()
    ax.tick_params(direction="out", bottom=True, left=True, top=False, right=False)
    ax.tick_params(labelbottom=True, labelleft=True, labeltop=False, labelright=False)


def framed(ax: Axes) -> None:
    """Put the frame around the cells instead of over half of the outermost ones.

    It is drawn below them and twice as wide, so that what is seen is as wide as usual. (Spines can
    be moved outwards, too, but then every tick is made anew, for each side of each panel.)
    """
    for spine in ax.spines.values():
        if spine.get_zorder() != BELOW:  # axes may be drawn on again
            spine.set_linewidth(2 * spine.get_linewidth())
            spine.set_zorder(BELOW)
    for axis in (ax.xaxis, ax.yaxis):  # a tick may begin within the outermost pixel
        axis.set_zorder(BELOW)


def ink(strength: float, ax: Axes | None = None) -> tuple[float, float, float]:
    """Return a colour between the background (0) and the ink (1), of the axes or of the style."""
    rc = mpl.rcParams
    ground = rc["axes.facecolor"] if ax is None else ax.get_facecolor()
    if ax is not None and to_rgba(ground)[3] == 0:
        ground = root(ax).get_facecolor()
    paper, line = (np.array(to_rgb(colour)) for colour in (ground, rc["text.color"]))
    if abs(paper.mean() - line.mean()) < 0.3:  # axes of another style than the one in force
        line = np.full(3, float(paper.mean() < 0.5))
    red, green, blue = paper + strength * (line - paper)
    return float(red), float(green), float(blue)


def legend_beside(
    ax: Axes, handles: Sequence[Patch], *, below: float, right: bool | None = None
) -> None:
    """Add a legend that covers neither the map nor its neighbours, with or without a layout.

    ``below`` are the inches that labels take below the axes. Without a layout the legend is to
    the right or below, by default where it leaves more of a square map.
    """
    look: dict[str, Any] = {"loc": "upper left", "frameon": False, "borderaxespad": 0}
    if lays_out(ax):
        ax.legend(handles=handles, bbox_to_anchor=(1.01, 1.0), **look)
        return
    size = points(mpl.rcParams["legend.fontsize"])
    lines = [line for handle in handles for line in str(handle.get_label()).split("\n")]
    wide = size / 72 * (max(map(em, lines)) + 3.2)
    high = size / 72 * (1.2 * len(lines) + 0.6 * len(handles))
    width, height = slot(ax)
    across, down = _shrunk(wide, width, 0.1, size), _shrunk(high, height, below, size)
    if right is None:
        right = min(width - wide * across - 0.1, height) >= min(width, height - high * down - below)
    shares = (
        (wide * across / width, 0.1 / width) if right else (high * down / height, below / height)
    )
    side = _side(ax, shares, right=right)
    legend = ax.legend(
        handles=handles,
        bbox_to_anchor=(0, 1),
        bbox_transform=side.transAxes,
        fontsize=size * (across if right else down),
        **look,
    )
    legend.set_in_layout(False)  # its room is kept by the empty axes


def _shrunk(need: float, whole: float, free: float, size: float) -> float:
    """Return by how much a font becomes smaller, to 5 points at least, so that a map has room."""
    return float(np.clip((0.6 * whole - free) / need, min(5 / size, 1.0), 1.0))


def lays_out(ax: Axes) -> bool:
    """Return whether the figure of these axes makes room by itself for what stands beside them."""
    engine = ax.get_figure().get_layout_engine()  # type: ignore[union-attr]
    return engine is not None and not engine.colorbar_gridspec


def root(ax: Axes) -> matplotlib.figure.Figure:
    """Return the figure that the axes are in the end part of."""
    figure: Any = ax.get_figure()
    return figure.figure  # type: ignore[no-any-return]


def slot(ax: Axes) -> tuple[float, float]:
    """Return the inches of the room that the axes have, which a square map may not fill."""
    size = ax.get_position(original=True).size * root(ax).get_size_inches()
    return float(size[0]), float(size[1])


def _side(ax: Axes, shares: tuple[float, float], *, right: bool) -> Axes:
    """Return empty axes in a share of the room of ``ax``, beyond another that stays free."""
    share, free = min(shares[0], 0.65), min(shares[1], 0.25)
    left = 1 - share - free
    figure = ax.get_figure()
    spec = ax.get_subplotspec()
    if spec is not None:  # then `tight_layout` and `subplots_adjust` move both
        size = (1, 3) if right else (3, 1)
        cells = spec.subgridspec(*size, hspace=0, wspace=0)
        (cells.set_width_ratios if right else cells.set_height_ratios)([left, free, share])
        ax.set_subplotspec(cells[0, 0])
        side = figure.add_subplot(cells[-1, -1])  # type: ignore[union-attr]
    else:
        x, y, w, h = ax.get_position(original=True).bounds
        own, other = (
            ((x, y, w * left, h), (x + w * (1 - share), y, w * share, h))
            if right
            else ((x, y + h * (1 - left), w, h * left), (x, y, w, h * share))
        )
        ax.set_position(own)
        side = figure.add_axes(other)  # type: ignore[union-attr]
    side.set_axis_off()
    return side


def inches(count: int, base: float, most: float = TALLEST) -> float:
    """Return the length of a side with ``count`` labels: one line each, from base up to most."""
    line = 1.25 * points(mpl.rcParams["ytick.labelsize"]) / 72
    return float(np.clip(count * line, base, most))


def panel_titles(given: Sequence[object] | None, count: int, word: str) -> list[str]:
    """Return one title a panel: the given ones, or "head 0", "head 1", ..."""
    if given is None:
        return [f"{word} {i}" for i in range(count)]
    if len(given) != count:
        raise ValueError(f"titles: expected {count}, one a panel, got {len(given)}")
    return [str(title) for title in given]


def label_outer(axes: Sequence[Axes]) -> None:
    """Keep the tick labels of the left and lower panels of a grid only."""
    columns = axes[0].get_gridspec().ncols  # type: ignore[union-attr]
    for i, ax in enumerate(axes):
        if i % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        if i + columns < len(axes):
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)


def colours(count: int) -> list[str]:
    """Return a colour for each of ``count`` things: the user's cycle if there is one."""
    usual, given = (rc["axes.prop_cycle"] for rc in (mpl.rcParamsDefault, mpl.rcParams))
    cycle = PALETTE if given == usual else given.by_key().get("color", PALETTE)
    return [str(cycle[i % len(cycle)]) for i in range(count)]
