"""A tape of launches: many, noted once, and made again by one call.

What a step of decoding launches is the same from token to token, and so are the addresses that it
works on if memory is kept. What Python does between launches then only takes time: three quarters
of a token of a small model. A tape notes what `launch.run` is told, and
`kernels.compile.replay` makes all of these launches from compiled code, one after the other.

A tape knows of launches alone. What NumPy computes between them is not on it: who records sees to
it that there is nothing.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from miniattn import _checking
from miniattn._memory import empty
from miniattn.kernels.compile import launch
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.replay import COLUMNS, replay
from miniattn.kernels.compile.settings import Task
from miniattn.kernels.compile.settings import get_num_threads as get_num_threads
from miniattn.kernels.compile.tables import address_of

APART = 16  # words, so that the scratch memories of two threads begin in cache lines of their own


class Tape:
    """Launches, in their order.

    Attributes
    ----------
    launches : int64 array, shape (launches, 7)
    sizes, factors, operands : arrays of one axis
        What the launches are told, one after the other. They may be written to between two replays.
    told : int64 array like operands
        What the last replay was told, and what its launches left there.
    """

    def __init__(self) -> None:
        self._rows: list[list[int]] = []
        self._tables: tuple[dict[int, int], ...] = ({}, {}, {})  # where the table of an id begins
        self._parts: tuple[list[NDArray[Any]], ...] = ([], [], [])
        self._held: list[Any] = []  # arrays at whose addresses launches work
        self._words = 0

    def note(
        self,
        task: Task,
        dtype: DTypeLike,
        workers: int,
        pieces: int,
        told: Told,
        arrays: Collection[NDArray[Any]],
    ) -> int:
        """Add a launch, told as `launch.run` is; return its number. Tables may be shared."""
        places = [self._place(which, table) for which, table in enumerate(told[:3])]
        words = 0
        if told.scratch is not None:
            words = -(-told.scratch.strides[0] // 8 // APART) * APART
        self._words = max(self._words, workers * words)
        self._rows.append([task.address(dtype), workers, pieces, *places, 8 * words])
        self._held += [*told[:3], *arrays]
        return len(self._rows) - 1

    def where(self, which: int, table: NDArray[Any]) -> int:
        """Return where a table of sizes (0), factors (1) or operands (2) begins among all."""
        return self._tables[which][id(table)]

    def finish(self) -> None:
        """Lay out what was noted, and memory for the launches to work in."""
        self.launches = np.array(self._rows, np.int64).reshape(-1, COLUMNS)
        kinds = np.int64, np.float64, np.int64
        self.sizes, self.factors, self.operands = (
            np.concatenate([*parts, np.zeros(1, kind)])
            for parts, kind in zip(self._parts, kinds, strict=True)
        )
        self.told = self.operands.copy()
        self._scratch = empty(max(self._words, APART), np.float64)

    def play(self) -> None:
        """Make all launches again."""
        self.told[:] = self.operands  # some count in what they are told, or leave a word there
        tables = self.sizes, self.factors, self.told
        replay(self.launches, *tables, address_of(self._scratch))
        if _checking.ON:
            arrays = [x for x in self._held if isinstance(x, np.ndarray)]
            _checking.fences("replay", (*arrays, self._scratch))

    def _place(self, which: int, table: NDArray[Any]) -> int:
        starts, parts = self._tables[which], self._parts[which]
        if id(table) not in starts:
            starts[id(table)] = sum(part.size for part in parts)
            parts.append(table.copy())
        return starts[id(table)]


@contextlib.contextmanager
def recording(tape: Tape | None) -> Iterator[None]:
    """Note on ``tape``, or nowhere, what this thread launches within; it is launched as ever."""
    before, launch.recorder.tape = launch.recorder.tape, tape
    try:
        yield
    finally:
        launch.recorder.tape = before
