"""Checkpoints: named arrays and JSON metadata in one safetensors file, never pickle.

A save is atomic: whatever happens meanwhile, the path holds the old file or the new one, whole.
A load checks a digest of every byte before it believes anything that the file says.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, _lazy, _safetensors
from miniattn._disk import replacing
from miniattn._typing import Array

__all__ = ["Checkpoint", "CheckpointError", "load", "save"]

__dir__ = _lazy.listed(__name__, __all__)

Json: TypeAlias = Any
PathLike: TypeAlias = str | os.PathLike[str]

_NO_DIGEST = "0" * 64


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


def save(
    path: PathLike,
    state: HasState | Mapping[str, Array],
    *,
    metadata: Json = None,
    architecture: Json = None,
) -> None:
    """Write a model, or arrays by name, to a safetensors file; atomically.

    Parameters
    ----------
    path : path
        Replaced if it exists. The folder must exist.
    state : Module or mapping of str to array
        Arrays of any strides; float16 to float64, ints and bool.
    metadata : optional
        Anything that JSON can say.
    architecture : optional
        What ``Module.architecture()`` says of the model that the arrays are of, for `models.load`
        and for the comparison in `load`. A module gives its own.

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
    a temporary file that the next save into the folder removes.

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
    place = _checks.path("path", path)
    if not (isinstance(state, Mapping) or hasattr(state, "state_dict")):
        raise TypeError(f"state: expected a model or a dict of arrays, got {_checks.shown(state)}")
    given = state if isinstance(state, Mapping) else state.state_dict()
    if architecture is None and hasattr(type(state), "architecture"):
        architecture = state.architecture()  # type: ignore[union-attr]
    arrays = {name: _plain(name, given[name]) for name in given}
    # Wide types first, so that every array starts at a multiple of its item size.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    # The format knows only texts as metadata, so ours is JSON within JSON.
    about = {"sha256": _NO_DIGEST, "miniattn": json.dumps(metadata, allow_nan=False)}
    if architecture is not None:
        about["architecture"] = json.dumps(architecture, allow_nan=False)
    header = _safetensors.header([(name, arrays[name]) for name in names], about)
    digest = hashlib.sha256(header)
    for name in names:
        digest.update(_bytes(arrays[name]))
    with replacing(place) as file:
        file.write(_with_digest(header, _NO_DIGEST, digest.hexdigest()))
        for name in names:
            file.write(_bytes(arrays[name]))


