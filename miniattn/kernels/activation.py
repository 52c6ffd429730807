"""Element-wise activations and their gradients, over flat arrays.

Each function below is written on vector registers; `elementwise` makes the task of it that fills
``y[i] = f(x[i])``, or ``dx[i] = f(dy[i], saved[i])``.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from miniattn.kernels import elementary
from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import Task, inner, task
from miniattn.kernels.registers import (
    address,
    lanes,
    load,
    load_first,
    maximum,
    minimum,
    prefetch,
    select,
    store,
    store_first,
)
from miniattn.kernels.registers import tanh as vector_tanh

# Elements of one piece of work. Up to this many are done by the calling thread: waking another
# takes longer.
CHUNK = 8192
# Elements from here to what is asked for ahead: the processor alone sees too late what it needs.
AHEAD = 1024


def elementwise(function: Callable[..., Any]) -> Task:
    """Return the task that applies ``function``, of one or two vectors, to flat arrays.

    Its sizes are the number of elements, its operands the addresses of the arguments and of the
    result.
    """
    f = inner(function)
    work = inner((_unary if len(inspect.signature(function).parameters) == 1 else _binary)(f))

    def run(sizes: Any, factors: Any, operands: Any, queue: Any, scratch: Any) -> None:
        each_piece(queue, work, Told(sizes, factors, operands, scratch))

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    made: Task = task(run)
    return made


def _unary(f: Any) -> Callable[[Told, int], None]:
    def chunk(told: Told, piece: int) -> None:
        x, y = address(told.operands[0], told.scratch), address(told.operands[1], told.scratch)
        start = piece * CHUNK
        stop = min(start + CHUNK, told.sizes[0])
        whole = stop - (stop - start) % lanes(x)
        for i in range(start, whole, lanes(x)):
            prefetch(x + (i + AHEAD))
            prefetch(y + (i + AHEAD))
            store(y + i, f(load(x + i)))
        if whole < stop:
            rest = stop - whole
            store_first(y + whole, f(load_first(x + whole, rest)), rest)

    return chunk


def _binary(f: Any) -> Callable[[Told, int], None]:
    def chunk(told: Told, piece: int) -> None:
        dy, saved = address(told.operands[0], told.scratch), address(told.operands[1], told.scratch)
        dx = address(told.operands[2], told.scratch)
        start = piece * CHUNK
        stop = min(start + CHUNK, told.sizes[0])
        whole = stop - (stop - start) % lanes(dx)
        for i in range(start, whole, lanes(dx)):
            prefetch(dy + (i + AHEAD))
            prefetch(saved + (i + AHEAD))
            prefetch(dx + (i + AHEAD))
            store(dx + i, f(load(dy + i), load(saved + i)))
        if whole < stop:
            rest = stop - whole
            last = f(load_first(dy + whole, rest), load_first(saved + whole, rest))
            store_first(dx + whole, last, rest)

    return chunk


@elementwise
def add(x, y):
    """x + y."""
    return x + y


@elementwise
def multiply(x, y):
    """x · y."""
    return x * y


@elementwise
def relu(x):
    """y = max(x, 0); NaN stays NaN."""
    return select(x <= 0.0, 0.0, x)


@elementwise
def relu_backward(dy, y):
    """dx = dy where y > 0, else 0."""
    return select(y <= 0.0, 0.0, dy)


@elementwise
def sigmoid(x):
    """y = σ(x) = 1 / (1 + e^−x)."""
    s, _ = elementary.sigmoid(x)
    return s


@elementwise
def sigmoid_backward(dy, y):
    """dx = dy · y · (1 − y)."""
    return dy * y * (1.0 - y)


@elementwise
def tanh(x):
    """y = tanh(x)."""
    return vector_tanh(x)


@elementwise
def tanh_backward(dy, y):
    """dx = dy · (1 − y²)."""
    return dy * ((1.0 - y) * (1.0 + y))


@elementwise
def silu(x):
    """y = x · σ(x)."""
    s, _ = elementary.sigmoid(x)
    return x * s


@elementwise
def silu_backward(dy, x):
    """dx = dy · σ(x) · (1 + x · σ(−x))."""
    s, opposite = elementary.sigmoid(x)
    return dy * s * (1.0 + x * opposite)


@elementwise
def gelu(x):
    """y = x · Φ(x)."""
    cdf, _ = elementary.normal(x)
    return x * cdf


@elementwise
def gelu_backward(dy, x):
    """dx = dy · (Φ(x) + x · φ(x))."""
    cdf, pdf = elementary.normal(x)
    return dy * (cdf + x * pdf)


# (1 + tanh(u)) / 2 = σ(2u), so that the tanh form is y = x · σ(v), v = √(8/π) (x + 0.044715 x³).
LINEAR, CUBIC = math.sqrt(8 / math.pi), 0.044715 * math.sqrt(8 / math.pi)
FAR = 32.0  # from here on σ(v) is 0 or 1, and σ(−v) the other


@inner(forceinline=True)
def _near(x):
    """Return x, of which what is far away has come near: no power of it overflows."""
    return maximum(-FAR, minimum(FAR, x))


@elementwise
def gelu_tanh(x):
    """y = x · σ(v), v = √(8/π) (x + 0.044715 x³)."""
    near = _near(x)
    s, _ = elementary.sigmoid(near * (LINEAR + CUBIC * near * near))
    return x * s


@elementwise
def gelu_tanh_backward(dy, x):
    """dx = dy · σ(v) · (1 + x · dv/dx · σ(−v))."""
    near = _near(x)
    square = near * near
    s, opposite = elementary.sigmoid(near * (LINEAR + CUBIC * square))
    return dy * s * (1.0 + near * (LINEAR + 3.0 * CUBIC * square) * opposite)
