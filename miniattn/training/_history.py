"""What was measured in training, step by step."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from miniattn._typing import Array


class Series(NamedTuple):
    """One measured quantity over the steps of training."""

    steps: Array
    """int64: after how many steps each value was measured."""
    values: Array
    """float64."""


class History:
    """What was measured in training, by name: each a `Series`.

    ``loss``, ``lr`` and (with clipping) ``grad_norm`` have a value for every step; ``valid_loss``,
    ``valid_accuracy`` and so on one for every evaluation.

    Examples
    --------
    >>> from miniattn.training import History
    >>> history = History()
    >>> history.add(1, {"loss": 2.5})
    >>> history.add(2, {"loss": 1.5, "valid_loss": 1.75})
    >>> history["loss"].values
    array([2.5, 1.5])
    >>> history.records()
    [{'step': 1, 'loss': 2.5}, {'step': 2, 'loss': 1.5, 'valid_loss': 1.75}]
    >>> history
    History(2 steps, loss 1.5, valid_loss 1.75)
    """

    def __init__(self) -> None:
        self._series: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append values that were measured after ``step`` steps."""
        for name, value in values.items():
            steps, column = self._series.setdefault(name, ([], []))
            steps.append(step)
            column.append(float(value))

    def __getitem__(self, name: str) -> Series:
        if name not in self._series:
            raise KeyError(f"{name!r}: expected one of {list(self._series)}")
        steps, values = self._series[name]
        return Series(np.array(steps, np.int64), np.array(values, np.float64))

    def __contains__(self, name: object) -> bool:
        return name in self._series

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        last = max((steps[-1] for steps, _ in self._series.values()), default=0)
        values = (f", {name} {values[-1]:.4g}" for name, (_, values) in self._series.items())
        return f"History({last} steps{''.join(values)})"

    def records(self) -> list[dict[str, float]]:
        """Return one dict for each step at which something was measured, for ``plot.history``."""
        records: dict[int, dict[str, float]] = {}
        for name, (steps, values) in self._series.items():
            for step, value in zip(steps, values, strict=True):
                records.setdefault(step, {"step": step})[name] = value
        return [records[step] for step in sorted(records)]

    def state_dict(self) -> dict[str, Array]:
        """Return ``<name>.steps`` and ``<name>.values`` of every series."""
        return {
            f"{name}.{key}": array
            for name in self
            for key, array in zip(("steps", "values"), self[name], strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Replace all series by those of ``state``."""
        names = [key.removesuffix(".steps") for key in state if key.endswith(".steps")]
        series = {name: Series(state[f"{name}.steps"], state[f"{name}.values"]) for name in names}
        for name, (steps, values) in series.items():
            if steps.dtype.kind != "i" or steps.ndim != 1 or values.shape != steps.shape:
                raise ValueError(
                    f"{name}: expected steps (ints) and as many values, "
                    f"got {steps.shape} of {steps.dtype} and {values.shape}"
                )
        if left := state.keys() - {f"{name}.{key}" for name in names for key in Series._fields}:
            raise ValueError(f"state: expected steps and values by name, got also {sorted(left)}")
        self._series = {name: (s.steps.tolist(), s.values.tolist()) for name, s in series.items()}
