"""How a call of attention runs: worked out from layouts and options alone, once for each.

The addresses of its arrays are all that a call adds to its `Plan`. To work plans out anew took most
of a small call's time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn import _checking, masks
from miniattn._memory import empty, scratch
from miniattn._typing import Array, Shape
from miniattn.kernels import registers as simd
from miniattn.kernels.attention import weights as map_kernels
from miniattn.kernels.attention.decode import backward as decode_backward_kernels
from miniattn.kernels.attention.decode import forward as decode_kernels
from miniattn.kernels.attention.matrix import backward as backward_amx_kernels
from miniattn.kernels.attention.matrix import forward as forward_amx_kernels
from miniattn.kernels.attention.problem import (
    AXES,
    OPERANDS,
    SEED,
    SIZES,
    STRIDES,
    SUMS,
    TASKS,
    UNFIT,
    Problem,
)
from miniattn.kernels.attention.vector import backward as backward_kernels
from miniattn.kernels.attention.vector import forward as forward_kernels
from miniattn.kernels.compile.launch import run
from miniattn.kernels.compile.settings import get_num_threads
from miniattn.kernels.compile.tables import address_of, elements
from miniattn.kernels.compile.target import UNIT
from miniattn.kernels.registers.matrix_unit import CHUNK

# An operand's name, its shape of four axes or fewer, its strides and its items in bytes.
Layout: TypeAlias = tuple[str, Shape, Shape, int]
# A kernel, with how many pieces of work it has and how much scratch memory each thread needs.
Part: TypeAlias = tuple[Any, tuple[int, int]]

WORTH_A_THREAD = 2**18  # multiply-adds: to wake a thread takes as long
WORTH_SPLITTING = 2**13  # features times queries of a head, or keys
FEW_QUERIES = 4  # up to which reading K and V is the work, not the products

_NUMBER = {name: i for i, name in enumerate(OPERANDS)}


class Options(NamedTuple):
    """The numbers of a call."""

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    bins: tuple[int, int] = (0, 0)


class Step(NamedTuple):
    """One launch."""

    task: Any
    workers: int
    pieces: int
    sizes: NDArray[np.int64]
    scratch: tuple[int, int]


class Plan(NamedTuple):
    """The launches of a call, and what they are told."""

    steps: tuple[Step, ...]
    factors: NDArray[np.float64]
    operands: NDArray[np.int64]
    """The table of operands, in which only addresses and the seed are missing."""
    sums: Shape | None
    """The shape of what steps leave for later ones."""
    otherwise: "Kind | None"
    """How to do it in the same dtype, if a kernel finds its operands unfit."""


class Outline(NamedTuple):
    """What a kind of call consists of."""

    problem: Problem
    parts: list[Part]
    sums: Shape | None = None
    otherwise: "Kind | None" = None


Kind: TypeAlias = Callable[[Problem, int, dict[str, Shape]], Outline]


def execute(
    kind: Kind,
    arrays: dict[str, Array],
    options: Options,
    mask: masks.Mask | None,
    seed: int = 0,
) -> bool:
    """Run the kernels of a call on its operands, which are arrays of four axes.

    Returns whether the numbers were fit for their dtype: where not, finite ones may have led to
    others.
    """
    q = arrays["q"]
    dtype = q.dtype
    if mask is not None:
        B, H, T, _ = q.shape
        lower = _lower_once if mask.is_fixed else _lower
        arrays = arrays | lower(mask, B, H, T, arrays["k"].shape[2])
    layouts = tuple([(name, x.shape, x.strides, x.itemsize) for name, x in arrays.items()])
    addresses = [(_NUMBER[name], address_of(x)) for name, x in arrays.items()]
    way: Kind | None = kind
    while way is not None:
        plan = plan_of(way, layouts, dtype, options, get_num_threads())
        operands = plan.operands.copy()
        for number, address in addresses:
            operands[number] = address
        operands[SEED] = seed
        sums = None if plan.sums is None else empty(plan.sums, dtype)
        if sums is not None:
            operands[SUMS] = address_of(sums)
        if _checking.ON and plan.steps:
            _check_operands(arrays, operands, plan.steps[0].sizes)
        memory = list(arrays.values()) if sums is None else [*arrays.values(), sums]
        for task, workers, pieces, sizes, room in plan.steps:
            own = scratch(*room, dtype)
            run(task, dtype, workers, pieces, sizes, plan.factors, operands, memory, own)
            if operands[UNFIT] and dtype != np.float64:  # it is done again, in another way
                break
        if not operands[UNFIT]:
            return True
        way = plan.otherwise
    return False


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
    "q_ids": "BT",
    "k_ids": "BS",
    "dense": "BHTS",
}


def _check_operands(
    arrays: dict[str, Array], operands: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Raise RuntimeError where the table of operands speaks of what an array doesn't hold."""
    length = dict(zip("BHGTSDV.RC", sizes.tolist(), strict=False), **{"2": 2, "4": 4})
    for name, x in arrays.items():
        letters = "BHRC" if name == "out" and length["R"] else _AXES[name]
        at = STRIDES + AXES * _NUMBER[name]
        steps = operands[at : at + len(letters)].tolist()
        _checking.operand(name, x, [length[letter] for letter in letters], steps)


