"""How a value is spelt in a message, and what it looks like."""

import numpy as np

from miniattn._typing import Array


def shown(value: object) -> str:
    """Return what has come, for a message: the value and its kind, of arrays dtype and shape."""
    if isinstance(value, np.ndarray) and value.ndim:
        what = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
        return f"{what}, {dtype_of(value)} {value.shape}"
    return f"{brief(value)} ({type(value).__name__})"


def brief(value: object) -> str:
    """Return the repr of a value, on one line and not longer than one."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to write out an int of thousands of digits
        return f"a number of {value.bit_length()} bits"  # type: ignore[attr-defined]
    return text if len(text) <= 80 else f"{text[:77]}..."


def dtype_of(array: Array) -> str:
    order = "" if array.dtype.isnative else "byte-swapped "
    return f"{order}{array.dtype.name}"


def has_fields(value: object) -> bool:
    """Return whether a value is a NamedTuple, as contexts are."""
    return hasattr(value, "_fields")
