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
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from miniattn import _checks, masks
from miniattn._disk import replacing
from miniattn.plot._grid import real
from miniattn.plot._text import Tokens
from miniattn.trace import Trace

Array = NDArray[Any]

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
    weights: Array
    """(H, T, S) finite, >= 0."""
    visible: Array | None
    """(H, T, S) bool."""
    tokens: list[str]
    key_tokens: list[str]


def html(
    weights: ArrayLike | Mapping[str, ArrayLike] | Trace,
    tokens: Tokens = None,
    path: str | PathLike[str] | None = None,
    *,
    key_tokens: Tokens = None,
    mask: object = None,
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
    weights : array, mapping of str to array, or Trace
        Weights of one head (T, S), of a layer (H, T, S), or of layers (L, H, T, S). In a
        mapping or a Trace each entry is a layer, (B, H, T, S), (H, T, S) or (T, S); their shapes
        may differ.
    tokens, key_tokens : sequences of T and of S tokens, optional
        Labels of queries and keys; anything with a ``str``. Without ``key_tokens`` those of the
        queries serve for both. By default those of the Trace, or else positions. In an
        encoder-decoder, layers whose path starts with "encoder" have ``key_tokens`` on both sides,
        and those named "self_attn" ``tokens``.
    path : path, optional
        Where to write the page.
    mask : masks.Mask or bool array that broadcasts to (H, T, S), optional
        True = may attend. What it hides is hatched, and so distinct from a weight of zero. A
        mapping gives masks by layer.
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
        states both), or if a weight is negative, infinite or NaN.

    Notes
    -----
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
    if isinstance(weights, Trace):
        tokens = weights.tokens if tokens is None else tokens
        key_tokens = weights.key_tokens if key_tokens is None else key_tokens
    if bits not in (8, 16):
        raise ValueError(f"bits: expected 8 or 16, got {bits!r}")
    if not isinstance(title, str):
        raise TypeError(f"title: expected a str, got {type(title).__name__}")
    batch = _checks.integer("batch", batch, least=0)
    layers = [
        _layer(name, array, given, tokens, key_tokens, batch)
        for name, array, given in _split(weights, mask)
    ]
    page = Page(_page(layers, bits, title))
    if path is not None:
        page.save(path)
    return page


# ------------------------------------------------------------------------------- arguments


def _split(weights: Any, mask: object) -> list[tuple[str, Array, object]]:
    """Return (name, (B, H, T, S), mask) of every layer."""
    if isinstance(weights, Trace):
        weights = weights.weights
    if isinstance(weights, Mapping):
        shapes = ["T, S", "H, T, S", "B, H, T, S"]
        named = {str(k): real(f"weights[{k!r}]", w, shapes) for k, w in weights.items()}
    else:
        array = real("weights", weights, ["T, S", "H, T, S", "L, H, T, S"])
        stack = array if array.ndim == 4 else array[None]
        named = {f"layer {i}": layer for i, layer in enumerate(stack)}
    if not named or not all(w.size for w in named.values()):
        raise ValueError("weights: expected at least one layer, head, query and key, got none")
    given = mask if isinstance(mask, Mapping) else dict.fromkeys(named, mask)
    if unknown := [name for name in given if name not in named]:
        raise ValueError(f"mask: expected masks of the layers {list(named)}, got {unknown[0]!r}")
    return [
        (name, w.reshape((1,) * (4 - w.ndim) + w.shape), given.get(name))
        for name, w in named.items()
    ]


def _layer(
    name: str, weights: Array, mask: object, tokens: Tokens, key_tokens: Tokens, batch: int
) -> _Layer:
    if batch >= len(weights):
        raise ValueError(
            f"batch: expected an int < {len(weights)}, the rows of {name}, got {batch}"
        )
    chosen = weights[batch]
    bad = ~(np.isfinite(chosen) & (chosen >= 0))
    if bad.any():
        h, i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"weights: expected finite numbers >= 0, got {chosen[h, i, j]} "
            f"in {name}, head {h}, query {i}, key {j}"
        )
    checked = masks.as_mask(mask)
    visible = None if checked is None else checked.to_array(*weights.shape)[batch]
    T, S = chosen.shape[1:]
    rows, columns = ("tokens", tokens), ("key_tokens", key_tokens)
    if key_tokens is None or name.endswith("self_attn"):
        columns = rows
    elif name.startswith("encoder"):
        rows = columns
    return _Layer(
        name, chosen, visible, _labels(name, *rows, "T", T), _labels(name, *columns, "S", S)
    )


