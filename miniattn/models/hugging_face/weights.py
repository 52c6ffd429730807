"""The arrays of a folder, read one at a time: beside a model there is never more than one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from miniattn import _safetensors
from miniattn._typing import Array
from miniattn.checkpoint import CheckpointError


def files_of(folder: Path) -> list[Path]:
    """Return the safetensors files of a model: the one, or those that the index names."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index}: expected 'weight_map', got {type(error).__name__}"
        ) from error
    if outside := [name for name in names if name != Path(name).name]:
        raise CheckpointError(f"{index}: expected names of files beside it, got {outside}")
    return [folder / name for name in names]


def arrays_of(folder: Path, dtype: np.dtype[Any]) -> Iterator[tuple[str, Array]]:
    """Yield (name, array) of every array of a model, floats as ``dtype``."""
    for path in files_of(folder):
        if not path.is_file():
            raise CheckpointError(f"{folder}: expected {path.name} beside config.json, got none")
        with path.open("rb") as file:
            try:
                header = _safetensors.read_header(file, os.fstat(file.fileno()).st_size)
                for name, entry in header.entries.items():
                    raw = np.empty(entry.stop - entry.start, np.uint8)
                    if file.readinto(raw.data) != raw.size:
                        raise _safetensors.FormatError("a file that was cut short")
                    yield name, _safetensors.decoded(name, entry, raw, dtype)
            except ValueError as error:
                raise CheckpointError(f"{path}: expected arrays of a model, got {error}") from error
