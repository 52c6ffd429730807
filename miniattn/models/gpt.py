"""GPT: a decoder-only transformer that predicts the next token, and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, nn
from miniattn._context import context
from miniattn._typing import Array, MaskLike
from miniattn.models import _parts
from miniattn.models._decoder_only import DecoderOnly
from miniattn.models._presets import PRESETS, GPTOptions, settings
from miniattn.nn._attention.ranks import Split, checked_ranks

if TYPE_CHECKING:
    from miniattn.distributed import Comm

__all__ = ["GPT", "PRESETS", "GPTContext", "GPTOptions"]


@context
class GPTContext(NamedTuple):
    """What `GPT.backward` needs: the contexts of its parts."""

    tokens: F.EmbeddingContext
    positions: Any
    dropout: F.DropoutContext | None
    blocks: nn.TransformerEncoderContext
    head: F.LinearContext
    embed_norm: Any = None
    softcap: F.TanhContext | None = None


class GPT(DecoderOnly):
    """A stack of pre-norm layers under a causal mask: ids (B, T) to logits of the next (B, T, V).

    The defaults are nanoGPT's smallest: 4 layers, 4 heads, width 128, no biases, no dropout, and
    the output layer's weight tied to the token table.

    Parameters
    ----------
    vocab_size : int
        V.
    block_size : int
        Longest context: the number of learned positions, and what ``generate`` looks back on.
    embed_dim, num_heads, num_layers : int
        Width E, heads H, and the number of layers.
    ffn_dim : int, optional
        Width F of the feed-forward; 4 E by default.
    positions : {"learned", "sinusoidal", "rotary", "alibi"}, optional
        How the order is told; with None only the causal mask tells it.
    norm, activation, bias
        As in `nn.TransformerEncoderLayer`.
    dropout : float
        On the embedded tokens, on attention weights and on what each sublayer adds; applied where
        ``rng`` is given to ``forward``.
    tied : bool
        Whether the output layer shares the token table [3]_.
    embed_norm : bool
        Normalises the embedded tokens, as BLOOM does.
    head_bias : bool
        Whether the output layer adds a bias.
    final_softcap : float, optional
        Logits s become c · tanh(s / c) (`nn.Softcap`).
    num_kv_heads, window, sinks, softcap
        Options of `nn.MultiHeadAttention`. The window is (left, right), as in `masks.window`.
    comm, split
        The ranks that share each sequence, and how; options of `nn.MultiHeadAttention`. Each rank
        gives its own ids, and has their logits.
    rng : numpy.random.Generator, optional
        Draws the weights; None is a fresh unseeded one.
    dtype : float32 or float64
    **layers
        More options of the layers, as in `nn.TransformerEncoder`: norm_eps, rotary (with
        ``positions=None``), head_dim, scale, score, sink, normalizer, qk_norm, qk_norm_eps, gate,
        attention, attn_bias, sandwich, parallel, value_residual, by_layer.

    Notes
    -----
    All weight matrices start as N(0, 0.02²) [1]_, those that write to the residual stream
    (``out_proj``, ``down``) as N(0, 0.02² / 2L) for L layers, so that the stream keeps its size
    with depth [2]_; biases start at 0, normalisations at 1.

    References
    ----------
    .. [1] Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018,
       section 4.1.
    .. [2] Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
       section 2.3.
    .. [3] Press & Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017,
       section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import models
    >>> rng = np.random.default_rng(0)
    >>> model = models.GPT(65, 16, embed_dim=32, num_layers=2, rng=rng)
    >>> ids = rng.integers(0, 65, (2, 16))
    >>> logits, ctx = model.forward(ids)
    >>> model.backward(np.ones_like(logits), ctx)
    >>> logits.shape
    (2, 16, 65)
    >>> model.generate([1, 2, 3], 5, rng=rng).shape
    (8,)
    """

    _worked_out = ("ffn_dim", "num_kv_heads")
    _live = ("block_size",)

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        *,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 4,
        ffn_dim: int | None = None,
        positions: _parts.Positions | None = "learned",
        norm: Literal["layer", "rms"] = "layer",
        activation: nn.FeedForwardName = "gelu",
        bias: bool = False,
        dropout: float = 0.0,
        tied: bool = True,
        embed_norm: bool = False,
        head_bias: bool = False,
        final_softcap: float | None = None,
        num_kv_heads: int | None = None,
        window: tuple[int | None, int | None] | None = None,
        sinks: int = 0,
        softcap: float | None = None,
        comm: Comm | None = None,
        split: Split = "ring",
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
        **layers: Unpack[_parts.LayerOptions],
    ) -> None:
        rng = _parts.generator(rng)
        _parts.check_positions(positions)
        tied = _checks.flag("tied", tied)
        _checks.sizes(vocab_size=vocab_size, embed_dim=embed_dim)
        self.block_size = _checks.integer("block_size", block_size, least=1)
        self.tokens = _parts.tokens_layer(vocab_size, embed_dim, positions, rng=rng, dtype=dtype)
        self.positions = _parts.positions_layer(
            positions, block_size, embed_dim, rng=rng, dtype=dtype
        )
        self.embed_norm = _parts.norm_if(
            "embed_norm", embed_norm, norm, embed_dim, layers, bias=bias, dtype=dtype
        )
        self.dropout = nn.Dropout(_checks.probability("dropout", dropout))
        self.ranks = checked_ranks(comm, split)
        self.blocks = nn.TransformerEncoder(
            num_layers,
            embed_dim,
            num_heads,
            ffn_dim=ffn_dim,
            norm=norm,
            activation=activation,
            bias=bias,
            dropout=dropout,
            ffn_dropout=0.0,
            num_kv_heads=num_kv_heads,
            window=window,
            sinks=sinks,
            softcap=softcap,
            comm=comm,
            split=split,
            rng=rng,
            dtype=dtype,
            **_parts.layer_options(positions, layers),
        )
        head_bias = _checks.flag("head_bias", head_bias)
        self.head = nn.Linear(embed_dim, vocab_size, bias=head_bias, rng=rng, dtype=dtype)
        self.softcap = _parts.softcap_layer("final_softcap", final_softcap)
        _parts.draw_as_gpt(self, len(self.blocks.layers), rng)
        if tied:
            self.head.weight = self.tokens.weight

    @classmethod
    def preset(
        cls, name: str, vocab_size: int | None = None, **options: Unpack[GPTOptions]
    ) -> Self:
        """Return a model of a well-known shape; ``options`` replace single settings.

        Parameters
        ----------
        name : {"nanogpt-cpu", "nanogpt-char", "gpt2", "llama-tiny"}
        vocab_size : int, optional
            V; needed except for "gpt2".

        Examples
        --------
        >>> from miniattn import models
        >>> models.GPT.preset("nanogpt-cpu", 65).num_parameters()
        804096
        """
        return cls(**settings(name, vocab_size, options))

    def forward(
        self,
        ids: Array,
        *,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
        caches: Sequence[nn.KVCache] | None = None,
        rng: np.random.Generator | None = None,
    ) -> tuple[Array, GPTContext]:
        """Return (logits, ctx).

        Parameters
        ----------
        ids : int array (B, T)
            Rows of different lengths are padded at the end with any ids: what comes later is
            never seen. Leave the padding out of the loss.
        mask : Mask or bool array, or a list of one for each layer, optional
            What a token sees, **in place of** ``masks.causal()``: ``masks.prefix(lengths)``,
            ``masks.causal() & masks.window(...)``. With caches, a token sees no later one either
            way, but in the prefix of the cache (`nn.KVCache`).
        bias : float array that broadcasts to (B, H, T, T), optional
            Added to the scores of every layer.
        caches : KVCaches, one a layer, optional
            For decoding (`new_caches`): ``ids`` follow the tokens that the caches hold.
        rng : numpy.random.Generator, optional
            Given, dropout is applied.

        Returns
        -------
        logits : (B, T, V)
        ctx : GPTContext
        """
        x, places, (tokens, positions, norm, dropout) = self._embedded(ids, caches, rng)
        x, blocks = self._stacked(x, places, caches, rng, mask, bias)
        logits, head = self.head.forward(x)
        logits, softcap = _parts.through(self.softcap, logits)
        return logits, GPTContext(tokens, positions, dropout, blocks, head, norm, softcap)

    def backward(self, dlogits: Array, ctx: GPTContext) -> Array | None:
        """Add to the parameters' gradients; return that of the bias, None where none was given."""
        ctx = _checks.context(ctx, GPTContext)
        # logits = softcap(head(x))
        with _checks.renamed(dy="dlogits"):
            dlogits = _parts.back_through(self.softcap, dlogits, ctx.softcap)
            dx = self.head.backward(dlogits, ctx.head)
        # x = blocks(x, bias)
        grads = self.blocks.backward(dx, ctx.blocks)
        dbias: Array | None = None
        dx, dbias = grads if isinstance(grads, tuple) else (grads, None)
        # x = dropout(x)
        dx = self.dropout.undrop(dx, ctx.dropout)
        # x = embed_norm(x)
        dx = _parts.back_through(self.embed_norm, dx, ctx.embed_norm)
        # x = x + positions
        dx = dx if self.positions is None else self.positions.backward(dx, ctx.positions)
        # x = tokens(ids)
        self.tokens.backward(dx, ctx.tokens)
        return dbias

    def describe(self) -> str:
        """Return e.g. ``"block_size=64"``."""
        return f"block_size={self.block_size}"
