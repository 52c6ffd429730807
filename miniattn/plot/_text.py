"""Tokens as text that matplotlib can draw: no control characters, formulas or missing glyphs."""

from collections.abc import Iterable, Sequence
from functools import cache
from unicodedata import east_asian_width

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

Tokens = Sequence[object] | None

LONGEST = 18  # characters of a label; a longer token ends in an ellipsis
_TEX = {c: "\\" + c for c in "#$%&_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}


def labels(name: str, tokens: Tokens, letter: str, count: int) -> list[str] | None:
    """Return one drawable label per token, or raise ValueError that states both numbers."""
    if tokens is None:
        return None
    if isinstance(tokens, str | bytes):
        raise TypeError(f"{name}: expected a sequence of tokens, got one {type(tokens).__name__}")
    if len(tokens) != count:
        raise ValueError(f"{name}: expected {letter} = {count} tokens, got {len(tokens)}")
    return [drawable(printable(token)) for token in tokens]


def printable(token: object) -> str:
    """Return ``token`` as one short line; blanks and control characters become visible."""
    text = str(token)
    if not text.strip(" "):
        text = "␣" * len(text)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def drawable(text: str) -> str:
    """Return ``text`` such that matplotlib draws exactly it: no formula, no missing glyph."""
    text = "".join(c if _font_for(c) else "□" if _font_for("□") else "?" for c in text)
    if mpl.rcParams["text.usetex"]:
        return "".join(_TEX.get(c, c) for c in text)
    return text.replace("$", r"\$")


def em(text: str) -> float:
    """Return about how long ``text`` is, in font sizes."""
    return sum(1.0 if east_asian_width(c) in "WF" else 0.6 for c in text)


def families(texts: Iterable[str] | None) -> list[str]:
    """Return the font families that together hold every character: rcParams first, then others."""
    found = [_font_for(c) for c in sorted(set().union(*(texts or ())))]
    return list(dict.fromkeys([*mpl.rcParams["font.family"], *(f for f in found if f)]))


def _font_for(character: str) -> str:
    return _search(character, tuple(mpl.rcParams["font.family"]), findfont(FontProperties()))


@cache
def _search(character: str, usual: tuple[str, ...], path: str) -> str:
    """Return a family that has ``character``: the usual ones if they do, "" if no font does."""
    if _has(path, character):
        return usual[0]
    for entry in fontManager.ttflist:
        if entry.style == "normal" and _has(entry.fname, character):
            return entry.name
    return ""


def _has(path: str, character: str) -> bool:
    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # a bitmap or broken font: not one that can be drawn with
        return False
    return bool(font.scalable and font.get_char_index(ord(character)))
