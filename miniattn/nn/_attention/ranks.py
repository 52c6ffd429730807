"""Attention over a sequence that is dealt out to ranks: the middle, and where tokens are."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, distributed
from miniattn._typing import Array
from miniattn.nn._attention.middle import Call, MiddleGrads
from miniattn.nn._positions import alibi_bias

if TYPE_CHECKING:
    from miniattn.distributed import Comm
    from miniattn.distributed._layout import Layout

Split: TypeAlias = Literal["ring", "striped", "heads"]
"""How attention is spread over ranks: keys round a ring, also striped; or the heads dealt out."""


class Ranks:
    """The ranks that share a sequence, and how."""

    __slots__ = ("comm", "split")  # a module looks for parts in what has attributes by name

    def __init__(self, comm: Comm, split: Split) -> None:
        self.comm, self.split = comm, split

    @property
    def layout(self) -> Layout:
        """Which tokens a rank holds."""
        return "striped" if self.split == "striped" else "contiguous"

    def places(self, count: int) -> tuple[Array, int]:
        """Return where this rank's ``count`` tokens are in the whole, and how long that is."""
        from miniattn.distributed._comm import gather

        length = sum(gather(self.comm, count))
        return distributed.positions(length, self.comm, layout=self.layout), length

    def attend(self, q: Array, k: Array, v: Array, call: Call) -> tuple[Array, Any]:
        """Return (out, ctx), out (B, H, T/n, D)."""
        forward = distributed.ring_attention_forward
        if self.split == "heads":
            forward = distributed.head_attention_forward  # type: ignore[assignment]
        given = call._asdict()
        del given["score"], given["sink"], given["normalizer"]  # which the layer refuses
        return forward(q, k, v, comm=self.comm, layout=self.layout, **given)

    def attend_back(self, dout: Array, ctx: Any) -> MiddleGrads:
        """Return the gradients of `attend`."""
        backward: Any = distributed.ring_attention_backward
        if self.split == "heads":
            backward = distributed.head_attention_backward
        dq, dk, dv = backward(dout, ctx)
        return MiddleGrads(dq, dk, dv, None)


def checked_ranks(comm: object, split: object) -> Ranks | None:
    """Return who shares a sequence, None where ``comm`` is."""
    way = _checks.choice("split", split, get_args(Split))
    if comm is None:
        return None
    from miniattn.distributed._comm import checked

    return Ranks(checked(comm), way)  # type: ignore[arg-type]


def alibi_function(num_heads: int, dtype: DTypeLike) -> Any:
    """Return ALiBi's bias as a function of positions."""
    return functools.partial(alibi_bias, num_heads, dtype=np.dtype(dtype))
