"""Maps as compact text, which the page reads back: weights, gradients, flags, small pictures."""

import base64
import zlib
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from miniattn._typing import Array
from miniattn.plot._cells import HIDDEN, furthest, greatest
from miniattn.plot._source import Head

THUMBNAIL = 24
"""Cells per side of the small maps by which a head is chosen."""


def quantise(rows: Array, bits: int, *, signed: bool = False) -> tuple[Array, NDArray[np.float32]]:
    """Return ((T, S) codes, (T,) greatest numbers): number = code / most · greatest of the row.

    Relative to its row, because a diffuse row would vanish beside one that looks at a single key.
    Codes of signed numbers have a sign as well, and half as many steps.
    """
    most = 2 ** (bits - signed) - 1
    top = np.abs(rows).max(axis=1).astype(np.float32)
    # In double precision, in which most / greatest cannot overflow.
    scale = np.divide(most, top, out=np.zeros(len(rows)), where=top > 0, dtype=np.float64)
    codes = np.rint(rows * scale[:, None]).clip(-most if signed else 0, most)
    kind = "i" if signed else "u"
    return codes.astype(f"<{kind}{bits // 8}"), top


def packed(rows: Array, bits: int, triangle: bool, *, signed: bool = False) -> str:
    """Return one head as text: greatest numbers, then the codes, deflated, in base64.

    Of a causal map only the lower triangle travels, aligned to the end.
    """
    codes, top = quantise(rows, bits, signed=signed)
    kept = codes[lower(*rows.shape)] if triangle else codes
    return as_text(top.astype("<f4").tobytes() + kept.tobytes())


def lower(T: int, S: int) -> NDArray[np.bool_]:
    """Return where the lower triangle of a map is, aligned to the end."""
    return np.tri(T, S, S - T, dtype=np.bool_)


def as_text(data: bytes) -> str:
    """Return bytes deflated, in base64."""
    return base64.b64encode(zlib.compress(data, 6)).decode()


def flags(cells: Array, blobs: dict[str, str]) -> str:
    """Return the name of the blob with these flags, one bit a cell; heads mostly share one."""
    bits = np.packbits(cells, axis=None, bitorder="little").tobytes()
    name = f"mask-{sha256(bits + repr(cells.shape).encode()).hexdigest()[:16]}"
    if name not in blobs:
        blobs[name] = as_text(bits)
    return name


def small(head: Head, *, signed: bool = False) -> Array:
    """Return at most THUMBNAIL x THUMBNAIL blocks as codes: 0 hidden, 255 not finite.

    1 + 253 w / most, or with a sign 128 + 126 w / most. A block shows its greatest weight, as the
    cells of a figure do.
    """
    rows = np.where(head.hidden, HIDDEN, head.values)
    for axis, n in enumerate(rows.shape):
        if n > THUMBNAIL:
            starts = np.arange(THUMBNAIL) * n // THUMBNAIL
            rows = (furthest if signed else greatest)(rows, starts, axis)
    hidden, bad = rows == HIDDEN, np.isnan(rows)
    rows = np.where(hidden | bad, 0.0, rows)
    most = np.abs(rows).max() or 1.0
    codes = 128 + np.rint(rows * (126 / most)) if signed else 1 + np.rint(rows * (253 / most))
    return np.where(hidden, 0, np.where(bad, 255, codes)).astype(np.uint8)
