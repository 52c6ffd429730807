"""Decoding without Python: a stack of cached layers and what reads it, replayed from a tape.

One token a row is the same launches again and again. `Replay` notes them once, on memory that it
keeps, and then makes each step by one call of compiled code. What is not certain to be the same as
the plain forward, bit for bit, is not replayed: a module that is not known here, an option that is
computed between launches, a part that was replaced, somebody who traces. Then ``step`` returns
None, and the caller goes the plain way.

What a layer does is said once more here, in the names of its ``forward``. Only that is said: its
parts (norms, linear maps, feed-forwards) are run, and what they launch is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _tracing, masks
from miniattn._typing import Array
from miniattn.nn import _activation, _container, _dropout, _feed_forward, _linear, _norm, _positions
from miniattn.nn._attention.heads import merge, split
from miniattn.nn._attention.multi_head import MultiHeadAttention
from miniattn.nn._attention.parts import HeadNorm
from miniattn.nn._attention.projections import project
from miniattn.nn._cache import KVCache
from miniattn.nn._encoder import TransformerEncoder
from miniattn.nn._encoder_layer import TransformerEncoderLayer
from miniattn.nn._module import Module, Parameter, walk

# Parts that are replayed: between their launches NumPy computes nothing. Exactly these, and not
# what a user derived from them.
KNOWN: tuple[type[Module], ...] = (
    TransformerEncoder,
    TransformerEncoderLayer,
    MultiHeadAttention,
    HeadNorm,
    _positions.Rotary,
    _linear.Linear,
    _norm.LayerNorm,
    _norm.RMSNorm,
    _dropout.Dropout,
    _container.Sequential,
    _feed_forward.FeedForward,
    _feed_forward.GatedFeedForward,
    _feed_forward.SwiGLU,
    _activation.ReLU,
    _activation.GELU,
    _activation.SiLU,
    _activation.Sigmoid,
    _activation.Tanh,
)
# The attributes of what is said once more here: any other might change what it does.
ATTRIBUTES: dict[type[Module], frozenset[str]] = {
    TransformerEncoder: frozenset({"layers", "norm", "value_residual"}),
    TransformerEncoderLayer: frozenset(
        {"norm_first", "parallel", "norm1", "attn", "norm2", "ffn", "dropout"}
    ),
    MultiHeadAttention: frozenset(
        {
            *("num_heads", "num_kv_heads", "head_dim", "embed_dim", "ranks", "kdim", "vdim"),
            *("dropout", "softcap", "normalizer", "scale", "window", "sinks", "alibi", "rotary"),
            *("q_proj", "k_proj", "v_proj", "out_proj", "q_norm", "k_norm", "gate", "mix"),
            *("score", "sink"),
        }
    ),
}


class _Unknown(Exception):
    """A step is not, or not certainly, launches alone."""


class Replay:
    """Steps of one token a row through a stack and a map of what it returns; made at the first."""

    def __init__(self) -> None:
        self._plan: _Plan | None = None
        self._seen: _Seen | None = None

    def step(
        self, blocks: Module, head: Module, x: Array, caches: Sequence[KVCache]
    ) -> Array | None:
        """Return head(blocks(x, caches)) for x (B, 1, E), as (B, V), or None.

        The result is overwritten by the next step. Of None nothing has changed; otherwise the
        caches hold one token more.
        """
        if not caches or x.shape[1] != 1 or not len(x) or _tracing.current() is not None:
            return None
        for cache in caches:
            cache.make_room(1)
        roots = blocks, head
        if self._seen is None or not self._seen.is_so(roots, x, caches):
            self._seen = _Seen.now(roots, x, caches)
            self._plan = _Plan.of(blocks, head, x, caches)
        return None if self._plan is None else self._plan.run(x)


class _Seen(NamedTuple):
    """What a plan was made for, to be compared with what there is: in few steps, each of C."""

    roots: tuple[Module, ...]
    x: tuple[Any, ...]
    threads: int
    modules: list[dict[str, Any]]
    """The attributes of each module as they are, and as they were."""
    were: list[dict[str, Any]]
    parameters: list[Parameter]
    arrays: list[Array]
    kinds: list[type[Module]]
    ways: list[Any]
    """The forwards of these kinds."""
    caches: list[KVCache]
    kept: list[Array]
    """The keys and the values of the caches."""

    @classmethod
    def now(cls, roots: tuple[Module, ...], x: Array, caches: Sequence[KVCache]) -> _Seen:
        """Return what there is now."""
        nodes = [node for root in roots for _, node in walk(root, "")]
        modules = [vars(node) for node in nodes if isinstance(node, Module)]
        parameters = [node for node in nodes if isinstance(node, Parameter)]
        kinds = list({type(node) for node in nodes if isinstance(node, Module)})
        return cls(
            roots,
            (x.shape, x.dtype),
            F._tape.get_num_threads(),
            modules,
            [{name: _copied(value) for name, value in own.items()} for own in modules],
            parameters,
            [p.data for p in parameters],
            kinds,
            [kind.forward for kind in kinds],
            list(caches),
            _kept(caches),
        )

    def is_so(self, roots: tuple[Module, ...], x: Array, caches: Sequence[KVCache]) -> bool:
        """Return whether it is all as it was."""
        try:
            return (
                roots == self.roots
                and (x.shape, x.dtype) == self.x
                and F._tape.get_num_threads() == self.threads
                and self.modules == self.were
                and _are([p.data for p in self.parameters], self.arrays)
                and [kind.forward for kind in self.kinds] == self.ways
                and list(caches) == self.caches
                and _are(_kept(caches), self.kept)
            )
        except ValueError:  # arrays, which are not one array, nobody can say to be equal
            return False


def _kept(caches: Sequence[KVCache]) -> list[Array]:
    return [x for cache in caches for x in (cache.keys, cache.values)]


def _are(these: list[Array], those: list[Array]) -> bool:
    """Return whether arrays are those very arrays, not others that are equal."""
    return list(map(id, these)) == list(map(id, those))


def _copied(value: Any) -> Any:
    """Return what can be written to as a copy: lists and dicts."""
    return value.copy() if isinstance(value, list | dict) else value


class _Plan:
    """A tape of one step, and what its launches read and write."""

    def __init__(self, x: Array, caches: Sequence[KVCache]) -> None:
        self.tape = F._tape.Tape()
        self.caches = caches
        self.x = np.zeros_like(x)
        # Where keys and values go: while this is noted, too, behind those that caches hold.
        self.lengths: Array = caches[0].held_lengths
        self._steps: dict[F._attention_steps.Alike, F._attention_steps.Steps] = {}
        self._turns: dict[int, tuple[_positions.Rotary, Array, Array, Array]] = {}

    @classmethod
    def of(cls, blocks: Any, head: Module, x: Array, caches: Sequence[KVCache]) -> _Plan | None:
        """Return the plan of a step; None where there is none."""
        if not (_are_known(blocks, head, x.dtype) and _have_room(caches)):
            return None
        plan = cls(x, caches)
        try:
            with F._tape.recording(plan.tape):
                plan._note(blocks, head)
        except _Unknown:
            return None
        plan.tape.finish()
        for steps in plan._steps.values():
            steps.finish(plan.tape)
        return plan

    def run(self, x: Array) -> Array | None:
        """Return the logits (B, V) of x (B, 1, E), or None where that is for the plain forward."""
        if not _have_room(self.caches):
            return None
        lengths, held = self.caches[0].lengths, self.caches[0].held_lengths
        self.x[...] = x
        self.lengths[:] = held
        for rotary, like, cos, sin in self._turns.values():
            _, ctx = rotary.forward(like, lengths[:, None])
            cos[...], sin[...] = ctx.cos, ctx.sin
        if not all(steps.set_lengths(self.tape, held) for steps in self._steps.values()):
            return None
        self.tape.play()
        if not all(steps.are_fit(self.tape) for steps in self._steps.values()):
            return None
        for cache in self.caches:
            cache.lengths += 1
        return self.logits

    def _note(self, blocks: TransformerEncoder, head: Module) -> None:
        """Note `TransformerEncoder.forward`, and what reads it."""
        x = self.x
        for layer, cache in zip(blocks.layers, self.caches, strict=True):
            x = self._layer(layer, x, cache)
        x = x if blocks.norm is None else blocks.norm.forward(x)[0]
        self.logits: Array = head.forward(x[:, 0])[0]

    def _layer(self, layer: TransformerEncoderLayer, x: Array, cache: KVCache) -> Array:
        """Note `TransformerEncoderLayer.forward`."""

        def attend(h: Array) -> Array:
            return self._attention(layer.attn, h, cache)

        def feed(h: Array) -> Array:
            return np.asarray(layer.ffn.forward(h)[0])

        middle = self._framed(layer, x, layer.norm1, attend)
        read = x if layer.parallel else middle
        return self._framed(layer, read, layer.norm2, feed, onto=middle)

    def _framed(
        self,
        layer: TransformerEncoderLayer,
        x: Array,
        norm: Module,
        sublayer: Callable[[Array], Array],
        *,
        onto: Array | None = None,
    ) -> Array:
        """Note `ResidualLayer._forward`."""
        if layer.norm_first:
            h = sublayer(norm.forward(x)[0])
            return F._elementwise.add(x if onto is None else onto, h)
        y: Array = norm.forward(F._elementwise.add(x, sublayer(x)))[0]
        return y

    def _attention(self, attn: MultiHeadAttention, query: Array, cache: KVCache) -> Array:
        """Note `MultiHeadAttention.forward`."""
        if attn.normalizer != "softmax":
            raise _Unknown
        (q, _), (k, _), (v, _) = project(attn._projections(), query, None, None)
        k = k if attn.k_norm is None else attn.k_norm.forward(k)[0]
        q = q if attn.q_norm is None else attn.q_norm.forward(q)[0]
        k, q = (
            self._turned(attn, split(x, heads))
            for x, heads in ((k, attn.num_kv_heads), (q, attn.num_heads))
        )
        F._attention_steps.append(k, v, cache.keys, cache.values, self.lengths)
        start = np.zeros(len(q), np.int64)
        mask = attn._mask(None, start, masks.causal(start))
        alike = F._attention_steps.alike(q, cache.keys, mask, attn.scale, attn.softcap)
        if alike is None:
            raise _Unknown
        if alike not in self._steps:
            self._steps[alike] = F._attention_steps.Steps(alike)
        out = self._steps[alike].add(self.tape, q, cache.keys, cache.values)
        y: Array = attn.out_proj.forward(merge(out))[0]
        return y

    def _turned(self, attn: MultiHeadAttention, x: Array) -> Array:
        """Note what `Rotary.forward` does by angles that each step computes."""
        rotary: _positions.Rotary | None = attn.rotary
        if rotary is None:
            return x
        if id(rotary) not in self._turns:
            like = np.zeros((len(x), 1, 1, x.shape[-1]), x.dtype)
            with F._tape.recording(None):
                _, ctx = rotary.forward(like, self.lengths[:, None])
            self._turns[id(rotary)] = rotary, like, ctx.cos, ctx.sin
        _, _, cos, sin = self._turns[id(rotary)]
        return F._rotary._turn(x, cos, sin, rotary.interleaved, back=False)


def _have_room(caches: Sequence[KVCache]) -> bool:
    """Return whether each row of each cache has room for the same token."""
    held = {(c.keys.shape[2], c.lengths.tobytes(), c.forgotten.tobytes()) for c in caches}
    return len(held) == 1 and int(caches[0].held_lengths.max()) < caches[0].capacity


def _are_known(blocks: Module, head: Module, dtype: np.dtype[np.floating]) -> bool:
    """Return whether a step is launches of known parts alone, on memory that stays."""
    if type(blocks) is not TransformerEncoder or type(head) is not _linear.Linear:
        return False
    nodes = [node for root in (blocks, head) for _, node in walk(root, "")]
    return (
        not blocks.value_residual
        and all(_is_known(node, dtype) for node in nodes)
        and all(type(layer) is TransformerEncoderLayer for layer in blocks.layers)
        and all(type(layer.attn) is MultiHeadAttention for layer in blocks.layers)
        and all(_is_plain(layer.attn) for layer in blocks.layers)
    )


def _is_known(node: Module | Parameter, dtype: np.dtype[np.floating]) -> bool:
    if isinstance(node, Parameter):
        x = node.data
        plain = type(x) is np.ndarray and x.flags.c_contiguous and x.flags.aligned
        return plain and x.dtype == dtype
    kind, own = type(node), vars(node)
    names = ATTRIBUTES.get(kind, frozenset(own)) | {"_made_with"}
    shadows = any(hasattr(kind, name) for name in own)  # a method of its own
    return kind in KNOWN and not shadows and all(own[n] is None for n in own.keys() - names)


def _is_plain(attn: MultiHeadAttention) -> bool:
    """Return whether attention is launches alone."""
    return not attn.alibi and all(
        part is None for part in (attn.ranks, attn.gate, attn.mix, attn.score, attn.sink)
    )
