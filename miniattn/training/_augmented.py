"""Examples changed at random, another way in every pass over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from miniattn.data import Dataset

Augment: TypeAlias = Callable[[Any, np.random.Generator], Any]


class Augmented:
    """A dataset whose x are given to ``augment`` with a generator of their own.

    The generator follows from the epoch's seed and the example's number alone: what an example
    becomes does not depend on who asks, when, or for which others.
    """

    def __init__(self, dataset: Dataset, augment: Augment, seed: int) -> None:
        self.dataset, self.augment, self.seed = dataset, augment, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        x, y = self.dataset[index]
        return self.augment(x, np.random.default_rng([self.seed, index])), y
