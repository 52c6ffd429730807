"""Names of intermediates: patterns, uses by number, and those known from TransformerLens."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Sequence

from miniattn import _checks

_NUMBER = "<n>"  # stands for a number: "*" stands for dots, too
_BLOCK = r"^blocks\.(\d+|\*)\."
# TransformerLens' names, and what is meant here (Nanda & Bloom, "TransformerLens", 2022).
_ALIASES = [
    (r"^hook_embed$", "tokens"),
    (r"^ln_final(\.hook_normalized)?$", "blocks.norm"),
    (r"^unembed$", "head"),
    (_BLOCK + r"hook_resid_pre$", r"blocks.layers.\1.input"),
    (_BLOCK + r"hook_resid_mid$", r"blocks.layers.\1.middle"),
    (_BLOCK + r"hook_resid_post$", r"blocks.layers.\1"),
    (_BLOCK + r"hook_attn_out$", r"blocks.layers.\1.attn"),
    (_BLOCK + r"hook_mlp_out$", r"blocks.layers.\1.ffn"),
    (_BLOCK + r"ln([12])(\.hook_normalized)?$", r"blocks.layers.\1.norm\2"),
    (_BLOCK + r"mlp\.hook_pre$", r"blocks.layers.\1.ffn.up"),
    (_BLOCK + r"mlp\.hook_post$", r"blocks.layers.\1.ffn.hidden"),
    (_BLOCK + r"attn\.hook_(?:rot_)?([qkv])$", r"blocks.layers.\1.attn.\2"),
    (_BLOCK + r"attn\.hook_attn_scores$", r"blocks.layers.\1.attn.scores"),
    (_BLOCK + r"attn\.hook_pattern$", r"blocks.layers.\1.attn.weights"),
    (_BLOCK + r"attn\.hook_z$", r"blocks.layers.\1.attn.heads"),
]


@functools.cache
def own(name: str) -> str:
    """Return a name or pattern as it is spelt here; ``name#1`` is the first use, ``name``."""
    name = name.removesuffix("#1")
    for pattern, ours in _ALIASES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name).replace("layers.*", f"layers.{_NUMBER}")
    return name


def numbered(name: str, use: int) -> str:
    """Return the name of a use; the first is the name alone."""
    return name if use == 1 else f"{name}#{use}"


def split(name: str) -> tuple[str, int]:
    """Return the name without its number, and the number."""
    alone, mark, use = name.rpartition("#")
    return (alone, int(use)) if mark and use.isdigit() else (name, 1)


@functools.cache
def _matcher(pattern: str) -> Callable[[str], object]:
    # Brackets are no classes of characters here: nothing that is matched has any.
    expression = fnmatch.translate(pattern.replace("[", "[[]"))
    return re.compile(expression.replace(_NUMBER, r"\d+")).match


@functools.lru_cache(maxsize=4096)
def matches(pattern: str, name: str, use: int) -> bool:
    """Return whether a pattern means the ``use``-th use of ``name``; without number, every one."""
    if pattern.endswith("#1"):
        return use == 1 and bool(_matcher(own(pattern))(name))
    match = _matcher(own(pattern))
    return bool(match(name) or match(numbered(name, use)))


def holders(paths: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Return the paths of those modules that may have a name that one of the patterns means."""
    found = set[str]()
    for pattern in patterns:
        meant, _ = split(own(pattern))
        if "*" in meant or "?" in meant or _NUMBER in meant:
            found.update(path for path in paths if _may_hold(meant, path))
        else:
            inside = (p for p in paths if not p or meant == p or meant.startswith(f"{p}."))
            found.add(max(inside, key=len))
    return found


def _may_hold(pattern: str, path: str) -> bool:
    """Return whether ``pattern`` may mean ``path``, or that and a dot and a name within it.

    A name has no dots, but those of further inputs and of several outputs do.
    """
    if _matcher(pattern)(path):
        return True
    start = f"{path}." if path else ""
    for i in range(len(pattern) + 1):
        rest = pattern[i:]
        local = "." not in rest or rest[0] in "*?<0123456789" or rest.startswith("input.")
        if local and _matcher(pattern[:i])(start):
            return True
    return False


def patterns(argument: str, value: object) -> tuple[str, ...]:
    """Return ``value``, a pattern or several, as a tuple."""
    if isinstance(value, str):
        return (value,)
    given = tuple(_checks.sequence(argument, value, "patterns of names"))
    for pattern in given:
        if not isinstance(pattern, str):
            raise TypeError(f"{argument}: expected patterns of names, got {_checks.shown(pattern)}")
    return given


def check_used(argument: str, given: Sequence[str], used: set[str], names: Sequence[str]) -> None:
    """Raise ValueError if one of the patterns ``given`` met no name."""
    for pattern in given:
        if pattern not in used:
            raise ValueError(
                f"{argument}: expected names of this call, got {_hint(pattern, names)}"
            )


def missing(name: str, names: Sequence[str]) -> KeyError:
    """Return the error of a name that is not there."""
    return KeyError(f"name: expected one of the names kept, got {_hint(name, names)}")


def _hint(name: str, names: Sequence[str]) -> str:
    import difflib  # an error alone needs it

    like = difflib.get_close_matches(own(name), names, n=3, cutoff=0.4)
    there = f"; like it: {', '.join(map(repr, like))}" if like else ""
    return f"{name!r}{there}"
