"""JAX's side of whole models: nanoGPT as functions of its weights, a step or a token in one jit.

State is donated, so that the new one is written where the old one was.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from data import Arrays, Case, pooling, visible

BETA1, BETA2, RATE, DECAY, CLIP = 0.9, 0.99, 1e-3, 0.1, 1.0


def build(case: Case, inputs: Arrays) -> Callable[[], Any]:
    """Return a call of a training step, a forward pass, or the writing of some tokens."""
    p = {name: jnp.asarray(a) for name, a in inputs.items()}
    ids, targets = p.pop("ids"), p.pop("targets")
    if case["op"] in ("train", "classify"):
        return _train(case, p, ids, targets)
    if case["op"] == "logits":
        forward = jax.jit(functools.partial(_logits, case))
        return lambda: jax.block_until_ready(forward(p, ids))
    return _decode(case, p, ids)


def _train(case: Case, p: Any, ids: Any, targets: Any) -> Callable[[], Any]:
    def loss_of(p: Any) -> Any:
        logits = (_classes if case["op"] == "classify" else _logits)(case, p, ids)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
        return -jnp.mean(chosen)

    def update(p: Any, m: Any, v: Any, t: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(p)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        scale, t = jnp.minimum(1.0, CLIP / (norm + 1e-6)), t + 1
        g = jax.tree.map(lambda g: g * scale, grads)
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)

        def moved(x: Any, m: Any, v: Any) -> Any:
            x = x * (1 - RATE * DECAY) if x.ndim == 2 else x
            return x - RATE / (1 - BETA1**t) * m / (jnp.sqrt(v / (1 - BETA2**t)) + 1e-8)

        return jax.tree.map(moved, p, m, v), m, v, t, loss

    step = jax.jit(update, donate_argnums=(0, 1, 2, 3))
    zeros = [jax.tree.map(jnp.zeros_like, p) for _ in range(2)]
    state = [jax.tree.map(jnp.copy, p), *zeros, jnp.float32(0)]

    def run() -> float:
        *state[:], loss = step(*state)
        return float(loss)

    return run


def _decode(case: Case, p: Any, ids: Any) -> Callable[[], Any]:
    N, B = case["T"], case["B"]
    shape = case["layers"], 2, B, N, case["H"], case["E"] // case["H"]

    def write_one(p: Any, chosen: Any, cache: Any, at: Any) -> Any:
        seen = (jnp.arange(N) <= at)[None, None, None]

        def attend(i: int, q: Any, k: Any, v: Any) -> Any:
            nonlocal cache
            for which, x in enumerate((k, v)):
                cache = jax.lax.dynamic_update_slice(cache, x[None, None], (i, which, 0, at, 0, 0))
            return jax.nn.dot_product_attention(q, cache[i, 0], cache[i, 1], mask=seen)

        x = p["tokens"][chosen][:, None] + p["positions"][at]
        return jnp.argmax(_head(p, _blocks(case, p, x, attend))[:, 0], axis=-1), cache

    step = jax.jit(write_one, donate_argnums=(2,))

    def write() -> Any:
        cache, chosen, found = jnp.zeros(shape, jnp.float32), ids[:, 0], []
        for at in range(N):
            chosen, cache = step(p, chosen, cache, at)
            found.append(chosen)
        return jax.block_until_ready(jnp.stack(found, 1))

    return write


def _logits(case: Case, p: Any, ids: Any) -> Any:
    def attend(i: int, q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    x = p["tokens"][ids] + p["positions"][: ids.shape[1]]
    return _head(p, _blocks(case, p, x, attend))


def _classes(case: Case, p: Any, ids: Any) -> Any:
    mask, mean = visible(case), pooling(case)

    def attend(i: int, q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, mask=mask)

    x = p["tokens"][ids] + p["positions"]
    x = _norm(_blocks(case, p, x, attend), p["norm"])
    return jnp.einsum("bt,bte->be", mean, x) @ p["head"].T + p["shift"]


def _blocks(case: Case, p: Any, x: Any, attend: Callable[..., Any]) -> Any:
    for i in range(case["layers"]):
        qkv = _norm(x, p[f"{i}.norm1"]) @ p[f"{i}.qkv"].T
        q, k, v = (part.reshape(*x.shape[:2], case["H"], -1) for part in jnp.split(qkv, 3, axis=-1))
        x = x + attend(i, q, k, v).reshape(x.shape) @ p[f"{i}.out"].T
        hidden = jax.nn.gelu(_norm(x, p[f"{i}.norm2"]) @ p[f"{i}.up"].T, approximate=False)
        x = x + hidden @ p[f"{i}.down"].T
    return x


def _head(p: Any, x: Any) -> Any:
    return _norm(x, p["norm"]) @ p["tokens"].T


def _norm(x: Any, weight: Any) -> Any:
    mean, variance = jnp.mean(x, axis=-1, keepdims=True), jnp.var(x, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight
