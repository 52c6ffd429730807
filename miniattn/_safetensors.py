"""The safetensors format: a header of JSON that says what each array is and where, then bytes.

8 bytes hold the size of the header, little-endian. The arrays fill the rest of the file without
a gap, each as its items, C-contiguous and little-endian.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from miniattn._typing import Array

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_NUMPY = {theirs: np.dtype(ours).newbyteorder("<") for ours, theirs in DTYPES.items()}
_WITHOUT_NUMPY = {"BF16": 2, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
"""Bytes of the items that NumPy has no type for, or that nothing here takes."""


class FormatError(ValueError):
    """The bytes are no safetensors file."""


class Entry(NamedTuple):
    """An array in a file: what it is, and where, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What a header says."""

    raw: bytes
    """The header itself, its size included."""
    entries: dict[str, Entry]
    """The arrays, in the order of their places."""
    metadata: dict[str, str]


def header(arrays: list[tuple[str, Array]], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a file that holds ``arrays`` in their order."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays:
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"state: expected names of arrays, got {name!r}")
        entries[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of a file of ``size`` bytes, and check that all of it makes sense.

    Raises
    ------
    FormatError
        If it does not; the message says what was found instead.
    """
    raw = file.read(8)
    length = int.from_bytes(raw, "little")
    if len(raw) < 8 or length > size - 8:
        words = f"{size} bytes" + (f" with a header of {length}" if len(raw) == 8 else "")
        raise FormatError(f"{words}; it is cut short, or {_other_format(raw)}")
    raw += file.read(length)
    try:
        found = json.loads(raw[8:], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"a header that is no JSON ({type(error).__name__})") from error
    if not isinstance(found, dict):
        raise FormatError(f"a header that is a {type(found).__name__}")
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError("metadata that are not texts by name")
    entries = {name: _entry(name, value) for name, value in found.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: item[1][2:]))
    at = 0
    for name, entry in ordered.items():
        if entry.start != at:
            raise FormatError(f"{name!r} at {entry.start}, where {at} was to follow")
        at = entry.stop
    if at != size - len(raw):
        raise FormatError(f"{size - len(raw)} bytes of data, where the header describes {at}")
    return Header(raw, ordered, metadata)


def decoded(name: str, entry: Entry, raw: Array, dtype: np.dtype[Any] | None) -> Array:
    """Return the array whose bytes are ``raw`` (uint8); floats as ``dtype``, if there is one.

    Raises
    ------
    ValueError
        If NumPy has no such type, or ``dtype`` cannot hold a number.
    """
    array: Array
    if entry.dtype == "BOOL":
        array = raw != 0
    elif entry.dtype == "BF16" and dtype is not None:  # the upper half of a float32
        array = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    elif entry.dtype in _NUMPY:
        array = raw.view(_NUMPY[entry.dtype])
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        hint = "; dtype=np.float32 reads it, and keeps every digit" if entry.dtype == "BF16" else ""
        raise ValueError(f"{name} is of dtype {entry.dtype}, which NumPy does not have{hint}")
    if dtype is not None and array.dtype.kind == "f":
        with np.errstate(over="raise"):
            try:
                array = array.astype(dtype, copy=False)
            except FloatingPointError:
                raise ValueError(f"{name} holds numbers that are too large for {dtype}") from None
    return array.reshape(entry.shape)


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape = value["dtype"], tuple(value["shape"])
        start, stop = value["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise FormatError(f"no dtype, shape and data_offsets of {name!r}") from error
    if not (isinstance(dtype, str) and (dtype in _NUMPY or dtype in _WITHOUT_NUMPY)):
        raise FormatError(f"an unknown dtype {dtype!r} of {name!r}")
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise FormatError(f"a shape or place of {name!r} that is no number >= 0")
    item = _NUMPY[dtype].itemsize if dtype in _NUMPY else _WITHOUT_NUMPY[dtype]
    if stop - start != item * math.prod(shape):
        raise FormatError(f"{stop - start} bytes for {name!r}, {dtype} of shape {shape}")
    return Entry(dtype, shape, start, stop)


def _other_format(start: bytes) -> str:
    if start.startswith(b"PK"):
        return "a zip file, as torch.save writes"
    if start.lstrip().startswith(b"{"):
        return "JSON; the index of a sharded model ends in .index.json"
    return "another format"


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise FormatError(f"{name!r} twice")
        found[name] = value
    return found
