"""Rotary positions, of either way of telling them."""

from __future__ import annotations

from typing import Any

from miniattn import nn
from miniattn.models.hugging_face.settings import Settings


def rotary_of(
    settings: Settings, head_dim: int, *, share: float = 1.0, base: float = 10000.0
) -> nn.Rotary:
    """Return the rotary positions of a model, of either way of telling them."""
    told = settings.take("rope_parameters", default=None) or {}
    scaled = settings.take("rope_scaling", default=None) or {}
    scaled = {**told, **scaled}
    base = settings.take("rope_theta", "rotary_emb_base", default=scaled.pop("rope_theta", base))
    share = settings.take(
        "partial_rotary_factor",
        "rotary_pct",
        default=scaled.pop("partial_rotary_factor", share),
    )
    return rotary_of_kind(scaled, int(head_dim * share), base, head_dim)


def rotary_of_kind(scaled: dict[str, Any], dim: int, base: float, head_dim: int) -> nn.Rotary:
    """Return rotary positions of frequencies as ``scaled`` says; what it says is used up."""
    scaled = dict(scaled)
    kind = scaled.pop("rope_type", None) or scaled.pop("type", None) or "default"
    scaled.pop("type", None)
    magnitude = 1.0
    if kind == "default":
        frequencies = None
    elif kind == "linear":
        frequencies = nn.frequencies.linear(dim, factor=scaled.pop("factor"), base=base)
    elif kind == "llama3":
        frequencies = nn.frequencies.llama3(
            dim,
            base=base,
            factor=scaled.pop("factor"),
            original_length=scaled.pop("original_max_position_embeddings"),
            low_frequency_factor=scaled.pop("low_freq_factor"),
            high_frequency_factor=scaled.pop("high_freq_factor"),
        )
    elif kind == "yarn":
        factor = scaled.pop("factor")
        magnitude = scaled.pop("attention_factor", None) or nn.frequencies.yarn_magnitude(factor)
        frequencies = nn.frequencies.yarn(
            dim,
            base=base,
            factor=factor,
            original_length=scaled.pop("original_max_position_embeddings"),
            beta_fast=scaled.pop("beta_fast", None) or 32.0,
            beta_slow=scaled.pop("beta_slow", None) or 1.0,
            whole=scaled.pop("truncate", True),
        )
    else:
        raise ValueError(f"config.json: expected a known rope_type, got {kind!r}")
    if scaled:
        raise ValueError(f"config.json: expected known rope settings, got {sorted(scaled)}")
    partial = None if dim == head_dim else dim
    if frequencies is None:
        return nn.Rotary(base=base, dim=partial)
    return nn.Rotary(base=base, dim=partial, frequencies=frequencies, magnitude=magnitude)


def two_rotaries(
    settings: Settings, head_dim: int, *, near: float, far: float
) -> tuple[nn.Rotary, nn.Rotary]:
    """Return the rotary positions of layers with a window, of base ``near``, and of the others."""
    told = settings.take("rope_parameters", default=None) or {
        "sliding_attention": {"rope_theta": near},
        "full_attention": {
            "rope_theta": far,
            **(settings.take("rope_scaling", default=None) or {}),
        },
    }
    made = []
    for kind in ("sliding_attention", "full_attention"):
        scaled = dict(told[kind])
        base = scaled.pop("rope_theta")
        made.append(rotary_of_kind(scaled, head_dim, base, head_dim))
    return made[0], made[1]
