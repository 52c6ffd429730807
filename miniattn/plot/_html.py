"""One self-contained HTML page on which attention is looked at: no server, network or framework."""

import base64
import html as _markup
from collections.abc import Mapping, Sequence
from itertools import takewhile
from os import PathLike
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from miniattn._typing import MaskLike
from miniattn.plot._packed import as_text, flags, lower, packed, small
from miniattn.plot._page import Page, as_json, asset, filled, in_ascii, policy
from miniattn.plot._source import Given, Head, Layer, Slopes, heads, layers
from miniattn.plot._text import Tokens, checked, text_of, visible
from miniattn.plot._values import VALUES, Groups, Value, as_value, pieces


class Labels(NamedTuple):
    """The tokens of one side of a layer."""

    raw: tuple[str, ...]
    """What is searched."""
    starts: tuple[int, ...]
    """At which token each word begins."""
    words: tuple[str, ...]
    """Of each word, its pieces together."""


SCRIPTS = (
    "weights.js",
    "values.js",
    "colours.js",
    "text.js",
    "stage.js",
    "lines.js",
    "map.js",
    "beside.js",
    "chooser.js",
    "pointing.js",
    "svg.js",
    "picture.js",
    "keys.js",
    "start.js",
)
"""One subject each, joined in this order into the one script of the page."""


class PageReading(TypedDict, total=False):
    """What the page shows beside the weights."""

    gradients: Slopes
    words: Groups
    key_words: Groups


class _Layer(NamedTuple):
    name: str
    heads: dict[Value, list[Head]]
    tokens: Labels
    key_tokens: Labels
    masked: bool


def html(
    weights: Given,
    tokens: Tokens = None,
    path: str | PathLike[str] | None = None,
    *,
    key_tokens: Tokens = None,
    mask: MaskLike | Mapping[str, MaskLike] = None,
    batch: int = 0,
    bits: int = 8,
    title: str = "Attention",
    **reading: Unpack[PageReading],
) -> Page:
    """Make an interactive page of attention: choose a head, point at a token, see what it reads.

    The page is one file that needs nothing else: it opens from disk, in a notebook, in a lesson
    without a network. It has a view of lines, a view of the map, shows heads or their mean, pieces
    or words, weights or their gradients, saves what is seen as SVG or PNG, and is worked by mouse
    or keyboard (``?`` lists the keys).

    Parameters
    ----------
    weights : array, sequence of layers, mapping of str to array, or Trace
        Weights of one head (T, S), of a layer (H, T, S), or of layers (L, H, T, S). In a
        mapping or a Trace each entry is a layer, (B, H, T, S), (H, T, S) or (T, S); their shapes
        may differ, as those of a sequence may.
    tokens, key_tokens : sequences of T and of S tokens, optional
        Labels of queries and keys; anything with a ``str``. Without ``key_tokens`` those of the
        queries serve for both. By default those of the Trace, or else positions. In an
        encoder-decoder, layers whose path starts with "encoder" have ``key_tokens`` on both sides,
        and those named "self_attn" ``tokens``.
    path : path, optional
        Where to write the page.
    mask : masks.Mask or bool array that broadcasts to (H, T, S), optional
        True = may attend. What it hides is hatched, and so distinct from a weight of zero, beside
        what a masked array or the masks of a Trace hide. A mapping gives masks by layer.
    batch : int
        The row of the batch that is shown, where layers are (B, H, T, S).
    bits : {8, 16}
        Weights are stored in that many bits, relative to the greatest of their row.
    title : str
        Title of the page.
    gradients : trace.Gradients, or layers like weights, optional
        d loss / d each weight, ``t.gradients(dy)`` of the trace: the page then goes from weights to
        gradients to weights x gradients.
    words, key_words : bool or sequences of T and of S ints, optional
        Which tokens are one word, which the page brings together when asked to, as
        `miniattn.analysis.merge_words` does: by default found by the marks of the tokens.

    Returns
    -------
    Page
        Shown as it is by a notebook; ``.save(path)`` writes it.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit, if the number of tokens is not that of rows or columns (the message
        states both), or if a visible weight is below 0.

    Notes
    -----
    Weights that are NaN or infinite are shown as such, in a colour of their own.
    A stored weight is off by at most 1/510 of the greatest of its row (1/131,070 with 16 bits).
    Tokens are data: whatever markup they contain is shown as text. The page's own
    Content-Security-Policy forbids it to load anything.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import plot
    >>> page = plot.html(np.full((2, 4, 3, 3), 1 / 3), ["the", "cat", "sat"])
    >>> page.save("attention.html")  # doctest: +SKIP
    """
    if bits not in (8, 16):
        raise ValueError(f"bits: expected 8 or 16, got {bits!r}")
    if not isinstance(title, str):
        raise TypeError(f"title: expected a str, got {type(title).__name__}")
    how: dict[str, Any] = {"tokens": tokens, "key_tokens": key_tokens} | reading
    words = how.pop("words", None), how.pop("key_words", None)
    given = layers(weights, mask=mask, batch=batch, **how)
    page = Page(_page([_layer(layer, *words) for layer in given], bits, title))
    if path is not None:
        page.save(path)
    return page


# ------------------------------------------------------------------------------- arguments


