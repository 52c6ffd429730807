"""Where a figure comes from, without pyplot: nothing global is made, so nothing can leak."""

from collections.abc import Sequence
from io import BytesIO

import matplotlib as mpl
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties

TALLEST = 8.0  # inches: a map grows with its tokens up to here, then labels shrink or are thinned
WIDEST = 12.0  # inches: panels side by side shrink to this, though not below 1.8 each

# Okabe and Ito's colours, which any kind of colour vision tells apart; without the black and the
# yellow, which are lost on dark and on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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


def ink(strength: float) -> tuple[float, float, float]:
    """Return a colour between the axes' background (0) and their ink (1), for any style sheet."""
    paper, line = (np.array(to_rgb(mpl.rcParams[k])) for k in ("axes.facecolor", "text.color"))
    red, green, blue = paper + strength * (line - paper)
    return float(red), float(green), float(blue)


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
