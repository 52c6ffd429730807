"""A traced stack of layers, at toy size, as the lines of its forward and backward."""

from typing import Any

import numpy as np

from miniattn import nn
from miniattn._typing import Array
from miniattn.analysis import residual_stream
from miniattn.plot._program import (
    Pair,
    Program,
    d,
    head_backward,
    head_forward,
    head_pairs,
    part,
)
from miniattn.trace import Gradients, Trace

MOST_HIDDEN = 32
"""Columns of the feed-forward layer's hidden units."""

_CLOSE: dict[str, Any] = {
    "rtol": 1e-3,
    "atol": 1e-4,
}  # of single precision: another formula is further off

_CURVES: dict[type, str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}


def program_of(t: Trace, dout: Gradients | Array | None, batch: int, most: int) -> dict[str, Any]:
    """Return what the page is told of the stack of a trace, of one row of the batch."""
    model = t._model
    if model is None:
        raise ValueError("x: expected a trace of trace.run, got one made of maps alone")
    path = residual_stream(model).start.rpartition("input")[0]  # of the stack, with its dot
    stack: Any = dict(model.named_modules())[path.removesuffix(".")]
    result = path.removesuffix(".") or "output"
    x, y = _row(t, f"{path}input", batch), _row(t, result, batch)
    T, E = x.shape
    hidden = max((_hidden_units(layer, i) for i, layer in enumerate(stack.layers)), default=0)
    if max(T, E) > most or hidden > MOST_HIDDEN or not stack.layers:
        raise ValueError(
            f"x: expected a trace of at most {most} tokens and width {most}, {MOST_HIDDEN} hidden "
            f"units and at least one layer, got {T}, {E}, {hidden} and {len(stack.layers)} layers"
        )
    p = Program()
    p.given = {"x": x}
    last = len(stack.layers) - 1
    names = [f"{i}.y" for i in range(last)] + [f"{last}.y" if stack.norm else "out"]
    for i, layer in enumerate(stack.layers):
        _given(p, layer, f"{i}.", t.masks.get(f"{path}layers.{i}.attn"), (batch, T))
        _forward(p, layer, f"{i}.", names[i - 1] if i else "x", names[i])
    if stack.norm:
        _norm_given(p, stack.norm, "norm")
        _norm(p, stack.norm, "out", names[-1], "norm")
    p.given["dout"] = _incoming(dout, result, batch, (T, E))
    slopes = [d(name) for name in names]
    if stack.norm:
        _norm_back(p, stack.norm, d(names[-1]), names[-1], "norm", "dout")
    for i in range(last, -1, -1):
        _backward(p, stack.layers[i], f"{i}.", names[i - 1] if i else "x", slopes[i])
    _groups(p, stack, names)
    _check(stack, x, y, p)
    return p.data("out", f"{last}.0.dscores")


# ---------------------------------------------------------------------------------- given


def _row(t: Trace | Gradients, name: str, batch: int) -> Array:
    if name not in t:
        raise ValueError(f"x: expected a trace in which {name!r} was kept, got {list(t)[:3]} ...")
    values = t[name]
    if not 0 <= batch < len(values):
        raise ValueError(f"batch: expected an index in [0, {len(values)}), got {batch}")
    return np.asarray(values[batch], np.float64)


def _incoming(
    dout: Gradients | Array | None, name: str, batch: int, shape: tuple[int, int]
) -> Array:
    """Return the gradient at the end of the stack; by default that of the last token's sum."""
    if dout is None:
        last = np.zeros(shape)
        last[-1] = 1.0
        return last
    incoming = _row(dout, name, batch) if isinstance(dout, Gradients) else np.asarray(dout, float)
    if incoming.shape != shape:
        raise ValueError(f"dout: expected shape {shape}, got {incoming.shape}")
    return incoming


