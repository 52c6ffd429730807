"""The ``.ts`` files of the archives of time series."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.checkpoint import PathLike
from miniattn.data import _files
from miniattn.data._files import Sequences


class _Header(NamedTuple):
    label: bool = False
    classes: tuple[str, ...] = ()


def read_ts(path: PathLike) -> Sequences:
    """Read a ``.ts`` file, the format of the UCR and UEA archives of time series [1]_.

    A line is a sequence: its dimensions with ``:`` between them, each with its values between
    commas, and at the end its class or its number, where the header says so.

    Parameters
    ----------
    path : path

    Returns
    -------
    Sequences
        X are float64 arrays (T_i, dimensions).

    Raises
    ------
    ValueError
        If a value is missing (``?``) or no number, dimensions of a sequence differ in length, its
        class is not one of the header's, or there are time stamps; the message says in which line.

    References
    ----------
    .. [1] Bagnall et al., "The UEA multivariate time series classification archive, 2018", 2018.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from miniattn import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "two.ts")
    ...     _ = file.write_text("@classLabel true a b\\n@data\\n1,2,3:4,5,6:a\\n7,8:9,10:b\\n")
    ...     found = data.read_ts(file)
    >>> [x.shape for x in found.X], found.y.tolist()
    ([(3, 2), (2, 2)], ['a', 'b'])
    """
    file = _checks.path("path", path)
    header: _Header | None = None
    X: list[Array] = []
    y: list[str] = []
    fields: dict[str, list[str]] = {}
    with file.open(encoding="utf-8-sig") as stream:
        for n, line in enumerate(stream, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            where = f"{file}, line {n}"
            if header is not None:
                series, target = _sequence(where, text, header)
                if X and series.shape[1] != X[0].shape[1]:
                    raise ValueError(
                        f"{where}: expected {X[0].shape[1]} dimensions like the first sequence, "
                        f"got {series.shape[1]}"
                    )
                X.append(series)
                y.append(target)
            elif text.lower() == "@data":
                header = _header(file, fields)
            elif text.startswith("@"):
                name, *values = text[1:].split()
                fields[name.lower()] = values
            else:
                raise ValueError(f"{where}: expected @data before the sequences, got {text[:40]!r}")
    if header is None or not X:
        raise ValueError(f"{file}: expected @data and at least one sequence, got none")
    targets = _files.labels(y) if header.label else None
    ids = [str(i) for i in range(len(X))]
    return Sequences(list(X), targets, _files.columns(X[0].shape[1]), ids)


def _header(file: Path, fields: dict[str, list[str]]) -> _Header:
    def flag(name: str) -> bool:
        return fields.get(name, ["false"])[:1] == ["true"]

    if flag("timestamps"):
        raise ValueError(
            f"{file}: expected values alone, got @timeStamps true; resample to even steps first"
        )
    classes = tuple(fields.get("classlabel", [])[1:])
    return _Header(flag("classlabel") or flag("targetlabel"), classes)


def _sequence(where: str, text: str, header: _Header) -> tuple[Array, str]:
    """Return the values (T, dimensions) of a line, and its label."""
    dimensions = text.split(":")
    label = dimensions.pop().strip() if header.label else ""
    if header.classes and label not in header.classes:
        raise ValueError(f"{where}: expected a class of {list(header.classes)}, got {label!r}")
    columns = [
        [
            _files.number(f"{where}, dimension {d}, step {i}", value)
            for i, value in enumerate(dimension.split(","))
        ]
        for d, dimension in enumerate(dimensions)
    ]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) != 1:
        raise ValueError(f"{where}: expected dimensions of one length, got lengths {lengths}")
    return np.array(columns).T.copy(), label
