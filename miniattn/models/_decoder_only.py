"""The way of ids through a decoder-only model: tokens, positions, layers, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from miniattn import _checks, masks, nn
from miniattn._typing import Array, MaskLike
from miniattn.models import _parts
from miniattn.nn._attention.ranks import Ranks
from miniattn.nn._cache import of_layers
from miniattn.nn._replay import Replay


class DecoderOnly(nn.Module):
    """What `GPT` is made of, and how far each of its parts takes ids."""

    block_size: int
    tokens: nn.Embedding
    positions: _parts.PositionsLayer
    embed_norm: nn.Module | None
    dropout: nn.Dropout
    ranks: Ranks | None
    blocks: nn.TransformerEncoder
    head: nn.Linear
    softcap: nn.Softcap | None

    def _next_logits(
        self, ids: Array, caches: Sequence[nn.KVCache], last: Array, replay: Replay
    ) -> Array:
        """Return the logits (B, V) of what follows ``ids`` (B, T), each row up to ``last``."""
        x, places, _ = self._embedded(ids, caches)
        logits = replay.step(self.blocks, self.head, x, caches)
        if logits is None:
            x, _ = self._stacked(x, places, caches)
            logits = self.head(x[np.arange(len(ids)), last])
        logits, _ = _parts.through(self.softcap, logits)
        return logits

    def _embedded(
        self,
        ids: Array,
        caches: Sequence[nn.KVCache] | None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, Array, tuple[Any, Any, Any, Any]]:
        """Return the vectors (B, T, E) that the layers read, where they are, and contexts."""
        ids = _checks.int_array("ids", ids)
        _checks.shape("ids", ids, "B, T")
        known = of_layers(caches, len(self.blocks.layers))
        first = known[0] if known else None
        places, length = _parts.places(ids.shape[1], first, self.ranks)
        if isinstance(self.positions, nn.LearnedPositions):
            _parts.check_length(length, self.block_size)
        x, tokens = self.tokens.forward(ids)
        x, positions = _parts.add_positions(self.positions, x, places)
        x, norm = _parts.through(self.embed_norm, x)
        x, dropout = self.dropout.drop(x, rng)
        return x, places, (tokens, positions, norm, dropout)

    def _stacked(
        self,
        x: Array,
        places: Array,
        caches: Sequence[nn.KVCache] | None,
        rng: np.random.Generator | None = None,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
    ) -> tuple[Array, nn.TransformerEncoderContext]:
        """Return what the layers make of x, and their context."""
        if mask is None and not caches:  # with a cache, attention is causal anyway
            mask = masks.causal()
        at = None if self.ranks is None else places
        return self.blocks.forward(x, mask=mask, bias=bias, caches=caches, positions=at, rng=rng)
