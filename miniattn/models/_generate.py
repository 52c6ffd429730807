"""Writing by chance or by the likeliest token, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypedDict

import numpy as np

from miniattn._typing import Array, MaskLike
from miniattn.models._choosing import Changes, LogitsHook
from miniattn.models._pens import Pen
from miniattn.models._stopping import Decoder, Stop, Stops


class Changing(TypedDict, total=False):
    """What changes the logits, and what ends a row: of everything that writes."""

    repetition_penalty: float
    logits_hook: LogitsHook | None
    stop: Stops | None
    tokenizer: Decoder | None


class Sampling(Changing, total=False):
    """How tokens are chosen: the options of ``generate``."""

    temperature: float
    top_k: int | None
    top_p: float | None
    use_cache: bool
    rng: np.random.Generator | None


class Writing(Sampling, total=False):
    """The options of ``generate`` of a model whose tokens see what a mask shows them."""

    mask: MaskLike | Sequence[MaskLike]


class Stream(Iterator[Array]):
    """The tokens that a pen writes, ids (B,) at a time, until all rows have ended.

    A row that has ended repeats its last token. ``lengths`` (B,) says how many of the tokens that
    came so far are before the end of their row, or that.
    """

    def __init__(
        self,
        pen: Pen,
        count: int,
        changed: Changes,
        choose: Callable[[Array], Array],
        stop: Stop,
    ) -> None:
        self._left, self._pen, self._changes = count, pen, changed
        self._choose, self._stop = choose, stop
        self.lengths = np.zeros(pen.batch_size, np.int64)
        self._ended, self._last = self.lengths.astype(bool), self.lengths.copy()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Array:
        if not self._left or (self._stop.size and self._ended.all()):
            raise StopIteration
        pen, changed = self._pen, self._changes
        logits = changed.hooked(pen.logits(), pen)
        tokens = self._choose(changed.penalised(logits, pen))
        tokens = np.where(self._ended, self._last, tokens)
        pen.write(tokens)
        self.lengths[~self._ended] += 1
        if self._stop.size:
            self._ended |= self._stop.ends(pen.new if self._stop.texts else tokens[:, None])
        self._left, self._last = self._left - 1, tokens
        return tokens.copy()

    def rows(self) -> list[Array]:
        """Write on to the end, and return what each row has up to its own."""
        for _ in self:
            pass
        return [row[:n] for row, n in zip(self._pen.new, self.lengths, strict=True)]
