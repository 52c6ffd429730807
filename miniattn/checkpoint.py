"""Checkpoints: named arrays and JSON metadata in one safetensors file, never pickle.

A save is atomic: whatever happens meanwhile, the path holds the old file or the new one, whole.
A load checks a digest of every byte before it believes anything that the file says.
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy

from miniattn._checks import Array

__all__ = ["Checkpoint", "CheckpointError", "load", "save"]

Json: TypeAlias = Any
PathLike: TypeAlias = str | os.PathLike[str]

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
_NO_DIGEST = "0" * 64
_STALE_SECONDS = 3600  # older temporary files are what a killed save left behind


class CheckpointError(ValueError):
    """A checkpoint file that is damaged, or not what was expected."""


class HasState(Protocol):
    """A model, or anything else with a state of named arrays."""

    def state_dict(self) -> dict[str, Array]:
        """Return the state."""

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state; all of it, or (on any error) nothing."""


class Checkpoint(NamedTuple):
    """What a file holds."""

    arrays: dict[str, Array]
    """The arrays by name, writeable and C-contiguous."""
    metadata: Json
    """What was saved beside them; None if nothing was."""

    def part(self, name: str) -> dict[str, Array]:
        """Return the arrays whose names start with ``name.``, without that prefix.

        A file saved by a `Trainer` has the parts ``model``, ``optimizer`` and ``history``.
        """
        prefix = f"{name}."
        return {k.removeprefix(prefix): a for k, a in self.arrays.items() if k.startswith(prefix)}


def save(path: PathLike, state: HasState | Mapping[str, Array], *, metadata: Json = None) -> None:
    """Write a model, or arrays by name, to a safetensors file; atomically.

    Parameters
    ----------
    path : path
        Replaced if it exists. The folder must exist.
    state : Module or mapping of str to array
        Arrays of any strides; float16 to float64, ints and bool.
    metadata : optional
        Anything that JSON can say.

    Raises
    ------
    TypeError
        If an array has a dtype that safetensors has not, or ``metadata`` is not JSON.
    ValueError
        If ``metadata`` holds NaN or infinity, which are not JSON.

    Notes
    -----
    The bytes go to a temporary file in the same folder, reach the disk (fsync), and only then take
    the place of ``path``. A process that is killed leaves the previous checkpoint as it was, and
    a temporary file that a later save removes.

    See Also
    --------
    load

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from miniattn import checkpoint, nn
    >>> layer = nn.Linear(4, 2, rng=np.random.default_rng(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/layer.safetensors", layer, metadata={"epoch": 3})
    ...     loaded = checkpoint.load(f"{folder}/layer.safetensors")
    >>> sorted(loaded.arrays), loaded.metadata
    (['bias', 'weight'], {'epoch': 3})
    """
    given = state if isinstance(state, Mapping) else state.state_dict()
    arrays = {name: _plain(name, given[name]) for name in given}
    # Wide types first, so that every array starts at a multiple of its item size.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header = _header([(name, arrays[name]) for name in names], metadata)
    digest = hashlib.sha256(header)
    for name in names:
        digest.update(_bytes(arrays[name]))
    with _replacing(Path(path)) as file:
        file.write(_with_digest(header, _NO_DIGEST, digest.hexdigest()))
        for name in names:
            file.write(_bytes(arrays[name]))


def load(path: PathLike, into: HasState | None = None, *, verify: bool = True) -> Checkpoint:
    """Read a checkpoint, and put it into a model if one is given.

    Parameters
    ----------
    path : path
    into : Module, optional
        Takes over the arrays if they fit it exactly; otherwise it stays as it is.
    verify : bool, default True
        Check the digest, which only files written by `save` have. With False, a safetensors file
        of any other origin can be read; damage to its numbers then goes unnoticed.

    Returns
    -------
    Checkpoint
        ``(arrays, metadata)``.

    Raises
    ------
    CheckpointError
        If the file is damaged, or does not fit ``into``: then the message lists the names that are
        missing, unexpected or misshapen.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from miniattn import checkpoint, nn
    >>> old, new = (nn.Linear(4, 2, rng=np.random.default_rng(seed)) for seed in (0, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/layer.safetensors", old)
    ...     _ = checkpoint.load(f"{folder}/layer.safetensors", into=new)
    >>> bool((old.weight.data == new.weight.data).all())
    True
    """
    raw = Path(path).read_bytes()
    try:
        header = _split_header(raw)
        if verify:
            _check_digest(raw, header)
        arrays = safetensors.numpy.load(raw)  # checks that the header makes sense
        metadata = _read_metadata(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        kind = type(error).__name__
        raise CheckpointError(
            f"{path}: expected a safetensors file, got {kind}: {error}"
        ) from error
    arrays = {name: np.require(arrays[name], requirements=["C", "W"]) for name in sorted(arrays)}
    if into is not None:
        try:
            into.load_state_dict(arrays)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(arrays, metadata)


# -------------------------------------------------------------------------------------- the bytes


def _plain(name: str, array: Array) -> Array:
    """Return the array C-contiguous and little-endian, which is how the format stores it."""
    array = np.asarray(array)
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"{name}: expected a float, int or bool array, got {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _header(arrays: list[tuple[str, Array]], metadata: Json) -> bytes:
    """Return the size of the JSON in 8 bytes, and the JSON: what each array is, and where."""
    # The format knows only strings as metadata, so ours is JSON within JSON.
    about = {"sha256": _NO_DIGEST, "miniattn": json.dumps(metadata, allow_nan=False)}
    entries: dict[str, Json] = {"__metadata__": about}
    at = 0
    for name, array in arrays:
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"state: expected names of arrays, got {name!r}")
        entries[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _split_header(raw: bytes) -> bytes:
    """Return what `_header` made: the first 8 bytes and the JSON after them."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > len(raw) - 8:
        raise CheckpointError(
            f"expected a safetensors file, got {len(raw)} bytes"
            + (f" with a header of {size}" if len(raw) >= 8 else "")
            + "; it is cut short, or another format"
        )
    return raw[: 8 + size]


def _with_digest(header: bytes, old: str, new: str) -> bytes:
    """Exchange the digest, which covers the whole file with zeros in the digest's own place."""
    return header.replace(_digest_entry(old), _digest_entry(new), 1)


def _digest_entry(digest: str) -> bytes:
    # A quote inside a name or a metadata value is escaped, so this can be no part of one.
    return f'"sha256":"{digest}"'.encode()


def _check_digest(raw: bytes, header: bytes) -> None:
    found = re.search(_digest_entry("([0-9a-f]{64})"), header)
    if found is None:
        raise CheckpointError(
            "expected a file written by miniattn, got one without its digest; "
            "verify=False reads other safetensors files"
        )
    digest = found[1].decode()
    actual = hashlib.sha256(_with_digest(header, digest, _NO_DIGEST))
    actual.update(memoryview(raw)[len(header) :])
    if actual.hexdigest() != digest:
        raise CheckpointError("the file is damaged: its digest does not match its bytes")


def _read_metadata(header: bytes) -> Json:
    entries = json.loads(header[8:], object_pairs_hook=_without_duplicates)
    return json.loads(entries.get("__metadata__", {}).get("miniattn", "null"))


def _without_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, value in pairs:
        if name in found:
            raise CheckpointError(f"the file is damaged: it has {name!r} twice")
        found[name] = value
    return found


# ---------------------------------------------------------------------------------------- the disk


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` once all is written and on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    _remove_leftovers(path)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too."""
    with suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{_escaped(path.name)}.????????.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
