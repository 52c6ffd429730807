"""Writing: batches of prompts, choosing the next token of each, and going on from there."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypedDict

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.nn import KVCache
from miniattn.nn._replay import Replay

Prompts = Array | Sequence[int] | Sequence[Sequence[int]] | Sequence[Array]


class Writer(Protocol):
    """A model that predicts the next token from at most ``block_size`` before it."""

    block_size: int

    def new_caches(self, batch_size: int, capacity: int | None = None) -> list[KVCache]:
        """Return an empty cache for each layer."""
        ...

    def _next_logits(
        self, ids: Array, caches: Sequence[KVCache], last: Array, replay: Replay
    ) -> Array: ...


class Sampling(TypedDict, total=False):
    """How tokens are chosen: the options of ``generate``."""

    temperature: float
    top_k: int | None
    top_p: float | None
    stop: int | Collection[int] | None
    use_cache: bool
    rng: np.random.Generator | None


def sampler(
    temperature: float, top_k: int | None, top_p: float | None, rng: np.random.Generator
) -> Callable[[Array], Array]:
    """Return a function from logits (B, V) to chosen ids (B,), its settings checked.

    The logits are divided by ``temperature``; 0 takes the largest. ``top_k`` keeps the k most
    likely tokens, ``top_p`` the fewest whose probabilities add up to at least p [1]_. Both count
    the probabilities of the whole vocabulary.

    References
    ----------
    .. [1] Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020, section 3.1.
    """
    if _checks.number("temperature", temperature) < 0:
        raise ValueError(f"temperature: expected a number >= 0, got {temperature}")
    if top_k is not None:
        _checks.integer("top_k", top_k, least=1)
    if top_p is not None and not 0 < _checks.number("top_p", top_p) <= 1:
        raise ValueError(f"top_p: expected a number in (0, 1], got {top_p}")

    def choose(logits: Array) -> Array:
        if np.isnan(logits).any():
            raise ValueError("logits: expected numbers, got NaN; the parameters may have diverged")
        if temperature == 0:
            likeliest: Array = logits.argmax(axis=-1)
            return likeliest
        order = np.argsort(-logits, axis=-1, kind="stable")
        ranked = np.take_along_axis(logits, order, axis=-1).astype(np.float64)
        p = F.softmax(ranked, temperature=temperature)
        if top_k is not None:
            p[:, top_k:] = 0.0
        if top_p is not None:
            p[np.cumsum(p, axis=-1) - p >= top_p] = 0.0  # what came before is enough already
        reached = np.cumsum(p, axis=-1)
        drawn = rng.random(len(p))[:, None] * reached[:, -1:]
        rank = np.minimum((reached <= drawn).sum(axis=-1), (p > 0).sum(axis=-1) - 1)
        return np.take_along_axis(order, rank[:, None], axis=-1)[:, 0]

    return choose


def padded(name: str, prompts: Prompts, vocab_size: int) -> tuple[Array, Array]:
    """Return prompts as ids (B, T), padded with 0 at the end, and their lengths (B,)."""
    _checks.sequence(name, prompts, "ids, or of sequences of ids")
    if isinstance(prompts, np.ndarray):
        rows = [_ids(name, row, vocab_size) for row in np.atleast_2d(prompts)]
    elif is_single(prompts):
        rows = [_ids(name, prompts, vocab_size)]
    else:
        rows = [_ids(f"{name}[{i}]", row, vocab_size) for i, row in enumerate(prompts)]
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), lengths.max(initial=0)), np.int64)
    for padded_row, row in zip(ids, rows, strict=True):
        padded_row[: len(row)] = row
    return ids, lengths


def is_single(prompts: Prompts) -> bool:
    """Whether ``prompts`` is one sequence of ids rather than several."""
    return len(prompts) == 0 or np.ndim(prompts[0]) == 0


def stop_tokens(stop: int | Collection[int] | None, vocab_size: int) -> Array:
    """Return the tokens that end a row, (n,) ids in [0, V); none for None."""
    if stop is None:
        return np.zeros(0, np.int64)
    if isinstance(stop, Collection) and not isinstance(stop, str | bytes):
        return _ids("stop", list(stop), vocab_size)
    return _ids("stop", [_checks.integer("stop", stop)], vocab_size)


def continued(
    model: Writer,
    ids: Array,
    lengths: Array,
    count: int,
    choose: Callable[[Array], Array],
    *,
    cached: bool,
) -> Iterator[Array]:
    """Yield ``count`` times the next token of each row of ``ids`` (B, T), ids (B,)."""
    rows = np.arange(len(ids))
    text = np.concatenate([ids, np.zeros((len(ids), count), np.int64)], axis=1)
    lengths, seen = lengths.copy(), np.zeros_like(lengths)
    caches = model.new_caches(len(ids), min(model.block_size, text.shape[1])) if cached else []
    replay = Replay()
    for _ in range(count):
        if lengths.max(initial=0) > model.block_size:
            caches = []
        if not caches:
            seen = np.maximum(lengths - model.block_size, 0)
        fresh = lengths - seen
        length = fresh.max(initial=0)
        unseen = windows(text, seen, length)
        chosen = choose(model._next_logits(unseen, caches, fresh - 1, replay))
        if (fresh != length).any():
            for cache in caches:
                cache.truncate(lengths)  # forget the padding
        seen = lengths.copy()
        text[rows, lengths] = chosen
        lengths += 1
        yield chosen


def until_all_stop(tokens: Iterator[Array], stop: Array) -> Iterator[Array]:
    """Yield ids (B,), for a row that has had a token of ``stop`` that one; end when all have."""
    if not stop.size:
        yield from tokens
        return
    last: Array | None = None
    for ids in tokens:
        if last is not None:
            ended = np.isin(last, stop)
            ids[ended] = last[ended]
        yield ids
        last = ids.copy()
        if np.isin(last, stop).all():
            return


def windows(text: Array, starts: Array, length: int) -> Array:
    """Return ``length`` ids of each row of ``text`` from its start on, 0 beyond the end."""
    at = starts[:, None] + np.arange(length)
    inside = at < text.shape[1]
    rows = np.arange(len(text))[:, None]
    if inside.all():
        return np.asarray(text[rows, at])
    return np.where(inside, text[rows, np.minimum(at, text.shape[1] - 1)], 0)


def joined(prompts: Prompts, ids: Array, lengths: Array, new: Sequence[Array], stop: Array) -> Any:
    """Return each prompt with its new tokens, in the form in which the prompts were given."""
    written = np.stack(new, axis=1) if new else np.zeros((len(ids), 0), np.int64)
    if isinstance(prompts, np.ndarray):
        return np.concatenate([ids, written], axis=1).reshape(*prompts.shape[:-1], -1)
    rows = [
        np.concatenate([prompt[:length], _until(stop, row)])
        for prompt, length, row in zip(ids, lengths, written, strict=True)
    ]
    return rows[0] if is_single(prompts) else rows


def _until(stop: Array, row: Array) -> Array:
    """Return ``row`` up to and with its first token of ``stop``."""
    at = np.flatnonzero(np.isin(row, stop))
    return row[: at[0] + 1] if at.size else row


def _ids(name: str, row: object, vocab_size: int) -> Array:
    ids = _checks.int_array(name, row)
    _checks.shape(name, ids, "T")
    if ids.size == 0:
        raise ValueError(f"{name}: expected at least one token, got none")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name}: expected ids in [0, V) with V = {vocab_size}, got {wrong}")
    return ids
