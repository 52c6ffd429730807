"""One self-contained HTML page on which attention is looked at: no server, network or framework."""

import base64
import html as _markup
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from itertools import takewhile
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from miniattn._disk import replacing
from miniattn._typing import Array, MaskLike
from miniattn.plot._cells import HIDDEN, greatest
from miniattn.plot._source import Given, Head, Layer, heads, layers
from miniattn.plot._text import Tokens, checked, text_of, visible

Labels: TypeAlias = tuple[tuple[str, ...], dict[int, str]]

SCRIPTS = (
    "weights.js",
    "colours.js",
    "text.js",
    "stage.js",
    "lines.js",
    "map.js",
    "beside.js",
    "chooser.js",
    "pointing.js",
    "keys.js",
    "start.js",
)
"""One subject each, joined in this order into the one script of the page."""

THUMBNAIL = 24
"""Cells per side of the small maps by which a head is chosen."""


class Page:
    """A self-contained HTML page, as text. A notebook shows it in a frame.

    Attributes
    ----------
    text : str
        The page. Pure ASCII, so that no encoding can spoil it.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to ``path``: the file is whole or, if writing fails, as it was."""
        with replacing(Path(path)) as file:
            file.write(self.text.encode("ascii"))

    def _repr_html_(self) -> str:
        # Without allow-same-origin, the page can reach nothing of the notebook that shows it.
        return (
            f'<iframe srcdoc="{_markup.escape(self.text)}" sandbox="allow-scripts" '
            'title="attention" style="width: 100%; height: 640px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Page({len(self.text) / 1e6:.2f} MB)"


class _Layer(NamedTuple):
    name: str
    heads: list[Head]
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
) -> Page:
    """Make an interactive page of attention: choose a head, point at a token, see what it reads.

    The page is one file that needs nothing else: it opens from disk, in a notebook, in a lesson
    without a network. It has a view of lines, a view of the map, and is worked by mouse or keyboard
    (``?`` lists the keys).

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
    given = layers(weights, mask=mask, batch=batch, tokens=tokens, key_tokens=key_tokens)
    page = Page(_page([_layer(layer) for layer in given], bits, title))
    if path is not None:
        page.save(path)
    return page


# ------------------------------------------------------------------------------- arguments


def _layer(layer: Layer) -> _Layer:
    rows, columns = ("tokens", layer.tokens), ("key_tokens", layer.key_tokens)
    if layer.key_tokens is None or layer.name.endswith("self_attn"):
        columns = rows
    elif layer.name.startswith("encoder"):
        rows = columns
    T, S = layer.shape
    masked = any(hidden.any() for hidden in layer.hidden)
    return _Layer(
        layer.name,
        heads(layer),
        _labels(layer.name, *rows, "T", T),
        _labels(layer.name, *columns, "S", S),
        masked,
    )


def _labels(layer: str, argument: str, tokens: Tokens, letter: str, count: int) -> Labels:
    """Return what is searched, and what is shown where that differs, by place."""
    checked(argument, tokens, f"{letter} = {count} tokens as {layer} has", count)
    given = range(count) if tokens is None else tokens
    raw = [text_of(token) for token in given]
    shown = [visible(token) for token in raw]
    return tuple(raw), {i: b for i, (a, b) in enumerate(zip(raw, shown, strict=True)) if a != b}


# ------------------------------------------------------------------- weights as compact text


def quantise(rows: Array, bits: int) -> tuple[Array, NDArray[np.float32]]:
    """Return ((T, S) unsigned codes, (T,) greatest weights): weight = code / most · greatest.

    Relative to its row, because a diffuse row would vanish beside one that looks at a single key.
    """
    most = 2**bits - 1
    greatest = rows.max(axis=1).astype(np.float32)
    # In double precision, in which most / greatest cannot overflow.
    scale = np.divide(most, greatest, out=np.zeros(len(rows)), where=greatest > 0, dtype=np.float64)
    codes = np.rint(rows * scale[:, None]).clip(0, most)
    return codes.astype("<u1" if bits == 8 else "<u2"), greatest


def _packed(rows: Array, bits: int, triangle: bool) -> str:
    """Return one head as text: greatest weights, then the codes, deflated, in base64.

    Of a causal map only the lower triangle travels, aligned to the end.
    """
    codes, greatest = quantise(rows, bits)
    kept = codes[_triangle(*rows.shape)] if triangle else codes
    return _text(greatest.astype("<f4").tobytes() + kept.tobytes())


def _triangle(T: int, S: int) -> NDArray[np.bool_]:
    return np.tri(T, S, S - T, dtype=np.bool_)


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()


def _thumbnail(head: Head) -> Array:
    """Return at most THUMBNAIL x THUMBNAIL blocks: 0 hidden, 255 not finite, else 1 + 253 w / most.

    A block shows its greatest weight, as the cells of a figure do.
    """
    rows = np.where(head.hidden, HIDDEN, head.values)
    for axis, n in enumerate(rows.shape):
        if n > THUMBNAIL:
            rows = greatest(rows, np.arange(THUMBNAIL) * n // THUMBNAIL, axis)
    hidden, bad = rows == HIDDEN, np.isnan(rows)
    rows = np.where(hidden | bad, 0.0, rows)
    codes = 1 + np.rint(rows * (253 / (rows.max() or 1.0)))
    return np.where(hidden, 0, np.where(bad, 255, codes)).astype(np.uint8)


# ------------------------------------------------------------------------------- the page


def _page(layers: Sequence[_Layer], bits: int, title: str) -> str:
    blobs: dict[str, str] = {}
    lists: dict[tuple[str, ...], int] = {}
    short = differing([layer.name for layer in layers])
    index = [
        _describe(i, layer, bits, blobs, lists) | {"short": name}
        for i, (layer, name) in enumerate(zip(layers, short, strict=True))
    ]
    shown: list[dict[int, str]] = [{} for _ in lists]
    for layer in layers:
        for raw, different in (layer.tokens, layer.key_tokens):
            shown[lists[raw]] = different
    data = {"title": title, "bits": bits, "tokens": list(lists), "shown": shown, "layers": index}
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
    i: int, layer: _Layer, bits: int, blobs: dict[str, str], lists: dict[tuple[str, ...], int]
) -> dict[str, Any]:
    """Return what the page must know of a layer; add its weights and masks to ``blobs``."""
    values = [np.nan_to_num(head.values, nan=0.0) for head in layer.heads]
    triangle = len(values[0]) > 1 and not any(v[~_triangle(*v.shape)].any() for v in values)
    for h, rows in enumerate(values):
        blobs[f"weights-{i}-{h}"] = _packed(rows, bits, triangle)
    bad = [np.isnan(head.values) for head in layer.heads]
    small = [_thumbnail(head) for head in layer.heads]
    return {
        "name": layer.name,
        "heads": len(values),
        "queries": lists.setdefault(layer.tokens[0], len(lists)),
        "keys": lists.setdefault(layer.key_tokens[0], len(lists)),
        "triangle": triangle,
        "sums": all(head.sums for head in layer.heads),
        "masks": [_mask(~head.hidden, blobs) for head in layer.heads] if layer.masked else None,
        "bad": [_mask(cells, blobs) if cells.any() else None for cells in bad],
        "small": {
            "shape": small[0].shape,
            "codes": base64.b64encode(np.stack(small).tobytes()).decode(),
        },
    }


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


def _mask(cells: Array, blobs: dict[str, str]) -> str:
    """Return the name of the blob with these flags, one bit a cell; heads mostly share one."""
    bits = np.packbits(cells, axis=None, bitorder="little").tobytes()
    name = f"mask-{sha256(bits + repr(cells.shape).encode()).hexdigest()[:16]}"
    if name not in blobs:
        blobs[name] = _text(bits)
    return name


def as_json(data: object) -> str:
    """Return JSON in ASCII that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def in_ascii(text: str) -> str:
    """Return markup with every other character as a reference."""
    return text.encode("ascii", "xmlcharrefreplace").decode()


def policy(style: str, script: str) -> str:
    """Return the policy of a page that loads nothing, and runs this script and style alone."""
    return (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def filled(template: str, **parts: str) -> str:
    """Replace every ``{{name}}`` in one pass, so that no part can bring in a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


@cache
def asset(name: str) -> str:
    """Return a file of the page's folder."""
    text = resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")
    text.encode("ascii")  # the page is ASCII: see Page.text
    return text
