"""Tokens as text that matplotlib can draw: no control characters, formulas or missing glyphs."""

from collections.abc import Iterable, Sequence
from functools import cache
from unicodedata import category, combining, east_asian_width

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

Tokens = Sequence[object] | None

LONGEST = 18  # characters of a label; a longer token ends in an ellipsis
SPACE, EMPTY = "␣", "∅"
JOINERS = "\u200c\u200d"  # zero width non-joiner and joiner, which shape what stands beside them
SELECTORS = "\ufe0e\ufe0f"  # text or emoji, please
_TEX = {c: "\\" + c for c in "#$%&_{}"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}


def labels(name: str, tokens: Tokens, letter: str, count: int) -> list[str] | None:
    """Return one drawable label per token, or raise ValueError that states both numbers."""
    checked(name, tokens, f"{letter} = {count} tokens", count)
    return None if tokens is None else [drawable(short(visible(token))) for token in tokens]


def checked(name: str, tokens: Tokens, expected: str, count: int) -> None:
    """Raise unless ``tokens`` is None or so many tokens; ``expected`` says it in words."""
    if tokens is None:
        return
    if isinstance(tokens, str | bytes):
        raise TypeError(f"{name}: expected a sequence of tokens, got one {type(tokens).__name__}")
    if len(tokens) != count:
        raise ValueError(f"{name}: expected {expected}, got {len(tokens)}")
    if (axes := getattr(tokens, "ndim", 1)) != 1:
        raise ValueError(f"{name}: expected one token a place, got an array of {axes} axes")


def text_of(token: object) -> str:
    """Return a token as text: an id of any kind as its number, bytes as what they spell."""
    if isinstance(token, bytes):
        return token.decode("utf-8", "backslashreplace")
    if getattr(token, "ndim", None) == 0:  # a number of NumPy or PyTorch
        token = token.item()  # type: ignore[attr-defined]
    return str(token)


def visible(token: object) -> str:
    """Return ``token`` as one line in which nothing hides.

    Spaces at its ends are ``␣``, an empty token is ``∅``, control characters and direction marks
    are escapes. Joiners stay between the characters that they join, and a mark that combines with
    nothing stands on a dotted circle.
    """
    text = text_of(token)
    if not text:
        return EMPTY
    left, right = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if left == len(text):
        return SPACE * left
    inner = text[left : len(text) - right]
    parts = [_shown(c, inner[i - 1 : i]) for i, c in enumerate(inner)]
    return SPACE * left + "".join(parts) + SPACE * right


def _shown(c: str, before: str) -> str:
    """Return a character as it is, or as what can be seen of it."""
    joined = bool(before) and before.isprintable() and not before.isspace()
    if c in JOINERS and joined:
        return c
    if category(c) in ("Mn", "Me", "Mc") and not (joined or (before and before in JOINERS)):
        return "◌" + c
    return c if c.isprintable() else c.encode("unicode_escape").decode()


def clusters(text: str) -> list[str]:
    """Return what is read as one character each: with its marks, and what is joined to it."""
    found: list[str] = []
    for c in text:
        marks = c in JOINERS or category(c) in ("Mn", "Me", "Mc")
        if found and (marks or found[-1][-1] == "\u200d"):
            found[-1] += c
        else:
            found.append(c)
    return found


def short(text: str) -> str:
    """Return ``text``, at most so long as a label may be."""
    read = clusters(text)
    return text if len(read) <= LONGEST else "".join(read[: LONGEST - 1]) + "…"


def drawable(text: str) -> str:
    """Return ``text`` such that matplotlib draws exactly it: no formula, no missing glyph."""
    text = "".join(_with_glyph(c) for c in text)
    if mpl.rcParams["text.usetex"]:
        return "".join(_TEX.get(c, c) for c in text)
    return text.replace("$", r"\$") if mpl.rcParams["text.parse_math"] else text


def _with_glyph(c: str) -> str:
    if _font_for(c):
        return c
    if c in JOINERS or c in SELECTORS:  # without a glyph for it there is nothing to join
        return ""
    return "□" if _font_for("□") else "?"


def em(text: str) -> float:
    """Return about how long ``text`` is, in font sizes."""
    return sum(
        0.0 if combining(c) or c in JOINERS else 1.0 if east_asian_width(c) in "WF" else 0.6
        for c in text
    )


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
