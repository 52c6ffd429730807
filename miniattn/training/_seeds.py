"""The same training from several seeds: what of a result is chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from miniattn import _checks
from miniattn.training._history import History


def seeds(
    run: Callable[[np.random.Generator], History], seeds: int | Iterable[int] = 5
) -> dict[int, History]:
    """Run a training once for each seed, and return the histories, to draw their spread.

    Parameters
    ----------
    run : callable (rng) -> History
        Makes a model and trains it, drawing everything from ``rng``: weights, order, dropout.
    seeds : int or ints, default 5
        How many, from 0 on, or which.

    Returns
    -------
    dict of int to History
        By seed; `plot.history` draws the mean of all and the range between the least and the
        greatest.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import training
    >>> def run(rng):
    ...     history = training.History()
    ...     history.add(1, {"loss": rng.random()})
    ...     return history
    >>> histories = training.seeds(run, 3)
    >>> [float(h["loss"].values[0].round(2)) for h in histories.values()]
    [0.64, 0.51, 0.26]
    """
    _checks.function("run", run)
    if isinstance(seeds, Iterable):
        chosen = [_checks.integer("seeds", seed, least=0) for seed in seeds]
    else:
        chosen = list(range(_checks.integer("seeds", seeds, least=1)))
    if not chosen:
        raise ValueError("seeds: expected at least one, got none")
    found = {}
    for seed in chosen:
        history = run(np.random.default_rng(seed))
        if not isinstance(history, History):
            raise TypeError(f"run: expected a History from it, got {_checks.shown(history)}")
        found[seed] = history
    return found