def _layer(layer: Layer, words: Groups, key_words: Groups) -> _Layer:
    rows, columns = ("tokens", layer.tokens, words), ("key_tokens", layer.key_tokens, key_words)
    if layer.key_tokens is None or layer.name.endswith("self_attn"):
        columns = rows
    elif layer.name.startswith("encoder"):
        rows = columns
    T, S = layer.shape
    shown = VALUES if layer.gradients is not None else VALUES[:1]
    return _Layer(
        layer.name,
        {value: heads(as_value(layer, value)) for value in shown},
        _labels(layer.name, *rows, "T", T),
        _labels(layer.name, *columns, "S", S),
        any(hidden.any() for hidden in layer.hidden),
    )


def _labels(
    layer: str, argument: str, tokens: Tokens, words: Groups, letter: str, n: int
) -> Labels:
    checked(argument, tokens, f"{letter} = {n} tokens as {layer} has", n)
    raw = [text_of(token) for token in (range(n) if tokens is None else tokens)]
    found = pieces("words", (tokens is not None) if words is None else words, raw, n)
    return Labels(tuple(raw), tuple(found.starts.tolist()), found.texts)


def _differing(raw: Sequence[str]) -> dict[int, str]:
    """Return what is shown of tokens where that is not what is searched, by place."""
    shown = [visible(token) for token in raw]
    return {i: b for i, (a, b) in enumerate(zip(raw, shown, strict=True)) if a != b}


# ------------------------------------------------------------------------------- the page


def _page(layers: Sequence[_Layer], bits: int, title: str) -> str:
    blobs: dict[str, str] = {}
    lists: dict[Labels, int] = {}
    short = differing([layer.name for layer in layers])
    index = [
        _describe(i, layer, bits, blobs, lists) | {"short": name}
        for i, (layer, name) in enumerate(zip(layers, short, strict=True))
    ]
    data = {
        "title": title,
        "bits": bits,
        "tokens": [side.raw for side in lists],
        "shown": [_differing(side.raw) for side in lists],
        "starts": [side.starts if len(side.starts) < len(side.raw) else None for side in lists],
        "words": [[visible(word) for word in side.words] for side in lists],
        "layers": index,
    }
    style, script = asset("page.css"), "".join(map(asset, SCRIPTS))
    return filled(
        asset("page.html"),
        title=in_ascii(_markup.escape(title)),
        policy=policy(style, script),
        style=style,
        script=script,
        data=as_json(data),
        blobs="\n".join(
            f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blobs.items()
        ),
    )


def _describe(
    i: int, layer: _Layer, bits: int, blobs: dict[str, str], lists: dict[Labels, int]
) -> dict[str, Any]:
    """Return what the page must know of a layer; add its weights and masks to ``blobs``."""
    of = layer.heads["weights"]
    values = [np.nan_to_num(head.values, nan=0.0) for head in of]
    outside = ~lower(*values[0].shape)
    slopes = [np.nan_to_num(head.values, nan=0.0) for head in layer.heads.get("gradient", [])]
    triangle = len(values[0]) > 1 and not any(v[outside].any() for v in values + slopes)
    for h, rows in enumerate(values):
        blobs[f"weights-{i}-{h}"] = packed(rows, bits, triangle)
    for h, rows in enumerate(slopes):
        blobs[f"gradient-{i}-{h}"] = packed(rows, bits, triangle, signed=True)
    return {
        "name": layer.name,
        "heads": len(values),
        "queries": lists.setdefault(layer.tokens, len(lists)),
        "keys": lists.setdefault(layer.key_tokens, len(lists)),
        "triangle": triangle,
        "masks": [flags(~head.hidden, blobs) for head in of] if layer.masked else None,
        "totals": None if all(head.sums for head in of) else [_totals(head) for head in of],
        "values": {value: _value(value, shown, blobs) for value, shown in layer.heads.items()},
    }


def _value(value: Value, shown: Sequence[Head], blobs: dict[str, str]) -> dict[str, Any]:
    """Return what the page must know of the weights of a layer's heads, or of their gradients."""
    bad = [np.isnan(head.values) for head in shown]
    nothing = [(head.values == 0) & ~head.hidden for head in shown]
    pictures = [small(head, signed=value != "weights") for head in shown]
    return {
        "bad": [flags(cells, blobs) if cells.any() else None for cells in bad],
        "zero": [flags(cells, blobs) if cells.any() else None for cells in nothing],
        "small": {
            "shape": pictures[0].shape,
            "codes": base64.b64encode(np.stack(pictures).tobytes()).decode(),
        },
    }


def _totals(head: Head) -> str:
    """Return what each row sums to, in single precision; NaN where that is not known."""
    return as_text(head.totals.astype("<f4").tobytes())


def differing(names: Sequence[str]) -> list[str]:
    """Return what tells the names of layers apart: the parts in which not all of them agree.

    >>> differing(["encoder.layers.0.attn", "encoder.layers.1.attn"])
    ['0', '1']
    """
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) > 1:  # what they begin with alone
        columns = zip(*(part[:-1] for part in parts), strict=False)
        common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        return [".".join(part[common:]) for part in parts]
    kept = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    return [".".join(part[i] for i in kept) for part in parts] if kept else list(names)
