"""miniattn's side of the benchmark, and the limits of the machine."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from data import MODELS, Arrays, Case, lengths

import miniattn
import miniattn.functional as F
from miniattn import masks, models, nn, optim
from miniattn.kernels import peak
from miniattn.kernels import registers as simd
from miniattn.kernels.dense import panels as tiles

VERSION = miniattn.__version__


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] == "multiply_add":
        return _multiply_add(case, threads)
    if case["op"] in MODELS:
        return _model(case, inputs)
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


def _model(case: Case, inputs: Arrays) -> Callable[[], Any]:
    ids, targets = inputs["ids"], inputs["targets"]
    sizes = {"embed_dim": case["E"], "num_heads": case["H"], "num_layers": case["layers"]}
    if case["op"] == "classify":
        classifier = models.SequenceClassifier(
            case["N"],
            vocab_size=case["V"],
            positions="learned",
            max_length=case["T"],
            bias=False,
            **sizes,
        )
        classifier.load_state_dict(_state_of_classifier(case, inputs))
        return _step(classifier, partial(classifier.forward, ids, lengths(case)), targets)
    model = models.GPT(case["V"], case["T"], **sizes)
    model.load_state_dict(_state(case, inputs))
    if case["op"] == "logits":
        return partial(model, ids)
    if case["op"] == "decode":
        return lambda: model.generate(ids[:, :1], case["T"], temperature=0)[:, 1:]
    return _step(model, partial(model.forward, ids), targets)


def _step(model: Any, forward: Callable[[], Any], targets: Any) -> Callable[[], float]:
    """Return a step of training: forward, loss, backward, clipping, AdamW."""
    optimizer = optim.AdamW(
        model.named_parameters(),
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        decay=optim.only_matrices,
    )
    parameters = model.parameters()

    def step() -> float:
        logits, ctx = forward()
        loss, loss_ctx = F.cross_entropy_forward(logits, targets)
        optimizer.zero_grad()
        model.backward(F.cross_entropy_backward(1.0, loss_ctx), ctx)
        optim.clip_grad_norm(parameters, 1.0)
        optimizer.step()
        return float(loss)

    return step


def _state(case: Case, inputs: Arrays) -> Arrays:
    """Return the weights by the names that they have here."""
    names = {"norm1": "norm1", "out": "attn.out_proj", "norm2": "norm2"}
    names |= {"up": "ffn.up", "down": "ffn.down"}
    state = {
        "tokens.weight": inputs["tokens"],
        "positions.weight": inputs["positions"],
        "blocks.norm.weight": inputs["norm"],
    }
    for i in range(case["layers"]):
        layer = f"blocks.layers.{i}"
        parts = np.split(inputs[f"{i}.qkv"], 3)
        state |= {f"{layer}.attn.{n}_proj.weight": w for n, w in zip("qkv", parts, strict=True)}
        state |= {f"{layer}.{theirs}.weight": inputs[f"{i}.{n}"] for n, theirs in names.items()}
    return state


def _state_of_classifier(case: Case, inputs: Arrays) -> Arrays:
    state = _state(case, inputs)
    tokens = {"embed.weight": state.pop("tokens.weight")}
    state = {name.replace("blocks.", "encoder."): a for name, a in state.items()}
    return {**state, **tokens, "head.weight": inputs["head"], "head.bias": inputs["shift"]}


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
