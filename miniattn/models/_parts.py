"""What the models share: the ways of telling positions, and padded batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, masks, nn
from miniattn._typing import Array, MaskLike
from miniattn.nn import _init
from miniattn.nn._attention.ranks import Ranks
from miniattn.nn._residual import norm_layer
from miniattn.scores import Score

Positions = Literal["sinusoidal", "learned", "rotary", "alibi"]
PositionsLayer = nn.SinusoidalPositions | nn.LearnedPositions | None


def check_positions(name: Positions | None) -> None:
    """Raise unless ``name`` is a way of telling positions, or None for not telling them."""
    if name is not None:
        _checks.choice("positions", name, get_args(Positions))


def tokens_layer(
    vocab_size: int,
    embed_dim: int,
    positions: Positions | None,
    *,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> nn.Embedding:
    """Return a token table that starts as N(0, 0.02²).

    Under sinusoidal positions, whose size is fixed, it starts as N(0, 1/E) and is multiplied by
    √E instead (Vaswani et al., 2017, section 3.4).
    """
    if positions != "sinusoidal":
        return nn.Embedding(vocab_size, embed_dim, rng=rng, dtype=dtype)
    scale = float(embed_dim) ** 0.5
    return nn.Embedding(vocab_size, embed_dim, std=1 / scale, scale=scale, rng=rng, dtype=dtype)


def positions_layer(
    positions: Positions | None,
    max_length: int,
    embed_dim: int,
    *,
    rng: np.random.Generator,
    dtype: DTypeLike,
) -> PositionsLayer:
    """Return the layer that adds positions to tokens; None where attention sees to them."""
    match positions:
        case "sinusoidal":
            return nn.SinusoidalPositions(embed_dim)
        case "learned":
            return nn.LearnedPositions(max_length, embed_dim, rng=rng, dtype=dtype)
        case _:
            return None


def add_positions(
    layer: PositionsLayer, x: Array, positions: Array | None = None
) -> tuple[Array, Any]:
    """Return (y, ctx) of the layer that adds positions; x itself where there is none."""
    return (x, None) if layer is None else layer.forward(x, positions=positions)


def norm_if(
    name: str,
    asked: bool,
    norm: Literal["layer", "rms"],
    embed_dim: int,
    layers: LayerOptions,
    *,
    bias: bool,
    dtype: DTypeLike,
) -> nn.Module | None:
    """Return a norm like those of the layers where the flag ``name`` is set."""
    if not _checks.flag(name, asked):
        return None
    return norm_layer(norm, embed_dim, eps=layers.get("norm_eps"), bias=bias, dtype=dtype)


def places(count: int, cache: nn.KVCache | None, ranks: Ranks | None) -> tuple[Array, int]:
    """Return where ``count`` tokens are, and how many positions that takes."""
    if ranks is not None:
        return ranks.places(count)
    if cache is None:
        return np.arange(count), count
    at = cache.positions(count)
    return at, int(at.max(initial=-1)) + 1


def softcap_layer(name: str, cap: float | None) -> nn.Softcap | None:
    """Return the layer that keeps logits below ``cap``; None for None."""
    return None if cap is None else nn.Softcap(_checks.positive(name, cap))


def check_length(length: int, most: int) -> None:
    """Raise where there are more tokens than learned positions."""
    if length > most:
        raise ValueError(f"ids: expected at most block_size = {most} tokens, got {length}")


def draw_as_gpt(model: nn.Module, num_layers: int, rng: np.random.Generator) -> None:
    """Draw every weight matrix but the tables anew, as the papers do (see the notes of `GPT`)."""
    if not _init.drawing():
        return
    residual_std = 0.02 / max(1, 2 * num_layers) ** 0.5
    tables = {
        id(table)
        for part in model.modules()
        if isinstance(part, nn.LearnedScore)
        for table in part.parameters()
    }
    for name, parameter in model.named_parameters():
        if id(parameter) in tables or name.startswith(("tokens", "positions")):
            continue
        if parameter.data.ndim == 2:
            ends_sublayer = name.endswith(("out_proj.weight", "down.weight"))
            std = residual_std if ends_sublayer else 0.02
            parameter.data[...] = std * rng.standard_normal(parameter.shape)


def through(layer: nn.Module | None, x: Array) -> tuple[Array, Any]:
    """Return (y, ctx) of a layer; x itself where there is none."""
    return (x, None) if layer is None else layer.forward(x)


def back_through(layer: nn.Module | None, dy: Array, ctx: Any) -> Array:
    """Return dx of a layer; dy itself where there is none."""
    if layer is None:
        return dy
    dx: Array = layer.backward(dy, ctx)
    return dx


class SharedLayerOptions(TypedDict, total=False):
    """Options that layers of encoders and of decoders have, and that go to them as they are."""

    norm_eps: float | None
    head_dim: int | None
    scale: float | None
    qk_norm: Literal["head", "full"] | None
    qk_norm_eps: float
    gate: Literal["head", "full"] | None
    attn_bias: bool | Collection[Literal["q", "k", "v", "out"]] | None


class LayerOptions(SharedLayerOptions, total=False):
    """Options of the layers of a model that go to them as they are."""

    rotary: nn.Rotary | None
    score: Score | nn.LearnedScore | None
    sink: bool
    normalizer: Literal["softmax", "sigmoid", "sparsemax", "entmax15"]
    attention: nn.AttentionKind
    lambda_init: float
    slots: int
    sandwich: bool
    parallel: bool
    value_residual: bool
    by_layer: Sequence[Mapping[str, Any]] | None


class AttentionPositions(TypedDict):
    """Those options of attention that tell positions."""

    rotary: nn.Rotary | None
    alibi: bool


def layer_options(positions: Positions | None, given: LayerOptions) -> dict[str, Any]:
    """Return the options of layers, those that tell positions among them."""
    if given.get("rotary") is not None and positions is not None:
        raise ValueError(f"rotary: expected positions=None beside it, got {positions!r}")
    return {**attention_positions(positions), **given}


def attention_positions(positions: Positions | None) -> AttentionPositions:
    """Return the attention options that tell positions."""
    return {
        "rotary": nn.Rotary() if positions == "rotary" else None,
        "alibi": positions == "alibi",
    }


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return ``rng``, or a fresh unseeded one for None."""
    return np.random.default_rng() if rng is None else _checks.generator("rng", rng)


