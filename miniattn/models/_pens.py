"""Texts in the making: what may come next in each row, and what it goes on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from miniattn import masks
from miniattn._typing import Array, MaskLike
from miniattn.models._sight import Sight
from miniattn.nn import KVCache
from miniattn.nn._replay import Replay


class Pen(ABC):
    """A batch of texts that grow by one token a row."""

    def __init__(self, ids: Array, lengths: Array, count: int) -> None:
        self._text = np.concatenate([ids, np.zeros((len(ids), count), np.int64)], axis=1)
        self._begun, self._lengths = lengths, lengths.copy()

    @abstractmethod
    def logits(self) -> Array:
        """Return the logits (B, V) of what comes next; asked once before each `write`."""

    def write(self, tokens: Array) -> None:
        """Go on with one token a row, ids (B,)."""
        self._text[np.arange(len(self._text)), self._lengths] = tokens
        self._lengths += 1

    def keep(self, rows: Array) -> None:
        """Go on with these rows; one may be there several times, another not at all."""
        self._text, self._begun, self._lengths = (
            x[rows] for x in (self._text, self._begun, self._lengths)
        )

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self._text)

    @property
    def texts(self) -> list[Array]:
        """All ids of each row, read-only."""
        rows = [row[:n] for row, n in zip(self._text, self._lengths, strict=True)]
        for row in rows:
            row.flags.writeable = False
        return rows

    @property
    def new(self) -> Array:
        """The tokens that were written, (B, n)."""
        return windows(self._text, self._begun, (self._lengths - self._begun).max(initial=0))


class DecoderOnly(Protocol):
    """A model that predicts the next token from at most ``block_size`` before it."""

    block_size: int

    def new_caches(
        self, batch_size: int, capacity: int | None = None, *, forget: bool = False
    ) -> list[KVCache]:
        """Return an empty cache for each layer."""
        ...

    @property
    def _forgets(self) -> bool: ...

    def _next_logits(
        self,
        ids: Array,
        caches: Sequence[KVCache],
        last: Array,
        replay: Replay,
        mask: Sequence[MaskLike] | None,
    ) -> Array: ...


class PromptPen(Pen):
    """What goes on with ``ids`` (B, T), padded at the end, for at most ``count`` tokens.

    ``sight`` says what they see where that is not all before them; the text fits the model then.
    """

    def __init__(
        self,
        model: DecoderOnly,
        ids: Array,
        lengths: Array,
        count: int,
        *,
        cached: bool,
        sight: Sight | None = None,
    ) -> None:
        super().__init__(ids, lengths, count)
        self._model, self._replay, self._sight = model, Replay(), sight
        self._seen = np.zeros_like(lengths)
        self._caches: list[KVCache] = []
        # How far the model looks back; where windows say it, no text is too long.
        forgets = model._forgets and sight is None
        self._most = self._text.shape[1] if forgets else model.block_size
        if cached:
            capacity = min(self._most, self._text.shape[1])
            self._caches = model.new_caches(len(ids), capacity, forget=forgets)
        if sight is not None:
            sight.open(self._caches)

    def logits(self) -> Array:
        """Return the logits (B, V) of what comes next."""
        lengths, most = self._lengths, self._most
        if lengths.max(initial=0) > most:
            self._caches = []
        if not self._caches:
            self._seen = np.maximum(lengths - most, 0)
        fresh = lengths - self._seen
        length = fresh.max(initial=0)
        unseen = windows(self._text, self._seen, length)
        mask = None
        if self._sight is not None:
            mask = self._sight.of(self._seen, length, cached=bool(self._caches))
        logits = self._model._next_logits(unseen, self._caches, fresh - 1, self._replay, mask)
        if (fresh != length).any():
            for cache in self._caches:
                cache.truncate(lengths)  # forget the padding
        self._seen = lengths.copy()
        return logits

    def keep(self, rows: Array) -> None:
        """Go on with these rows."""
        super().keep(rows)
        self._seen = self._seen[rows]
        if self._sight is not None:
            self._sight.keep(rows)
        for cache in self._caches:
            cache.select(rows)


class SourcePen(Pen):
    """What a decoder writes after ``starts`` (n,), while it looks back at ``source`` (B, S)."""

    def __init__(
        self,
        model: Any,
        source: Array,
        lengths: Array,
        count: int,
        starts: Array,
        *,
        cached: bool,
    ) -> None:
        ids = np.tile(starts, (len(source), 1))
        super().__init__(ids, np.full(len(source), len(starts)), count)
        self._model, self._source_lengths = model, lengths
        self._of = np.arange(len(source))
        encoded, _, _ = model._encode(source, lengths, None)
        self._memory: Any = model.decoder.remember(encoded) if cached else encoded
        self._seen, self._caches = 0, None
        if cached:
            self._caches = model.decoder.new_caches(len(source), len(starts) + count)

    def logits(self) -> Array:
        """Return the logits (B, V) of what comes next."""
        end = int(self._lengths.max(initial=0))
        unseen = self._text[:, self._seen : end]
        mask = masks.padding(self._model._memory_lengths(self._source_lengths))
        x, _ = self._model._decode(unseen, self._memory, mask, self._caches, None)
        if self._caches is not None:
            self._seen = end
        logits: Array = self._model.head(x[:, -1])
        return logits

    def keep(self, rows: Array) -> None:
        """Go on with these rows."""
        super().keep(rows)
        for cache in self._caches or ():
            cache.select(rows)
        if np.array_equal(self._of[rows], self._of):
            return  # beams of one source change places, and it stays
        self._of, self._source_lengths = self._of[rows], self._source_lengths[rows]
        if self._caches is None:
            self._memory = self._memory[rows]
        else:
            for memory in self._memory:
                memory.select(rows)


def windows(text: Array, starts: Array, length: int) -> Array:
    """Return ``length`` ids of each row of ``text`` from its start on, 0 beyond the end."""
    at = starts[:, None] + np.arange(length)
    inside = at < text.shape[1]
    rows = np.arange(len(text))[:, None]
    if inside.all():
        return np.asarray(text[rows, at])
    return np.where(inside, text[rows, np.minimum(at, text.shape[1] - 1)], 0)
