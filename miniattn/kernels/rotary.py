"""Rotation of pairs by tabulated angles: a' = a cos θ − b sin θ, b' = b cos θ + a sin θ."""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.rows.frame import REST, matrix, operand, rows_task

# What `turn` is told beside what all kernels of rows are.
STEPS, SHARE, PER_BATCH, HALF, BACK, INTERLEAVED = range(REST, REST + 6)


@inner
def _turn_row(x, cos, sin, half, sign, interleaved, y):
    if interleaved:
        for i in range(half):
            a, b, c, s = x[2 * i], x[2 * i + 1], cos[i], sign * sin[i]
            y[2 * i] = a * c - b * s
            y[2 * i + 1] = b * c + a * s
    else:
        for i in range(half):
            a, b, c, s = x[i], x[half + i], cos[i], sign * sin[i]
            y[i] = a * c - b * s
            y[half + i] = b * c + a * s


@rows_task
def turn(rows):
    """Turn the rows of x (R, D) into y by the angles of cos, sin (T or B · T, ``HALF``).

    Operands x, cos, sin, y. ``SHARE`` rows in a row have one position, after which the next of
    ``STEPS`` = T comes, round and round; every ``PER_BATCH`` rows (0: never) the next T angles of
    the tables are taken. ``BACK`` turns the other way. What lies behind the ``HALF`` pairs of a row
    is copied.
    """
    x, y, half = matrix(rows, 0), matrix(rows, 3), rows.sizes[HALF]
    steps, share, per_batch = rows.sizes[STEPS], rows.sizes[SHARE], rows.sizes[PER_BATCH]
    sign = type(x[0])(-1 if rows.sizes[BACK] else 1)
    interleaved = rows.sizes[INTERLEAVED] != 0
    for r in range(rows.m):
        which = rows.start + r
        batch = which // per_batch if per_batch else 0
        at = (batch * steps + which // share % steps) * half
        cos, sin = operand(rows, 1) + at, operand(rows, 2) + at
        _turn_row(x + r * rows.n, cos, sin, half, sign, interleaved, y + r * rows.n)
        for i in range(r * rows.n + 2 * half, (r + 1) * rows.n):
            y[i] = x[i]
