"""The frame of multi-head attention: what a layer is made of, and the steps of a call.

`AttentionFrame` makes the projections and the parts that the options ask for, and has one private
method for each step that `multi_head` writes down as a whole. Another middle replaces ``_attend``
and ``_attend_back``.
"""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks, masks
from miniattn._typing import NORMALIZERS, Array, MaskLike
from miniattn.masks._array import borrowed
from miniattn.nn import _init
from miniattn.nn._attention.heads import places, sized
from miniattn.nn._attention.middle import Call, MiddleGrads, attend, attend_back
from miniattn.nn._attention.options import (
    Biases,
    checked_biases,
    checked_heads,
    checked_window,
)
from miniattn.nn._attention.parts import (
    HeadNorm,
    OutputGate,
    OutputGateContext,
    ValueMix,
    ValueMixContext,
    Width,
)
from miniattn.nn._attention.ranks import Split, alibi_function, checked_ranks
from miniattn.nn._cache import KVCache
from miniattn.nn._linear import Linear
from miniattn.nn._module import Module
from miniattn.nn._parameter import Parameter
from miniattn.nn._positions import Rotary, alibi_bias
from miniattn.nn._scores import LearnedScore, checked_score
from miniattn.scores import Score
from miniattn.scores._ready import alibi, alibi_at, alibi_slopes

if TYPE_CHECKING:
    from miniattn.distributed import Comm

FEW_QUERIES = 4  # up to which a call is done by the kernels for decoding


