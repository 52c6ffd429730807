"""From logits to the next token: what changes them, and how one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.models._pens import Pen

LogitsHook = Callable[[Array, Sequence[Array]], Array]


class Changes(NamedTuple):
    """What is done to the logits before a token is chosen."""

    hook: LogitsHook | None
    penalty: float

    def hooked(self, logits: Array, pen: Pen) -> Array:
        """Return what the hook makes of logits (B, V)."""
        _numbers(logits)
        if self.hook is None:
            return logits
        found = _checks.instance("logits_hook", self.hook(logits.copy(), pen.texts), np.ndarray)
        array = _checks.float_array("logits_hook", found)
        batch, vocab_size = logits.shape
        _checks.shape("logits_hook", array, "B, V", {"B": batch, "V": vocab_size})
        _numbers(array)
        impossible = np.flatnonzero(np.isneginf(array).all(axis=-1))
        if impossible.size:
            raise ValueError(
                "logits_hook: expected to leave each row a token that is possible, "
                f"got -inf for all of row {impossible[0]}"
            )
        return array

    def penalised(self, logits: Array, pen: Pen) -> Array:
        """Return logits (B, V) with those of tokens that a row has made smaller [1]_.

        A logit is divided by the penalty where it is positive, multiplied where it is negative.

        References
        ----------
        .. [1] Keskar et al., "CTRL: A Conditional Transformer Language Model for Controllable
           Generation", 2019, section 4.1.
        """
        if self.penalty == 1:
            return logits
        logits = logits.copy()
        for row, text in zip(logits, pen.texts, strict=True):
            met = np.unique(text)
            row[met] = np.where(row[met] < 0, row[met] * self.penalty, row[met] / self.penalty)
        return logits


def changes(hook: LogitsHook | None, penalty: float) -> Changes:
    """Return what the options ask for, checked."""
    if hook is not None:
        _checks.having("logits_hook", hook, "__call__")
    return Changes(hook, _checks.positive("repetition_penalty", penalty))


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


def _numbers(logits: Array) -> None:
    if np.isnan(logits).any():
        raise ValueError("logits: expected numbers, got NaN; the parameters may have diverged")