def load(
    path: PathLike,
    into: HasState | None = None,
    *,
    verify: bool = True,
    dtype: DTypeLike | None = None,
) -> Checkpoint:
    """Read a checkpoint, and put it into a model if one is given.

    Parameters
    ----------
    path : path
        A safetensors file; or the index of a model in several of them
        (``model.safetensors.index.json``), which lie beside it.
    into : Module, optional
        Takes over the arrays if they fit it exactly; otherwise it stays as it is.
    verify : bool, default True
        Check the digest, which only files written by `save` have. With False, a safetensors file
        of any other origin can be read; damage to its numbers then goes unnoticed.
    dtype : float32 or float64, optional
        Cast all floats to it. bfloat16, which NumPy does not have, can be read only so; float32
        holds every number of it, and of float16.

    Returns
    -------
    Checkpoint
        ``(arrays, metadata)``.

    Raises
    ------
    CheckpointError
        If the file is damaged, or does not fit ``into``: then the message lists the settings that
        differ (heads, positions, ...), or the names that are missing, unexpected or misshapen.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    Each array is read straight into its own memory: the largest array, and nothing else, is held
    twice, and that only while it is cast. What the model was built with is in files that were
    saved from a module; for others, names, shapes and dtypes must do. To load the numbers
    whatever the settings: ``model.load_state_dict(load(path).arrays)``.

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
    loaded = read(path, verify=verify, dtype=dtype)
    if into is not None:
        try:
            if loaded.architecture is not None and hasattr(type(into), "check_architecture"):
                into.check_architecture(loaded.architecture)  # type: ignore[attr-defined]
            into.load_state_dict(loaded.arrays)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(loaded.arrays, loaded.metadata)


# --------------------------------------------------------------------------------------- the files


class File(NamedTuple):
    """All that a file holds."""

    arrays: dict[str, Array]
    metadata: Json
    architecture: Json


def read(path: PathLike, *, verify: bool, dtype: DTypeLike | None) -> File:
    """Read a safetensors file, or several by their index; any fault is a CheckpointError."""
    cast = None if dtype is None else _checks.float_dtype("dtype", dtype)
    place, verify = _checks.path("path", path), _checks.flag("verify", verify)
    if place.is_dir():
        raise CheckpointError(f"{place}: expected a file, got a folder; {_contents(place)}")
    try:
        if place.suffix == ".json":
            return _read_shards(place, verify, cast)
        return _read_file(place, verify, cast)
    except CheckpointError as error:
        raise CheckpointError(f"{place}: {error}") from None
    except _safetensors.FormatError as error:
        raise CheckpointError(f"{place}: expected a safetensors file, got {error}") from error


def _contents(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if ".safetensors" in p.suffixes)
    indices = [name for name in names if name.endswith(".index.json")]
    return f"it has {', '.join(indices or names)}" if names else "it has no safetensors files"


def _read_shards(index: Path, verify: bool, dtype: np.dtype[Any] | None) -> File:
    """Read the files that an index names; each array must be where it says."""
    try:
        place_of = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(place_of.values()))
        outside = [name for name in files if name != Path(name).name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"expected an index of safetensors files ('weight_map'), got {type(error).__name__}"
        ) from error
    if outside:
        raise CheckpointError(f"expected names of files beside the index, got {outside}")
    if missing := [name for name in files if not index.with_name(name).is_file()]:
        raise CheckpointError(f"expected {len(files)} files beside the index, missing: {missing}")
    arrays: dict[str, Array] = {}
    for name in files:
        part = read(index.with_name(name), verify=verify, dtype=dtype).arrays
        expected = {key for key, place in place_of.items() if place == name}
        if part.keys() != expected:
            wrong = sorted(part.keys() ^ expected)
            raise CheckpointError(f"{name}: expected the arrays of the index, differs in {wrong}")
        arrays |= part
    return File({name: arrays[name] for name in sorted(arrays)}, None, None)


def _read_file(path: Path, verify: bool, dtype: np.dtype[Any] | None) -> File:
    with path.open("rb") as file:
        header = _safetensors.read_header(file, os.fstat(file.fileno()).st_size)
        expected = _digest_in(header.raw) if verify else ""
        digest = hashlib.sha256(_with_digest(header.raw, expected, _NO_DIGEST))
        arrays = {}
        for name, entry in header.entries.items():
            raw = np.empty(entry.stop - entry.start, np.uint8)
            if file.readinto(raw.data) != raw.size:
                raise CheckpointError("the file was cut short while it was read")
            if verify:
                digest.update(raw.data)
            try:
                arrays[name] = _safetensors.decoded(name, entry, raw, dtype)
            except ValueError as error:
                raise CheckpointError(f"expected floats, ints or bools: {error}") from error
    if verify and digest.hexdigest() != expected:
        raise CheckpointError("the file is damaged: its digest does not match its bytes")
    ours, architecture = (_json_in(header, key) for key in ("miniattn", "architecture"))
    return File({name: arrays[name] for name in sorted(arrays)}, ours, architecture)


# -------------------------------------------------------------------------------------- the bytes


def _plain(name: str, array: Array) -> Array:
    """Return the array C-contiguous and little-endian, which is how the format stores it."""
    array = _checks.any_array(name, array, "a float, int or bool array")
    if array.dtype.name not in _safetensors.DTYPES:
        raise TypeError(f"{name}: expected a float, int or bool array, got {array.dtype}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _with_digest(header: bytes, old: str, new: str) -> bytes:
    """Exchange the digest, which covers the whole file with zeros in the digest's own place."""
    return header.replace(_digest_entry(old), _digest_entry(new), 1)


def _digest_entry(digest: str) -> bytes:
    # A quote inside a name or a metadata value is escaped, so this can be no part of one.
    return f'"sha256":"{digest}"'.encode()


def _digest_in(header: bytes) -> str:
    found = re.search(_digest_entry("([0-9a-f]{64})"), header)
    if found is None:
        raise CheckpointError(
            "expected a file written by miniattn, got one without its digest; "
            "verify=False reads other safetensors files"
        )
    return found[1].decode()


def _json_in(header: _safetensors.Header, key: str) -> Json:
    try:
        return json.loads(header.metadata.get(key, "null"))
    except (ValueError, RecursionError) as error:
        raise _safetensors.FormatError(f"metadata {key!r} that are no JSON") from error
