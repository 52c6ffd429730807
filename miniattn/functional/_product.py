"""The matrix products that linear maps are made of, on arrays of any layout."""

import functools
from typing import NamedTuple, TypeAlias

import numpy as np

from miniattn._memory import empty
from miniattn._typing import Array, Shape
from miniattn.functional._arrays import kernel_input
from miniattn.kernels.compile.launch import NO_FACTORS, run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import get_num_threads
from miniattn.kernels.compile.tables import address_of, addresses, are_whole, elements
from miniattn.kernels.dense import matmul

WORTH_A_THREAD = 2**17  # multiply-adds: to wake a thread takes as long

Layout: TypeAlias = tuple[Shape, Shape]  # shape and strides
# How many products a sum consists of, and the axes of what they are added to: 0 for nothing.
Form: TypeAlias = tuple[int, int]


class Sum(NamedTuple):
    """add + Σ a · b over pairs of a (M, K) and b (K, N), each with its K; add is (M, N) or (N,)."""

    pairs: tuple[tuple[Array, Array], ...]
    add: Array | None = None


def product(a: Array, b: Array, *, add: Array | None = None) -> Array:
    """Return a · b, or add + a · b; see `products`."""
    return products(Sum(((a, b),), add))[0]


def products(*sums: Sum) -> list[Array]:
    """Return what each of the sums comes to, all from one launch.

    The same bits for any layout and any number of threads. Infinity and NaN reach what they are
    multiplied with, and nothing beside it.
    """
    factors = [x for pairs, _ in sums for pair in pairs for x in pair]
    forms = tuple([(len(pairs), 0 if add is None else add.ndim) for pairs, add in sums])
    layouts = tuple([(x.shape, x.strides) for x in factors])
    dtype = factors[0].dtype
    workers, plan = _plan(forms, layouts, dtype.itemsize, get_num_threads())
    if plan is None or not all(x.flags.aligned for x in factors):
        return products(*map(_copied, sums))
    results = [empty(shape, dtype) for shape in plan.shapes]
    spare = empty(plan.spare, dtype)
    adds = [spare if s.add is None else kernel_input(s.add) for s in sums]
    whole = *results, *adds, spare
    places = addresses(whole)
    places[-1:-1] = [address_of(x) for x in factors]
    told = Told(plan.sizes, NO_FACTORS, np.array(places + plan.counters * [0]))
    run(matmul.matmul, dtype, workers, plan.pieces, told, whole)
    return results


@functools.lru_cache(maxsize=512)
def _plan(
    forms: tuple[Form, ...], layouts: tuple[Layout, ...], itemsize: int, threads: int
) -> tuple[int, matmul.Plan | None]:
    """Return how many threads are worth it, and what they do; no plan if factors must be copied."""
    pairs = list(zip(layouts[::2], layouts[1::2], strict=True))
    if not all(_is_readable(a, b, itemsize) for a, b in pairs):
        return 1, None
    sums, work = [], 0
    for count, add_axes in forms:
        own, pairs = pairs[:count], pairs[count:]
        (m, _), n = own[0][0][0], own[0][1][0][1]
        factors = tuple(_factors(a, b, itemsize) for a, b in own)
        sums.append(matmul.Sum(m, n, (-1, 0, n)[add_axes], factors))
        work += m * n * sum(f.depth for f in factors)
    plan = matmul.plan(tuple(sums), itemsize, threads)
    return max(1, min(plan.pieces, threads, 1 + work // WORTH_A_THREAD)), plan


def _factors(a: Layout, b: Layout, itemsize: int) -> matmul.Factors:
    """Return what the kernel is told of a pair; strides in elements."""
    (_, depth), (_, n) = a[0], b[0]
    a_row, a_step, b_row, b_step = *elements(*a, itemsize), *elements(*b, itemsize)
    return matmul.Factors(depth, a_row, a_step, b_row, 1 if n == 1 else b_step)


def _is_readable(a: Layout, b: Layout, itemsize: int) -> bool:
    """Return whether elements lie at whole multiples of their size, and those of b side by side."""
    b_shape, b_strides = b
    beside = itemsize in b_strides or min(b_shape) < 2
    return beside and are_whole(*a, itemsize) and are_whole(*b, itemsize)


def _copied(of: Sum) -> Sum:
    """Return a sum with copies of its factors, in the order of their axes."""
    return Sum(tuple((a.copy("C"), b.copy("C")) for a, b in of.pairs), of.add)
