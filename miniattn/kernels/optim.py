"""Optimiser steps and gradient norms, over all parameters in one launch.

Each array is read and written once, however many terms the rule has. The arrays are cut into
chunks, numbered through all of them; a chunk is one piece of work.
"""

import math
from typing import NamedTuple

import numpy as np

from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import inner, task
from miniattn.kernels.registers import (
    address,
    fma,
    lanes,
    load,
    load_first,
    sqrt,
    store,
    store_first,
)

CHUNK = 16_384  # elements

# What the tasks below are told in `sizes`: how many arrays there are, how many chunks reach to
# the end of each of them, and how many elements each has. In `operands` stand the addresses of the
# arrays: those of the first role, then those of the second, ...


@inner
def _place(sizes, chunk):
    """Return the number of the array that ``chunk`` lies in, and its first and last element."""
    count, which = sizes[0], 0
    while sizes[1 + which] <= chunk:
        which += 1
    before = sizes[which] if which else 0
    start = (chunk - before) * CHUNK
    return which, start, min(start + CHUNK, sizes[1 + count + which])


@inner
def _array(told, role, which):
    return address(told.operands[role * told.sizes[0] + which], told.scratch)


class Rule(NamedTuple):
    """The numbers of a step: see `adam`."""

    beta1: float
    beta2: float
    keep: float  # 1 − lr · decay
    l2: float
    rate: float  # lr / (1 − β1^step)
    root: float  # 1 / √(1 − β2^step)
    eps: float


@task
def adam(sizes, factors, operands, queue, scratch):
    """One step of Adam or AdamW, in place on param, m and v; the roles are param, grad, m, v.

    g = grad + l2 · param;  m = β1 m + (1 − β1) g;  v = β2 v + (1 − β2) g²
    param = (1 − lr · decay) · param − lr · m̂ / (√v̂ + eps)
    with m̂ = m / (1 − β1^step), v̂ = v / (1 − β2^step), step = 1, 2, ...

    AdamW's decoupled weight decay is ``decay`` (l2 = 0), Adam's L2 penalty is ``l2``
    (decay = 0). ``factors`` are lr, β1, β2, eps, and decay, l2 and step of each parameter.
    """
    each_piece(queue, _adam_chunk, Told(sizes, factors, operands, scratch))


@inner
def _adam_chunk(told, chunk):
    """Do so for one chunk."""
    factors, (which, start, stop) = told.factors, _place(told.sizes, chunk)
    lr, beta1, beta2, eps = factors[0], factors[1], factors[2], factors[3]
    decay, l2, step = factors[4 + 3 * which], factors[5 + 3 * which], factors[6 + 3 * which]
    rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    rule = Rule(beta1, beta2, 1 - lr * decay, l2, rate, root, eps)
    param, grad = _array(told, 0, which), _array(told, 1, which)
    _step(param, grad, _array(told, 2, which), _array(told, 3, which), start, stop, rule)


@inner
def _stepped(param, grad, m, v, rule):
    """Return the new param, m and v, all vectors."""
    g = fma(param, rule.l2, grad)
    m = m * rule.beta1 + g * (1 - rule.beta1)
    v = v * rule.beta2 + g * g * (1 - rule.beta2)
    return param * rule.keep - m * rule.rate / (sqrt(v) * rule.root + rule.eps), m, v


@inner
def _step(param, grad, m, v, start, stop, rule):
    whole = stop - (stop - start) % lanes(param)
    for i in range(start, whole, lanes(param)):
        p, g, a, b = param + i, grad + i, m + i, v + i
        new, first, second = _stepped(load(p), load(g), load(a), load(b), rule)
        store(p, new)
        store(a, first)
        store(b, second)
    n = stop - whole
    if n:
        p, g, a, b = param + whole, grad + whole, m + whole, v + whole
        grads, moments = load_first(g, n), (load_first(a, n), load_first(b, n))
        new, first, second = _stepped(load_first(p, n), grads, *moments, rule)
        store_first(p, new, n)
        store_first(a, first, n)
        store_first(b, second, n)


@task
def sums_of_squares(sizes, factors, operands, queue, scratch):
    """Write Σ x² of each chunk, in float64, to the array whose address follows those of x."""
    each_piece(queue, _sum_chunk, Told(sizes, factors, operands, scratch))


@inner
def _sum_chunk(told, chunk):
    """Do so for one chunk."""
    which, start, stop = _place(told.sizes, chunk)
    x, sums = _array(told, 0, which), address(told.operands[told.sizes[0]], told.factors)
    total = 0.0
    for i in range(start, stop):
        value = np.float64(x[i])
        total += value * value
    sums[chunk] = total


@task
def scale(sizes, factors, operands, queue, scratch):
    """Multiply arrays by ``factors[0]``, in place."""
    each_piece(queue, _scale_chunk, Told(sizes, factors, operands, scratch))


@inner
def _scale_chunk(told, chunk):
    """Do so for one chunk."""
    which, start, stop = _place(told.sizes, chunk)
    x, factor = _array(told, 0, which), told.factors[0]
    whole = stop - (stop - start) % lanes(x)
    for i in range(start, whole, lanes(x)):
        store(x + i, load(x + i) * factor)
    if whole < stop:
        rest = stop - whole
        store_first(x + whole, load_first(x + whole, rest) * factor, rest)
