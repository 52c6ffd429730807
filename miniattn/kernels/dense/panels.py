"""Products and copies of some rows: the dense work of the attention kernels.

Rows are `Lines`. Those of scratch memory are a whole number of vectors wide, and a multiple of
`ROW_GROUP` in number, so that they can be written in whole *panels*, which is what a product keeps
in registers; rows of the user's arrays are read only where they exist.
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.dense.places import Extent, Grid, Lines, line
from miniattn.kernels.registers import (
    LANES,
    any_true,
    fma,
    gather,
    horizontal_sum,
    lanes,
    load,
    load_first,
    product,
    splat,
    store,
    store_first,
    transpose,
)

ROW_GROUP = 8
# Vectors in a row of a product's panel, which has 6 rows (and 4 where the number of rows
# is no multiple of 6). AVX-512 has 32 registers, older processors 16. Six rows rather than four
# make up for rows of B that straddle cache lines: 170 against 149 GFLOP/s.
WIDE = 4 if LANES == 16 else 2


@inner
def round_up(n, step):
    """Return the smallest multiple of ``step`` that is at least ``n``."""
    return (n + step - 1) // step * step


@inner
def multiply(c, a, b, extent, vectors, accumulate):
    """Compute ``C = A B``, or ``C += A B``, panel by panel.

    ``C[m, n] = sum_k A[m, k] * B[k, n]`` for ``m < extent.rows``, ``k < extent.depth`` and ``n <
    vectors * lanes``. C and B are `Lines`, C of scratch memory; A is a `Grid`, read by broadcasts,
    so either of its axes may be the contiguous one: both A and its transpose are read in place. Up
    to the next multiple of `ROW_GROUP`, rows of C are overwritten with copies of the last row's
    product.
    """
    w, rows = lanes(c.start), extent.rows
    n = 0
    # Of 5 vectors, 3 and 2 are faster than 4 and 1: a panel one vector wide waits for its loads.
    while vectors - n >= WIDE and not (WIDE == 4 and vectors - n == 5):
        m = 0
        while m < rows:
            c_mn, a_m, b_n, left = _corner(c, a, b, extent, m, n * w)
            if (round_up(rows, 4) - m) % 6 == 0:
                product(6, WIDE, c_mn, a_m, b_n, left, accumulate)
                m += 6
            else:
                product(4, WIDE, c_mn, a_m, b_n, left, accumulate)
                m += 4
        n += WIDE
    if WIDE == 4 and (vectors - n == 3 or vectors - n == 5):
        for m in range(0, rows, 8):
            c_mn, a_m, b_n, left = _corner(c, a, b, extent, m, n * w)
            product(8, 3, c_mn, a_m, b_n, left, accumulate)
        n += 3
    if WIDE == 4 and vectors - n >= 2:
        m = 0
        while m < rows:
            c_mn, a_m, b_n, left = _corner(c, a, b, extent, m, n * w)
            if left.rows > 4:
                product(8, 2, c_mn, a_m, b_n, left, accumulate)
                m += 8
            else:
                product(4, 2, c_mn, a_m, b_n, left, accumulate)
                m += 4
        n += 2
    if vectors - n >= 1:
        for m in range(0, rows, 8):
            c_mn, a_m, b_n, left = _corner(c, a, b, extent, m, n * w)
            product(8, 1, c_mn, a_m, b_n, left, accumulate)


@inner
def _corner(c, a, b, extent, m, n):
    """Return what lies from row ``m`` and column ``n`` of a product on."""
    return (
        Lines(c.start + (m * c.step + n), c.step),
        Grid(a.start + m * a.down, a.down, a.across),
        Lines(b.start + n, b.step),
        Extent(extent.rows - m, extent.depth),
    )


@inner
def pack_transposed(target, source, n, depth):
    """Write ``target[d, i] = source[i, d]``; anything for ``n <= i < target.step``."""
    w, width = lanes(target.start), target.step
    whole = depth - depth % w
    for c in range(0, width, w):
        row = line(source, c)
        for d in range(0, whole, w):
            to = target.start + (d * width + c)
            transpose(to, width, row + d, source.step, min(w, n - c))
        for d in range(whole, depth):
            column = gather(row + d, source.step, n - c, target.start)
            store(target.start + (d * width + c), column)


@inner
def pack(target, source, n, depth):
    """Write ``target[i, d] = source[i, d]``, 0 for ``depth <= d < target.step``."""
    w, width = lanes(target.start), target.step
    for i in range(n):
        for d in range(0, width, w):
            row = line(source, i)
            store(target.start + (i * width + d), load_first(row + d, depth - d))


@inner
def fill(target, n, value):
    """Set ``n`` elements of scratch memory, a whole number of vectors."""
    v = splat(value, target)
    for i in range(0, n, lanes(target)):
        store(target + i, v)


@inner
def is_finite(source, n, depth):
    """Return whether rows of the user's memory hold neither NaN nor infinity."""
    w = lanes(source.start)
    whole = depth - depth % w
    total = splat(0.0, source.start)  # 0 * x is 0 or NaN, and NaN stays
    for i in range(n):
        row = line(source, i)
        for d in range(0, whole, w):
            total = fma(load(row + d), 0.0, total)
        if whole < depth:
            total = fma(load_first(row + whole, depth - whole), 0.0, total)
    return not any_true(total != total)


