"""PyTorch's side of whole models: nanoGPT as functions of its weights, eager or compiled.

One product makes q, k and v, attention is `scaled_dot_product_attention`, AdamW is fused. Keys and
values of a decoding step are slices of a cache in eager mode; compiled, whole ones under a mask,
because shapes that grow would be compiled again and again.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from data import Arrays, Case, pooling, visible

Weights = dict[str, torch.Tensor]


def build(case: Case, inputs: Arrays, *, compiled: bool) -> Callable[[], Any]:
    """Return a call of a training step, a forward pass, or the writing of some tokens."""
    tensors = {name: torch.from_numpy(a) for name, a in inputs.items()}
    ids, targets = tensors.pop("ids"), tensors.pop("targets")
    if case["op"] in ("train", "classify"):
        return _train(case, tensors, ids, targets, compiled)
    if case["op"] == "logits":
        forward = _compiled(lambda p, ids: _logits(case, p, ids), compiled)
        return torch.no_grad()(lambda: forward(tensors, ids))
    return torch.no_grad()(_decode(case, tensors, ids, compiled))


def _compiled(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False) if compiled else function


def _train(
    case: Case, tensors: Weights, ids: torch.Tensor, targets: torch.Tensor, compiled: bool
) -> Callable[[], Any]:
    p = {name: torch.nn.Parameter(x.clone()) for name, x in tensors.items()}
    matrices = [x for x in p.values() if x.dim() == 2]
    groups = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": [x for x in p.values() if x.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)

    logits_of = _reader(case) if case["op"] == "classify" else functools.partial(_logits, case)

    def loss_of(p: Weights, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits_of(p, ids).flatten(0, -2), targets.flatten())

    forward = _compiled(loss_of, compiled)

    def step() -> float:
        loss = forward(p, ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(p.values()), 1.0)
        optimizer.step()
        return loss.item()

    return step


def _decode(case: Case, p: Weights, ids: torch.Tensor, compiled: bool) -> Callable[[], Any]:
    layers, E, N, B = case["layers"], case["E"], case["T"], case["B"]
    shape = layers, 2, B, case["H"], N, E // case["H"]
    at_all = torch.arange(N)

    def attend_all(cache: torch.Tensor, at: torch.Tensor) -> Callable[..., torch.Tensor]:
        mask = (at_all <= at)[None]

        def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache[i, 0].index_copy_(2, at, k)
            cache[i, 1].index_copy_(2, at, v)
            return F.scaled_dot_product_attention(q, cache[i, 0], cache[i, 1], attn_mask=mask)

        return attend

    def attend_held(cache: torch.Tensor, at: int) -> Callable[..., torch.Tensor]:
        def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            cache[i, 0, :, :, at : at + 1] = k
            cache[i, 1, :, :, at : at + 1] = v
            held = cache[i, :, :, :, : at + 1]
            return F.scaled_dot_product_attention(q, held[0], held[1])

        return attend

    def step(p: Weights, chosen: torch.Tensor, cache: torch.Tensor, at: Any) -> torch.Tensor:
        attend = (attend_all if compiled else attend_held)(cache, at)
        place = p["positions"].index_select(0, at) if compiled else p["positions"][at : at + 1]
        x = F.embedding(chosen, p["tokens"])[:, None] + place
        return _head(p, _blocks(case, p, x, attend))[:, 0].argmax(-1)

    step = _compiled(step, compiled)

    def write() -> torch.Tensor:
        cache, chosen, found = torch.zeros(shape), ids[:, 0], []
        for at in range(N):
            chosen = step(p, chosen, cache, torch.tensor([at]) if compiled else at)
            found.append(chosen)
        return torch.stack(found, 1)

    return write


def _logits(case: Case, p: Weights, ids: torch.Tensor) -> torch.Tensor:
    def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    x = F.embedding(ids, p["tokens"]) + p["positions"][: ids.shape[1]]
    return _head(p, _blocks(case, p, x, attend))


def _reader(case: Case) -> Callable[[Weights, torch.Tensor], torch.Tensor]:
    """Return what a classifier makes of padded sequences: logits (B, N)."""
    mask, mean = torch.from_numpy(visible(case)), torch.from_numpy(pooling(case))

    def attend(i: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def logits(p: Weights, ids: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, p["tokens"]) + p["positions"]
        x = _norm(_blocks(case, p, x, attend), p["norm"])
        return F.linear((mean[:, None] @ x)[:, 0], p["head"], p["shift"])

    return logits


def _blocks(
    case: Case, p: Weights, x: torch.Tensor, attend: Callable[..., torch.Tensor]
) -> torch.Tensor:
    for i in range(case["layers"]):
        qkv = F.linear(_norm(x, p[f"{i}.norm1"]), p[f"{i}.qkv"])
        q, k, v = (part.unflatten(-1, (case["H"], -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        x = x + F.linear(attend(i, q, k, v).transpose(1, 2).flatten(2), p[f"{i}.out"])
        hidden = F.gelu(F.linear(_norm(x, p[f"{i}.norm2"]), p[f"{i}.up"]))
        x = x + F.linear(hidden, p[f"{i}.down"])
    return x


def _head(p: Weights, x: torch.Tensor) -> torch.Tensor:
    return F.linear(_norm(x, p["norm"]), p["tokens"])


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weight)
