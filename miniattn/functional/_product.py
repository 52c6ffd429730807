"""The matrix product that linear maps are made of, on arrays of any layout."""

import numpy as np

from miniattn._memory import empty
from miniattn.functional._arrays import Array
from miniattn.kernels import matmul
from miniattn.kernels._runtime import get_num_threads
from miniattn.kernels.launch import address_of, run

WORTH_A_THREAD = 2**17  # multiply-adds: to wake a thread takes as long
# Terms that are added one by one: longer sums are sums of such sums, which bounds their rounding.
LONGEST = 2**13

_NO_FACTORS = np.empty(0)


def product(a: Array, b: Array, *, add_to: Array | None = None) -> Array:
    """Return a · b for a (M, K), b (K, N), or add it to ``add_to`` (M, N) and return that.

    The same bits for any layout and any number of threads. Infinity and NaN reach what they are
    multiplied with, and nothing beside it.
    """
    (m, depth), n = a.shape, b.shape[1]
    c = empty((m, n), a.dtype) if add_to is None else add_to
    if depth == 0 and add_to is None:
        c.fill(0)
    if c.size == 0 or depth == 0:
        return c
    if depth > LONGEST:
        for k in range(0, depth, LONGEST):
            part = product(a[:, k : k + LONGEST], b[k : k + LONGEST])
            with np.errstate(all="ignore"):
                c = part if k == 0 and add_to is None else np.add(c, part, out=c)
        return c
    a, b = _in_place(a), _in_place(b)
    (a_row, a_step), (b_row, b_step) = _steps(a), _steps(b)
    if n == 1:
        b_step = 1
    elif b_step != 1 and b_row != 1 and depth > 1:
        b = np.ascontiguousarray(b)
        b_row, b_step = n, 1
    threads = get_num_threads()
    pieces, share = matmul.plan(m, n, a.itemsize, threads)
    run(
        matmul.matmul,
        a.dtype,
        min(pieces, threads, 1 + m * depth * n // WORTH_A_THREAD),
        pieces,
        np.array([m, n, depth, a_row, a_step, b_row, b_step, n, add_to is not None, pieces, share]),
        _NO_FACTORS,
        np.array([address_of(x) for x in (a, b, c)]),
    )
    return c


def _in_place(x: Array) -> Array:
    """Return ``x``, or a copy where its elements do not lie at whole multiples of their size."""
    size = x.itemsize
    fits = x.flags.aligned and x.strides[0] % size == 0 and x.strides[1] % size == 0
    return x if fits else np.ascontiguousarray(x)


def _steps(x: Array) -> tuple[int, int]:
    """Return the strides of ``x`` in elements."""
    return x.strides[0] // x.itemsize, x.strides[1] // x.itemsize
