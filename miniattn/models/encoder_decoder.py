"""An encoder reads one sequence, a decoder writes another while it looks back at the first."""

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
from miniattn.models._sequence_to_sequence import SequenceToSequence
from miniattn.models._stem import Stem, halved
from miniattn.scores import Score


@context
class EncoderDecoderContext(NamedTuple):
    """What `EncoderDecoder.backward` needs: the contexts of its parts."""

    source_tokens: Any
    source_positions: Any
    source_dropout: F.DropoutContext | None
    encoder: nn.TransformerEncoderContext
    target_tokens: F.EmbeddingContext
    target_positions: Any
    target_dropout: F.DropoutContext | None
    decoder: nn.TransformerDecoderContext
    head: F.LinearContext


class EncoderDecoder(SequenceToSequence):
    """The original transformer: source ids (B, S) and target ids (B, T) to logits (B, T, V).

    The decoder sees the target up to each token (teacher forcing), and the real tokens of the
    source. Give it the target shifted by one, after a start token, and compare the logits with
    the target itself.

    Parameters
    ----------
    vocab_size : int
        V of the source, and of the target where they share one vocabulary.
    target_vocab_size : int, optional
        V of the target where it has a vocabulary of its own; by default it shares the source's.
    input_dim : int, optional
        Given, the source is features (B, S, input_dim) in place of ids, as those of sound are. Two
        convolutions of three steps read them, the second at every other step [2]_: the memory has
        S / 2 vectors. ``vocab_size`` is then the target's.
    embed_dim, num_heads : int
        Width E and heads H.
    num_encoder_layers, num_decoder_layers : int
    ffn_dim : int, optional
        Width F of the feed-forward; 4 E by default.
    positions : {"sinusoidal", "learned", "rotary", "alibi"}, optional
        How the order is told; rotary and ALiBi act in self-attention only.
    max_length : int
        Longest sequence of learned positions.
    max_source_length : int, optional
        That of the source, where it is another; with ``input_dim`` in vectors, not in steps.
    score, target_score : Score or LearnedScore, optional
        Functions of scores of the encoder's self-attention, and of the decoder's.
    sink : bool
        Learned sinks in both (`nn.MultiHeadAttention`).
    dropout : float
        On embedded tokens and as in `nn.TransformerEncoderLayer`; applied where ``rng`` is given
        to ``forward``.
    norm_first, norm, activation, bias
        As in `nn.TransformerEncoderLayer`. The paper has post-norm and relu.
    tied : bool
        One token table for everything that has the same vocabulary: source, target and output
        layer [1]_.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **layers
        More options of the layers of both, as in `nn.TransformerDecoder`: norm_eps, head_dim,
        scale, attn_bias, qk_norm, qk_norm_eps and gate.

    Notes
    -----
    Weights start as in the layers: linear maps Glorot-uniform. Token tables start as N(0, 1/E)
    and are multiplied by √E under sinusoidal positions [1]_, as N(0, 0.02²) otherwise.

    References
    ----------
    .. [1] Vaswani et al., "Attention Is All You Need", 2017, sections 3.1 and 3.4.
    .. [2] Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022,
       section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models
    >>> rng = np.random.default_rng(0)
    >>> model = models.EncoderDecoder(12, embed_dim=16, num_heads=2, rng=rng)
    >>> source, target = rng.integers(0, 12, (2, 7)), rng.integers(0, 12, (2, 5))
    >>> logits, ctx = model.forward(source, target, source_lengths=[7, 4])
    >>> model.backward(np.ones_like(logits), ctx)
    >>> logits.shape
    (2, 5, 12)
    """

    _free = (*nn.Module._free, "max_length", "max_source_length")
    _worked_out = ("ffn_dim",)

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int | None = None,
        *,
        input_dim: int | None = None,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_encoder_layers: int = 2,
        num_decoder_layers: int = 2,
        ffn_dim: int | None = None,
        positions: _parts.Positions | None = "sinusoidal",
        max_length: int = 512,
        max_source_length: int | None = None,
        score: Score | nn.LearnedScore | None = None,
        target_score: Score | nn.LearnedScore | None = None,
        sink: bool = False,
        dropout: float = 0.0,
        norm_first: bool = True,
        norm: Literal["layer", "rms"] = "layer",
        activation: nn.FeedForwardName = "gelu",
        bias: bool = True,
        tied: bool = True,
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **layers: Unpack[_parts.SharedLayerOptions],
    ) -> None:
        rng = _parts.generator(rng)
        _parts.check_positions(positions)
        tied = _checks.flag("tied", tied)
        _checks.sizes(vocab_size=vocab_size, embed_dim=embed_dim, max_length=max_length)
        _checks.integer("num_encoder_layers", num_encoder_layers, least=0)
        _checks.sizes(num_decoder_layers=num_decoder_layers)
        most = max_length if max_source_length is None else max_source_length
        _checks.sizes(max_source_length=most)
        self.input_dim = input_dim
        if input_dim is not None:
            _checks.sizes(input_dim=input_dim)
            if target_vocab_size is not None:
                raise ValueError(
                    "target_vocab_size: expected None beside input_dim, where vocab_size is the "
                    f"target's, got {target_vocab_size}"
                )
        shared_vocabulary = target_vocab_size is None and input_dim is None
        target_vocab_size = vocab_size if target_vocab_size is None else target_vocab_size
        _checks.sizes(target_vocab_size=target_vocab_size)
        common: dict[str, Any] = {"rng": rng, "dtype": dtype}
        options: dict[str, Any] = {
            "ffn_dim": ffn_dim,
            "norm_first": norm_first,
            "norm": norm,
            "activation": activation,
            "bias": bias,
            "dropout": dropout,
            "sink": sink,
            **common,
            **_parts.attention_positions(positions),
            **layers,
        }
        read: Any = (
            _parts.tokens_layer(vocab_size, embed_dim, positions, **common)
            if input_dim is None
            else Stem(input_dim, embed_dim, **common)
        )
        self.source_tokens = read
        self.source_positions = _parts.positions_layer(positions, most, embed_dim, **common)
        self.encoder = nn.TransformerEncoder(
            num_encoder_layers, embed_dim, num_heads, score=score, **options
        )
        self.target_tokens = _parts.tokens_layer(target_vocab_size, embed_dim, positions, **common)
        self.target_positions = _parts.positions_layer(positions, max_length, embed_dim, **common)
        with _checks.renamed(score="target_score"):
            self.decoder = nn.TransformerDecoder(
                num_decoder_layers, embed_dim, num_heads, score=target_score, **options
            )
        self.head = nn.Linear(embed_dim, target_vocab_size, bias=False, **common)
        self.dropout = nn.Dropout(_checks.probability("dropout", dropout))
        if tied:
            self.head.weight = self.target_tokens.weight
            if shared_vocabulary:
                self.target_tokens.weight = self.head.weight = self.source_tokens.weight

    def forward(
        self,
        source: Array,
        target: Array,
        source_lengths: Sequence[int] | Array | None = None,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, EncoderDecoderContext]:
        """Return (logits, ctx).

        Parameters
        ----------
        source : int array (B, S), or with ``input_dim`` features (B, S, input_dim)
        target : int array (B, T)
            What the decoder reads: a start token, then the target without its last token. Rows of
            different lengths are padded at the end; leave the padding out of the loss.
        source_lengths : ints (B,), optional
            How many tokens of each source are real; all of them by default.
        rng : numpy.random.Generator, optional
            Given, dropout is applied.

        Returns
        -------
        logits : (B, T, V)
        ctx : EncoderDecoderContext
        """
        memory, mask, encoded = self._encode(source, source_lengths, rng)
        x, decoded = self._decode(target, memory, mask, None, rng)
        logits, head = self.head.forward(x)
        return logits, EncoderDecoderContext(*encoded, *decoded, head)

    def backward(self, dlogits: Array, ctx: EncoderDecoderContext) -> Array | None:
        """Add to the parameters' gradients; return that of features, None for ids."""
        ctx = _checks.context(ctx, EncoderDecoderContext)
        # logits = head(x)
        with _checks.renamed(dy="dlogits"):
            dx = self.head.backward(dlogits, ctx.head)
        # x = decoder(x, memory)
        dx, dmemory = self.decoder.backward(dx, ctx.decoder)
        # x = dropout(target_tokens(target) + positions)
        dx = self.dropout.undrop(dx, ctx.target_dropout)
        if self.target_positions is not None:
            dx = self.target_positions.backward(dx, ctx.target_positions)
        self.target_tokens.backward(dx, ctx.target_tokens)
        # memory = encoder(x)
        dx = self.encoder.backward(dmemory, ctx.encoder)
        # x = dropout(source_tokens(source) + positions)
        dx = self.dropout.undrop(dx, ctx.source_dropout)
        if self.source_positions is not None:
            dx = self.source_positions.backward(dx, ctx.source_positions)
        dsource: Array | None = self.source_tokens.backward(dx, ctx.source_tokens)
        return dsource

    def _encode(
        self,
        source: Array,
        lengths: Sequence[int] | Array | None,
        rng: np.random.Generator | None,
    ) -> tuple[Array, masks.Mask | None, tuple[Any, Any, Any, Any]]:
        """Return the memory (B, S, E), the mask that hides its padding, and the contexts."""
        padded = lengths is not None
        source, lengths = self._checked_source(source, lengths)
        mask = masks.padding(self._memory_lengths(lengths)) if padded else None
        real = _parts.without_padding(source, lengths)
        more = () if self.input_dim is None else (lengths,)
        x, tokens = self.source_tokens.forward(real, *more)
        x, positions = _parts.add_positions(self.source_positions, x)
        x, dropout = self.dropout.drop(x, rng)
        memory, encoder = self.encoder.forward(x, mask=mask, rng=rng)
        return memory, mask, (tokens, positions, dropout, encoder)

    def _checked_source(
        self, source: Array, lengths: Sequence[int] | Array | None
    ) -> tuple[Array, Array]:
        """Return the source, and how many of its steps are real."""
        if self.input_dim is None:
            source = _checks.int_array("source", source)
            _checks.shape("source", source, "B, S")
        else:
            source = _checks.float_array("source", source)
            _checks.shape("source", source, "B, S, input_dim", {"input_dim": self.input_dim})
            _checks.like("source", source, self.head.weight.dtype, "the model")
        return source, _parts.lengths_array("source_lengths", lengths, *source.shape[:2])

    def _memory_lengths(self, lengths: Array) -> Array:
        """Return how many vectors the encoder makes of so many steps."""
        return lengths if self.input_dim is None else halved(lengths)

    def _decode(
        self,
        target: Array,
        memory: Array | Sequence[nn.KVCache],
        mask: masks.Mask | None,
        caches: Sequence[nn.KVCache] | None,
        rng: np.random.Generator | None,
    ) -> tuple[Array, tuple[Any, Any, Any, Any]]:
        """Return the vectors (B, T, E) that the head reads, and the contexts."""
        target = _checks.int_array("target", target)
        _checks.shape("target", target, "B, T")
        places = caches[0].positions(target.shape[1]) if caches else None
        x, tokens = self.target_tokens.forward(target)
        x, positions = _parts.add_positions(self.target_positions, x, places)
        x, dropout = self.dropout.drop(x, rng)
        x, decoder = self.decoder.forward(x, memory, memory_mask=mask, caches=caches, rng=rng)
        return x, (tokens, positions, dropout, decoder)
