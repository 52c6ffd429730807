"""What the machine can do at most: multiply-adds in registers, and bytes from here to there.

Benchmarks measure these in the same run as the operations, so that a speed can be read as a part
of what is possible.
"""

import numba

from miniattn.kernels.compile.settings import inner, kernel
from miniattn.kernels.dense.panels import WIDE
from miniattn.kernels.dense.places import Extent, Grid, Lines
from miniattn.kernels.registers import lanes, load, load_first, pointer, product, store
from miniattn.kernels.rows.writing import LARGE, fill, finish, one

ROWS = 6  # of the panel, as in the products of attention
CHUNK = 65_536  # elements that one task copies


@kernel
def multiply_add(a, b, c, times):
    """Compute C = A B ``times`` times in each thread, for one panel C (threads, 6, n).

    A (6, K) and B (K, n) stay in the first cache, n being four registers (two where there are only
    16): 2 · threads · times · 6 · K · n operations at the rate of the multiply-add units.
    """
    for thread in numba.prange(c.shape[0]):
        for _ in range(times):
            product(
                ROWS,
                WIDE,
                Lines(pointer(c[thread], 0), b.shape[1]),
                Grid(pointer(a, 0), a.shape[1], 1),
                Lines(pointer(b, 0), b.shape[1]),
                Extent(ROWS, a.shape[1]),
                False,
            )


@kernel
def copy(x, y):
    """y = x, for 1-D arrays, by all threads; large ones past the caches."""
    large = y.size * y.itemsize > LARGE
    for task in numba.prange(-(-x.size // CHUNK)):
        start, stop = task * CHUNK, min((task + 1) * CHUNK, x.size)
        p, q = pointer(x, start), pointer(y, start)
        if large:
            fill(q, stop - start, large, _same, one, p)
            finish(large)
        else:  # the same, but for what `fill` asks for: 10 % faster on 4 MiB
            whole = (stop - start) // lanes(p) * lanes(p)
            for i in range(0, whole, lanes(p)):
                store(q + i, load(p + i))
            for i in range(start + whole, stop):
                y[i] = x[i]


@inner(forceinline=True)
def _same(of, j, k, x):
    return load_first(x + j, k)
