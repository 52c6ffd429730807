"""The options of `GPT`, and models of well-known shapes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, nn
from miniattn.models import _parts
from miniattn.nn._attention.ranks import Split

if TYPE_CHECKING:
    from miniattn.distributed import Comm


class GPTOptions(_parts.LayerOptions, total=False):
    """The options of `GPT`, which `GPT.preset` sets."""

    block_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int | None
    positions: _parts.Positions | None
    norm: Literal["layer", "rms"]
    activation: nn.FeedForwardName
    bias: bool
    dropout: float
    tied: bool
    embed_norm: bool
    head_bias: bool
    final_softcap: float | None
    num_kv_heads: int | None
    window: tuple[int | None, int | None] | None
    sinks: int
    softcap: float | None
    comm: Comm | None
    split: Split
    rng: np.random.Generator | None
    dtype: DTypeLike


class _Preset(GPTOptions, total=False):
    vocab_size: int


PRESETS: dict[str, _Preset] = {
    # nanoGPT's training of Shakespeare by characters, on a CPU and on a GPU
    "nanogpt-cpu": {"block_size": 64},
    "nanogpt-char": {
        "block_size": 256,
        "num_layers": 6,
        "num_heads": 6,
        "embed_dim": 384,
        "dropout": 0.2,
    },
    # Radford et al., 2019, table 2
    "gpt2": {
        "vocab_size": 50257,
        "block_size": 1024,
        "num_layers": 12,
        "num_heads": 12,
        "embed_dim": 768,
        "activation": "gelu_tanh",
        "bias": True,
        "dropout": 0.1,
    },
    # The parts of Llama 2 (Touvron et al., 2023), in a toy's size
    "llama-tiny": {
        "block_size": 256,
        "num_layers": 6,
        "num_heads": 6,
        "num_kv_heads": 2,
        "embed_dim": 288,
        "positions": "rotary",
        "norm": "rms",
        "activation": "swiglu",
        "tied": False,
    },
}


def settings(name: str, vocab_size: int | None, options: GPTOptions) -> dict[str, Any]:
    """Return the arguments of the preset ``name``; ``options`` replace single ones."""
    found: dict[str, Any] = {**PRESETS[_checks.choice("name", name, PRESETS)], **options}
    if vocab_size is not None:
        found["vocab_size"] = vocab_size
    if "vocab_size" not in found:
        raise ValueError(f"vocab_size: expected an int for preset {name!r}, got None")
    return found