def _labels(layer: str, argument: str, tokens: Tokens, letter: str, count: int) -> list[str]:
    if tokens is None:
        return [str(i) for i in range(count)]
    if isinstance(tokens, str | bytes):
        raise TypeError(f"{argument}: expected a sequence of tokens, got one str")
    if len(tokens) != count:
        raise ValueError(
            f"{argument}: expected {letter} = {count} tokens as {layer} has, got {len(tokens)}"
        )
    return [str(token) for token in tokens]


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


def _thumbnail(rows: Array) -> Array:
    """Return the greatest weight in each of at most THUMBNAIL x THUMBNAIL blocks, in 8 bits."""
    for axis, n in enumerate(rows.shape):
        if n > THUMBNAIL:
            starts = np.arange(THUMBNAIL) * n // THUMBNAIL
            rows = np.maximum.reduceat(rows, starts, axis=axis)
    return np.rint(rows * (255 / (rows.max() or 1.0))).astype(np.uint8)


# ------------------------------------------------------------------------------- the page


def _page(layers: Sequence[_Layer], bits: int, title: str) -> str:
    blobs: dict[str, str] = {}
    lists: dict[tuple[str, ...], int] = {}
    index = [_describe(i, layer, bits, blobs, lists) for i, layer in enumerate(layers)]
    data = {"title": title, "bits": bits, "tokens": list(lists), "layers": index}
    style, script = _asset("page.css"), _asset("page.js")
    return _fill(
        _asset("page.html"),
        title=_ascii(_markup.escape(title)),
        policy=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        data=_json(data),
        blobs="\n".join(
            f'<script type="text/plain" id="{name}">{text}</script>' for name, text in blobs.items()
        ),
    )


def _describe(
    i: int, layer: _Layer, bits: int, blobs: dict[str, str], lists: dict[tuple[str, ...], int]
) -> dict[str, Any]:
    """Return what the page must know of a layer; add its weights and masks to ``blobs``."""
    H, T, S = layer.weights.shape
    triangle = T > 1 and not layer.weights[:, ~_triangle(T, S)].any()
    for h, head in enumerate(layer.weights):
        blobs[f"weights-{i}-{h}"] = _packed(head, bits, triangle)
    small = [_thumbnail(head) for head in layer.weights]
    return {
        "name": layer.name,
        "heads": H,
        "queries": lists.setdefault(tuple(layer.tokens), len(lists)),
        "keys": lists.setdefault(tuple(layer.key_tokens), len(lists)),
        "triangle": triangle,
        "masks": [_mask(visible, blobs) for visible in layer.visible]
        if layer.visible is not None
        else None,
        "small": {
            "shape": small[0].shape,
            "codes": base64.b64encode(np.stack(small).tobytes()).decode(),
        },
    }


def _mask(visible: Array, blobs: dict[str, str]) -> str:
    """Return the name of the blob with this mask, one bit a cell; heads mostly share one."""
    bits = np.packbits(visible, axis=None, bitorder="little").tobytes()
    name = f"mask-{sha256(bits + repr(visible.shape).encode()).hexdigest()[:16]}"
    if name not in blobs:
        blobs[name] = _text(bits)
    return name


def _json(data: object) -> str:
    """Return JSON in ASCII that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _ascii(text: str) -> str:
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def _fill(template: str, **parts: str) -> str:
    """Replace every ``{{name}}`` in one pass, so that no part can bring in a placeholder."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


@cache
def _asset(name: str) -> str:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    text.encode("ascii")  # the page is ASCII: see Page.text
    return text
