"""A transformer encoder that reads a sequence and says which of N classes it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, nn
from miniattn._context import context
from miniattn._typing import Array, MaskLike
from miniattn.models import _parts
from miniattn.models._pooling import AttentionPooling, Flatten

Pooling = Literal["mean", "first", "attention", "flatten"]


@context
class SequenceClassifierContext(NamedTuple):
    """What `SequenceClassifier.backward` needs: the contexts of its parts."""

    embed: Any
    positions: Any
    dropout: F.DropoutContext | None
    encoder: nn.TransformerEncoderContext
    pooling: Any
    """What each step counts in the pooled vector (B, T), or the context of the pooling layer."""
    head: F.LinearContext


class SequenceClassifierGrads(NamedTuple):
    """Gradients of a classifier that was given a bias."""

    dinputs: Array | None
    """(B, T, input_dim), 0 in the padding; None for token ids."""
    dbias: Array
    """Of bias's own shape."""


class SequenceClassifier(nn.Module):
    """Embeds a sequence, encodes it, pools it over its real steps and maps that to N logits.

    Sequences are rows of tokens or of continuous features, of different lengths: what lies
    beyond ``lengths[b]`` has no influence on logits or gradients, not even as NaN.

    Parameters
    ----------
    num_classes : int
        N.
    vocab_size : int, optional
        V, for inputs of token ids. Exactly one of ``vocab_size`` and ``input_dim`` is given.
    input_dim : int, optional
        Width of continuous inputs, which a linear map takes to E.
    embed_dim, num_heads, num_layers : int
        Width E, heads H, and the number of encoder layers.
    ffn_dim : int, optional
        Width F of the feed-forward; 4 E by default.
    pooling : {"mean", "first", "attention", "flatten"}
        The mean over the real steps; the first step; their mean weighted by a softmax of their
        products with a learned query; or all steps one after the other, each with weights of its
        own in the head, for sequences of at most ``max_length`` steps.
    positions : {"sinusoidal", "learned", "rotary", "alibi"}, optional
        How the order is told; None treats the sequence as a set.
    max_length : int
        Longest sequence of learned positions, and of flattened ones.
    dropout : float
        On the embedded sequence and as in `TransformerEncoderLayer`; applied where ``rng`` is
        given to ``forward``.
    norm_first, activation
        As in `TransformerEncoderLayer`.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **layers
        More options of the layers, as in `nn.TransformerEncoder`: norm_eps, rotary (with
        ``positions=None``), head_dim, qk_norm and the others.

    Notes
    -----
    Weights start as in the layers: linear maps Glorot-uniform. A token table under sinusoidal
    positions starts as N(0, 1/E) and is multiplied by √E, so that tokens and positions have the
    same size (Vaswani et al., 2017, section 3.4); otherwise it starts as N(0, 0.02²).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models
    >>> rng = np.random.default_rng(0)
    >>> model = models.SequenceClassifier(3, input_dim=2, embed_dim=16, num_heads=2, rng=rng)
    >>> x = rng.standard_normal((4, 7, 2), dtype=np.float32)
    >>> logits, ctx = model.forward(x, lengths=[7, 5, 3, 1])
    >>> model.backward(np.ones_like(logits), ctx).shape
    (4, 7, 2)
    >>> logits.shape
    (4, 3)
    """

    _free = (*nn.Module._free, "max_length")
    _worked_out = ("ffn_dim",)
    _live = ("pooling",)

    def __init__(
        self,
        num_classes: int,
        *,
        vocab_size: int | None = None,
        input_dim: int | None = None,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
        ffn_dim: int | None = None,
        pooling: Pooling = "mean",
        positions: _parts.Positions | None = None,
        max_length: int = 512,
        dropout: float = 0.0,
        norm_first: bool = True,
        activation: nn.FeedForwardName = "gelu",
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **layers: Unpack[_parts.LayerOptions],
    ) -> None:
        rng = _parts.generator(rng)
        if (vocab_size is None) == (input_dim is None):
            raise ValueError(
                f"vocab_size, input_dim: expected exactly one, got {vocab_size} and {input_dim}"
            )
        _parts.check_positions(positions)
        _checks.sizes(num_classes=num_classes, embed_dim=embed_dim, max_length=max_length)
        self.pooling = _checks.choice("pooling", pooling, get_args(Pooling))
        self.embed: nn.Linear | nn.Embedding
        if input_dim is not None:
            _checks.sizes(input_dim=input_dim)
            self.embed = nn.Linear(input_dim, embed_dim, rng=rng, dtype=dtype)
        elif vocab_size is not None:
            self.embed = _parts.tokens_layer(vocab_size, embed_dim, positions, rng=rng, dtype=dtype)
        self.positions = _parts.positions_layer(
            positions, max_length, embed_dim, rng=rng, dtype=dtype
        )
        self.dropout = nn.Dropout(_checks.probability("dropout", dropout))
        self.encoder = nn.TransformerEncoder(
            num_layers,
            embed_dim,
            num_heads,
            ffn_dim=ffn_dim,
            norm_first=norm_first,
            activation=activation,
            dropout=dropout,
            rng=rng,
            dtype=dtype,
            **_parts.layer_options(positions, layers),
        )
        self.pool: AttentionPooling | Flatten | None = None
        if self.pooling == "attention":
            self.pool = AttentionPooling(embed_dim, dtype=dtype)
        elif self.pooling == "flatten":
            self.pool = Flatten(max_length)
        width = embed_dim * (max_length if self.pooling == "flatten" else 1)
        self.head = nn.Linear(width, num_classes, rng=rng, dtype=dtype)

    def forward(
        self,
        inputs: Array,
        lengths: Sequence[int] | Array | None = None,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, SequenceClassifierContext]:
        """Return (logits, ctx).

        Parameters
        ----------
        inputs : int array (B, T), or float array (B, T, input_dim)
        lengths : ints (B,), optional
            How many steps of each row are real; all of them by default. A row of length 0 pools
            to zeros.
        mask : Mask or bool array, or a list of one for each layer, optional
            What a step sees, besides that no step sees padding.
        bias : float array that broadcasts to (B, H, T, T), optional
            Added to the scores of every layer.
        rng : numpy.random.Generator, optional
            Given, dropout is applied.

        Returns
        -------
        logits : (B, N)
        ctx : SequenceClassifierContext
        """
        inputs = self._checked(inputs)
        batch, steps = inputs.shape[:2]
        padded = lengths is not None
        lengths = _parts.lengths_array("lengths", lengths, batch, steps)
        if padded:
            mask = _parts.with_padding(mask, lengths)
        x, embed = self.embed.forward(_parts.without_padding(inputs, lengths))
        x, positions = _parts.add_positions(self.positions, x)
        x, dropout = self.dropout.drop(x, rng)
        x, encoder = self.encoder.forward(x, mask=mask, bias=bias, rng=rng)
        x, pooling = self._pooled(x, lengths)
        logits, head = self.head.forward(x)
        ctx = SequenceClassifierContext(embed, positions, dropout, encoder, pooling, head)
        return logits, ctx

    def backward(
        self, dlogits: Array, ctx: SequenceClassifierContext
    ) -> Array | SequenceClassifierGrads | None:
        """Return dinputs (B, T, input_dim), 0 in the padding; None for token ids.

        With a bias it is ``(dinputs, dbias)``, `SequenceClassifierGrads`.
        """
        ctx = _checks.context(ctx, SequenceClassifierContext)
        # logits = head(x)
        with _checks.renamed(dy="dlogits"):
            dx = self.head.backward(dlogits, ctx.head)
        # x = pooled(x), or x = Σ over t of pooling[:, t] · x[:, t]
        if self.pool is not None:
            dx = self.pool.backward(dx, ctx.pooling)
        else:
            dx = ctx.pooling[:, :, None] * dx[:, None, :]
        # x = encoder(x, bias)
        grads = self.encoder.backward(dx, ctx.encoder)
        dbias: Array | None = None
        dx, dbias = grads if isinstance(grads, tuple) else (grads, None)
        # x = dropout(x)
        dx = self.dropout.undrop(dx, ctx.dropout)
        # x = x + positions
        dx = dx if self.positions is None else self.positions.backward(dx, ctx.positions)
        # x = embed(inputs)
        dinputs: Array | None = self.embed.backward(dx, ctx.embed)
        return dinputs if dbias is None else SequenceClassifierGrads(dinputs, dbias)

    def describe(self) -> str:
        """Return e.g. ``"10 classes, mean pooling"``."""
        return f"{self.head.weight.shape[0]} classes, {self.pooling} pooling"

    def _checked(self, inputs: Array) -> Array:
        if isinstance(self.embed, nn.Embedding):
            inputs = _checks.int_array("inputs", inputs)
            _checks.shape("inputs", inputs, "B, T")
        else:
            inputs = _checks.float_array("inputs", inputs)
            sizes = {"input_dim": self.embed.weight.shape[1]}
            _checks.like("inputs", inputs, self.embed.weight.dtype, "the model's parameters")
            _checks.shape("inputs", inputs, "B, T, input_dim", sizes)
        return inputs

    def _pooled(self, x: Array, lengths: Array) -> tuple[Array, Any]:
        """Return one vector for each sequence, and what its backward needs."""
        steps = x.shape[1]
        if (self.pool is None) != (self.pooling in ("mean", "first")):
            raise ValueError(f"pooling: expected what the model was made with, got {self.pooling}")
        if self.pool is not None:
            return self.pool.forward(x, np.arange(steps) < lengths[:, None])
        pooling = self._pooling_weights(lengths, steps).astype(x.dtype)
        return np.matmul(pooling[:, None, :], x)[:, 0], pooling

    def _pooling_weights(self, lengths: Array, steps: int) -> Array:
        """Return what each step counts in the pooled vector (B, T); 0 in the padding."""
        counted = lengths if self.pooling == "mean" else np.minimum(lengths, 1)
        return (np.arange(steps) < counted[:, None]) / np.maximum(counted, 1)[:, None]
