"""The options of attention that layers and stacks pass on, and what is checked of them."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, TypedDict

from miniattn import _checks, masks
from miniattn.nn._attention.parts import Width
from miniattn.nn._attention.ranks import Split
from miniattn.nn._positions import Rotary

if TYPE_CHECKING:
    import miniattn.functional as F
    from miniattn.distributed import Comm
    from miniattn.nn._scores import LearnedScore
    from miniattn.scores import Score

Projection: TypeAlias = Literal["q", "k", "v", "out"]
"""A linear map of attention, by the name of what it makes."""
PROJECTIONS: tuple[Projection, ...] = ("q", "k", "v", "out")
Biases: TypeAlias = bool | Collection[Projection]
"""Which projections add a bias: all, none, or those that are named."""


class AttentionOptions(TypedDict, total=False):
    """The options of `MultiHeadAttention` that transformer layers and stacks pass on."""

    num_kv_heads: int | None
    head_dim: int | None
    scale: float | None
    score: "Score | LearnedScore | None"
    sink: bool
    qk_norm: Width | None
    qk_norm_eps: float
    gate: Width | None
    rotary: Rotary | None
    alibi: bool
    window: tuple[int | None, int | None] | None
    sinks: int
    softcap: float | None
    normalizer: "F._attention.Normalizer"
    comm: "Comm | None"
    split: Split


class MultiHeadOptions(AttentionOptions, total=False):
    """The options of `MultiHeadAttention`, for attention with another middle."""

    kdim: int | None
    vdim: int | None
    bias: Biases
    dropout: float
    value_residual: bool


class Heads(NamedTuple):
    """How many heads there are, and how wide they are."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


def checked_heads(
    embed_dim: int, num_heads: int, num_kv_heads: int | None, head_dim: int | None
) -> Heads:
    """Return the heads of a layer, checked."""
    _checks.integer("num_heads", num_heads, least=1)
    kv_heads = num_heads
    if num_kv_heads is not None:
        kv_heads = _checks.integer("num_kv_heads", num_kv_heads, least=1)
    if num_heads % kv_heads:
        raise ValueError(
            f"num_kv_heads: expected a divisor of num_heads = {num_heads}, got {num_kv_heads}"
        )
    _checks.integer("embed_dim", embed_dim, least=1)
    if head_dim is not None:
        return Heads(num_heads, kv_heads, _checks.integer("head_dim", head_dim, least=1))
    if embed_dim % num_heads:
        raise ValueError(
            f"num_heads: expected a divisor of embed_dim = {embed_dim}, got {num_heads}; "
            "head_dim= gives heads a width of their own"
        )
    return Heads(num_heads, kv_heads, embed_dim // num_heads)


def checked_biases(bias: Biases) -> tuple[bool, ...]:
    """Return whether each of `PROJECTIONS` has a bias."""
    if isinstance(bias, str) or not isinstance(bias, Collection):
        return (_checks.flag("bias", bias),) * len(PROJECTIONS)
    for name in bias:
        _checks.choice("bias", name, PROJECTIONS)
    return tuple(name in bias for name in PROJECTIONS)


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
