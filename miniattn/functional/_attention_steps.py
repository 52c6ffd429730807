"""Attention from one token a row, step after step, on a tape: each time to one key more.

What the kernels are told is worked out by `_attention_calls`, as for any call. It is the same for
all layers that are alike, but for addresses, so that a step asks once; addresses stay as they are.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miniattn import _checking, masks
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.functional._arrays import kernel_input
from miniattn.functional._attention.inputs import checked_scale
from miniattn.functional._attention_calls import (
    _NUMBER,
    WHOLE,
    Options,
    Plan,
    _check_operands,
    plan_of,
)
from miniattn.functional._doubles import is_extreme
from miniattn.functional._tape import Tape
from miniattn.kernels import cache
from miniattn.kernels.attention import units
from miniattn.kernels.attention.operands import PLACE, STRIDES, SUMS, UNFIT
from miniattn.kernels.compile.launch import NO_FACTORS, run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.replay import FACTORS, PIECES, SIZES, WORKERS
from miniattn.kernels.compile.settings import get_num_threads
from miniattn.kernels.compile.tables import address_of, addresses


class Alike(NamedTuple):
    """What layers have in common whose calls differ in addresses alone."""

    heads: int
    options: Options
    bounds: tuple[tuple[int, ...], ...]
    """(4, B): what a row's first token sees, as `masks.lower` says it."""
    cache: tuple[int, ...]
    """The shape of keys and values, (B, G, capacity, D)."""
    dtype: np.dtype[np.floating]


def alike(
    q: Array, keys: Array, mask: masks.Mask | None, scale: float | None, softcap: float | None
) -> Alike | None:
    """Return what calls have in common for which q (B, H, 1, D) attends to ``keys``.

    ``mask`` is that of the first token of each row: later ones move it. None where the mask is no
    bounds, or numbers are such that float32 can't hold them.
    """
    batch, _, capacity, _ = keys.shape
    heads = q.shape[1]
    form = masks.lower(mask, batch, heads, 1, capacity)
    options = Options(checked_scale(scale, q), softcap)
    if form.tiles.size or is_extreme(options):
        return None
    bounds = tuple(tuple(row.tolist()) for row in form[:4])
    return Alike(heads, options, bounds, keys.shape, keys.dtype)


def append(k: Array, v: Array, keys: Array, values: Array, lengths: Array) -> None:
    """Write k and v (B, G, 1, D), or anything of that size, to ``keys`` at ``lengths`` (B,)."""
    batch, heads, capacity, width = keys.shape
    arrays = [kernel_input(k), kernel_input(v), keys, values, lengths]
    sizes = np.array([batch, heads, width, capacity])
    told = Told(sizes, NO_FACTORS, np.array(addresses(arrays)))
    run(cache.append, keys.dtype, 1, batch, told, arrays)


