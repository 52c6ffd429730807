"""Optimiser steps, fused: each array is read and written once, however many terms the rule has."""

import math

import numba

from miniattn.kernels._runtime import inner, kernel
from miniattn.kernels.simd import fma, lanes, load, load_first, pointer, sqrt, store, store_first

# Elements of one task. Up to this many are done by the calling thread: waking a pool takes longer.
BLOCK = 16_384


@inner
def _rule(param, grad, m, v, beta1, beta2, keep, l2, rate, root, eps):
    """Return the new param, m and v, all vectors; the rest are numbers."""
    g = fma(param, l2, grad)
    m = m * beta1 + g * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    return param * keep - m * rate / (sqrt(v) * root + eps), m, v


@inner
def _block(param, grad, m, v, start, stop, beta1, beta2, keep, l2, rate, root, eps):
    whole = stop - (stop - start) % lanes(param)
    for i in range(start, whole, lanes(param)):
        p, g, a, b = pointer(param, i), pointer(grad, i), pointer(m, i), pointer(v, i)
        new, first, second = _rule(
            load(p), load(g), load(a), load(b), beta1, beta2, keep, l2, rate, root, eps
        )
        store(p, new)
        store(a, first)
        store(b, second)
    n = stop - whole
    if n:
        p, g = pointer(param, whole), pointer(grad, whole)
        a, b = pointer(m, whole), pointer(v, whole)
        new, first, second = _rule(
            load_first(p, n), load_first(g, n), load_first(a, n), load_first(b, n),
            beta1, beta2, keep, l2, rate, root, eps,
        )  # fmt: skip
        store_first(p, new, n)
        store_first(a, first, n)
        store_first(b, second, n)


@kernel
def adam_step(param, grad, m, v, lr, beta1, beta2, eps, decay, l2, step):
    """One step of Adam or AdamW, in place on param, m and v: flat arrays of one dtype and size.

    g = grad + l2 · param;  m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²
    param = (1 − lr · decay) · param − lr · m̂ / (√v̂ + eps)
    with m̂ = m / (1 − β1^step), v̂ = v / (1 − β2^step), step = 1, 2, ...

    AdamW's decoupled weight decay is ``decay`` (l2 = 0), Adam's L2 penalty is ``l2``
    (decay = 0). lr, beta1, beta2, eps, decay, l2 are float, step is int.
    """
    keep = 1 - lr * decay
    rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    if param.size <= BLOCK:
        _block(param, grad, m, v, 0, param.size, beta1, beta2, keep, l2, rate, root, eps)
    else:
        for task in numba.prange(-(-param.size // BLOCK)):
            start, stop = task * BLOCK, min((task + 1) * BLOCK, param.size)
            _block(param, grad, m, v, start, stop, beta1, beta2, keep, l2, rate, root, eps)
