"""weight_decay: beside Adam, not through it

AdamW pulls weights towards 0 by lr decay p, apart from the gradient. If the decay were added to the
gradient, Adam would divide it by the root of v, and large gradients would decay less.

Shapes: p, grad, v (E,), lr, decay, eps numbers; the step is p - lr grad / (sqrt(v) + eps).
Read: derivations/adam
Hint: Two changes of p that are added: one by the gradient, one by p itself.
Hint: The decay is multiplied by lr, too.
Hint: new = p - lr decay p - lr grad / (sqrt(v) + eps).
"""

import numpy as np


def adamw(p, grad, v, lr, decay, eps=1e-2):
    """Return the new p (E,)."""
    step = grad / (np.sqrt(v) + eps)
    pull = decay * p
    new = p - lr * pull - lr * step
    return new


def data(rng):
    """Return the arguments of one check."""
    p, grad = rng.standard_normal((2, 4))
    return {"p": p, "grad": grad, "v": rng.random(4), "lr": 0.1, "decay": 0.3}
