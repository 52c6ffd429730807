"""miniattn's side of the benchmark, and the limits of the machine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from data import Arrays, Case, lengths

import miniattn
import miniattn.functional as F
from miniattn import masks, nn, optim
from miniattn.kernels import peak
from miniattn.kernels import registers as simd
from miniattn.kernels.dense import panels as tiles

VERSION = miniattn.__version__


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] == "multiply_add":
        return _multiply_add(case, threads)
    make = {"copy": _copy, "adamw": _adamw}.get(case["op"])
    if make is not None:
        return make(**inputs)
    operands = {name: a for name, a in inputs.items() if name != "dy"}
    if case["op"] == "attention":
        operands["mask"] = _mask(case)
    if not case["backward"]:
        return partial(getattr(F, case["op"]), **operands)
    forward = getattr(F, f"{case['op']}_forward")
    backward = getattr(F, f"{case['op']}_backward")
    dy = inputs.get("dy", 1.0)

    def run() -> Any:
        y, ctx = forward(**operands)
        return y, backward(dy, ctx)

    return run


def _mask(case: Case) -> masks.Mask | None:
    return {"causal": masks.causal(), "padding": masks.padding(lengths(case))}.get(case["mask"])


def _adamw(x: Any, dy: Any) -> Callable[[], Any]:
    parameter = nn.Parameter(x)
    parameter.data = x  # not a copy: the update is made in place, as by the other libraries
    parameter.accumulate(dy)
    return optim.AdamW([parameter], lr=1e-3).step


def _copy(x: Any, dy: Any) -> Callable[[], Any]:
    return partial(peak.copy, x.ravel(), np.empty(x.size, x.dtype))


def _multiply_add(case: Case, threads: int) -> Callable[[], Any]:
    width = tiles.WIDE * simd.LANES
    a = np.ones((peak.ROWS, case["n"]), np.float32)
    b = np.ones((case["n"], width), np.float32)
    c = np.empty((threads, peak.ROWS, width), np.float32)
    return partial(peak.multiply_add, a, b, c, case["rows"])