def _hidden_units(layer: Any, i: int) -> int:
    """Return how many, of a layer of the usual kind."""
    attn, ffn = layer.attn, layer.ffn
    usual = (
        type(attn) is nn.MultiHeadAttention
        and attn.num_heads == attn.num_kv_heads
        and type(ffn) is nn.FeedForward
        and type(ffn.activation) in _CURVES
        and all(type(norm) in (nn.LayerNorm, nn.RMSNorm) for norm in (layer.norm1, layer.norm2))
        and all(type(x) is nn.Linear for x in (attn.out_proj, ffn.down))
    )
    if not usual:
        raise ValueError(
            "x: expected pre-norm layers of multi-head attention and a feed-forward layer with one "
            f"of relu, gelu, silu, tanh and sigmoid, got layer {i}: {layer!r}"
        )
    return len(ffn.up.weight.data)


def _given(p: Program, layer: Any, at: str, mask: Any, where: tuple[int, int]) -> None:
    """Add the parameters of a layer, by head, and its mask."""
    attn, ffn = layer.attn, layer.ffn
    batch, T = where
    H = attn.num_heads
    for h in range(H):
        for of in "qkv":
            proj = getattr(attn, f"{of}_proj")
            p.given[f"{at}{h}.W{of}"] = np.split(proj.weight.data, H)[h]
            if proj.bias is not None:
                p.given[f"{at}{h}.b{of}"] = np.split(proj.bias.data, H)[h][None]
        p.given[f"{at}{h}.Wo"] = np.split(attn.out_proj.weight.data, H, axis=1)[h]
        seen = np.ones((T, T), np.bool_)
        if mask is not None:
            seen = mask.to_array(batch + 1, H, T, T)
            seen = seen[min(batch, len(seen) - 1), min(h, seen.shape[1] - 1)]
        p.masks[f"{at}{h}.seen"] = seen
    for name, module in (("o", attn.out_proj), ("up", ffn.up), ("down", ffn.down)):
        if name != "o":
            p.given[f"{at}W{name}"] = module.weight.data
        if module.bias is not None:
            p.given[f"{at}b{name}"] = module.bias.data[None]
    for which in ("1", "2"):
        _norm_given(p, getattr(layer, f"norm{which}"), f"{at}n{which}")


def _norm_given(p: Program, norm: Any, at: str) -> None:
    p.given[f"{at}_weight"] = norm.weight.data[None]
    if getattr(norm, "bias", None) is not None:
        p.given[f"{at}_bias"] = norm.bias.data[None]


# ---------------------------------------------------------------------------------- lines


def _of_norm(norm: Any) -> dict[str, Any]:
    return {"eps": norm.eps, "centred": isinstance(norm, nn.LayerNorm)}


def _norm(p: Program, norm: Any, name: str, x: str, at: str) -> None:
    bias = f"{at}_bias" if f"{at}_bias" in p.given else None
    title = f"norm({x}) * {at}_weight" + (f" + {at}_bias" if bias else "")
    p.line("norm", name, title, of=x, weight=f"{at}_weight", bias=bias, **_of_norm(norm))


def _norm_back(
    p: Program, norm: Any, name: str, x: str, at: str, dy: str, plus: str | None = None
) -> None:
    weight = f"{at}_weight"
    title = f"{plus} + what comes back through the norm" if plus else "back through the norm"
    reads = {"of": x, "dy": dy, **_of_norm(norm)}
    p.line("normWeightBack", d(weight), f"sum of rows of {dy} * norm({x})", **reads)
    if f"{at}_bias" in p.given:
        p.line("columns", d(f"{at}_bias"), f"sum of the rows of {dy}", of=dy)
    p.line("normBack", name, title, weight=weight, plus=plus, **reads)


def _biased(p: Program, name: str) -> dict[str, Any]:
    return {"bias": name} if name in p.given else {}


