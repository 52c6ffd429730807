"""Weights averaged over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from miniattn import _checks, checkpoint
from miniattn._typing import Array
from miniattn.training._callbacks import INTERRUPTED, Callback

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


class WeightAveraging(Callback):
    """Evaluates, and ends with, an average of the parameters instead of the last ones.

    With a ``decay`` it is exponential, average = decay · average + (1 − decay) · parameters after
    every step [1]_; without one it is the mean over all steps from ``start`` on [2]_.

    Training itself goes on from the parameters, not from their average; both are part of
    checkpoints. Within training, evaluations see the average: put this after other callbacks, and
    they see it too (an `EarlyStopping` then keeps the best average).

    Parameters
    ----------
    decay : float in [0, 1), optional
        The exponential average's memory: 0.999 remembers about 1,000 steps. In the first steps
        it is less, (1 + n) / (10 + n) after n steps.
    start : int >= 0, default 0
        The step after which averaging begins.

    References
    ----------
    .. [1] Polyak, Juditsky. "Acceleration of stochastic approximation by averaging" (1992).
    .. [2] Izmailov et al. "Averaging weights leads to wider optima and better generalization"
       (2018), section 3.

    Examples
    --------
    >>> from miniattn.training import WeightAveraging
    >>> callbacks = [WeightAveraging(decay=0.99)]
    """

    def __init__(self, decay: float | None = None, *, start: int = 0) -> None:
        self.decay = None if decay is None else _checks.probability("decay", decay)
        self.start = _checks.integer("start", start, least=0)
        self.count = 0
        self._average: dict[str, Array] = {}
        self._last: dict[str, Array] = {}  # the parameters, while the model has their average

    def on_start(self, trainer: Trainer) -> None:
        """Go on from the last parameters."""
        self._give_back(trainer)

    def on_step(self, trainer: Trainer) -> None:
        """Take the parameters into the average."""
        if trainer.step <= self.start:
            return
        kept = self._kept()
        self.count += 1
        for name, parameter in trainer.model.named_parameters():
            if self.count == 1:
                self._average[name] = parameter.data.copy()
            else:
                average = self._average[name]
                average += (1 - kept) * (parameter.data - average)

    def before_evaluation(self, trainer: Trainer) -> None:
        """Give the model the average."""
        if self._average and not self._last:
            self._last = {n: p.data.copy() for n, p in trainer.model.named_parameters()}
            _put(trainer, self._average)

    def on_evaluation(self, trainer: Trainer, result: Mapping[str, float]) -> None:
        """Give the model its parameters again."""
        self._give_back(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Give the model the average, unless training was only interrupted."""
        if trainer.stopped != INTERRUPTED:
            self.before_evaluation(trainer)

    def state_dict(self) -> dict[str, Array]:
        """Return the average, how many steps are in it, and the parameters it stands for."""
        state = {"count": np.array(self.count)}
        state |= {f"average.{name}": array for name, array in self._average.items()}
        return state | {f"last.{name}": array for name, array in self._last.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state_dict`` returned."""
        count = int(state["count"])
        entries = checkpoint.Checkpoint(dict(state), None)
        self._average, self._last = entries.part("average"), entries.part("last")
        self.count = count

    def _kept(self) -> float:
        """Return the share of the average that is kept at the next step."""
        n = self.count
        if self.decay is None:
            return n / (n + 1)
        return min(self.decay, (1 + n) / (10 + n))

    def _give_back(self, trainer: Trainer) -> None:
        if self._last:
            _put(trainer, self._last)
            self._last = {}


def _put(trainer: Trainer, arrays: Mapping[str, Array]) -> None:
    for name, parameter in trainer.model.named_parameters():
        parameter.data[...] = arrays[name]
