"""How a call of attention runs: worked out from layouts and options alone, once for each.

The addresses of its arrays are all that a call adds to its `Plan`. To work plans out anew took most
of a small call's time.
"""

import functools
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checking, masks
from miniattn._memory import empty, scratch
from miniattn._typing import Array, Shape
from miniattn.functional import _scores as scores
from miniattn.kernels import registers as simd
from miniattn.kernels.attention import units
from miniattn.kernels.attention.masking import SIDE
from miniattn.kernels.attention.operands import (
    AXES,
    DTABLES,
    OPERANDS,
    PLACE,
    SEED,
    STRIDES,
    SUMS,
    UNFIT,
    Place,
)
from miniattn.kernels.attention.problem import SIZES, SOFTMAX, Problem
from miniattn.kernels.attention.units import Outline
from miniattn.kernels.compile.launch import run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import get_num_threads
from miniattn.kernels.compile.tables import address_of, elements
from miniattn.scores import Score

# An operand's name, its shape of four axes or fewer, its strides and its items in bytes.
Layout: TypeAlias = tuple[str, Shape, Shape, int]
# Attention in one direction or the other, by one of the units, or its weights, pooled.
Kind: TypeAlias = Literal["forward", "backward", "map"]

WHOLE = Place()
WORTH_A_THREAD = 2**18  # multiply-adds: to wake a thread takes as long

_NUMBER = {name: i for i, name in enumerate(OPERANDS)}


class Options(NamedTuple):
    """The numbers of a call."""

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    bins: tuple[int, int] = (0, 0)
    normalizer: int = SOFTMAX


class Besides:
    """What belongs to a call besides arrays and numbers, and what it leaves."""

    def __init__(
        self, mask: masks.Mask | None = None, seed: int = 0, score: Score | None = None
    ) -> None:
        self.mask = mask
        self.seed = seed
        self.score = score
        self.dtables: Array | None = None
        """(pieces, numbers): parts of the gradients of the tables that a score reads."""


class Step(NamedTuple):
    """One launch."""

    task: Any
    workers: int
    pieces: int
    scratch: tuple[int, int]


class Plan(NamedTuple):
    """The launches of a call, and what they are told."""

    steps: tuple[Step, ...]
    sizes: NDArray[np.int64]
    factors: NDArray[np.float64]
    operands: NDArray[np.int64]
    """The table of operands, in which only addresses and the seed are missing."""
    sums: Shape | None
    """The shape of what steps leave for later ones."""
    remakes: tuple[str, ...]
    """Operands that steps write once more on the way, and the caller keeps: they get copies."""
    fallback: str | None
    """The unit that does it in the same dtype, if a kernel finds its operands unfit."""


def execute(
    kind: Kind,
    arrays: dict[str, Array],
    options: Options,
    besides: Besides,
    place: Place = WHOLE,
    unit: str | None = None,
) -> bool:
    """Run the kernels of a call on its operands, which are arrays of four axes.

    ``place`` says which part of a whole they are, for dropout: a mask says it by itself. ``unit``
    is who shall do it, by name; otherwise who was chosen, or who pays.

    Returns whether the numbers were fit for their dtype: where not, finite ones may have led to
    others.
    """
    q = arrays["q"]
    dtype = q.dtype
    B, H, T, _ = q.shape
    if besides.mask is not None:
        arrays = arrays | _rules(besides.mask, B, H, T, arrays["k"].shape[2])
    door = None
    if besides.score is not None:
        door = scores.door(besides.score, dtype, B, kind == "backward")
        arrays = arrays | {"score": door.words}
    layouts = tuple(
        [
            (name, x.shape, x.strides, x.itemsize)
            for name, x in arrays.items()
            if name != "words"  # whose number is another for each mask
        ]
    )
    addresses = [(_NUMBER[name], address_of(x)) for name, x in arrays.items()]
    unit = unit or units.chosen()
    while True:
        plan = plan_of(kind, unit, layouts, dtype, options, get_num_threads())
        operands = plan.operands.copy()
        for number, address in addresses:
            operands[number] = address
        operands[SEED] = besides.seed
        operands[PLACE:STRIDES] = place
        used = _with_copies(arrays, plan.remakes, operands) if plan.remakes else arrays
        sums = None if plan.sums is None else empty(plan.sums, dtype)
        if sums is not None:
            operands[SUMS] = address_of(sums)
        if _checking.ON and plan.steps:
            _check_operands(used, operands, plan.sizes)
        memory = list(used.values()) if sums is None else [*used.values(), sums]
        if door is not None and kind == "backward":
            pieces = plan.steps[0].pieces if plan.steps else 0
            besides.dtables = np.zeros((pieces, door.sums))
            operands[DTABLES] = address_of(besides.dtables)
        for task, workers, pieces, room in plan.steps:
            told = Told(plan.sizes, plan.factors, operands, scratch(*room, dtype))
            run(task, dtype, workers, pieces, told, memory)
            if operands[UNFIT] and dtype != np.float64:  # it is done again, in another way
                break
        if door is not None and besides.score is not None:
            scores.raise_failure(door, besides.score)
        if not operands[UNFIT]:
            return True
        if plan.fallback is None:
            return False
        unit = plan.fallback


def _with_copies(
    arrays: dict[str, Array], names: tuple[str, ...], operands: NDArray[np.int64]
) -> dict[str, Array]:
    """Return the operands with copies of those named, of which the table is told."""
    copies = {name: arrays[name].copy() for name in names}
    for name, x in copies.items():
        at = STRIDES + AXES * _NUMBER[name]
        operands[_NUMBER[name]] = address_of(x)
        operands[at : at + x.ndim] = elements(x.shape, x.strides, x.itemsize)
    return arrays | copies


