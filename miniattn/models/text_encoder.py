"""A transformer encoder of text: token ids in, a vector for each token out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, masks, nn
from miniattn._context import context
from miniattn._typing import Array
from miniattn.models import _parts


@context
class TextEncoderContext(NamedTuple):
    """What `TextEncoder.backward` needs: the contexts of its parts."""

    tokens: F.EmbeddingContext
    types: F.EmbeddingContext | None
    positions: Any
    norm: Any
    dropout: F.DropoutContext | None
    encoder: nn.TransformerEncoderContext


class TextEncoder(nn.Module):
    """BERT's encoder: ids (B, T) to hidden states (B, T, E), every token seeing every other.

    x = norm(tokens[ids] + positions + types[of each token]), then post-norm layers. Options make it
    ModernBERT's (pre-norm, rotary positions) or the text tower of CLIP (causal, no first norm).

    Parameters
    ----------
    vocab_size : int
        V.
    max_length : int
        Number of learned positions.
    positions : {"learned", "sinusoidal", "rotary", "alibi"}, optional
        How the order is told; None where ``rotary`` of the layers does.
    num_types : int
        Kinds of tokens, such as first and second sentence; 0 for a model that knows none.
    embed_dim, num_heads, num_layers : int
        Width E, heads H, and the number of layers.
    ffn_dim : int, optional
        Width F of the feed-forward; 4 E by default.
    norm_first, norm, activation, bias
        As in `nn.TransformerEncoderLayer`.
    embed_norm : bool
        Whether the sum of the vectors is normalised.
    causal : bool
        Whether a token sees only those before it and itself.
    dropout : float
        On the embedded tokens, on attention weights and on what each sublayer adds; applied where
        ``rng`` is given to ``forward``.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **layers
        More options of the layers, as in `nn.TransformerEncoder`: norm_eps and the others.

    References
    ----------
    .. [1] Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
       Understanding", 2019, section 3.
    .. [2] Warner et al., "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for
       Fast, Memory Efficient, and Long Context Finetuning and Inference", 2024, section 2.
    .. [3] Radford et al., "Learning Transferable Visual Models From Natural Language
       Supervision", 2021, section 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models
    >>> model = models.TextEncoder(9, 8, num_types=2, embed_dim=8, num_heads=2, num_layers=1)
    >>> y, ctx = model.forward(np.array([[1, 2, 3], [4, 5, 0]]), lengths=[3, 2])
    >>> model.backward(np.ones_like(y), ctx)
    >>> y.shape
    (2, 3, 8)
    """

    _worked_out = ("ffn_dim",)
    _live = ("causal",)

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        *,
        num_types: int = 0,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        ffn_dim: int | None = None,
        positions: _parts.Positions | None = "learned",
        norm_first: bool = False,
        norm: Literal["layer", "rms"] = "layer",
        activation: nn.FeedForwardName = "gelu",
        bias: bool = True,
        embed_norm: bool = True,
        causal: bool = False,
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **layers: Unpack[_parts.LayerOptions],
    ) -> None:
        rng = _parts.generator(rng)
        _parts.check_positions(positions)
        _checks.sizes(vocab_size=vocab_size, embed_dim=embed_dim, max_length=max_length)
        same: dict[str, Any] = {"rng": rng, "dtype": dtype}
        self.causal = _checks.flag("causal", causal)
        self.tokens = _parts.tokens_layer(vocab_size, embed_dim, positions, **same)
        self.types = None
        if _checks.integer("num_types", num_types, least=0):
            self.types = nn.Embedding(num_types, embed_dim, **same)
        self.positions = _parts.positions_layer(positions, max_length, embed_dim, **same)
        self.dropout = nn.Dropout(_checks.probability("dropout", dropout))
        self.encoder = nn.TransformerEncoder(
            num_layers,
            embed_dim,
            num_heads,
            ffn_dim=ffn_dim,
            norm_first=norm_first,
            norm=norm,
            activation=activation,
            bias=bias,
            dropout=dropout,
            ffn_dropout=0.0,
            rng=rng,
            dtype=dtype,
            **_parts.layer_options(positions, layers),
        )
        self.norm = _parts.norm_if(
            "embed_norm", embed_norm, norm, embed_dim, layers, bias=bias, dtype=dtype
        )

    def forward(
        self,
        ids: Array,
        lengths: Sequence[int] | Array | None = None,
        *,
        types: Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, TextEncoderContext]:
        """Return (y, ctx).

        Parameters
        ----------
        ids : int array (B, T)
        lengths : ints (B,), optional
            How many tokens of each row are real; all of them by default. The others are seen by
            none; what y holds there means nothing.
        types : int array (B, T), optional
            Of what kind each token is, 0 by default; for models with ``num_types``.
        rng : numpy.random.Generator, optional
            Given, dropout is applied.

        Returns
        -------
        y : (B, T, E)
        ctx : TextEncoderContext
        """
        ids = _checks.int_array("ids", ids)
        _checks.shape("ids", ids, "B, T")
        mask: masks.Mask | None = masks.causal() if self.causal else None
        if lengths is not None:
            mask = masks.padding(_parts.lengths_array("lengths", lengths, *ids.shape)) & mask
        x, tokens = self.tokens.forward(ids)
        x, of_types = self._typed(x, types)
        x, positions = _parts.add_positions(self.positions, x)
        x, norm = _parts.through(self.norm, x)
        x, dropout = self.dropout.drop(x, rng)
        y, encoder = self.encoder.forward(x, mask=mask, rng=rng)
        return y, TextEncoderContext(tokens, of_types, positions, norm, dropout, encoder)

    def backward(self, dy: Array, ctx: TextEncoderContext) -> None:
        """Add to the parameters' gradients; ids have none."""
        ctx = _checks.context(ctx, TextEncoderContext)
        # y = encoder(dropout(norm(x)))
        dx = self.dropout.undrop(self.encoder.backward(dy, ctx.encoder), ctx.dropout)
        dx = _parts.back_through(self.norm, dx, ctx.norm)
        # x = tokens[ids] + types[of each] + positions
        dx = _parts.back_through(self.positions, dx, ctx.positions)
        if self.types is not None and ctx.types is not None:
            self.types.backward(dx, ctx.types)
        self.tokens.backward(dx, ctx.tokens)

    def describe(self) -> str:
        """Return e.g. ``"max_length=512"``."""
        words = ["causal"] if self.causal else []
        if isinstance(self.positions, nn.LearnedPositions):
            words.insert(0, f"max_length={self.positions.weight.shape[0]}")
        return ", ".join(words)

    def _typed(self, x: Array, types: Array | None) -> tuple[Array, F.EmbeddingContext | None]:
        if self.types is None:
            if types is not None:
                raise ValueError("types: expected None of a model without types, got an array")
            return x, None
        if types is None:
            types = np.zeros(x.shape[:2], np.int64)
        types = _checks.int_array("types", types)
        _checks.shape("types", types, "B, T", {"B": len(x), "T": x.shape[1]})
        with _checks.renamed(ids="types"):
            added, ctx = self.types.forward(types)
        return x + added, ctx
