"""The results as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from miniattn.bench import _cases
from miniattn.bench._results import Record, geometric_mean, ratio, seconds

LABEL, COLUMN = 34, 14  # characters


def text(results: Mapping[str, Any]) -> str:
    """Return all tables, with what they were measured on."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    yield from _header(results)
    peers = [name for name in results["libraries"] if name != "miniattn"]
    groups: dict[str, list[Record]] = {}
    for entry in results["records"]:
        groups.setdefault(entry["group"], []).append(entry)
    for title, entries in groups.items():
        yield ""
        own = [p for p in peers if any("seconds" in e["libraries"].get(p, {}) for e in entries)]
        yield from _table(title, entries, own)
    if results["lengths"]:
        yield ""
        yield from _lengths(results["lengths"], list(results["libraries"]))


def _header(results: Mapping[str, Any]) -> Iterator[str]:
    for name, fact in results["machine"].items():
        yield f"{name:<18}{fact}"
    versions = (f"{name} {version}" for name, version in results["libraries"].items())
    yield f"{'libraries':<18}{', '.join(versions)}"
    for name, module in results["missing"].items():
        yield f"{'':<18}{name}: not measured, {module} is not installed"
    for name, limit in results["limits"].items():
        unit = "GFLOP/s" if name == "multiply_add" else "GB/s, read and written"
        yield f"{name.replace('_', '-'):<18}{limit / 1e9:.1f} {unit}"
    yield ""
    yield "±: half the range of the rounds' medians. Of limit: of multiply-adds, or of the speed"
    yield "of copying as many elements, as the run that timed the case measured them; above is"
    yield "the last run. Peers: their time divided by miniattn's."


def _table(title: str, entries: list[Record], peers: list[str]) -> Iterator[str]:
    heads = ["miniattn", "±", "of limit", *peers]
    yield f"{title:<{LABEL}}" + "".join(f"{head:>{COLUMN}}" for head in heads)
    for entry in entries:
        own = entry["libraries"].get("miniattn", {})
        known = "seconds" in own
        cells = [
            duration(own["seconds"]) if known else "-",
            f"{own['spread']:.0%}" if known else "-",
            f"{entry['of_limit']:.0%}" if entry["of_limit"] else "-",
            *(times(ratio(entry, peer)) for peer in peers),
        ]
        yield f"{_cases.sizes(entry['case']):<{LABEL}}" + "".join(f"{c:>{COLUMN}}" for c in cells)
    ratios = {peer: [r for e in entries if (r := ratio(e, peer)) is not None] for peer in peers}
    for label, reduce in (("geometric mean", geometric_mean), ("least", min)):
        cells = ["", "", "", *(times(reduce(r) if r else None) for r in ratios.values())]
        yield f"{'  ' + label:<{LABEL}}" + "".join(f"{c:>{COLUMN}}" for c in cells)


def _lengths(entries: list[Record], libraries: list[str]) -> Iterator[str]:
    title = "T, causal, forward + backward"
    yield f"{title:<{LABEL}}" + "".join(f"{name:>22}" for name in libraries)
    for entry in entries:
        cells = []
        for name in libraries:
            found = entry["libraries"].get(name, {})
            memory = found.get("bytes")
            size = "?" if memory is None else f"{memory / 2**20:.1f} MiB"
            taken = seconds(entry, name)
            cells.append("-" if taken is None else f"{duration(taken)} {size}")
        yield f"{entry['case']['T']:<{LABEL}}" + "".join(f"{c:>22}" for c in cells)


def duration(value: float) -> str:
    """Return seconds with three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size or unit == "us":
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {unit}"
    raise AssertionError("unreachable")


def times(value: float | None) -> str:
    """Return a ratio as it stands in a table."""
    return "-" if value is None else f"{value:.2f}x"
