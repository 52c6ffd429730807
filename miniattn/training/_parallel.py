"""A trainer among others: which examples are its own, and what all of them have to agree on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.data import Batch, Dataset
from miniattn.distributed._comm import Comm, agree, broadcast, checked, gather
from miniattn.distributed._sums import GradientSums
from miniattn.training import _saving

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


class _Note(NamedTuple):
    """What a rank tells the others at the end of a step."""

    losses: list[float]
    """Of each of its batches, weighted by its share of the targets."""
    tokens: int


class Parallel:
    """One rank of a data-parallel training.

    Every batch is cut into ``pieces``, of which each rank has as many neighbours. Random numbers
    are drawn for a piece, by its place in the step, and not for a rank.
    """

    def __init__(self, trainer: Trainer, comm: object, pieces: int | None) -> None:
        self.comm: Comm = checked(comm)
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
        self.pieces = self.size if pieces is None else _checks.integer("pieces", pieces, least=1)
        each, rest = divmod(self.pieces, self.size)
        if rest or each & (each - 1) or not each:
            raise ValueError(
                f"pieces: expected the number of ranks, {self.size}, times a power of two, "
                f"got {self.pieces}"
            )
        self.own = range(self.rank * each, (self.rank + 1) * each)
        self._sums = GradientSums(self.comm, trainer.model.parameters())

    def begin(self, trainer: Trainer, settings: Mapping[str, object]) -> None:
        """Agree on settings, and begin with what rank 0 has: parameters, optimiser, place."""
        agree(self.comm, {**settings, **_settings(trainer), "pieces": self.pieces})
        state = broadcast(self.comm, _saving.state_of(trainer) if self.rank == 0 else None)
        if self.rank and state is not None:
            _saving.restore(trainer, state.arrays, state.metadata)

    def stopped(self, reason: str) -> str:
        """Return why training is to stop, if any rank has a reason."""
        return next(filter(None, gather(self.comm, reason)), "")

    def together(self) -> None:
        """Return when all ranks are here."""
        gather(self.comm, None)

    def gradient(
        self, trainer: Trainer, train: Dataset, step: Sequence[Array]
    ) -> tuple[float, int]:
        """Give every parameter the gradient of a step on all ranks; return loss and tokens.

        ``step`` has, for each batch, the numbers of its examples.
        """
        batches = [[self._batch(trainer, train, part, n) for part in step] for n in self.own]
        counts = [[_count(trainer, batch) for batch in piece] for piece in batches]
        # Counts may be sums of weights: added up as if exactly, in whatever order ranks have them.
        everyone = gather(self.comm, [count for piece in counts for count in piece])
        total = math.fsum(count for own in everyone for count in own) or 1
        seed = _seed(trainer._drawn_from)
        trainer.model.zero_grad()
        self._sums.begin()
        losses: list[float] = []
        for n, piece, counted in zip(self.own, batches, counts, strict=True):
            for a, (batch, count) in enumerate(zip(piece, counted, strict=True)):
                if batch is None or not all(map(math.isfinite, losses)):
                    continue
                last = n == self.own[-1] and a == len(step) - 1
                rng = np.random.default_rng([seed, trainer.step, a, n])
                losses.append(
                    trainer._forward_backward(
                        batch, count / total, rng, self._sums.watch if last else None
                    )
                )
            if n != self.own[-1]:
                self._sums.add()
        tokens = sum(b.num_tokens for piece in batches for b in piece if b is not None)
        notes = self._sums.end(_Note(losses, tokens))
        # Rounded once, in whatever order the ranks have their batches.
        loss = math.fsum(loss for note in notes for loss in note.losses)
        return loss, sum(note.tokens for note in notes)

    def measured(
        self, trainer: Trainer, dataset: Dataset, parts: Sequence[Array]
    ) -> list[tuple[float, dict[str, float]]]:
        """Return what `Trainer._measure` says of each part of a dataset; they are dealt out."""
        own = [trainer._measure(dataset, part) for part in parts[self.rank :: self.size]]
        dealt = gather(self.comm, own)
        return [dealt[n % self.size][n // self.size] for n in range(len(parts))]

    def _batch(self, trainer: Trainer, train: Dataset, part: Array, n: int) -> Batch | None:
        """Return piece ``n`` of a batch, None where there are fewer examples than pieces."""
        size = len(part)
        taken = part[n * size // self.pieces : (n + 1) * size // self.pieces]
        return trainer.collate([train[int(i)] for i in taken]) if len(taken) else None


def _seed(drawn_from: dict[str, Any] | None) -> int:
    """Return a number that depends on the state from which an epoch's order was drawn.

    Nothing is drawn for it: without dropout, the order of the next epoch is that of one process.
    """
    words = json.dumps(drawn_from).encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "little")


def _count(trainer: Trainer, batch: Batch | None) -> float:
    return 0 if batch is None else trainer.loss.count(batch.targets)


def _settings(trainer: Trainer) -> dict[str, Any]:
    """Return what must be the same on every rank before arrays are exchanged."""
    names = ("batch_size", "accumulate", "clip_norm", "pool")
    shapes = {
        f"parameter {name}": f"{p.shape} {p.dtype}{'' if p.trainable else ' frozen'}"
        for name, p in trainer.model.named_parameters()
    }
    return {
        **{name: getattr(trainer, name) for name in names},
        "loss": repr(trainer.loss),
        "optimizer": type(trainer.optimizer).__name__,
        "callbacks": [callback.key() for callback in trainer.callbacks],
        **shapes,
    }