class Steps:
    """The calls of layers that are alike.

    Attributes
    ----------
    tasks : list of Task
        What a call launches; of a step that launches others there is no replay.
    """

    def __init__(self, of: Alike) -> None:
        self.of = of
        batch = of.cache[0]
        self._base = np.array(of.bounds)
        self._bounds = self._base.copy()
        self._moving = np.abs(self._base[:2]) < masks.UNBOUNDED
        self._shared = {
            "lse": empty((batch, of.heads, 1), of.dtype),
            "stats": empty((2, batch, of.heads, 1), of.dtype),
            "bounds": self._bounds,
        }
        self._calls: list[dict[str, Array]] = []
        self._told: list[Told] = []
        self._launches: list[list[int]] = []

    def add(self, tape: Tape, q: Array, keys: Array, values: Array) -> Array:
        """Note a layer's call for q (B, H, 1, D); return the memory of its result, (B, H, 1, D)."""
        out = empty((*q.shape[:3], values.shape[3]), q.dtype)
        first = {"q": q, "k": keys, "v": values, "out": out}
        self._calls.append({**first, **self._shared})
        longest = self._plan(self.of.cache[2])
        if not self._told:
            self.tasks = [step.task for step in longest.steps]
            self._sums = empty(longest.sums or (1,), q.dtype)
            self._tables = longest.sizes.copy(), longest.factors.copy()
        told = Told(*self._tables, longest.operands.copy())
        held = [*self._calls[-1].values(), self._sums]
        numbers = []
        for task, workers, pieces, room in longest.steps:
            memory = empty(room, q.dtype)
            numbers.append(
                tape.note(task, q.dtype, workers, pieces, told._replace(scratch=memory), held)
            )
        self._launches.append(numbers)
        self._told.append(told)
        return out

    def finish(self, tape: Tape) -> None:
        """Learn where on a tape, which is finished, calls are told what they are told."""
        starts = np.array([tape.where(2, told.operands) for told in self._told])
        self._at = starts[:, None] + np.arange(self._told[0].operands.size)
        self._unfit = self._at[:, UNFIT]
        self._names = [_NUMBER[name] for name in self._calls[0]]
        self._places = np.array([[address_of(x) for x in c.values()] for c in self._calls])
        self._rows = np.array(self._launches)
        first = tape.launches[self._rows[0, 0]]
        sizes, factors = self._tables
        self._sizes = tape.sizes[first[SIZES] :][: sizes.size]
        self._factors = tape.factors[first[FACTORS] :][: factors.size]
        self._written: Plan | None = None

    def set_lengths(self, tape: Tape, lengths: Array) -> bool:
        """Tell the calls that their token is at ``lengths`` (B,); return whether it can be."""
        length = int(lengths.max()) + 1
        plan, before = self._plan(length), self._written
        if [step.task for step in plan.steps] != self.tasks:
            return False
        if plan.sums is not None and math.prod(plan.sums) > self._sums.size:
            return False
        np.add(self._base[:2], lengths, out=self._bounds[:2], where=self._moving)
        self._bounds[3] = length
        self._sizes[:], self._factors[:] = plan.sizes, plan.factors
        if before is None or plan.steps != before.steps:
            for numbers, step in zip(self._rows.T, plan.steps, strict=True):
                tape.launches[numbers, WORKERS] = step.workers
                tape.launches[numbers, PIECES] = step.pieces
        if before is None or plan.operands.tobytes() != before.operands.tobytes():
            tape.operands[self._at] = self._operands(plan)
        self._written = plan
        if _checking.ON:
            self._check(length)
        return True

    def are_fit(self, tape: Tape) -> bool:
        """Return whether the last replay met with no numbers that its dtype can't hold."""
        return not tape.told[self._unfit].any()

    def _operands(self, plan: Plan) -> NDArray[np.int64]:
        """Return the tables of operands of all calls."""
        operands = np.empty(self._at.shape, np.int64)
        operands[:] = plan.operands
        operands[:, self._names] = self._places
        operands[:, PLACE:STRIDES] = WHOLE
        operands[:, SUMS] = address_of(self._sums)
        return operands

    def _check(self, length: int) -> None:
        """Raise RuntimeError where a table speaks of what an array doesn't hold."""
        plan = self._plan(length)
        for call, told in zip(self._calls, self._operands(plan), strict=True):
            views = {name: call[name][:, :, :length] for name in ("k", "v")}
            _check_operands({**call, **views}, told, plan.sizes)

    def _plan(self, length: int) -> Plan:
        """Return how a call runs that attends to so many keys."""
        batch, kv_heads, _, width = self.of.cache
        shape = batch, kv_heads, length, width
        layouts = tuple(
            [
                (name, shape if name in ("k", "v") else x.shape, x.strides, x.itemsize)
                for name, x in self._calls[0].items()
            ]
        )
        threads, unit = get_num_threads(), units.chosen()
        return plan_of("forward", unit, layouts, self.of.dtype, self.of.options, threads)
