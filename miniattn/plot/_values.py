"""What is drawn of weights: they, their gradient or both multiplied; as they are, or averaged.

In this order: the value of each head, the mean over heads, the pieces of words brought together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypedDict

import numpy as np

from miniattn import _checks, analysis
from miniattn._typing import Array
from miniattn.analysis._averages import plain, word_starts
from miniattn.plot._scales import VALUES as VALUES
from miniattn.plot._scales import Value as Value
from miniattn.plot._text import Tokens, checked, text_of

if TYPE_CHECKING:
    from miniattn.plot._source import Layer, Slopes

NAMES: dict[Value, str] = {
    "weights": "attention weight",
    "gradient": "d loss / d weight",
    "weights*gradient": "weight × d loss / d weight",
}
"""What the colours of each mean, in words."""

Groups: TypeAlias = "bool | Sequence[int | None] | Array | None"


class Pieces(NamedTuple):
    """Tokens brought together to words."""

    starts: Array
    """(words,) at which token each word begins."""
    texts: tuple[str, ...]


class Reading(TypedDict, total=False):
    """What the functions that draw weights share: how the maps are read."""

    gradients: Slopes
    value: Value
    words: Groups
    key_words: Groups


def read(
    layer: Layer,
    *,
    mean: bool = False,
    value: Value = "weights",
    words: Groups = None,
    key_words: Groups = None,
) -> Layer:
    """Return what is drawn of a layer."""
    layer = as_value(layer, value)
    return by_word(mean_head(layer) if mean else layer, words, key_words)


def as_value(layer: Layer, value: Value) -> Layer:
    """Return the layer with ``value`` in the place of its weights."""
    _checks.choice("value", value, VALUES)
    if value == "weights":
        return layer
    if layer.gradients is None:
        raise ValueError(
            f"gradients: expected those of {layer.name} for value={value!r}, got none; "
            "g = t.gradients(dy) of a trace has them"
        )
    values = layer.gradients
    if value == "weights*gradient":
        hidden = np.stack(layer.hidden)  # whatever is hidden, it is not drawn
        values = np.where(hidden, 0, layer.weights) * np.where(hidden, 0, values)
    return layer._replace(weights=values, value=value)


def mean_head(layer: Layer) -> Layer:
    """Return the layer with the mean of its heads as the only one: hidden where all of them are."""
    unseen = np.stack(layer.hidden)
    # What one head hides is 0 there, whatever stands in its place.
    values = np.where(unseen, 0, layer.weights).mean(axis=0, dtype=np.float64)
    mean = values.astype(layer.weights.dtype)[None]
    hidden: list[Array] = [np.asarray(unseen.all(axis=0))]
    return layer._replace(weights=mean, hidden=hidden)


def by_word(layer: Layer, words: Groups, key_words: Groups = None) -> Layer:
    """Return the layer between words; by ``words`` it is said what makes one."""
    if words is None or words is False:
        return layer
    if layer.weights.shape[1:] != layer.shape:
        raise ValueError(f"words: expected exact maps, got pooled ones of {layer.shape} tokens")
    T, S = layer.shape
    checked("tokens", layer.tokens, f"T = {T} tokens", T)
    checked("key_tokens", layer.key_tokens, f"S = {S} tokens", S)
    rows = pieces("words", words, layer.tokens, T)
    if key_words is None and layer.key_tokens is None and T == S:
        columns = rows
    else:
        given = key_words if key_words is not None else words is True
        columns = pieces("key_words", given, layer.key_tokens, S)
    visible = np.where(np.stack(layer.hidden), 0, layer.weights)
    merged = analysis.merge_words(
        visible,
        groups_of(rows, T),
        groups_of(columns, S),
        keys="mean" if layer.value == "gradient" else "sum",
    )
    hidden: list[Array] = [
        np.logical_and.reduceat(
            np.logical_and.reduceat(cells, columns.starts, axis=1), rows.starts, axis=0
        )
        for cells in layer.hidden
    ]
    return layer._replace(
        weights=merged,
        hidden=hidden,
        shape=(len(rows.starts), len(columns.starts)),
        tokens=None if layer.tokens is None else rows.texts,
        key_tokens=None if layer.key_tokens is None else columns.texts,
        gradients=None,
    )


def pieces(name: str, words: Groups, tokens: Tokens, count: int) -> Pieces:
    """Return which of ``count`` tokens make words: as given, or by the marks of the tokens."""
    texts = [str(i) for i in range(count)] if tokens is None else [text_of(t) for t in tokens]
    if words is None or isinstance(words, bool | np.bool_):
        if words and tokens is None:
            raise ValueError(f"{name}: expected tokens, by whose marks words are found, got none")
        if not words:
            return Pieces(np.arange(count), tuple(texts))
        found = analysis.word_groups(texts)
        starts = np.flatnonzero(np.diff(found.groups, prepend=-1))
        return Pieces(starts, found.texts)
    starts = word_starts(name, words, count)
    ends = [*starts[1:], count]
    joined = ("".join(map(plain, texts[a:b])) for a, b in zip(starts, ends, strict=False))
    return Pieces(starts, tuple(joined))


def groups_of(words: Pieces, count: int) -> Array:
    """Return of each token the number of its word."""
    groups = np.zeros(count, np.int64)
    groups[words.starts[1:]] = 1
    return np.cumsum(groups)