# --- Kinds of calls ------------------------------------------------------------------------------


def forward(problem: Problem, lanes: int, shapes: dict[str, Shape]) -> Outline:
    """Outline attention forward."""
    if _for_amx(problem, lanes):
        plan = forward_amx_kernels.plan(problem, lanes)
        return Outline(problem, [(forward_amx_kernels.forward, plan)], otherwise=forward_in_vectors)
    return forward_in_vectors(problem, lanes, shapes)


def forward_in_vectors(problem: Problem, lanes: int, shapes: dict[str, Shape]) -> Outline:
    """Outline attention forward by the vector registers alone, which do for all numbers."""
    if problem.T > FEW_QUERIES:
        return Outline(problem, [(forward_kernels.forward, forward_kernels.plan(problem, lanes))])
    kernels, problem = decode_kernels, problem._replace(parts=_key_parts(problem))
    parts = [
        (kernels.decode, kernels.plan(problem, lanes)),
        (kernels.merge, kernels.plan_merge(problem, lanes)),
    ]
    return Outline(problem, parts, kernels.states(problem, lanes))


def backward(problem: Problem, lanes: int, shapes: dict[str, Shape]) -> Outline:
    """Outline attention backward, with the bias's only where its gradient is among the operands."""
    outline = backward_in_vectors(problem, lanes, shapes)
    if _for_amx(problem, lanes):
        kernels = backward_amx_kernels
        outline.parts[0] = kernels.backward, kernels.plan(outline.problem, lanes)
        return outline._replace(otherwise=backward_in_vectors)
    return outline


def backward_in_vectors(problem: Problem, lanes: int, shapes: dict[str, Shape]) -> Outline:
    """Outline attention backward by the vector registers alone, which do for all numbers."""
    few = problem.T <= FEW_QUERIES
    outline = (_backward_of_few_queries if few else _backward_of_blocks)(problem, lanes)
    if "dbias" in shapes:
        if few:  # its scores are summed up in another order, and want maxima of their own
            plan = forward_kernels.plan(problem, lanes)
            outline.parts.append((forward_kernels.forward, plan))
        plan = backward_kernels.plan_bias(problem, lanes, shapes["dbias"])
        outline.parts.append((backward_kernels.bias_backward, plan))
    return outline


def _backward_of_blocks(problem: Problem, lanes: int) -> Outline:
    kernels, problem = backward_kernels, problem._replace(parts=_query_parts(problem))
    outline = Outline(problem, [(kernels.backward, kernels.plan(problem, lanes))])
    if problem.parts == 1:
        return outline
    outline.parts.append((kernels.add_sums, kernels.plan_sums(problem, lanes)))
    pieces = problem.B * problem.G * problem.parts
    return outline._replace(sums=(1, pieces, kernels.sums_size(problem, lanes)))


def _backward_of_few_queries(problem: Problem, lanes: int) -> Outline:
    kernels, problem = decode_backward_kernels, problem._replace(parts=_key_parts(problem))
    parts = [
        (kernels.decode_backward, kernels.plan(problem, lanes)),
        (kernels.add_queries, kernels.plan_queries(problem, lanes)),
    ]
    return Outline(problem, parts, kernels.sums(problem, lanes))


def attention_map(problem: Problem, lanes: int, shapes: dict[str, Shape]) -> Outline:
    """Outline the weights of attention, pooled."""
    return Outline(problem, [(map_kernels.attention_map, map_kernels.plan(problem, lanes))])


