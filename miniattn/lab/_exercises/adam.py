"""adam: a step that knows how far it has been

m is a running mean of the gradient, v one of its square; both begin at 0 and are too small at
first, which a division by 1 - beta^t mends. Then each number moves by lr m / sqrt(v).

Shapes: p, grad, m, v (E,); t the number of this step, from 1 on; lr, b1, b2, eps numbers.
Read: derivations/adam
Hint: m = b1 m + (1 - b1) grad, and v the same with grad^2. New arrays: m and v are inputs.
Hint: mhat = m / (1 - b1^t), vhat = v / (1 - b2^t).
Hint: p - lr mhat / (sqrt(vhat) + eps): eps stands beside the root, not under it.
"""

import numpy as np


def adam(p, grad, m, v, t, lr=0.1, b1=0.9, b2=0.99, eps=1e-2):
    """Return the new p (E,), m (E,), v (E,)."""
    new_m = b1 * m + (1.0 - b1) * grad
    new_v = b2 * v + (1.0 - b2) * grad**2
    mhat = new_m / (1.0 - b1**t)
    vhat = new_v / (1.0 - b2**t)
    new_p = p - lr * mhat / (np.sqrt(vhat) + eps)
    return new_p, new_m, new_v


def data(rng):
    """Return the arguments of one check."""
    p, grad, m = rng.standard_normal((3, 4))
    return {"p": p, "grad": grad, "m": m, "v": rng.random(4), "t": 3}
