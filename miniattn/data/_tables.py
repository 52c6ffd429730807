"""Sequences in a table of text: a row for each sequence, or a row for each step."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn.checkpoint import PathLike
from miniattn.data import _files
from miniattn.data._files import Sequences


class _Row(NamedTuple):
    line: int
    cells: list[str]


class _Table(NamedTuple):
    """A file read as text, and which of its columns are what."""

    file: Path
    names: list[str]
    rows: list[_Row]
    label: int | None
    steps: list[int]

    def where(self, row: _Row, column: int) -> str:
        return f"{self.file}, line {row.line}, {self.names[column]}"


def read_csv(
    path: PathLike,
    *,
    label: str | None = "label",
    sequence: str | None = None,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    delimiter: str = ",",
    header: bool = True,
    encoding: str = "utf-8-sig",
) -> Sequences:
    """Read sequences from a table: a row for each sequence, or a row for each step.

    **Wide**, without ``sequence``: a row is a sequence, its columns are the steps, and one that is
    shorter ends in empty cells. Where there is one column and it holds no numbers, it is a text.

    **Long**, with ``sequence``: a row is a step, and the rows with the same name in the column
    ``sequence`` are one sequence, wherever they stand, in the order of the file or of ``time``. Its
    other columns are the features of a step. Where there is one and it holds no numbers, the
    steps are tokens.

    Parameters
    ----------
    path : path
    label : str or None, default "label"
        The column of what is to be predicted; the same in all rows of a sequence. None: no column.
    sequence, time : str, optional
        The columns that say which sequence a step belongs to, and when it was.
    columns : sequence of str, optional
        The columns to read; all others by default.
    delimiter : str, default ","
        What stands between cells: ``"\\t"`` for .tsv.
    header : bool, default True
        Whether the first row has the names of the columns; or else they are "0", "1", ...
    encoding : str
        Of the text.

    Returns
    -------
    Sequences

    Raises
    ------
    ValueError
        If a column or a cell is missing or no finite number, or a sequence has two labels; the
        message says in which line.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from miniattn import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "long.csv")
    ...     _ = file.write_text("who,x,y,label\\na,1,2,up\\na,3,4,up\\nb,5,6,down\\n")
    ...     found = data.read_csv(file, sequence="who")
    >>> found.ids, found.names, found.y.tolist()
    (['a', 'b'], ('x', 'y'), ['up', 'down'])
    >>> found.X[0]
    array([[1., 2.],
           [3., 4.]])
    """
    _checks.flag("header", header)
    if time is not None and sequence is None:
        raise ValueError("time: expected sequence= beside it, the column of names, got None")
    file = _checks.path("path", path)
    names, rows = _text(file, delimiter, header, encoding)
    special = [name for name in (label, sequence, time) if name is not None]
    marked = _files.chosen("label, sequence, time", special, names, file)
    if columns is None:
        steps = [i for i in range(len(names)) if i not in marked]
    else:
        steps = _files.chosen("columns", columns, names, file)
    if not steps:
        raise ValueError(f"columns: expected at least one column with steps, got {names}")
    table = _Table(file, names, rows, None if label is None else names.index(label), steps)
    if sequence is None:
        return _wide(table)
    return _long(table, names.index(sequence), None if time is None else names.index(time))


def _text(file: Path, delimiter: str, header: bool, encoding: str) -> tuple[list[str], list[_Row]]:
    """Return the names of the columns and all rows, each with a cell for every column."""
    with file.open(encoding=encoding, newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter)
        try:
            rows = [_Row(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file}: expected text in columns ({encoding}), got {error}"
            ) from error
    if len(rows) < 1 + header:
        raise ValueError(f"{file}: expected at least one sequence, got none")
    if header:
        names = [cell.strip() for cell in rows.pop(0).cells]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{file}: expected names that differ, got {sorted(twice)} twice")
    else:
        names = [str(i) for i in range(max(len(row.cells) for row in rows))]
    for row in rows:
        if len(row.cells) > len(names):
            raise ValueError(
                f"{file}, line {row.line}: expected at most {len(names)} cells, as many as there "
                f"are columns, got {len(row.cells)}"
            )
        row.cells.extend([""] * (len(names) - len(row.cells)))
    return names, rows


def _is_text(table: _Table) -> bool:
    """Return whether the only column of steps holds something that is no number."""
    if len(table.steps) != 1:
        return False
    cells = [row.cells[table.steps[0]] for row in table.rows]
    return _files.labels([cell for cell in cells if cell.strip()]).dtype.kind == "U"


def _wide(table: _Table) -> Sequences:
    rows = table.rows
    X: list[Any]
    if _is_text(table):
        X = [row.cells[table.steps[0]] for row in rows]
    else:
        X = [_steps(table, row) for row in rows]
    y = None
    if table.label is not None:
        y = _files.labels([_filled(table, row, table.label) for row in rows])
    return Sequences(X, y, ("value",), [str(i) for i in range(len(rows))])


def _steps(table: _Table, row: _Row) -> np.ndarray[Any, Any]:
    """Return the steps (T, 1) of a row up to its last cell that is not empty."""
    last = max((n for n, i in enumerate(table.steps) if row.cells[i].strip()), default=-1)
    values = [_files.number(table.where(row, i), row.cells[i]) for i in table.steps[: last + 1]]
    if not values:
        raise ValueError(f"{table.file}, line {row.line}: expected at least one step, got none")
    return np.array(values)[:, None]


def _filled(table: _Table, row: _Row, column: int) -> str:
    text = row.cells[column].strip()
    if not text:
        raise ValueError(f"{table.where(row, column)}: expected something, got nothing")
    return text


def _long(table: _Table, sequence: int, time: int | None) -> Sequences:
    groups: dict[str, list[_Row]] = {}
    for row in table.rows:
        groups.setdefault(_filled(table, row, sequence), []).append(row)
    if time is not None:
        for name, rows in groups.items():
            groups[name] = _in_time(table, rows, time)
    text = _is_text(table)
    X: list[Any] = []
    for rows in groups.values():
        if text:
            X.append([_filled(table, row, table.steps[0]) for row in rows])
        else:
            X.append(
                np.array(
                    [
                        [_files.number(table.where(row, i), row.cells[i]) for i in table.steps]
                        for row in rows
                    ]
                )
            )
    y = None
    if table.label is not None:
        y = _files.labels([_one_label(table, rows, table.label) for rows in groups.values()])
    return Sequences(X, y, tuple(table.names[i] for i in table.steps), list(groups))


def _in_time(table: _Table, rows: list[_Row], time: int) -> list[_Row]:
    """Return the rows of a sequence by their times: as numbers, or else as texts (dates)."""
    times = _files.labels([_filled(table, row, time) for row in rows])
    order = np.argsort(times, kind="stable")
    same = np.flatnonzero(times[order][1:] == times[order][:-1])
    if same.size:
        row = rows[order[same[0] + 1]]
        raise ValueError(
            f"{table.where(row, time)}: expected a time of its own in its sequence, "
            f"got {row.cells[time]} a second time"
        )
    return [rows[i] for i in order]


def _one_label(table: _Table, rows: list[_Row], label: int) -> str:
    first = _filled(table, rows[0], label)
    for row in rows:
        if (other := _filled(table, row, label)) != first:
            raise ValueError(
                f"{table.where(row, label)}: expected {first!r}, as the sequence has it in line "
                f"{rows[0].line}, got {other!r}"
            )
    return first
