"""The results as one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from miniattn.bench import _cases
from miniattn.bench._results import Record, geometric_mean, ratio, seconds

# Colours that people with any kind of colour vision tell apart (Okabe and Ito).
COLOURS = {
    "miniattn": "#d55e00",
    "torch": "#0072b2",
    "jax": "#009e73",
    "onnxruntime": "#cc79a7",
    "numpy": "#7f7f7f",
}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture: attention against torch, softmax by row length, time and memory by T."""
    fig = Figure(figsize=(11, 7.5), layout="constrained")
    records, lengths = results["records"], results["lengths"]
    panels = 1 + 2 * bool(lengths)  # what was not measured takes no room
    grid = fig.add_gridspec(panels, 2, width_ratios=[1.15, 1])
    _attention(fig.add_subplot(grid[:, 0]), records)
    _softmax(fig.add_subplot(grid[0, 1]), records)
    if lengths:
        _lengths(fig.add_subplot(grid[1, 1]), lengths, "time")
        _lengths(fig.add_subplot(grid[2, 1]), lengths, "memory")
    machine = results["machine"]
    fig.suptitle(
        f"miniattn {machine['miniattn']}, float32, {machine['threads']} threads, "
        f"{machine['processor'].partition(',')[0]}",
        fontsize="medium",
    )
    fig.savefig(path, dpi=150)


def _attention(ax: Axes, records: list[Record]) -> None:
    """Draw how many times as long torch takes, shape by shape."""
    shapes = list(
        dict.fromkeys(_cases.sizes(r["case"]) for r in records if r["case"]["op"] == "attention")
    )
    for backward, marker, text in ((False, "o", "forward"), (True, "D", "forward + backward")):
        points = [
            (ratio(r, "torch"), shapes.index(_cases.sizes(r["case"])))
            for r in records
            if r["case"]["op"] == "attention" and r["case"]["backward"] == backward
        ]
        known = [(x, y) for x, y in points if x is not None]
        if not known:
            continue
        x, y = zip(*known, strict=True)
        colour = COLOURS["miniattn"] if backward else COLOURS["torch"]
        mean = geometric_mean(x)
        ax.plot(x, y, marker, color=colour, label=f"{text}: {mean:.2f} in the geometric mean")
        ax.axvline(mean, color=colour, linewidth=1, linestyle=":")
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(range(len(shapes)), shapes, fontsize="x-small")
    ax.set_ylim(max(1, len(shapes)) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.set_xlabel("torch's time / miniattn's time (right of 1: miniattn is faster)")
    ax.set_title("Attention, (B,H,T,S,D) and mask", fontsize="medium")
    ax.grid(alpha=0.3)
    _legend(ax)


def _softmax(ax: Axes, records: list[Record]) -> None:
    """Draw the time of an element against the length of the rows, forward + backward."""
    chosen = [r for r in records if r["case"]["op"] == "softmax" and r["case"]["backward"]]
    largest = max((_elements(r) for r in chosen), default=0)
    chosen = [r for r in chosen if 2 * _elements(r) > largest]
    for name in COLOURS:
        known = [(r["case"]["n"], t / _elements(r)) for r in chosen if (t := seconds(r, name))]
        _line(ax, name, known, scale=1e9)
    ax.set(xscale="log", yscale="log", xlabel="elements in a row", ylabel="ns an element")
    ax.set_title(f"Softmax, forward + backward, {largest / 1e6:.0f} M numbers", fontsize="medium")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.grid(alpha=0.3)
    _legend(ax)


def _elements(entry: Record) -> int:
    return int(entry["case"]["rows"] * entry["case"]["n"])


def _lengths(ax: Axes, entries: list[Record], what: str) -> None:
    """Draw time or memory against T."""
    key, scale = ("seconds", 1.0) if what == "time" else ("bytes", 1 / 2**20)
    for name in COLOURS:
        points = [(e["case"]["T"], e["libraries"].get(name, {}).get(key)) for e in entries]
        _line(ax, name, [(T, y) for T, y in points if y], scale)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("T = S, one head, D = 64, causal, forward + backward")
    ax.set_ylabel("seconds" if what == "time" else "MiB beyond inputs, results")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    ax.tick_params(axis="x", labelsize="x-small")
    ax.grid(alpha=0.3)
    _legend(ax)


def _line(ax: Axes, name: str, points: list[tuple[int, float]], scale: float) -> None:
    if points:
        x, y = zip(*points, strict=True)
        own = name == "miniattn"
        ax.plot(
            x,
            [value * scale for value in y],
            "o-",
            color=COLOURS[name],
            label=name,
            linewidth=2.5 if own else 1.2,
            markersize=5 if own else 3,
            zorder=3 if own else 2,
        )


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="x-small")