def lengths_array(
    name: str, lengths: Sequence[int] | Array | None, batch: int, length: int
) -> Array:
    """Return the number of real steps of each row (B,), all of them for None."""
    if lengths is None:
        return np.full(batch, length)
    array = _checks.int_array(name, lengths)
    _checks.shape(name, array, "B", {"B": batch})
    if array.min(initial=0) < 0 or array.max(initial=0) > length:
        raise ValueError(f"{name}: expected numbers in [0, T = {length}], got {array.tolist()}")
    return array


def without_padding(inputs: Array, lengths: Array) -> Array:
    """Return ``inputs`` (B, T, ...) with 0 in the padding, whatever was there.

    Zeros rather than a mask at every step: 0 · NaN in a weight's gradient would be NaN.
    """
    steps = inputs.shape[1]
    if np.all(lengths == steps):
        return inputs
    real = np.arange(steps) < lengths[:, None]
    return np.where(real.reshape(*real.shape, *(1,) * (inputs.ndim - 2)), inputs, 0).astype(
        inputs.dtype, copy=False
    )


def with_padding(mask: MaskLike | Sequence[MaskLike], lengths: Array) -> Any:
    """Return a mask, or those of layers, with padding hidden too."""
    if isinstance(mask, list | tuple):
        return [with_padding(each, lengths) for each in mask]
    return masks.padding(lengths) & mask