def _for_amx(problem: Problem, lanes: int) -> bool:
    """Return whether the matrix unit is there, and faster: splitting numbers has to pay for itself.

    Below this, and with fewer features than a pair of blocks holds, the vector registers are.
    """
    if not UNIT.used or lanes != simd.LANES or problem.T <= FEW_QUERIES:
        return False
    features, pairs = min(problem.D, problem.Dv), min(problem.T, problem.S)
    worth = features >= CHUNK and pairs >= 128 and features * pairs >= WORTH_SPLITTING
    return UNIT.always or worth


def _key_parts(problem: Problem) -> int:
    """Return among how many tasks the keys of one head are dealt, by the shape alone."""
    return max(1, min(problem.S // 512, -(-16 // max(1, problem.B * problem.G))))


def _query_parts(problem: Problem) -> int:
    """Return among how many tasks the backward of one key/value head is dealt.

    It depends on the shape alone, so that the order of summation does. Each part holds its own
    sums of dk and dv: at most four.
    """
    blocks = problem.H // problem.G * -(-problem.T // 64)
    return max(1, min(4, blocks, -(-8 // max(1, problem.B * problem.G))))


# --- Plans ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def plan_of(
    kind: Kind, layouts: tuple[Layout, ...], dtype: np.dtype[Any], options: Options, threads: int
) -> Plan:
    """Return how a call runs on operands that lie in memory like this."""
    shapes = {layout[0]: layout[1] for layout in layouts}
    lanes = simd.LANES * 4 // dtype.itemsize
    asked = _problem(shapes, options)
    # Without heads nothing is to be computed, and no kernel can say which share a key's.
    outline = kind(asked, lanes, shapes) if asked.G else Outline(asked, [])
    problem, parts, sums, otherwise = outline
    pairs = problem.B * problem.H * problem.T * problem.S
    threads = min(threads, 1 + pairs * (problem.D + problem.Dv) // WORTH_A_THREAD)
    steps = []
    for task, (pieces, room) in parts:
        workers = max(1, min(pieces, threads))
        sizes = np.array(problem[:SIZES])
        sizes[TASKS] = pieces
        # Each worker's part is a whole number of cache lines.
        steps.append(Step(task, workers, pieces, sizes, (workers, -(-room // 16) * 16)))
    return Plan(tuple(steps), np.array(problem[SIZES:]), _table(layouts, sums), sums, otherwise)


def _problem(shapes: dict[str, Shape], options: Options) -> Problem:
    """Return sizes and options in the form that kernels know them."""
    B, H, T, D = shapes["q"]
    _, G, S, _ = shapes["k"]
    Dv = shapes["v"][3] if "v" in shapes else D
    scale, softcap, dropout, bins = options
    unit = unit_of(scale, softcap, "bias" in shapes)
    return Problem(B, H, G, T, S, D, Dv, 1, *bins, 0, scale, unit, softcap or 0.0, dropout)


def unit_of(scale: float, softcap: float | None, biased: bool) -> float:
    """Return what the kernels' scores are to be multiplied by, to be those of the formula.

    Where nothing stands between the product q·k and the exponential, they are products, and the
    scale is left to the exponential. It has to be positive, for a maximum to remain one.
    """
    return scale if scale > 0.0 and softcap is None and not biased else 1.0


def _table(layouts: tuple[Layout, ...], sums: Shape | None) -> NDArray[np.int64]:
    """Return the table of operands with the strides that these have."""
    table = np.zeros(STRIDES + AXES * len(OPERANDS), np.int64)
    for name, shape, strides, size in layouts:
        at = STRIDES + AXES * _NUMBER[name]
        table[at : at + len(shape)] = elements(shape, strides, size)
    if sums is not None:
        table[STRIDES + AXES * SUMS + 1] = sums[-1]
    return table


def _lower(mask: masks.Mask, B: int, H: int, T: int, S: int) -> dict[str, Array]:
    """Return the operands that say what a mask hides."""
    form = masks.lower(mask, B, H, T, S)
    rules = {"bounds": np.array(form[:4])}
    if form.q_ids.size:
        rules |= {"q_ids": form.q_ids, "k_ids": form.k_ids}
    if form.dense.size:
        rules["dense"] = form.dense
    return rules


# A step of training asks for each mask twice in each layer.
_lower_once = functools.lru_cache(maxsize=16)(_lower)