@inner
def sum_of_squares(source, n, depth):
    """Return the sum of the squares of rows of the user's memory, taken in fours."""
    start, row = source
    zero = one = two = three = splat(0.0, start)
    for i in range(0, n - n % 4, 4):
        for d in range(0, depth, lanes(start)):
            p, left = start + (i * row + d), depth - d
            zero = _add_square(p, left, zero)
            one = _add_square(p + row, left, one)
            two = _add_square(p + 2 * row, left, two)
            three = _add_square(p + 3 * row, left, three)
    for i in range(n - n % 4, n):
        for d in range(0, depth, lanes(start)):
            zero = _add_square(start + (i * row + d), depth - d, zero)
    return horizontal_sum((zero + one) + (two + three))


@inner
def _add_square(p, n, total):
    """Add the squares of the first ``n`` numbers of a vector."""
    v = load(p) if n >= lanes(p) else load_first(p, n)
    return fma(v, v, total)


@inner
def write_rows(target, source, n, columns, factor):
    """Write ``target = factor * source`` for ``n`` rows of the user's memory.

    Returns whether all of it is finite.
    """
    total = splat(0.0, source.start)
    for i in range(n):
        total = write_row(line(target, i), line(source, i), columns, factor, total)
    return not any_true(total != total)


@inner
def write_row(target, source, columns, factor, total):
    """Write ``target = factor * source``; return ``total``, NaN where that is not finite.

    As in `is_finite`; a reduction for each row would take as long as writing a short one.
    """
    for e in range(0, columns, lanes(source)):
        value = load(source + e) * factor
        total = fma(value, 0.0, total)
        store_part(target + e, value, columns - e)
    return total


@inner
def store_part(p, value, n):
    """Write a vector to the user's memory, which has room for ``n`` numbers there, if not more."""
    if n >= lanes(value):
        store(p, value)
    else:
        store_first(p, value, n)


@inner
def add(a, b, n):
    """Compute ``a += b`` for ``n`` elements of scratch memory."""
    for at in range(0, n, lanes(a)):
        store(a + at, load(a + at) + load(b + at))


@inner
def multiply_elements(a, b, n):
    """Compute ``a *= b`` for ``n`` elements of scratch memory."""
    for at in range(0, n, lanes(a)):
        store(a + at, load(a + at) * load(b + at))


@inner
def dot(a, b, n):
    """Return the inner product of ``n`` elements of the user's memory."""
    w = lanes(a)
    total = splat(0.0, a)
    for e in range(0, n, w):
        if e + w <= n:
            total = total + load(a + e) * load(b + e)
        else:
            total = total + load_first(a + e, n - e) * load_first(b + e, n - e)
    return horizontal_sum(total)
