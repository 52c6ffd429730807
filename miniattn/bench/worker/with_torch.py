"""PyTorch's side of the benchmark."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch_gpt
from data import MODELS, Arrays, Case, visible

VERSION = torch.__version__


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    torch.set_num_threads(threads)
    if case["op"] in MODELS:
        return torch_gpt.build(case, inputs, compiled=False)
    tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
    dy = tensors.pop("dy", None)
    if case["op"] == "adamw":
        return _adamw(tensors["x"], dy)
    if case["op"] == "copy":
        y = torch.empty_like(tensors["x"])
        return lambda: y.copy_(tensors["x"])
    function = _function(case, tensors)
    if function is None:
        return None
    operands = tuple(tensors.values())
    if not case["backward"]:
        return torch.no_grad()(lambda: function(*operands))
    leaves = [x.requires_grad_() for x in operands if x.is_floating_point()]

    def run() -> Any:
        y = function(*operands)
        return y.detach(), torch.autograd.grad(y, leaves, dy)

    return run


def _function(case: Case, tensors: dict[str, Any]) -> Callable[..., Any] | None:
    if case["op"] == "attention":
        mask = visible(case)
        options = {
            "attn_mask": None if mask is None else torch.from_numpy(mask),
            "is_causal": case["mask"] == "causal",
        }
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)
    if case["op"] == "layer_norm":
        return lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias)
    return {
        "softmax": lambda x: torch.softmax(x, -1),
        "cross_entropy": F.cross_entropy,
        "gelu": F.gelu,
    }.get(case["op"])


def _adamw(x: Any, dy: Any) -> Callable[[], Any]:
    parameter = torch.nn.Parameter(x)
    parameter.grad = dy
    return torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.01, fused=True).step
