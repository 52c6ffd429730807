"""Optimiser steps, fused: each array is read and written once."""

import math

import numba

from miniattn.kernels._runtime import inner, kernel

# Elements a task updates; where there are no more, one thread does all.
BLOCK = 16_384


@inner
def _adam_block(
    param, grad, m, v, start, stop, lr, beta1, beta2, eps, decay, l2, correction1, correction2
):
    cast = param.dtype.type
    keep, l2 = cast(1 - lr * decay), cast(l2)
    b1, a1, b2, a2 = cast(beta1), cast(1 - beta1), cast(beta2), cast(1 - beta2)
    rate, root, eps = cast(lr / correction1), cast(1 / math.sqrt(correction2)), cast(eps)
    for i in range(start, stop):
        g = grad[i] + l2 * param[i]
        m[i] = b1 * m[i] + a1 * g
        v[i] = b2 * v[i] + a2 * g * g
        param[i] = keep * param[i] - rate * m[i] / (root * math.sqrt(v[i]) + eps)


@kernel
def adam_step(param, grad, m, v, lr, beta1, beta2, eps, decay, l2, step):
    """One step of Adam or AdamW, in place on param, m and v: flat arrays of one dtype and size.

    g = grad + l2 · param;  m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²
    param = (1 − lr · decay) · param − lr · m̂ / (√v̂ + eps)
    with m̂ = m / (1 − β1^step), v̂ = v / (1 − β2^step), step = 1, 2, ...

    AdamW's decoupled weight decay is ``decay`` (l2 = 0), Adam's L2 penalty is ``l2``
    (decay = 0). lr, beta1, beta2, eps, decay, l2 are float, step is int.
    """
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    n = param.size
    if n <= BLOCK:
        _adam_block(
            param, grad, m, v, 0, n, lr, beta1, beta2, eps, decay, l2, correction1, correction2
        )
    else:
        for task in numba.prange(-(-n // BLOCK)):
            start, stop = task * BLOCK, min((task + 1) * BLOCK, n)
            _adam_block(
                param, grad, m, v, start, stop,
                lr, beta1, beta2, eps, decay, l2, correction1, correction2,
            )  # fmt: skip
