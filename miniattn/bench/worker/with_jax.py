"""JAX's side of the benchmark: compiled by jit, ahead of the first call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_gpt
from data import MODELS, Arrays, Case, visible

VERSION = jax.__version__


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] in MODELS:
        return jax_gpt.build(case, inputs)
    operands = {name: jnp.asarray(a) for name, a in inputs.items()}
    dy = operands.pop("dy", jnp.float32(1.0))
    if case["op"] == "adamw":
        return _adamw(operands["x"], dy)
    function = _function(case)
    if function is None:
        return None
    if case["op"] == "attention":  # JAX's own order of axes is (B, T, H, D)
        operands = {name: jnp.asarray(a.swapaxes(1, 2)) for name, a in operands.items()}
        dy = jnp.asarray(dy.swapaxes(1, 2))
    targets = {name: operands.pop(name) for name in ("targets",) if name in operands}

    def both(operands: Any, dy: Any) -> Any:
        y, pull = jax.vjp(lambda kw: function(**kw, **targets), operands)
        return y, pull(dy)

    def forward(operands: Any, dy: Any) -> Any:
        return function(**operands, **targets)

    compiled = jax.jit(both if case["backward"] else forward).lower(operands, dy).compile()
    return lambda: jax.block_until_ready(compiled(operands, dy))


def _function(case: Case) -> Callable[..., Any] | None:
    if case["op"] == "attention":
        mask, causal = visible(case), case["mask"] == "causal"
        return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal)
    return {
        "softmax": lambda x: jax.nn.softmax(x),
        "cross_entropy": _cross_entropy,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "layer_norm": _layer_norm,
    }.get(case["op"])


def _cross_entropy(logits: Any, targets: Any) -> Any:
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
    return -jnp.mean(chosen)


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias


def _adamw(x: Any, dy: Any) -> Callable[[], Any]:
    def step(x: Any, m: Any, v: Any, t: Any, dy: Any) -> Any:
        t = t + 1
        m = 0.9 * m + 0.1 * dy
        v = 0.999 * v + 0.001 * dy * dy
        rate = 1e-3 / (1 - 0.9**t)
        update = m / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return x * (1 - 1e-3 * 0.01) - rate * update, m, v, t

    # Donated: the new state is written where the old one was.
    compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3))
    state = [x, jnp.zeros_like(x), jnp.zeros_like(x), jnp.float32(0)]

    def run() -> None:
        state[:] = jax.block_until_ready(compiled(*state, dy))

    return run