def _linear(p: Program, name: str, at: str, parts: list[tuple[str, str]], bias: str) -> None:
    """Add y = x Wᵀ + b, or the sum of several."""
    title = " + ".join([*(f"{x} {w}^T" for x, w in parts), *_biased(p, f"{at}{bias}").values()])
    products = [part(x, w, bt=True) for x, w in parts]
    p.product(name, title, *products, **_biased(p, f"{at}{bias}"))


def _linear_back(p: Program, dy: str, x: str, weight: str, bias: str | None) -> None:
    """Add what the parameters of y = x Wᵀ + b get."""
    p.product(d(weight), f"{dy}^T {x}", part(dy, x, at=True))
    if bias is not None and bias in p.given:
        p.line("columns", d(bias), f"sum of the rows of {dy}", of=dy)


def _forward(p: Program, layer: Any, at: str, x: str, y: str) -> None:
    attn, heads = layer.attn, range(layer.attn.num_heads)
    _norm(p, layer.norm1, f"{at}n1", x, f"{at}n1")
    for h in heads:
        biases = f"{at}{h}.bq" in p.given
        head_forward(p, f"{at}n1", f"{at}{h}.", _scale(attn), biases=biases, out="head")
    _linear(p, f"{at}attn", at, [(f"{at}{h}.head", f"{at}{h}.Wo") for h in heads], "bo")
    p.line("sum", f"{at}middle", f"{x} + {at}attn", of=[x, f"{at}attn"])
    _norm(p, layer.norm2, f"{at}n2", f"{at}middle", f"{at}n2")
    _linear(p, f"{at}up", at, [(f"{at}n2", f"{at}Wup")], "bup")
    curve = _curve(layer)
    p.line("activation", f"{at}hidden", f"{curve}({at}up)", of=f"{at}up", curve=curve)
    _linear(p, f"{at}ffn", at, [(f"{at}hidden", f"{at}Wdown")], "bdown")
    p.line("sum", y, f"{at}middle + {at}ffn", of=[f"{at}middle", f"{at}ffn"])


def _backward(p: Program, layer: Any, at: str, x: str, dy: str) -> None:
    """Add the lines of the forward, undone, from the last to the first."""
    attn, heads, curve = layer.attn, range(layer.attn.num_heads), _curve(layer)
    up, dhidden, dup = f"{at}up", f"{at}dhidden", f"{at}dup"
    _linear_back(p, dy, f"{at}hidden", f"{at}Wdown", f"{at}bdown")
    p.product(dhidden, f"{dy} {at}Wdown", part(dy, f"{at}Wdown"))
    p.line("activationBack", dup, f"{dhidden} * {curve}'({up})", of=up, dy=dhidden, curve=curve)
    _linear_back(p, dup, f"{at}n2", f"{at}Wup", f"{at}bup")
    p.product(f"{at}dn2", f"{dup} {at}Wup", part(dup, f"{at}Wup"))
    dmiddle = f"{at}dmiddle"
    _norm_back(p, layer.norm2, dmiddle, f"{at}middle", f"{at}n2", f"{at}dn2", dy)
    back: list[dict[str, Any]] = []
    for h in heads:
        head = f"{at}{h}."
        bias = f"{at}bo" if h == 0 else None  # once for all heads
        _linear_back(p, dmiddle, f"{head}head", f"{head}Wo", bias)
        p.product(f"{head}dhead", f"{dmiddle} {head}Wo", part(dmiddle, f"{head}Wo"))
        biases = f"{head}bq" in p.given
        back += head_backward(p, f"{at}n1", f"{head}dhead", head, _scale(attn), biases=biases)
    p.product(f"{at}dn1", "dq Wq + dk Wk + dv Wv, of all heads", *back)
    _norm_back(p, layer.norm1, d(x), x, f"{at}n1", f"{at}dn1", dmiddle)


def _curve(layer: Any) -> str:
    activation = layer.ffn.activation
    tanh = isinstance(activation, nn.GELU) and activation.approximate != "none"
    return "gelu tanh" if tanh else _CURVES[type(activation)]


