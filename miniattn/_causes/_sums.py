"""What became of the parts of a sum: left out, overwritten, counted twice, replaced by another."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from miniattn._causes._cause import AGREES, Cause, fits, near
from miniattn._typing import Array

# So many arrays at most are tried as the parts of a sum.
PARTS = 20


def by_parts(
    got: Array,
    right: Array,
    parts: Mapping[str, Array],
    others: Mapping[str, Array] | None = None,
    *,
    agrees: float = AGREES,
) -> Cause | None:
    """Return what became of the parts of a sum: left out, overwritten, counted twice, another.

    Parameters
    ----------
    got, right : ndarray
        The wrong array and the right one, which may be the sum of up to three of the ``parts``.
    parts : mapping of str to array of their shape
        In the order in which they are made: what comes later may overwrite what was there.
    others : mapping of str to array, optional
        What may have come in instead.
    """
    terms = _terms(right, parts, agrees)
    if not terms:
        return None
    several = {**parts, **(others or {})}
    for extra in (None, *(name for name in several if name not in terms)):
        names = [*terms, *([extra] if extra else [])]
        if got.size <= len(names):  # of so few numbers anything is a sum
            continue
        columns = np.stack([several[name].ravel() for name in names], axis=1)
        shares = np.linalg.lstsq(columns, got.ravel(), rcond=None)[0]
        if near(got.ravel(), columns @ shares, agrees):
            share = {name: _rounded(s, agrees) for name, s in zip(names, shares, strict=True)}
            return _in_words(share, extra)
    return None


def parts_of(known: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Array]:
    """Return what is known and may be a part of a sum of a shape."""
    found = {name: a for name, a in known.items() if fits(a, shape) and a.shape == shape}
    return {f"`{name}`": a for name, a in list(found.items())[:PARTS] if a.dtype != bool}


def _terms(right: Array, parts: Mapping[str, Array], agrees: float) -> tuple[str, ...]:
    """Return the parts that ``right`` is the sum of, the fewest that are."""
    for count in (1, 2, 3):
        for names in itertools.combinations(parts, count):
            if near(np.sum([parts[name] for name in names], axis=0), right, agrees):
                return names
    return ()


def _rounded(share: float, agrees: float) -> float:
    return float(round(share)) if abs(share - round(share)) <= 10 * agrees else float(share)


def _alike(shares: Collection[float]) -> bool:
    return max(shares) - min(shares) <= 1e-4 * max(map(abs, shares))


def _in_words(share: Mapping[str, float], extra: str | None) -> Cause | None:
    """Return what the shares of the parts of a sum say, which are all 1 but for ``extra``'s."""
    lost = [name for name, s in share.items() if not s]
    kept = [name for name, s in share.items() if s == 1 and name != extra]
    off = {name: s for name, s in share.items() if s not in (0, 1) and name != extra}
    if extra is not None and share[extra] == 1 and len(lost) == 1 and not off:
        return Cause("stale", f"{extra} stands where {lost[0]} belongs")
    if extra is None and len(off) == len(share) > 1 and _alike(off.values()):
        return Cause(
            "factor", f"the sum of {' and '.join(off)} is there {off.popitem()[1]:.6g} times"
        )
    words = []
    if extra is not None:
        done = "subtracted from" if share[extra] < 0 else "added to"
        times = "" if abs(share[extra]) == 1 else f", {abs(share[extra]):.6g} times"
        words.append(f"{extra} is {done} it{times}, and is not to be")
    for name, s in off.items():
        words.append(
            f"{name} has the other sign" if s == -1 else f"{name} is there {s:.6g} times, not once"
        )
    if not lost:
        kind = "term" if extra is not None else "sign" if -1 in off.values() else "factor"
        return Cause(kind, "; and ".join(words)) if words else None
    missing, there = " and ".join(lost), " and ".join(kept)
    if words or not kept:
        return Cause("term", "; and ".join([f"{missing} is left out", *words]))
    names = list(share)
    if len(kept) == 1 and kept[0] == names[-1]:
        text = f"{missing} is overwritten by {there}, or left out: they are to be added"
        return Cause("overwritten", text)
    return Cause("term", f"{missing} is left out, where it is to be added to {there}")
