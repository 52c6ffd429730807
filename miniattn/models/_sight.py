"""What the tokens of a text that is being written see, by masks over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniattn import masks, nn
from miniattn._typing import Array, MaskLike
from miniattn.masks._lowered import rows_of_form


class _Whole(NamedTuple):
    """A mask over the whole text, as attention takes it, and the heads that it tells apart."""

    form: masks.Lowered
    heads: int


class Sight:
    """The masks of each layer, of which a step takes the rows of its own tokens.

    A mask is over the whole text, T = S = N: the longest prompt and all that is written. Of what it
    shows, tokens of a prompt see what the prompt holds, later ones what stands before them: what is
    written later changes nothing that was read before, so that a cache changes nothing either.

    Parameters
    ----------
    mask : Mask or bool array, or a list of one for each layer
    blocks : TransformerEncoder
    prompts : int array (B,)
        How many tokens each prompt has.
    size : int
        N.

    Raises
    ------
    TypeError, ValueError
        If a mask is none, or does not fit B rows of N tokens.
    """

    def __init__(
        self,
        mask: MaskLike | Sequence[MaskLike],
        blocks: nn.TransformerEncoder,
        prompts: Array,
        size: int,
    ) -> None:
        self.prompts, self._of = prompts.copy(), np.arange(len(prompts))
        self._each = [masks.as_mask(own) for own in blocks._masks(mask)]
        self._whole: dict[masks.Mask | None, _Whole | None] = {None: None}
        for layer, own in zip(blocks.layers, self._each, strict=True):
            if own is not None and own not in self._whole:
                self._whole[own] = self._lowered(own, getattr(layer.attn, "num_heads", 1), size)

    def _lowered(self, mask: masks.Mask, heads: int, size: int) -> _Whole:
        rows = len(self.prompts)
        try:
            form = masks.lower(mask, rows, heads, size, size)
        except ValueError as error:
            text = f"{size} tokens, the longest prompt and all that is written"
            raise ValueError(f"mask: expected one for {rows} rows of {text}; {error}") from None
        return _Whole(form, heads if mask._differs_by_head() else 1)

    def open(self, caches: Sequence[nn.KVCache]) -> None:
        """Tell caches, which are empty, that the tokens of a prompt see each other."""
        for cache in caches:
            cache.prefix[:] = self.prompts

    def keep(self, rows: Array) -> None:
        """Go on with these rows; one may be there several times, another not at all."""
        self.prompts, self._of = self.prompts[rows], self._of[rows]

    def of(self, starts: Array, length: int, *, cached: bool) -> list[masks.Mask | None]:
        """Return the mask of each layer for ``length`` tokens of each row, from ``starts`` on.

        Of a cached layer, which sees to it that nothing is seen before it is written, None where
        the mask hides nothing beside.
        """
        keys = int(starts.max(initial=0)) + length
        written = masks.prefix(self.prompts, starts)
        there = written.by_definition(len(starts), 1, length, keys)
        found: dict[masks.Mask | None, masks.Mask | None] = {}
        for own, whole in self._whole.items():
            rows = None if whole is None else _rows(whole, self._of, starts, length, keys)
            hides = rows is not None and bool((there & ~rows).any())
            seen = masks.as_mask(rows) if hides else None
            found[own] = seen if cached else written & seen
        return [found[own] for own in self._each]


def _rows(whole: _Whole, of: Array, starts: Array, length: int, keys: int) -> Array:
    """Return what ``length`` tokens from ``starts`` on see of ``keys``, (B, 1 or H, T, S).

    ``of`` (B,) says which row of the mask each is.
    """
    rows = np.empty((len(starts), whole.heads, length, keys), np.bool_)
    for b, h in np.ndindex(rows.shape[:2]):
        rows[b, h] = rows_of_form(whole.form, int(of[b]), h, starts[b] + np.arange(length), keys)
    return rows
