"""The order of the examples: which of them each step has, and how many steps that makes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.data import Dataset, shuffled, sorted_by_length
from miniattn.training import _saving

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


class Order:
    """The present pass over the data, and where in it a trainer is.

    The order itself is not saved but drawn again, from the state that the generator had when it was
    drawn.
    """

    def __init__(self) -> None:
        self.examples = np.empty(0, np.int64)
        self.at = 0
        self.drawn_from: dict[str, Any] | None = None
        self._lengths: Array | None = None

    def take_up(self, trainer: Trainer, train: Dataset) -> None:
        """Go on within the epoch that was begun, or prepare for a new one."""
        self._lengths = sorted_by_length(train)[1] if trainer.pool else None
        if len(self.examples) != len(train) or self.drawn_from is None:
            self.examples = np.zeros(len(train), np.int64)
            self.at = len(train)
        else:
            self.examples = self._drawn(trainer, _saving.generator_in(self.drawn_from, trainer.rng))

    def next_step(self, trainer: Trainer) -> tuple[list[Array], bool]:
        """Return which examples each batch of the next step has, and whether they end the epoch."""
        if self.at == len(self.examples):
            self.drawn_from = _saving.rng_state(trainer.rng)
            self.examples = self._drawn(trainer, trainer.rng)
            self.at = 0
        size = trainer.batch_size
        taken = self.examples[self.at :][: trainer.accumulate * size]
        self.at += len(taken)
        parts = [taken[at : at + size] for at in range(0, len(taken), size)]
        return parts, self.at == len(self.examples)

    def seed(self) -> int:
        """Return a number that depends on the state from which the epoch's order was drawn.

        Nothing is drawn for it: without dropout, the order of the next epoch is that of one
        process.
        """
        words = json.dumps(self.drawn_from).encode()
        return int.from_bytes(hashlib.sha256(words).digest()[:8], "little")

    def last_step(self, trainer: Trainer, epochs: int | None, steps: int | None) -> int:
        """Return the step that ends as many epochs, or is that many steps, in total."""
        if (epochs is None) == (steps is None):
            raise ValueError(f"epochs, steps: expected exactly one, got {epochs} and {steps}")
        if steps is not None:
            return _checks.integer("steps", steps, least=0)
        left = _checks.integer("epochs", epochs, least=0) - trainer.epoch
        size, a_step = len(self.examples), trainer.accumulate * trainer.batch_size
        steps_left_in_epoch = -(-(size - self.at % size) // a_step)
        return trainer.step + (
            steps_left_in_epoch + (left - 1) * -(-size // a_step) if left > 0 else 0
        )

    def _drawn(self, trainer: Trainer, rng: np.random.Generator) -> Array:
        return shuffled(
            len(self.examples), trainer.batch_size, rng, lengths=self._lengths, pool=trainer.pool
        )