# What kernels take the axes of an operand to be: sizes by letter, R and C those of a map.
_AXES = {
    "q": "BHTD",
    "k": "BGSD",
    "v": "BGSV",
    "out": "BHTV",
    "lse": "BHT",
    "stats": "2BHT",
    "bias": "BHTS",
    "dout": "BHTV",
    "dq": "BHTD",
    "dk": "BGSD",
    "dv": "BGSV",
    "dbias": "BHTS",
    "bounds": "4B",
    "tiles": "BHts",
    "dlse": "BHT",
    "delta": "BHT",
    "sink": "H",
    "score": "w",
}


def _check_operands(
    arrays: dict[str, Array], operands: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Raise RuntimeError where the table of operands speaks of what an array doesn't hold."""
    length = dict(zip("BHGTSDV.RC", sizes.tolist(), strict=False), **{"2": 2, "4": 4})
    length |= {"t": -(-length["T"] // SIDE), "s": -(-length["S"] // SIDE)}  # tiles of a tile map
    length["w"] = arrays["score"].size if "score" in arrays else 0
    for name, x in arrays.items():
        if name == "words":
            _checking.contiguous(name, x)
            continue
        letters = "BHRC" if name == "out" and length["R"] else _AXES[name]
        at = STRIDES + AXES * _NUMBER[name]
        steps = operands[at : at + len(letters)].tolist()
        _checking.operand(name, x, [length[letter] for letter in letters], steps)


# --- Plans ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def plan_of(
    kind: Kind,
    unit: str | None,
    layouts: tuple[Layout, ...],
    dtype: np.dtype[Any],
    options: Options,
    threads: int,
) -> Plan:
    """Return how a call runs, by the unit named if it can, on operands that lie like this."""
    shapes = {layout[0]: layout[1] for layout in layouts}
    lanes = simd.LANES * 4 // dtype.itemsize
    asked = _problem(shapes, options)
    # Without heads nothing is to be computed, and no kernel can say which share a key's.
    outline, fallback = Outline(asked, []), None
    if asked.G:
        outline, fallback = _outline(kind, unit, asked, lanes, shapes.get("dbias"))
    problem, parts, sums, remakes = outline
    pairs = problem.B * problem.H * problem.T * problem.S
    threads = min(threads, 1 + pairs * (problem.D + problem.Dv) // WORTH_A_THREAD)
    steps = []
    for task, (pieces, room) in parts:
        workers = max(1, min(pieces, threads))
        # Each worker's part is a whole number of cache lines.
        steps.append(Step(task, workers, pieces, (workers, -(-room // 16) * 16)))
    sizes, factors = np.array(problem[:SIZES]), np.array(problem[SIZES:])
    table = _table(layouts, sums)
    return Plan(tuple(steps), sizes, factors, table, sums, remakes, fallback)


def _outline(
    kind: Kind, name: str | None, problem: Problem, lanes: int, dbias: Shape | None
) -> tuple[Outline, str | None]:
    """Return which kernels do a call, and the unit that does it where they find numbers unfit."""
    unit = units.unit_for(problem, lanes, name)
    if kind == "map":
        return unit.weights(problem, lanes), None
    if kind == "forward":
        return unit.forward(problem, lanes), unit.fallback
    return unit.backward(problem, lanes, dbias), unit.fallback


def _problem(shapes: dict[str, Shape], options: Options) -> Problem:
    """Return sizes and options in the form that kernels know them."""
    B, H, T, D = shapes["q"]
    _, G, S, _ = shapes["k"]
    Dv = shapes["v"][3] if "v" in shapes else D
    scale, softcap, dropout, bins, normalizer = options
    scored = "score" in shapes
    measure = measure_of(scale, softcap, scored or "bias" in shapes or "sink" in shapes)
    numbers = scale, measure, softcap or 0.0, dropout
    return Problem(B, H, G, T, S, D, Dv, 1, *bins, int(scored), normalizer, *numbers)


def measure_of(scale: float, softcap: float | None, changed: bool) -> float:
    """Return what the kernels' scores are to be multiplied by, to be those of the formula.

    Where nothing stands between the product q·k and the exponential, they are products, and the
    scale is left to the exponential. It has to be positive, for a maximum to remain one.
    ``changed`` says whether anything but a softcap does: bias, sink, a function of scores.
    """
    return scale if scale > 0.0 and softcap is None and not changed else 1.0


def _table(layouts: tuple[Layout, ...], sums: Shape | None) -> NDArray[np.int64]:
    """Return the table of operands with the strides that these have."""
    table = np.zeros(STRIDES + AXES * len(OPERANDS), np.int64)
    for name, shape, strides, size in layouts:
        at = STRIDES + AXES * _NUMBER[name]
        table[at : at + len(shape)] = elements(shape, strides, size)
    if sums is not None:
        table[STRIDES + AXES * SUMS + 1] = sums[-1]
    return table


_RECENT = 16
_SMALL = 2**18  # bytes
_recent: dict[Any, dict[str, Array]] = {}


def _rules(mask: masks.Mask, B: int, H: int, T: int, S: int) -> dict[str, Array]:
    """Return the operands that say what a mask hides.

    A step of training asks for each mask twice in each layer. Large tile maps are kept by
    `masks.lower` alone.
    """
    key = mask, B, H, T, S
    rules = _recent.get(key)
    if rules is not None:
        return rules
    form = masks.lower(mask, B, H, T, S)
    rules = {"bounds": np.array(form[:4])}
    if form.tiles.size:
        rules |= {"tiles": form.tiles, "words": form.words}
    if sum(x.nbytes for x in rules.values()) <= _SMALL and not mask._is_borrowed():
        for oldest in list(_recent)[: len(_recent) + 1 - _RECENT]:
            _recent.pop(oldest, None)
        _recent[key] = rules
    return rules
