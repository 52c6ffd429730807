"""The options of attention: what becomes of the products of queries and keys."""

from typing import NamedTuple, TypedDict

from miniattn._typing import Array, MaskLike
from miniattn.functional._attention.context import AttentionContext, Normalizer
from miniattn.scores import Score


class Weighing(NamedTuple):
    """What makes weights of products q·k, and what it is where nothing is said."""

    mask: MaskLike = None
    bias: Array | None = None
    scale: float | None = None
    softcap: float | None = None
    score: Score | None = None
    sink: Array | None = None
    normalizer: Normalizer = "softmax"


class WeighingOptions(TypedDict, total=False):
    """The same for type checkers, which read from it what ``**weighing`` may hold."""

    mask: MaskLike
    bias: Array | None
    scale: float | None
    softcap: float | None
    score: Score | None
    sink: Array | None
    normalizer: Normalizer


def of_context(ctx: AttentionContext) -> Weighing:
    """Return the options of the call that made a context."""
    return Weighing(*(getattr(ctx, name) for name in Weighing._fields))
