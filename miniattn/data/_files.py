"""What a file of sequences holds, and NumPy's own files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.checkpoint import PathLike


class Sequences(NamedTuple):
    """Sequences as an estimator takes them: ``estimator.fit(found.X, found.y)``."""

    X: list[Any]
    """A float64 array (T_i, width) for each, or its tokens, or its text."""
    y: Array | None
    """(n,) labels: ints or floats where all are, or else strings. None if there are none."""
    names: tuple[str, ...]
    """What the columns of the arrays are called."""
    ids: list[str]
    """What each sequence is called in the file, or its position."""


def labels(values: Sequence[str]) -> Array:
    """Return texts as ints if all are ints, as floats if all are numbers, else as they are."""
    for kind in (int, float):
        try:
            found = np.array([kind(value) for value in values])
        except ValueError:
            continue
        if found.dtype.kind in "if" and np.isfinite(found).all():
            return found
    return np.array(values, dtype=str)


def number(where: str, text: str) -> float:
    """Return a finite number as a file writes it."""
    try:
        value = float(text)
    except ValueError:
        shown = repr(text) if text.strip() else "nothing"
        raise ValueError(f"{where}: expected a number, got {shown}") from None
    if not np.isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {text!r}")
    return value


def read_npz(path: PathLike, *, X: str = "X", y: str | None = "y") -> Sequences:
    """Read sequences from arrays that ``numpy.savez`` wrote.

    ``X`` is (n, T) or (n, T, width); with an array ``lengths`` (n,) sequence i is its first
    lengths[i] steps. Or ``X`` is all sequences one after the other, (sum of lengths, width).

    Parameters
    ----------
    path : path
    X, y : str
        The arrays of sequences and of their labels (n,). None: there are no labels.

    Returns
    -------
    Sequences
        Rows (T,) of ints or of strings are tokens; other numbers become float64 (T_i, width).

    Raises
    ------
    ValueError, TypeError
        If an array is missing, holds Python objects, which this never unpickles, or shapes do not
        fit; the message names the array.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from miniattn import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", X=np.ones((2, 5, 3)), lengths=[5, 2], y=["up", "down"])
    ...     found = data.read_npz(f"{folder}/a.npz")
    >>> [x.shape for x in found.X], found.y.tolist()
    ([(5, 3), (2, 3)], ['up', 'down'])
    """
    file = _checks.path("path", path)
    with _opened(file) as arrays:
        values = _array(file, arrays, X)
        targets = None if y is None else _array(file, arrays, y)
        lengths = _array(file, arrays, "lengths") if "lengths" in arrays.files else None
    rows = _rows(f"{file}: {X}", values, lengths)
    if targets is not None and targets.shape != (len(rows),):
        raise ValueError(
            f"{file}: {y}: expected a label for each of {len(rows)} sequences, "
            f"got shape {targets.shape}"
        )
    width = rows[0].shape[1] if rows and rows[0].ndim == 2 else 1
    ids = [str(i) for i in range(len(rows))]
    return Sequences([_series(row) for row in rows], targets, columns(width), ids)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    with file.open("rb") as stream:  # NumPy leaves a damaged file open
        try:
            found = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: expected arrays with names (.npz), got {error}") from error
        if isinstance(found, np.ndarray):
            raise ValueError(f"{file}: expected arrays with names (.npz), got one array (.npy)")
        yield found


def columns(width: int) -> tuple[str, ...]:
    """Return names for columns that a file gives none."""
    return tuple(f"feature {i}" for i in range(width))


def _array(file: object, arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise ValueError(f"{file}: expected an array {name!r}, got {sorted(arrays)}")
    try:
        return arrays[name]
    except ValueError:
        raise TypeError(
            f"{file}: {name}: expected numbers or strings, got Python objects; write one array "
            "padded to the longest sequence, and lengths"
        ) from None


def _rows(name: str, values: Array, lengths: Array | None) -> list[Array]:
    """Return the steps of each sequence."""
    if values.ndim not in (1, 2, 3):
        raise ValueError(f"{name}: expected (n, T) or (n, T, width), got shape {values.shape}")
    if lengths is None:
        if values.ndim == 1:
            raise ValueError(f"{name}: expected (n, T) or lengths beside (T,), got {values.shape}")
        return list(values)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError("lengths: expected (n,) ints >= 0, got " + _checks.shown(lengths))
    if values.ndim == 1 or (len(lengths) != len(values) and lengths.sum() == len(values)):
        if lengths.sum() != len(values):
            raise ValueError(
                f"lengths: expected a sum of {len(values)}, the steps of {name}, "
                f"got {lengths.sum()}"
            )
        return np.split(values, np.cumsum(lengths)[:-1])
    if len(lengths) != len(values) or lengths.max(initial=0) > values.shape[1]:
        raise ValueError(
            f"lengths: expected {len(values)} lengths of at most {values.shape[1]}, as {name} has "
            f"shape {values.shape}, got {len(lengths)} of at most {lengths.max(initial=0)}"
        )
    return [row[:length] for row, length in zip(values, lengths, strict=True)]


def _series(row: Array) -> Any:
    """Return a row as tokens, if it is ints or strings one after the other, or as numbers."""
    if row.ndim == 1 and row.dtype.kind in "iuU":
        return row
    return np.asarray(row, np.float64).reshape(len(row), -1)


def chosen(name: str, wanted: Iterable[str], known: Sequence[str], where: object) -> list[int]:
    """Return the positions of columns that a file should have."""
    places = []
    for column in wanted:
        if column not in known:
            raise ValueError(
                f"{name}: expected a column of {where}, got {column!r}; it has {list(known)}"
            )
        places.append(known.index(column))
    return places