def _scale(attn: Any) -> float:
    return float(attn.head_dim**-0.5 if attn.scale is None else attn.scale)


# ---------------------------------------------------------------------------------- shown


def _groups(p: Program, stack: Any, names: list[str]) -> None:
    """Share the panels out to the parts of the page."""
    p.group("input", [("x", "dx")])
    for i, layer in enumerate(stack.layers):
        at, y = f"{i}.", names[i]
        before = [f"{at}n1_weight", f"{at}n1_bias", f"{at}n1"]
        p.group(f"layer {i}: norm", _pairs(p, before))
        for h in range(layer.attn.num_heads):
            head = f"{at}{h}."
            biases = f"{head}bq" in p.given
            pairs = head_pairs(head, (f"{head}head", f"{head}dhead"), biases=biases)
            p.group(f"layer {i}, head {h}", [*pairs, (f"{head}Wo", f"{head}dWo")])
        middle: list[Pair] = [*_pairs(p, [f"{at}bo"]), (f"{at}attn", None)]
        p.group(f"layer {i}: heads together", [*middle, (f"{at}middle", f"{at}dmiddle")])
        inner = ["n2_weight", "n2_bias", "n2", "Wup", "bup", "up", "hidden", "Wdown", "bdown"]
        ffn: list[Pair] = [*_pairs(p, [at + name for name in inner]), (f"{at}ffn", None)]
        p.group(f"layer {i}: feed-forward", [*ffn, (y, d(y))])
    if stack.norm:
        end = _pairs(p, ["norm_weight", "norm_bias"])
        p.group("last norm", [*end, ("out", "dout")])


def _pairs(p: Program, names: list[str]) -> list[Pair]:
    there = {*p.given, *(line["name"] for line in p.lines)}
    return [(name, d(name)) for name in names if name in there]


def _check(stack: Any, x: Array, y: Array, p: Program) -> None:
    """Raise where the layers do more than the lines say: rotary, caps, sinks, edits, dropout."""
    for i, layer in enumerate(stack.layers):
        at, attn = f"{i}.", layer.attn
        n1 = _normal(layer.norm1, x)
        for h in range(attn.num_heads):
            q, k, v = (
                n1 @ p.given[f"{at}{h}.W{of}"].T + p.given.get(f"{at}{h}.b{of}", 0.0)
                for of in "qkv"
            )
            scores = np.where(p.masks[f"{at}{h}.seen"], _scale(attn) * q @ k.T, -np.inf)
            top = scores.max(axis=1, keepdims=True)
            raised = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
            sums = raised.sum(axis=1, keepdims=True)
            x = x + np.divide(raised, sums, out=np.zeros_like(raised), where=sums > 0) @ v @ (
                p.given[f"{at}{h}.Wo"].T
            )
        x = x + p.given.get(f"{at}bo", 0.0)
        hidden, _ = layer.ffn.activation.forward(
            _normal(layer.norm2, x) @ p.given[f"{at}Wup"].T + p.given.get(f"{at}bup", 0.0)
        )
        x = x + hidden @ p.given[f"{at}Wdown"].T + p.given.get(f"{at}bdown", 0.0)
    if stack.norm:
        x = _normal(stack.norm, x)
    if not np.allclose(x, y, **_CLOSE):
        raise ValueError(
            "x: expected plain layers, without rotary, caps, sinks, gates, edits or dropout, got a "
            f"trace whose output is {np.abs(x - y).max():.2g} from what they give"
        )


def _normal(norm: Any, x: Array) -> Array:
    mean = x.mean(axis=1, keepdims=True) if isinstance(norm, nn.LayerNorm) else 0.0
    scaled = (x - mean) / np.sqrt(np.square(x - mean).mean(axis=1, keepdims=True) + norm.eps)
    bias = getattr(norm, "bias", None)
    result: Array = scaled * norm.weight.data + (0.0 if bias is None else bias.data)
    return result
