"""What a notebook shows of masks, modules, traces and trainers: a picture beside the text.

Nothing here is loaded before a notebook asks. The one place below `miniattn.plot` that draws.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from miniattn.masks import Mask
    from miniattn.nn import Module
    from miniattn.plot import Figure
    from miniattn.trace import Trace
    from miniattn.training import Trainer

PLACES = 16  # queries and keys of a mask whose sizes are not its own
CELLS = 4_000_000  # of all maps of a trace: a greater one shows its names alone
MOST_LAYERS = 12  # rows of small maps


def of_mask(mask: Mask) -> str:
    """Return which keys each query sees, by rules, and the expression."""
    return _beside(repr(mask), lambda plot: plot.mask(mask), lambda plot: plot.mask(mask, PLACES))


def of_trace(t: Trace) -> str:
    """Return all maps at a glance, row 0 of the batch, and the tree of names."""
    names = [name for name in t.names if name.endswith("weights")]
    if not _few(t, names):
        return _beside(repr(t))
    return _beside(repr(t), lambda plot: plot.attention_layers(t))


def of_trainer(trainer: Trainer) -> str:
    """Return the curves so far, and where training is."""
    records = trainer.history.records()
    if len(records) < 2:
        return _beside(repr(trainer))
    return _beside(repr(trainer), lambda plot: plot.history(records))


def of_module(module: Module) -> str:
    """Return where the parameters are, as bars, and below them the tree of parts."""
    text = repr(module)
    first, *rest = text.splitlines()
    total = module.num_parameters()
    parts = [
        (name, part)
        for name, part in module.named_modules()
        if name and name.replace("layers.", "").count(".") <= 1
    ]
    rows = "".join(
        _bar(name, type(part).__name__, part.num_parameters(), total)
        for name, part in parts
        if part.num_parameters()
    )
    tree = "\n".join(rest)
    below = f"<details><summary>all parts</summary>{_pre(tree)}</details>" if rest else ""
    table = (
        f'<table style="font-size:smaller;border-spacing:4px 1px">{rows}</table>' if rows else ""
    )
    return f"<div><b>{html.escape(' '.join(first.split()))}</b>{table}{below}</div>"


def _bar(name: str, kind: str, count: int, total: int) -> str:
    share = round(160 * count / max(total, 1), 1)
    style = f"display:inline-block;height:0.8em;width:{share}px;background:#0072B2"
    cells = [html.escape(name), html.escape(kind), f"{count:,}"]
    texts = "".join(
        f'<td style="text-align:{"right" if i == 2 else "left"}">{cell}</td>'
        for i, cell in enumerate(cells)
    )
    return f'<tr>{texts}<td style="text-align:left"><span style="{style}"></span></td></tr>'


def _few(t: Trace, names: list[str]) -> bool:
    """Return whether the maps are few and small enough to be made for a look."""
    shapes = [t._kept[name].shape for name in names]  # t[name] would make the map
    cells = sum(int(np.prod(shape)) for shape in shapes)
    return 0 < len(names) <= MOST_LAYERS and cells <= CELLS


def _beside(text: str, *ways: Callable[[Any], Figure]) -> str:
    """Return the text, and the first picture that can be drawn."""
    for way in ways:
        from miniattn import plot

        try:
            return f"<div>{_image(way(plot))}{_pre(text)}</div>"
        except (ValueError, TypeError):  # such as sizes that are not known: then the next way
            continue
    return f"<div>{_pre(text)}</div>"


def _image(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=72)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _pre(text: str) -> str:
    return f'<pre style="text-align:left">{html.escape(text)}</pre>'
