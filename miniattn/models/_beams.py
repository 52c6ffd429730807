"""Beam search: the likeliest texts that a few open ends lead to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._typing import Array
from miniattn.models._choosing import Changes
from miniattn.models._generate import Changing
from miniattn.models._pens import Pen
from miniattn.models._stopping import Stop


class Searching(Changing, total=False):
    """The options of ``beam_search``."""

    beams: int
    length_penalty: float
    use_cache: bool


class Found(NamedTuple):
    """A text that has ended."""

    score: float
    new: Array


class Search:
    """The texts of a batch, ``beams`` open ones a row, and those that have ended.

    A text of n new tokens scores log p(text) / n^length_penalty [1]_. Of the continuations of a
    row's open texts, the likeliest that end are kept, the ``beams`` best of them, and the likeliest
    that don't are the open texts of the next step. A row is done when its best open text, if it
    ended now, would not come in.

    References
    ----------
    .. [1] Wu et al., "Google's Neural Machine Translation System", 2016, section 7, whose length
       penalty is a little different.
    """

    def __init__(
        self, pen: Pen, beams: int, length_penalty: float, changed: Changes, stop: Stop
    ) -> None:
        self.beams = _checks.integer("beams", beams, least=1)
        self.power = _checks.number("length_penalty", length_penalty)
        self._changes, self._stop, self._pen = changed, stop, pen
        rows = pen.batch_size
        self._scores = np.full((rows, self.beams), -np.inf)
        self._scores[:, 0] = 0.0  # all open texts are one, as yet
        self._found: list[list[Found]] = [[] for _ in range(rows)]
        self._done = np.zeros(rows, bool)
        self._step = 0

    def rows(self, count: int) -> list[Array]:
        """Return the new tokens of the best text of each row, at most ``count``."""
        pen = self._pen
        pen.keep(np.repeat(np.arange(pen.batch_size), self.beams))
        while self._step < count and not self._done.all():
            self._advance(last=self._step + 1 == count)
        nothing = np.zeros(0, np.int64)
        return [found[0].new if found else nothing for found in self._found]

    def _advance(self, *, last: bool) -> None:
        """Write one token more to each open text."""
        self._step += 1
        pen, beams = self._pen, self.beams
        p = F.log_softmax(self._changes.hooked(pen.logits(), pen).astype(np.float64))
        p = self._changes.penalised(p, pen)
        vocab_size = p.shape[1]
        p = (self._scores.reshape(-1, 1) + p).reshape(len(self._scores), -1)
        before = pen.new
        kept, tokens = np.zeros(self._scores.shape, np.int64), np.zeros_like(self._scores, np.int64)
        for row, scores in enumerate(p):
            best = _largest(scores, max(2, 1 + self._stop.size) * beams)
            parents, own = row * beams + best // vocab_size, best % vocab_size
            new = np.concatenate([before[parents], own[:, None]], axis=1)
            ends = self._stop.ends(new) | last
            self._finish(row, scores[best[:beams]], new[:beams], ends[:beams])
            best, parents, own = (x[~ends][:beams] for x in (best, parents, own))
            self._scores[row] = -np.inf
            self._scores[row, : len(best)] = scores[best]
            kept[row] = row * beams  # of what there is no more of, any will do: none is likely
            kept[row, : len(best)], tokens[row, : len(best)] = parents, own
        pen.keep(kept.ravel())
        pen.write(tokens.ravel())
        self._judge()

    def _finish(self, row: int, scores: Array, new: Array, ends: Array) -> None:
        """Take in the texts that have ended, unless the row is done."""
        if self._done[row]:
            return
        share = float(self._step) ** self.power
        found = [
            Found(float(score) / share, text)
            for score, text, end in zip(scores, new, ends, strict=True)
            if end and score > -np.inf
        ]
        both = sorted(self._found[row] + found, key=lambda text: -text.score)
        self._found[row] = both[: self.beams]

    def _judge(self) -> None:
        """See which rows are done."""
        share = float(self._step) ** self.power
        for row, found in enumerate(self._found):
            best = self._scores[row, 0] / share
            full = len(found) == self.beams
            self._done[row] |= best == -np.inf or (full and best <= found[-1].score)


def _largest(x: Array, count: int) -> Array:
    """Return where the ``count`` largest of x (n,) are, the largest first."""
    count = min(count, len(x))
    some = np.argpartition(-x, count - 1)[:count]
    order: Array = some[np.argsort(-x[some], kind="stable")]
    return order