class AttentionFrame(Module):
    """What `MultiHeadAttention` is made of; it says what the options mean."""

    _fused: ClassVar[bool] = True  # whether the middle takes functions of scores, and sinks

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        kdim: int | None = None,
        vdim: int | None = None,
        head_dim: int | None = None,
        bias: Biases = True,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
        alibi: bool = False,
        window: tuple[int | None, int | None] | None = None,
        sinks: int = 0,
        softcap: float | None = None,
        normalizer: F._attention.Normalizer = "softmax",
        scale: float | None = None,
        score: Score | LearnedScore | None = None,
        sink: bool = False,
        qk_norm: Width | None = None,
        qk_norm_eps: float = 1e-6,
        gate: Width | None = None,
        value_residual: bool = False,
        comm: Comm | None = None,
        split: Split = "ring",
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        rng = _init.generator(rng)
        self.num_heads, self.num_kv_heads, self.head_dim = checked_heads(
            embed_dim, num_heads, num_kv_heads, head_dim
        )
        self.embed_dim = embed_dim
        self.ranks = checked_ranks(comm, split)
        if comm is not None and type(self)._attend is not AttentionFrame._attend:
            raise ValueError(
                f"comm: expected None for {type(self).__name__}, which has a middle of its own, "
                "got a communicator"
            )
        self.kdim = embed_dim if kdim is None else _checks.integer("kdim", kdim, least=1)
        self.vdim = embed_dim if vdim is None else _checks.integer("vdim", vdim, least=1)
        self.dropout = _checks.probability("dropout", dropout)
        self.softcap = None if softcap is None else _checks.positive("softcap", softcap)
        # By name: to look at the kernels' own list would load them.
        self.normalizer: Any = _checks.choice("normalizer", normalizer, NORMALIZERS)
        if comm is not None and normalizer != "softmax":
            raise ValueError(
                "normalizer: expected 'softmax' for a layer with comm, whose parts are merged by "
                f"their log-sum-exps, got {normalizer!r}"
            )
        self.scale = None if scale is None else _checks.number("scale", scale)
        self.window, self.sinks = checked_window(window), _checks.integer("sinks", sinks, least=0)
        if sinks and window is None:
            raise ValueError(f"sinks: expected 0 without a window, got {sinks}")
        self.alibi = _checks.flag("alibi", alibi)
        self.rotary = _checks.instance("rotary", rotary, Rotary, optional=True)
        if rotary is not None:
            rotary.check_width(self._turned_width())
        width, kv_width = (n * self.head_dim for n in (self.num_heads, self.num_kv_heads))
        of_q, of_k, of_v, of_out = checked_biases(bias)
        self.q_proj = Linear(embed_dim, width, bias=of_q, rng=rng, dtype=dtype)
        self.k_proj = Linear(self.kdim, kv_width, bias=of_k, rng=rng, dtype=dtype)
        self.v_proj = Linear(self.vdim, kv_width, bias=of_v, rng=rng, dtype=dtype)
        self.out_proj = Linear(width, embed_dim, bias=of_out, rng=rng, dtype=dtype)
        qk_norm_eps = _checks.positive("qk_norm_eps", qk_norm_eps)
        self.q_norm, self.k_norm = (
            None
            if qk_norm is None
            else HeadNorm(heads, self.head_dim, over=qk_norm, eps=qk_norm_eps, dtype=dtype)
            for heads in (self.num_heads, self.num_kv_heads)
        )
        self.gate = None
        if gate is not None:
            self.gate = OutputGate(
                embed_dim, self.num_heads, self.head_dim, over=gate, rng=rng, dtype=dtype
            )
        self.mix = ValueMix(dtype=dtype) if _checks.flag("value_residual", value_residual) else None
        self.score = checked_score(score, dtype)
        self.sink = None
        if _checks.flag("sink", sink):
            if normalizer == "sigmoid":
                raise ValueError("sink: expected False under normalizer='sigmoid', got True")
            self.sink = Parameter(np.zeros(self.num_heads, dtype))
        self._check_scores()

    def _check_scores(self) -> None:
        """Raise for options of scores that do not go together, or not with this middle."""
        name = "sink" if self.score is None else "score"
        if self.score is None and self.sink is None:
            return
        if not self._fused:
            raise ValueError(f"{name}: expected none for {type(self).__name__}, got one")
        if self.ranks is not None:
            raise ValueError(f"{name}: expected none for a layer with comm, got one")
        if self.score is not None and self.alibi:
            raise ValueError("score: expected None beside alibi, got a score")

    def _checked(
        self, query: Array, key: Array | KVCache | None, value: Array | None
    ) -> tuple[Array, Array | KVCache | None, Array | None]:
        query = sized("query", query, "B, T, E", E=self.embed_dim)
        batch = query.shape[0]
        if isinstance(key, KVCache):
            self._check_cache("key", key, query)
        if key is None or isinstance(key, KVCache):
            if value is not None:
                raise TypeError("value: expected None where no key array is given, got an array")
            return query, key, None
        key = sized("key", key, "B, S, kdim", B=batch, kdim=self.kdim)
        if value is not None:
            sizes = {"B": batch, "S": key.shape[1], "vdim": self.vdim}
            value = sized("value", value, "B, S, vdim", **sizes)
        return query, key, value

    def _check_cache(self, name: str, cache: object, query: Array) -> None:
        """Raise unless ``cache`` has room for the heads and the rows of this call."""
        batch, heads, _, width = _checks.instance(name, cache, KVCache).keys.shape
        expected = (query.shape[0], self.num_kv_heads, self.head_dim)
        if (batch, heads, width) != expected:
            raise ValueError(
                f"{name}: expected a KVCache for (B, G, D) = {expected}, got {batch, heads, width}"
            )

    def _check_forgetting(self, cache: KVCache, mask: MaskLike, bias: Array | None) -> None:
        """Raise where a cache may have forgotten what this call asks for."""
        if cache.window is None:
            return
        left = None if self.window is None else self.window[0]
        if left is None or left > cache.window or self.sinks > cache.sinks:
            raise ValueError(
                f"cache: expected one that keeps the window of the layer, {self.window} with "
                f"{self.sinks} sinks, got one of {cache.window} with {cache.sinks}"
            )
        for name, given in (("mask", mask), ("bias", bias), ("score", self.score)):
            if given is not None:
                raise ValueError(f"{name}: expected None beside a cache that forgets, got one")

    def _projections(self) -> list[Module]:
        return [self.q_proj, self.k_proj, self.v_proj]

    def _mixed(self, values: Array, first: Array | None) -> tuple[Array, ValueMixContext | None]:
        """Return the values with the first layer's in them, where there are any."""
        if first is None:
            return values, None
        if self.mix is None:
            raise ValueError("first_values: expected None without value_residual, got an array")
        first = sized(
            "first_values",
            first,
            "B, G, S, D",
            **dict(zip("BGSD", values.shape, strict=True)),
        )
        return self.mix.forward(values, first)

    def _unmixed(self, dv: Array, ctx: ValueMixContext | None) -> tuple[Array, Array | None]:
        return (dv, None) if self.mix is None or ctx is None else self.mix.backward(dv, ctx)

    def _attend(self, q: Array, k: Array, v: Array, call: Call) -> tuple[Array, Any]:
        """Return (out, ctx), out (B, H, T, D)."""
        if self.ranks is not None:
            return self.ranks.attend(q, k, v, call)
        return attend(q, k, v, call)

    def _attend_back(self, dout: Array, ctx: Any, *, with_bias: bool) -> MiddleGrads:
        # out = attend(q, k, v)
        if self.ranks is not None:
            return self.ranks.attend_back(dout, ctx)
        return attend_back(dout, ctx, with_bias=with_bias)

    def _places(self, count: int, start: Array | None = None) -> Array:
        """Return where tokens are in their sequence; where nothing asks for it, in this part."""
        if self.ranks is None or self.rotary is None:
            return places(count, start)
        return self.ranks.places(count)[0]

    def _ungated(self, dh: Array, ctx: OutputGateContext | None) -> tuple[Array, Array | None]:
        return (dh, None) if self.gate is None or ctx is None else self.gate.backward(dh, ctx)

    def _turned_width(self) -> int:
        """Return how wide that is what rotary positions turn."""
        return self.head_dim

    def _turn(self, x: Array, positions: Array) -> tuple[Array, F.RotaryContext | None]:
        return (x, None) if self.rotary is None else self.rotary.forward(x, positions)

    def _turn_back(self, dx: Array, ctx: F.RotaryContext | None) -> Array:
        return dx if self.rotary is None or ctx is None else self.rotary.backward(dx, ctx)

    def _mask(
        self, mask: MaskLike, start: Array | None, order: masks.Mask | None = None
    ) -> masks.Mask | None:
        """Return ``mask``, the ``order`` of tokens from ``start`` on, and the layer's window."""
        rules = [borrowed(mask), order]
        if self.window is not None:
            rules.append(masks.window(*self.window, start, sinks=self.sinks))
        given = [rule for rule in rules if rule is not None]
        return functools.reduce(operator.and_, given) if given else None

    def _bias(self, bias: Array | None, q_at: Array, k_at: Array, dtype: DTypeLike) -> Any:
        """Return the bias, with ALiBi's where that is no score."""
        if not self.alibi or self._alibi_is_a_score(q_at):
            return bias
        if self.ranks is not None:  # no rank holds T x S of anything
            return alibi_function(self.num_heads, dtype)
        slopes = alibi_bias(self.num_heads, q_at, k_at, dtype)
        return slopes if bias is None else slopes + bias

    def _score(self, q_at: Array, k_at: Array, dtype: DTypeLike, start: Array | None) -> Any:
        """Return the function of scores of a call, None where there is none.

        The queries and keys of a function count from the first token of the sequence; ALiBi's are
        where they are said to be.
        """
        score = None
        if self.score is not None:
            score = self.score.value
        elif self.alibi and self._alibi_is_a_score(q_at):
            slopes = _paper_slopes(self.num_heads, np.dtype(dtype))
            if not (_counts(q_at, start) and _counts(k_at, None)):
                return alibi_at(slopes, q_at, k_at)
            score = alibi(slopes)
        return score if score is None or start is None else score.shifted(start)

    def _alibi_is_a_score(self, q_at: Array) -> bool:
        """Whether ALiBi is worked out in the kernels; for few queries an array takes less."""
        return self._fused and self.ranks is None and q_at.shape[-1] > FEW_QUERIES

    def _learn(self, grads: MiddleGrads) -> None:
        """Add to the gradients of the sinks and of the score's tables."""
        if self.sink is not None:
            self.sink.accumulate(grads.dsink)
        if self.score is not None:
            self.score.accumulate(grads.dscore)


def _counts(at: Array, start: Array | None) -> bool:
    """Whether places are 0, 1, 2, ..., or go on from a start, as they do where none are given."""
    return start is not None or np.array_equal(at, np.arange(at.shape[-1]))


@functools.lru_cache(maxsize=64)
def _paper_slopes(num_heads: int, dtype: np.dtype[Any]) -> Array:
    """Return ALiBi's slopes, read-only because they are shared."""
    slopes = alibi_slopes(num_heads).astype(dtype)
    slopes.flags.writeable = False
    return slopes


def refuse(**given: object) -> None:
    """Raise for what a layer whose sequence is shared by ranks doesn't take."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected None for a layer with comm, got a {type(value).__name__}"
            )


def normed(norm: HeadNorm | None, x: Array) -> tuple[Array, F.RmsNormContext | None]:
    """Return (y, ctx), x itself where there is no norm."""
    return (x, None) if norm is None else norm.forward(x)


def unnormed(norm: HeadNorm | None, dy: Array, ctx: F.RmsNormContext | None) -> Array:
    """Return the gradient of what `normed` was given."""
    return dy if norm is None or ctx is None else norm.backward(dy, ctx)
