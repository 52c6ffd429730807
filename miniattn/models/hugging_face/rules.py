"""Rules: which of our parameters an array fills, and with which part of it.

``{i}`` is the number of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn import nn
from miniattn._typing import Array
from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.settings import Settings

Part: TypeAlias = Callable[[Array], Array]
Rules: TypeAlias = Mapping[str, Mapping[str, Part]]
Build: TypeAlias = Callable[[Settings, np.dtype[Any]], tuple[nn.Module, Rules]]


class Family(NamedTuple):
    """What is known of a family of models."""

    name: str
    build: Build
    prefix: str = r"^model\."
    """What names of arrays may begin with."""
    without_use: str = r"(.*\.)?rotary_emb\.inv_freq$"
    """Arrays that are no parameters of the model, or of heads that are not built."""
    may_tie: bool = False
    """Whether a file without the output layer means that it is the table of tokens."""


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"}


def whole(x: Array) -> Array:
    """Return an array as it is."""
    return x


def turned(x: Array) -> Array:
    """Return a weight (in, out) as (out, in)."""
    return x.T


def one_more(x: Array) -> Array:
    """Return the gain of a norm that multiplies by 1 + weight."""
    return x + 1


def named(table: Mapping[str, Any], name: str, setting: str) -> Any:
    """Return what ``table`` has for the ``name`` of a setting."""
    if name not in table:
        raise ValueError(f"config.json: expected {setting} among {sorted(table)}, got {name!r}")
    return table[name]


def activation(settings: Settings, name: str, default: str) -> Any:
    """Return the activation that a setting names."""
    return named(ACTIVATIONS, settings.take(name, default=default), name)


def pairs(
    names: Mapping[str, str], part: Part = whole, ends: tuple[str, ...] = ("weight", "bias")
) -> dict[str, dict[str, Part]]:
    """Return the rules of layers whose arrays go over as they are."""
    return {
        f"{theirs}.{end}": {f"{ours}.{end}": part} for theirs, ours in names.items() for end in ends
    }


def of_layers(rules: Rules, count: int) -> dict[str, dict[str, Part]]:
    """Return rules with ``{i}`` for each of ``count`` layers."""
    return {
        theirs.format(i=i): {ours.format(i=i): part for ours, part in places.items()}
        for theirs, places in rules.items()
        for i in range(count)
    }


def third(of: int, axis: int, part: Part = whole) -> Part:
    """Return what takes one of three equal parts, of q, k and v."""
    return lambda x: part(np.split(x, 3, axis=axis)[of])


def one_of_each_head(which: int, heads: int) -> Part:
    """Return what takes q, k or v from rows that are (H, 3, D)."""

    def part(x: Array) -> Array:
        rows: Array = x.reshape(heads, 3, -1, *x.shape[1:])[:, which]
        return rows.reshape(-1, *x.shape[1:])

    return part


def fused_by_head(theirs: str, attention: str, heads: int) -> dict[str, dict[str, Part]]:
    """Return the rules of one linear map that makes q, k and v, head by head."""
    return {
        f"{theirs}.{end}": {
            f"{attention}{x}_proj.{end}": one_of_each_head(j, heads) for j, x in enumerate("qkv")
        }
        for end in ("weight", "bias")
    }


def with_shared_norms(model: GPT) -> GPT:
    """Return a model whose sublayers, which run in parallel, read through one norm."""
    for layer in model.blocks.layers:
        for name, parameter in layer.norm1.named_parameters():
            setattr(layer.norm2, name, parameter)
    return model
