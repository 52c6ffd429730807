"""Optimiser steps and gradient norms, over all parameters in one launch.

Each array is read and written once, however many terms the rule has. The arrays are cut into
blocks, numbered through all of them; a block is one piece of work.
"""

import math
from typing import NamedTuple

import numpy as np

from miniattn.kernels.compile.queue import take
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

BLOCK = 16_384  # elements

# What the tasks below are told in `sizes`: how many arrays there are, how many blocks reach to
# the end of each of them, and how many elements each has. In `operands` stand the addresses of the
# arrays: those of the first role, then those of the second, ...


@inner
def _place(sizes, block):
    """Return the number of the array that ``block`` lies in, and its first and last element."""
    count, which = sizes[0], 0
    while sizes[1 + which] <= block:
        which += 1
    before = sizes[which] if which else 0
    start = (block - before) * BLOCK
    return which, start, min(start + BLOCK, sizes[1 + count + which])


@inner
def _array(sizes, operands, role, which, like):
    return address(operands[role * sizes[0] + which], like)


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
    lr, beta1, beta2, eps = factors[0], factors[1], factors[2], factors[3]
    block = take(queue)
    while block < sizes[sizes[0]]:
        which, start, stop = _place(sizes, block)
        decay, l2, step = factors[4 + 3 * which], factors[5 + 3 * which], factors[6 + 3 * which]
        rate, root = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
        rule = Rule(beta1, beta2, 1 - lr * decay, l2, rate, root, eps)
        param = _array(sizes, operands, 0, which, scratch)
        grad = _array(sizes, operands, 1, which, scratch)
        m = _array(sizes, operands, 2, which, scratch)
        v = _array(sizes, operands, 3, which, scratch)
        _adam_block(param, grad, m, v, start, stop, rule)
        block = take(queue)


@inner
def _stepped(param, grad, m, v, rule):
    """Return the new param, m and v, all vectors."""
    g = fma(param, rule.l2, grad)
    m = m * rule.beta1 + g * (1 - rule.beta1)
    v = v * rule.beta2 + g * g * (1 - rule.beta2)
    return param * rule.keep - m * rule.rate / (sqrt(v) * rule.root + rule.eps), m, v


@inner
def _adam_block(param, grad, m, v, start, stop, rule):
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
    """Write Σ x² of each block, in float64, to the array whose address follows those of x."""
    sums = address(operands[sizes[0]], factors)
    block = take(queue)
    while block < sizes[sizes[0]]:
        which, start, stop = _place(sizes, block)
        x = _array(sizes, operands, 0, which, scratch)
        total = 0.0
        for i in range(start, stop):
            value = np.float64(x[i])
            total += value * value
        sums[block] = total
        block = take(queue)


@task
def scale(sizes, factors, operands, queue, scratch):
    """Multiply arrays by ``factors[0]``, in place."""
    block = take(queue)
    while block < sizes[sizes[0]]:
        which, start, stop = _place(sizes, block)
        x = _array(sizes, operands, 0, which, scratch)
        whole = stop - (stop - start) % lanes(x)
        for i in range(start, whole, lanes(x)):
            store(x + i, load(x + i) * factors[0])
        if whole < stop:
            rest = stop - whole
            store_first(x + whole, load_first(x + whole, rest) * factors[0], rest)
        block = take(queue)
