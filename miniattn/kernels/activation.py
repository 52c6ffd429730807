"""Element-wise activations over flat arrays, forward and backward."""

import math

import numba

from miniattn.kernels._runtime import inner, kernel


@inner
def _sigmoid(x):
    e = math.exp(-abs(x))  # never overflows
    return (1 if x >= 0 else e) / (1 + e)


@inner
def _normal_cdf(x):
    return 0.5 * math.erfc(-x * math.sqrt(0.5))


@inner
def _normal_pdf(x):
    return math.exp(-0.5 * x * x) * math.sqrt(0.5 / math.pi)


@kernel
def relu(x, y):
    """y = max(x, 0)."""
    for i in numba.prange(x.size):
        y[i] = 0 if x[i] <= 0 else x[i]


@kernel
def relu_backward(dy, y, dx):
    """dx = dy where y > 0, else 0."""
    for i in numba.prange(y.size):
        dx[i] = 0 if y[i] <= 0 else dy[i]


@kernel
def sigmoid(x, y):
    """y = 1 / (1 + exp(−x))."""
    for i in numba.prange(x.size):
        y[i] = x[i] if math.isnan(x[i]) else _sigmoid(x[i])


@kernel
def sigmoid_backward(dy, y, dx):
    """dx = dy · y · (1 − y)."""
    for i in numba.prange(y.size):
        dx[i] = dy[i] * y[i] * (1 - y[i])


@kernel
def tanh(x, y):
    """y = tanh(x)."""
    for i in numba.prange(x.size):
        y[i] = math.tanh(x[i])


@kernel
def tanh_backward(dy, y, dx):
    """dx = dy · (1 − y²)."""
    for i in numba.prange(y.size):
        dx[i] = dy[i] * (1 - y[i] * y[i])


@kernel
def silu(x, y):
    """y = x · σ(x)."""
    for i in numba.prange(x.size):
        y[i] = x[i] * _sigmoid(x[i])


@kernel
def silu_backward(dy, x, dx):
    """dx = dy · σ(x) · (1 + x · (1 − σ(x)))."""
    for i in numba.prange(x.size):
        s = _sigmoid(x[i])
        dx[i] = dy[i] * s * (1 + x[i] * (1 - s))


@kernel
def gelu(x, y):
    """y = x · Φ(x)."""
    for i in numba.prange(x.size):
        y[i] = x[i] * _normal_cdf(x[i])


@kernel
def gelu_backward(dy, x, dx):
    """dx = dy · (Φ(x) + x · φ(x))."""
    for i in numba.prange(x.size):
        dx[i] = dy[i] * (_normal_cdf(x[i]) + x[i] * _normal_pdf(x[i]))


@inner
def _tanh_argument(x):
    return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


@kernel
def gelu_tanh(x, y):
    """y = x · σ(2u), u = √(2/π) · (x + 0.044715 x³)."""
    for i in numba.prange(x.size):
        y[i] = x[i] * _sigmoid(2 * _tanh_argument(x[i]))


@kernel
def gelu_tanh_backward(dy, x, dx):
    """dx = dy · s · (1 + x · 2u' · (1 − s)), s = σ(2u)."""
    for i in numba.prange(x.size):
        s = _sigmoid(2 * _tanh_argument(x[i]))
        slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x[i] * x[i])
        dx[i] = dy[i] * s * (1 + x[i] * slope * (1 - s))
