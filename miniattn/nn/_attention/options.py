"""The options of attention that layers and stacks pass on, and what is checked of them."""

from typing import TypedDict

from miniattn import _checks, masks
from miniattn.nn._positions import Rotary


class AttentionOptions(TypedDict, total=False):
    """The options of `MultiHeadAttention` that transformer layers and stacks pass on."""

    num_kv_heads: int | None
    rotary: Rotary | None
    alibi: bool
    window: tuple[int | None, int | None] | None
    sinks: int
    softcap: float | None


def checked_window(window: object) -> tuple[int | None, int | None] | None:
    """Return the window of a layer, checked."""
    if window is None:
        return None
    if not isinstance(window, tuple | list):
        raise TypeError(f"window: expected (left, right) or None, got {window!r}")
    if len(window) != 2:
        raise ValueError(f"window: expected (left, right), got {window!r}")
    with _checks.renamed(left="window", right="window"):
        masks.window(*window)
    left, right = window
    return left, right
