"""What ends a row: tokens, and texts that are looked for in what was written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.models._prompts import ids_of

Stops = int | str | Collection[int | str]


class Decoder(Protocol):
    """What makes a text of ids, as a tokenizer does."""

    def decode(self, ids: Array, /) -> str:
        """Return the text of ids (T,)."""
        ...


class Stop(NamedTuple):
    """Tokens and texts, at each of which a row ends."""

    tokens: Array
    texts: Sequence[str]
    tokenizer: Decoder | None

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.tokens) + len(self.texts)

    def ends(self, new: Array) -> Array:
        """Return whether the last of the new tokens (B, n) ends its row, (B,)."""
        found: Array = np.isin(new[:, -1], self.tokens)
        if self.tokenizer is not None:
            for row in np.flatnonzero(~found):
                text = self.tokenizer.decode(new[row])
                found[row] = any(stop in text for stop in self.texts)
        return found


def stop_of(stop: Stops | None, tokenizer: Decoder | None, vocab_size: int) -> Stop:
    """Return what ``stop`` asks for, checked."""
    if tokenizer is not None:
        _checks.having("tokenizer", tokenizer, "decode")
    several = isinstance(stop, Collection) and not isinstance(stop, str | bytes)
    given = list(stop) if several else [stop]  # type: ignore[arg-type]
    texts = [each for each in given if isinstance(each, str)]
    tokens = [each for each in given if not isinstance(each, str)]
    if texts and tokenizer is None:
        raise TypeError(f"stop: expected tokens, or a tokenizer for texts, got {texts[0]!r}")
    if "" in texts:
        raise ValueError("stop: expected texts of at least one character, got ''")
    ids = np.zeros(0, np.int64)
    if stop is not None and not several and tokens:
        tokens = [_checks.integer("stop", stop)]
    if stop is not None and (tokens or not texts):
        ids = ids_of("stop", tokens, vocab_size)
    return Stop(ids, texts, tokenizer if texts else None)
