"""Rotation of pairs by tabulated angles: a' = a cos θ − b sin θ, b' = b cos θ + a sin θ."""

import numba

from miniattn.kernels.compile.settings import inner, kernel

# Elements below which one thread is done sooner than a pool is woken.
SMALL = 16_384


@inner
def _turn_row(x, cos, sin, sign, interleaved, y):
    half = cos.size
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


@kernel
def turn(x, cos, sin, steps, share, per_batch, back, interleaved, y):
    """Turn the rows of x (R, D) into y by the angles of cos, sin (T or B · T, D/2).

    ``share`` rows in a row have one position, after which the next of ``steps`` = T comes, round
    and round; every ``per_batch`` rows (0: never) the next T angles of the tables are taken.
    ``back`` turns the other way.
    """
    sign = x.dtype.type(-1 if back else 1)
    if x.size <= SMALL:
        for r in range(x.shape[0]):
            start = (r // per_batch) * steps if per_batch else 0
            row = start + (r // share) % steps
            _turn_row(x[r], cos[row], sin[row], sign, interleaved, y[r])
    else:
        for r in numba.prange(x.shape[0]):
            start = (r // per_batch) * steps if per_batch else 0
            row = start + (r // share) % steps
            _turn_row(x[r], cos[row], sin[row], sign, interleaved, y[r])
