"""What is drawn, of what was given: an array, a masked one, layers that differ, or a Trace.

One rule for figures, the command line and the page:

- What a mask, a masked array or the masks of a trace hide is drawn as hidden, whatever it is.
- A visible number that is not finite is drawn as such, in a colour of its own.
- A visible weight below 0 is an error that says where it is; gradients have both signs.
- Rows need not sum to 1; where they do not, the figure says so, and to what.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks, masks
from miniattn._typing import Array, MaskLike
from miniattn.plot._text import Tokens
from miniattn.plot._values import Value
from miniattn.plot._visible import visible_cells
from miniattn.trace import Gradients, Trace

Given: TypeAlias = Trace | ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike]
Slopes: TypeAlias = Gradients | ArrayLike | Mapping[str, ArrayLike] | Sequence[ArrayLike] | None
"""The gradients of the loss by the weights."""

SUM = 2e-3
"""How far the sum of a row may be from 1: more than rounding, also of half precision."""


class Layer(NamedTuple):
    """The maps of one layer, as they were given, and what is hidden of them."""

    name: str
    weights: Array
    """(H, rows, cols)."""
    hidden: list[Array]
    """(rows, cols) bool for each head; the same array where heads share it."""
    shape: tuple[int, int]
    """(T, S): what the axes count. More than (rows, cols) where the maps are pooled."""
    tokens: Tokens
    key_tokens: Tokens
    gradients: Array | None = None
    """(H, rows, cols): d loss / d each weight, where it was given."""
    value: Value = "weights"
    """What ``weights`` are now: the weights, their gradient, or both multiplied."""


class Head(NamedTuple):
    """One map, as it may be drawn."""

    values: Array
    """(rows, cols): 0 where hidden, NaN where not finite, else >= 0 (unless signed)."""
    hidden: Array
    """(rows, cols) bool."""
    totals: Array
    """(rows,) what each row sums to; NaN where a number is not finite."""
    sums: bool
    """Whether each row sums to 1, or to 0 (or, of pooled maps, to something between)."""


def real(name: str, x: object, letters: Sequence[str]) -> Array:
    """Return ``x`` as a float array whose shape fits one of ``letters``; a masked one stays so."""
    expected = " or ".join(f"({spelling})" for spelling in letters)
    if isinstance(x, Trace | Gradients | Mapping):
        raise TypeError(
            f"{name}: expected an array {expected}, got a {type(x).__name__}; "
            "choose one of its layers"
        )
    try:
        array = _stacked(x)
    except ValueError:
        raise ValueError(
            f"{name}: expected an array {expected}, got a ragged {type(x).__name__}"
        ) from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of real numbers, got {array.dtype}")
    if array.ndim in {len(spelling.split(",")) for spelling in letters}:
        return array.astype(np.promote_types(array.dtype, np.float32), copy=False)
    hint = "; choose a batch row or a head, e.g. weights[0]" if array.ndim > 2 else ""
    raise ValueError(f"{name}: expected shape {expected}, got {array.shape}{hint}")


def _stacked(x: Any) -> Array:
    """Return ``x`` as an array; masks are kept, in a list too."""
    masked = isinstance(x, Sequence) and any(isinstance(part, np.ma.MaskedArray) for part in x)
    return np.ma.stack(list(x)) if masked else np.asanyarray(x)


# ----------------------------------------------------------------------------------- layers


def layers(
    given: Given,
    *,
    mask: MaskLike | Mapping[str, MaskLike] = None,
    batch: int = 0,
    extent: tuple[int, int] | None = None,
    tokens: Tokens = None,
    key_tokens: Tokens = None,
    gradients: Slopes = None,
) -> list[Layer]:
    """Return every layer of what was given, of one row of the batch."""
    batch = _checks.integer("batch", batch, least=0)
    if isinstance(given, Trace):
        tokens = given.tokens if tokens is None else tokens
        key_tokens = given.key_tokens if key_tokens is None else key_tokens
    named = _named(given)
    own = given.masks if isinstance(given, Trace) else {}
    masked = mask if isinstance(mask, Mapping) else dict.fromkeys(named, mask)
    if unknown := [name for name in masked if name not in named]:
        raise ValueError(f"mask: expected masks of the layers {list(named)}, got {unknown[0]!r}")
    slopes = _slopes(gradients, named)
    return [
        _layer(
            name, w, [own.get(name), masked.get(name)], batch, extent, tokens, key_tokens
        )._replace(gradients=None if name not in slopes else _row(slopes[name], batch))
        for name, w in named.items()
    ]


def one_layer(given: Given, layer: str | int | None = None, **options: Any) -> Layer:
    """Return the layer chosen by name or place, or the only one; an array is a layer itself."""
    if not isinstance(given, Trace):
        if layer is not None:
            raise ValueError(f"layer: expected None for weights that are an array, got {layer!r}")
        return layers(real("weights", given, ["T, S", "H, T, S"]), **options)[0]
    names = list(_named(given))
    if isinstance(layer, int) and not isinstance(layer, bool) and -1 < layer < len(names):
        layer = names[layer]
    if layer is None and len(names) == 1:
        [layer] = names
    if layer not in names:
        raise ValueError(f"layer: expected one of {names}, got {layer!r}")
    return layers(given, **options)[names.index(layer)]


def one_head(layer: Layer, head: int | None = None) -> Layer:
    """Return the layer with the chosen head, or the only one, alone."""
    count = len(layer.weights)
    if head is None and count != 1:
        raise ValueError(
            f"weights: expected shape (T, S), got {count} heads of {layer.name}; "
            "choose a batch row or a head, e.g. weights[0], or head= of a trace"
        )
    number = 0 if head is None else _checks.integer("head", head)
    if not 0 <= number < count:
        raise ValueError(f"head: expected an index in [0, {count}), got {head}")
    chosen = slice(number, number + 1)
    return layer._replace(
        weights=layer.weights[chosen],
        hidden=layer.hidden[chosen],
        gradients=None if layer.gradients is None else layer.gradients[chosen],
    )


def _slopes(gradients: Slopes, named: Mapping[str, Array]) -> dict[str, Array]:
    """Return the gradients of each layer that has any, of the shapes of their weights."""
    if gradients is None:
        return {}
    found = _maps("gradients", gradients)
    for name, dw in found.items():
        if name not in named:
            raise ValueError(f"gradients: expected those of the layers {list(named)}, got {name!r}")
        if dw.shape != named[name].shape:
            raise ValueError(
                f"gradients: expected the shape of the weights, {named[name].shape}, "
                f"got {dw.shape} in {name}"
            )
    return found


def _row(maps: Array, batch: int) -> Array:
    """Return (H, rows, cols) of one row of the batch."""
    full = maps.reshape((1,) * (4 - maps.ndim) + maps.shape)
    return np.asarray(full[batch])


def _maps(argument: str, given: Any) -> dict[str, Array]:
    """Return the maps of each layer, with two to four axes (B, H, T, S), by name."""
    if not isinstance(given, Trace | Gradients | Mapping):
        return _numbered(argument, given)
    maps: Mapping[str, Any] = given if isinstance(given, Mapping) else given.weights
    shapes = ["T, S", "H, T, S", "B, H, T, S"]
    return {str(name): real(f"{argument}[{name!r}]", w, shapes) for name, w in maps.items()}


def _named(given: Given) -> dict[str, Array]:
    """Return the weights of each layer by name, at least one, none of them empty."""
    kind, named = type(given).__name__, _maps("weights", given)
    if not named:
        raise ValueError(f"weights: expected at least one layer, got an empty {kind}")
    for name, w in named.items():
        if 0 in w.shape[:-2]:
            raise ValueError(f"weights: expected at least one head, got none in {name}")
        if 0 in w.shape[-2:]:
            raise ValueError(
                "weights: expected at least one query and key, "
                f"got (T, S) = {w.shape[-2:]} in {name}"
            )
    return named


def _numbered(argument: str, given: Any) -> dict[str, Array]:
    """Return the layers of an array (T, S), (H, T, S) or (L, H, T, S), or of a list of layers."""
    if isinstance(given, Sequence) and _differ(given):
        each = [real(f"{argument}[{i}]", w, ["T, S", "H, T, S"]) for i, w in enumerate(given)]
        return {f"layer {i}": w for i, w in enumerate(each)}
    if isinstance(given, Sequence) and not given:
        return {}
    array = real(argument, given, ["T, S", "H, T, S", "L, H, T, S"])
    if array.ndim < 4:
        return {"layer 0": array}
    return {f"layer {i}": layer for i, layer in enumerate(array)}


def _differ(given: Sequence[Any]) -> bool:
    """Return whether these are layers whose shapes differ."""
    try:
        return len({np.shape(layer) for layer in given}) > 1
    except ValueError:  # one of them is ragged itself
        return True


def _layer(
    name: str,
    weights: Array,
    rules: Sequence[object],
    batch: int,
    extent: tuple[int, int] | None,
    tokens: Tokens,
    key_tokens: Tokens,
) -> Layer:
    full = weights.reshape((1,) * (4 - weights.ndim) + weights.shape)
    if batch >= len(full):
        raise ValueError(f"batch: expected an index in [0, {len(full)}) of {name}, got {batch}")
    shape = _extent(extent, (full.shape[2], full.shape[3]))
    chosen = full[batch]
    hidden: list[Array] = [np.zeros(chosen.shape[1:], np.bool_)] * len(chosen)
    for rule in rules:
        if (mask := masks.as_mask(rule)) is not None:
            more = _hidden_cells(mask, full.shape, shape, batch)
            hidden = [a | b for a, b in zip(hidden, more, strict=True)]
    if isinstance(chosen, np.ma.MaskedArray):
        own = np.ma.getmaskarray(chosen)
        hidden, chosen = [a | b for a, b in zip(hidden, own, strict=True)], chosen.data
    return Layer(name, np.asarray(chosen), hidden, shape, tokens, key_tokens)


def _extent(extent: tuple[int, int] | None, drawn: tuple[int, int]) -> tuple[int, int]:
    if extent is None:
        return drawn
    T, S = (_checks.integer("extent", n, least=1) for n in extent)
    if T < drawn[0] or S < drawn[1]:
        raise ValueError(f"extent: expected at least the shape of the map, {drawn}, got {(T, S)}")
    return T, S


def _hidden_cells(
    mask: masks.Mask, full: tuple[int, ...], shape: tuple[int, int], batch: int
) -> list[Array]:
    """Return the cells (rows, cols) in which every key is hidden, for each head."""
    B, heads, *bins = full
    kinds = heads if mask._differs_by_head() else min(heads, 1)
    bounds = [edges(n, count) for n, count in zip(shape, bins, strict=True)]
    sizes = B, heads, *shape
    cells: list[Array] = [~visible_cells(mask, sizes, batch, h, *bounds) for h in range(kinds)]
    return cells if kinds == heads else cells * heads


def edges(n: int, bins: int) -> Array:
    """Return the bounds of the bins of `miniattn.functional.attention_map`."""
    return np.arange(bins + 1) * n // max(bins, 1)


# -------------------------------------------------------------------------------------- heads


def heads(layer: Layer, name: str = "weights") -> list[Head]:
    """Return every head as it may be drawn, by the rule at the top of this file."""
    signed = layer.value != "weights"
    return [
        _head(w, hidden, f"{name}: ", f"{layer.name}, head {h}, ", layer.shape, signed)
        for h, (w, hidden) in enumerate(zip(layer.weights, layer.hidden, strict=True))
    ]


def _head(
    weights: Array, hidden: Array, name: str, where: str, shape: tuple[int, int], signed: bool
) -> Head:
    bad = (weights < 0) & ~hidden
    if bad.any() and not signed:
        i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"{name}expected numbers >= 0 (plot.gradient_map draws signed ones), "
            f"got {weights[i, j]} in {where}query {i}, key {j}"
        )
    finite = np.isfinite(weights)
    if not (finite.all() and not hidden.any()):
        weights = np.where(hidden, 0.0, np.where(finite, weights, np.nan)).astype(weights.dtype)
    totals = weights.sum(axis=1, dtype=np.float64)
    least = 0.0 if weights.shape != shape else 1.0
    right = (totals <= 1 + SUM) & (totals >= least - SUM)
    # A query that reads nothing has a sum of 0; what a NaN would have added is not known.
    right |= (totals == 0) | np.isnan(totals)
    return Head(weights, hidden, totals, signed or bool(right.all()))
