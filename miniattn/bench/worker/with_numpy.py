"""The same operations in plain NumPy, float32, the way one writes them first."""

from collections.abc import Callable
from typing import Any

import numpy as np
from data import Arrays, Case, visible

VERSION = np.__version__
MOST_SCORES = 2**28  # 1 GiB: beyond that a T x S array is no way to do it

Array = Any


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] == "attention":
        if case["B"] * case["H"] * case["T"] * case["S"] > MOST_SCORES:
            return None
        return _attention(case, **inputs)
    make = {
        "copy": _copy,
        "softmax": _softmax,
        "cross_entropy": _cross_entropy,
        "layer_norm": _layer_norm,
        "adamw": _adamw,
    }.get(case["op"])
    return make and make(case, **inputs)


def softmax(x: Array) -> Array:
    """Return e^x / sum(e^x) along the last axis."""
    y = np.exp(x - x.max(axis=-1, keepdims=True))
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy: Array, y: Array) -> Array:
    """Return y (dy - sum(y dy)) along the last axis."""
    return y * (dy - np.sum(y * dy, axis=-1, keepdims=True))


def _attention(case: Case, q: Array, k: Array, v: Array, dy: Array) -> Callable[[], Any]:
    T, S = case["T"], case["S"]
    mask = np.tri(T, S, S - T, dtype=bool) if case["mask"] == "causal" else visible(case)
    scale = np.float32(1 / np.sqrt(case["D"]))

    def forward() -> Any:
        scores = (q * scale) @ k.swapaxes(2, 3)
        weights = softmax(scores if mask is None else np.where(mask, scores, -np.inf))
        return weights @ v, weights

    def both() -> Any:
        out, weights = forward()
        dv = weights.swapaxes(2, 3) @ dy
        dscores = softmax_backward(dy @ v.swapaxes(2, 3), weights)
        return out, dscores @ k * scale, dscores.swapaxes(2, 3) @ (q * scale), dv

    return both if case["backward"] else lambda: forward()[0]


def _copy(case: Case, x: Array, dy: Array) -> Callable[[], Any]:
    y = np.empty_like(x)
    return lambda: np.copyto(y, x)


def _softmax(case: Case, x: Array, dy: Array) -> Callable[[], Any]:
    def both() -> Any:
        y = softmax(x)
        return y, softmax_backward(dy, y)

    return both if case["backward"] else lambda: softmax(x)


def _cross_entropy(case: Case, logits: Array, targets: Array) -> Callable[[], Any]:
    rows = np.arange(len(logits))

    def run() -> Any:
        shifted = logits - logits.max(axis=1, keepdims=True)
        lse = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = np.mean(lse[:, 0] - shifted[rows, targets])
        if not case["backward"]:
            return loss
        dx = np.exp(shifted - lse)
        dx[rows, targets] -= 1
        return loss, dx / np.float32(len(logits))

    return run


def _layer_norm(case: Case, x: Array, weight: Array, bias: Array, dy: Array) -> Callable[[], Any]:
    def run() -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        rstd = 1 / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + np.float32(1e-5))
        normal = centred * rstd
        y = normal * weight + bias
        if not case["backward"]:
            return y
        g = dy * weight
        means = g.mean(-1, keepdims=True), np.mean(g * normal, -1, keepdims=True)
        dx = rstd * (g - means[0] - normal * means[1])
        return y, dx, np.sum(dy * normal, axis=0), dy.sum(axis=0)

    return run


def _adamw(case: Case, x: Array, dy: Array) -> Callable[[], Any]:
    m, v = np.zeros_like(x), np.zeros_like(x)
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        m[:] = 0.9 * m + 0.1 * dy
        v[:] = 0.999 * v + 0.001 * dy * dy
        rate = 1e-3 / (1 - 0.9**count)
        x[:] = x * (1 - 1e-5) - rate * m / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)

    return run
