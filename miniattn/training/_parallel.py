"""A trainer among others: which examples are its own, and what all of them have to agree on."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miniattn import _checks, distributed
from miniattn._typing import Array
from miniattn.data import Batch, Dataset
from miniattn.distributed._comm import Comm, agree, broadcast, checked, gather
from miniattn.distributed._sums import GradientSums
from miniattn.training import _batches, _saving

if TYPE_CHECKING:
    from miniattn.nn import Module
    from miniattn.nn._attention.ranks import Ranks
    from miniattn.training._trainer import Trainer


class _Note(NamedTuple):
    """What a rank tells the others at the end of a step."""

    losses: list[float]
    """Of each of its batches, weighted by its share of the targets."""
    tokens: int


class Parallel:
    """One rank of a training by several.

    Every batch is cut into ``pieces``, of which each rank has as many neighbours. Random numbers
    are drawn for a piece, by its place in the step, and not for a rank. Where a model shares each
    sequence among ranks, these have the same pieces, and of each their own part.
    """

    def __init__(self, trainer: Trainer, comm: object, pieces: int | None) -> None:
        self.comm: Comm = checked(comm)
        self.rank = self.comm.Get_rank()
        self._sharing = _ranks_of(trainer.model)
        self.group, self.groups, self.part = self._place()
        self.pieces = self.groups if pieces is None else _checks.integer("pieces", pieces, least=1)
        each, rest = divmod(self.pieces, self.groups)
        if rest or each & (each - 1) or not each:
            of_ranks = "ranks" if self._sharing is None else "groups of ranks"
            raise ValueError(
                f"pieces: expected the number of {of_ranks}, {self.groups}, times a power of two, "
                f"got {self.pieces}"
            )
        self.own = range(self.group * each, (self.group + 1) * each)
        self._sums = GradientSums(self.comm, trainer.model.parameters())

    def _place(self) -> tuple[int, int, int]:
        """Return which group of ranks this one is in, how many there are, and its part there."""
        if self._sharing is None:
            return self.rank, self.comm.Get_size(), 0
        leader = gather(self._sharing.comm, self.rank)[0]
        leaders = gather(self.comm, leader)
        groups = sorted(set(leaders))
        if len({leaders.count(each) for each in groups}) > 1:
            raise ValueError(
                f"comm: expected groups of ranks of one size, got those led by {leaders}"
            )
        return groups.index(leader), len(groups), self._sharing.comm.Get_rank()

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
        seed = trainer._order.seed()
        trainer.model.zero_grad()
        self._sums.begin()
        self._fine = True
        losses: list[float] = []
        for n, piece, counted in zip(self.own, batches, counts, strict=True):
            for a, (batch, count) in enumerate(zip(piece, counted, strict=True)):
                if batch is None or not self._fine:
                    continue
                last = n == self.own[-1] and a == len(step) - 1
                rng = np.random.default_rng([seed, trainer.step, a, n, self.part])
                goes_on = functools.partial(self._goes_on, last)
                losses.append(
                    _batches.forward_backward(trainer, batch, count / total, rng, goes_on)
                )
            if n != self.own[-1]:
                self._sums.add()
        tokens = sum(b.num_tokens for piece in batches for b in piece if b is not None)
        notes = self._sums.end(_Note(losses, tokens))
        # Rounded once, in whatever order the ranks have their batches.
        loss = math.fsum(loss for note in notes for loss in note.losses)
        return loss, sum(note.tokens for note in notes)

    def _goes_on(self, last: bool, loss: float) -> bool:
        """Return whether a loss is finite, on all ranks that share the sequence."""
        self._fine = math.isfinite(loss)
        if self._sharing is not None:
            self._fine = all(gather(self._sharing.comm, self._fine))
        if self._fine and last:
            self._sums.watch()
        return self._fine

    def own_part(self, batch: Batch) -> Batch:
        """Return this rank's part of the sequences of a batch."""
        if self._sharing is None:
            return batch
        if batch.keywords:
            raise ValueError(
                "collate: expected no keywords for a model whose ranks share each sequence, "
                f"got {list(batch.keywords)}"
            )
        comm, layout = self._sharing.comm, self._sharing.layout
        inputs, targets = (
            [distributed.share(x, comm, axis=1, layout=layout) for x in arrays]
            for arrays in (batch.inputs, (batch.targets,))
        )
        return Batch(tuple(inputs), targets[0])

    def measured(
        self, trainer: Trainer, dataset: Dataset, parts: Sequence[Array]
    ) -> list[tuple[float, dict[str, float]]]:
        """Return what `_batches.measure` says of each part of a dataset; they are dealt out."""
        own = [
            _batches.measure(trainer, dataset, part) for part in parts[self.group :: self.groups]
        ]
        everyone = gather(self.comm, (self.group, own))
        return [
            dealt[n // self.groups]
            for n in range(len(parts))
            for group, dealt in everyone
            if group == n % self.groups
        ]

    def _batch(self, trainer: Trainer, train: Dataset, part: Array, n: int) -> Batch | None:
        """Return piece ``n`` of a batch, None where there are fewer examples than pieces."""
        size = len(part)
        taken = part[n * size // self.pieces : (n + 1) * size // self.pieces]
        return _batches.made(trainer, train, taken) if len(taken) else None


def parallel(trainer: Trainer, comm: object, pieces: int | None) -> Parallel | None:
    """Return what a trainer is among others, None where it is alone, which its model may not be."""
    if comm is not None:
        return Parallel(trainer, comm, pieces)
    if pieces is not None:
        raise ValueError(f"pieces: expected None without comm, got {pieces}")
    if _ranks_of(trainer.model) is not None:
        raise ValueError(
            "comm: expected a communicator for a model whose ranks share each sequence, got None: "
            "its gradients are sums over all of them"
        )
    return None


def _ranks_of(model: Module) -> Ranks | None:
    """Return who shares the sequences of a model, if anybody does."""
    places = [getattr(module, "ranks", None) for module in model.modules()]
    found: list[Ranks] = [ranks for ranks in places if ranks is not None]
    if any(other.comm is not found[0].comm or other.split != found[0].split for other in found):
        raise ValueError("model: expected one comm and one split for all its layers, got several")
    return found[0] if found else None


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
