"""clip: a long gradient made shorter, all of it together

If the gradients of all parameters together are longer than a limit, all are multiplied by the same
factor, so that the direction stays. A forward for once: no derivative is asked for.

Shapes: a (T, E) and b (E,) gradients, limit a number.
Read: training
Hint: One length for both: the root of the sum of all squares.
Hint: The factor is limit / length, and never more than 1.
Hint: factor = min(1, limit / length); return a factor, b factor, as new arrays.
"""

import numpy as np


def clip(a, b, limit):
    """Return the clipped a (T, E), b (E,)."""
    length = np.sqrt((a**2).sum() + (b**2).sum())
    factor = min(1.0, limit / length)
    clipped_a = a * factor
    clipped_b = b * factor
    return clipped_a, clipped_b


def data(rng):
    """Return the arguments of one check."""
    return {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(4), "limit": 1.5}
