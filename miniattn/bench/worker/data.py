"""The inputs of a case: the same numbers for every library."""

from typing import Any

import numpy as np

Case = dict[str, Any]
Arrays = dict[str, np.ndarray[Any, Any]]
MODELS = "train", "classify", "logits", "decode"  # operations of a whole model


def arrays(case: Case) -> Arrays:
    """Return the inputs of ``case`` by name; dy is the gradient that comes in."""
    normal = _Normal()
    if case["op"] == "multiply_add":
        return {}
    if case["op"] in MODELS:
        return _model(case)
    if case["op"] == "attention":
        B, H, T, S, D = (case[letter] for letter in "BHTSD")
        shapes = {"q": (B, H, T, D), "k": (B, H, S, D), "v": (B, H, S, D), "dy": (B, H, T, D)}
        return {name: normal(*shape) for name, shape in shapes.items()}
    rows, n = case["rows"], case["n"]
    x = normal(rows, n)
    if case["op"] == "cross_entropy":
        return {"logits": x, "targets": np.asarray(np.random.default_rng(1).integers(0, n, rows))}
    if case["op"] == "layer_norm":
        return {"x": x, "weight": normal(n), "bias": normal(n), "dy": normal(rows, n)}
    return {"x": x, "dy": normal(rows, n)}


def _model(case: Case) -> Arrays:
    """Return ids and targets (B, T) and the weights of a GPT, matrices (out, in).

    A classifier has targets (B,), and a head of its own.

    They are drawn larger than a model starts with, so that the tokens it writes differ, and the
    most likely one is more likely than rounding can change.
    """
    normal, rng = _Normal(), np.random.default_rng(1)
    E, V, T = case["E"], case["V"], case["T"]
    ids, targets = rng.integers(0, V, (2, case["B"], T))
    found = {"ids": ids, "targets": targets}
    found |= {"tokens": 0.3 * normal(V, E), "positions": normal(T, E)}
    for i in range(case["layers"]):
        shapes = {"qkv": (3 * E, E), "out": (E, E), "up": (4 * E, E), "down": (E, 4 * E)}
        for name, shape in shapes.items():
            found[f"{i}.{name}"] = normal(*shape) / np.float32(shape[1] ** 0.5)
        found |= {f"{i}.{name}": np.ones(E, np.float32) for name in ("norm1", "norm2")}
    found["norm"] = np.ones(E, np.float32)
    if case["op"] == "classify":
        found["targets"] = np.asarray(rng.integers(0, case["N"], case["B"]))
        found |= {"head": normal(case["N"], E) / np.float32(E**0.5)}
        found |= {"shift": np.zeros(case["N"], np.float32)}
    return found


def lengths(case: Case) -> np.ndarray[Any, Any]:
    """Return how many keys each sequence of a padded batch has: from a third of S up to S."""
    return np.linspace(max(1, case["S"] // 3), case["S"], case["B"]).astype(np.int64)


def pooling(case: Case) -> np.ndarray[Any, Any]:
    """Return what each step counts in the mean over a sequence's real steps, (B, T)."""
    real = lengths(case)[:, None]
    weights: np.ndarray[Any, Any] = (np.arange(case["T"]) < real) / real.astype(np.float32)
    return weights.astype(np.float32)


def visible(case: Case) -> np.ndarray[Any, Any] | None:
    """Return the padding as a boolean array (B, 1, 1, S), True = may attend."""
    if case["mask"] != "padding":
        return None
    real: np.ndarray[Any, Any] = np.arange(case["S"]) < lengths(case)[:, None]
    return real[:, None, None, :]


class _Normal:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
        return self._rng.standard_normal(shape, dtype=np.float32)
