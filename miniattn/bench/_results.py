"""What was measured, as plain dictionaries that JSON keeps; and the numbers that follow from it."""

import datetime
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from miniattn.bench import _cases
from miniattn.bench._cases import Case, Group

Record = dict[str, Any]


def summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Return the median of the rounds' medians, and half the range that these cover, relative.

    The median over rounds rather than over samples: a round in which the machine was slow has
    fewer samples, and should count like any other.
    """
    medians = [statistics.median(times) for times in rounds]
    middle = statistics.median(medians)
    return {
        "seconds": middle,
        "spread": (max(medians) - min(medians)) / 2 / middle,
        "samples": sum(map(len, rounds)),
    }


def record(
    group: Group, case: Case, found: Mapping[str, Any], limits: Mapping[str, float]
) -> Record:
    """Return what is kept of one case."""
    libraries = {
        name: summary(answer["rounds"]) if "rounds" in answer else answer
        for name, answer in found.items()
    }
    entry = {"group": group.title, **_common(case), "libraries": libraries}
    entry["of_limit"] = _of_limit(group, case, entry, limits)
    return entry


def length_record(case: Case, found: Mapping[str, Any]) -> Record:
    """Return what is kept of time and memory at one length."""
    libraries = {
        name: {**summary([answer["times"]]), "bytes": answer["bytes"]}
        if "times" in answer
        else answer
        for name, answer in found.items()
    }
    return {**_common(case), "libraries": libraries}


def fastest(case: Case, entry: Record) -> float:
    """Return the bytes a second of the library that copies fastest."""
    times = (seconds(entry, name) for name in entry["libraries"])
    return _cases.traffic(case) / min(t for t in times if t is not None)


def _common(case: Case) -> Record:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"name": _cases.name(case), "case": case, "when": now}


def seconds(entry: Record, library: str) -> float | None:
    """Return the median time of a library, None where it has none."""
    found = entry["libraries"].get(library, {}).get("seconds")
    return None if found is None else float(found)


def ratio(entry: Record, library: str) -> float | None:
    """Return how many times as long as miniattn a library takes."""
    own, other = seconds(entry, "miniattn"), seconds(entry, library)
    return other / own if own and other else None


def geometric_mean(values: Iterable[float]) -> float:
    """Return exp(mean(log(values)))."""
    return math.exp(statistics.fmean(map(math.log, values)))


def limit_name(case: Case) -> str:
    """Return the key of the copy that operations on as many elements are compared with."""
    return f"copy {round(case['rows'] * case['n'] / 2**20)} M"


def _of_limit(group: Group, case: Case, entry: Record, limits: Mapping[str, float]) -> float | None:
    """Return miniattn's speed as a part of what the machine can do, None where not known."""
    own = seconds(entry, "miniattn")
    if own is None:
        return None
    if group.limit == "multiply_add":
        peak = limits.get("multiply_add")
        return peak and _cases.operations(case) / own / peak
    copied = limits.get(limit_name(case))
    return copied and _cases.traffic(case) / own / copied
