"""Something to do during training, and the callback that ends it in time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from miniattn import _checks, checkpoint
from miniattn._disk import check_writable
from miniattn._typing import Array

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer

PathLike: TypeAlias = str | os.PathLike[str]

INTERRUPTED = "interrupted"
"""Why training stopped, after Ctrl-C."""


class Callback:
    """Something to do during training: override any of these.

    A callback may look at everything in the trainer, write above the progress bar with
    ``trainer.write(text)``, end training with ``trainer.stop(reason)`` and ``trainer.save(path)``.
    One that remembers something returns it from ``state_dict``; it is then part of every
    checkpoint, under its ``key()``.

    Examples
    --------
    >>> from miniattn.training import Callback
    >>> class Print(Callback):
    ...     def on_evaluation(self, trainer, result):
    ...         trainer.write(f"step {trainer.step}: {result['loss']:.3f}")
    """

    def on_start(self, trainer: Trainer) -> None:
        """Do something at the start of every `Trainer.fit`; to stop it makes no step."""

    def on_step(self, trainer: Trainer) -> None:
        """Do something after every update."""

    def before_evaluation(self, trainer: Trainer) -> None:
        """Do something before every evaluation within training."""

    def on_evaluation(self, trainer: Trainer, result: Mapping[str, float]) -> None:
        """Do something after every evaluation within training."""

    def on_epoch(self, trainer: Trainer) -> None:
        """Do something after every pass over the training data."""

    def on_end(self, trainer: Trainer) -> None:
        """Do something at the end of every `Trainer.fit`, before it saves for the last time."""

    def key(self) -> str:
        """Return the name of its state in checkpoints; that of its class by default."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Array]:
        """Return what must survive a resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state_dict`` returned."""


class EarlyStopping(Callback):
    """End training when an evaluation metric has not improved for a while.

    A training that was ended here stays ended: a later `Trainer.fit`, of a loaded trainer too,
    makes no step unless ``patience`` is larger by then.

    Parameters
    ----------
    patience : int >= 1
        How many evaluations in a row without a new best end training.
    metric : str, default "loss"
        Which entry of the evaluation's result to watch.
    larger_is_better : bool, default False
        True for an accuracy.
    min_delta : float >= 0, default 0
        By how much a new best must be better.
    restore_best : bool, default False
        Give the model its best parameters when `Trainer.fit` ends, here or because all steps are
        done (not after Ctrl-C). A later fit goes on from the last parameters. Both are part of
        checkpoints.
    save_best_to : path, optional
        Where to save the model at every new best, by `checkpoint.save`, with the step and the
        metric as metadata. `models.load` reads it.

    Attributes
    ----------
    best : float
        The best value so far; inf or -inf at first.
    """

    def __init__(
        self,
        patience: int,
        *,
        metric: str = "loss",
        larger_is_better: bool = False,
        min_delta: float = 0.0,
        restore_best: bool = False,
        save_best_to: PathLike | None = None,
    ) -> None:
        self.patience = _checks.integer("patience", patience, least=1)
        self.metric = metric
        self.sign = -1.0 if _checks.flag("larger_is_better", larger_is_better) else 1.0
        self.min_delta = _checks.number("min_delta", min_delta)
        self.restore_best = _checks.flag("restore_best", restore_best)
        self.save_best_to = save_best_to
        self.best = self.sign * math.inf
        self.waited = 0
        self._best: dict[str, Array] = {}
        self._last: dict[str, Array] = {}  # what the model had before it was given its best

    def on_start(self, trainer: Trainer) -> None:
        """Go on from the last parameters, or not at all where it was waited long enough."""
        if self.save_best_to is not None and trainer.is_main:
            check_writable("save_best_to", self.save_best_to)
        if self._last:
            trainer.model.load_state_dict(self._last)
            self._last = {}
        self._stop_if_waited(trainer)

    def on_evaluation(self, trainer: Trainer, result: Mapping[str, float]) -> None:
        """Compare the metric with the best so far."""
        if self.metric not in result:
            raise ValueError(f"metric: expected one of {list(result)}, got {self.metric!r}")
        value = result[self.metric]
        if self.sign * value < self.sign * self.best - self.min_delta:
            self.best, self.waited = value, 0
            if self.restore_best:
                self._best = trainer.model.state_dict()
            if self.save_best_to is not None and trainer.is_main:
                about = {"step": trainer.step, self.metric: value}
                checkpoint.save(self.save_best_to, trainer.model, metadata=about)
            return
        self.waited += 1
        self._stop_if_waited(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Give the model its best parameters, unless training was only interrupted."""
        if self._best and trainer.stopped != INTERRUPTED:
            self._last = trainer.model.state_dict()
            trainer.model.load_state_dict(self._best)

    def key(self) -> str:
        """Return what is watched as well: another metric has another best."""
        return f"EarlyStopping({'least' if self.sign > 0 else 'most'} {self.metric})"

    def state_dict(self) -> dict[str, Array]:
        """Return the best value, the best parameters, and how long it was waited for better."""
        state = {"best": np.array(self.best), "waited": np.array(self.waited)}
        state |= {f"parameters.{name}": array for name, array in self._best.items()}
        return state | {f"last.{name}": array for name, array in self._last.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state_dict`` returned."""
        best, waited = float(state["best"]), int(state["waited"])
        entries = checkpoint.Checkpoint(dict(state), None)
        self.best, self.waited = best, waited
        self._best, self._last = entries.part("parameters"), entries.part("last")

    def _stop_if_waited(self, trainer: Trainer) -> None:
        if self.waited >= self.patience:
            trainer.stop(f"no better {self.metric} than {self.best:.4g}")
