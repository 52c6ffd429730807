"""What people have for sequences, read as what a model takes: float steps, or tokens."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from miniattn._typing import Array

Kind = Literal["table", "series", "tokens"]
"""``table``: rows of one length, (n, T); ``series``: arrays (T_i, width); ``tokens``: words."""

Tokens = Literal["words", "characters", "auto"]

Token: TypeAlias = str | int

_WORD = re.compile(r"\w+|[^\w\s]")


class Read(NamedTuple):
    """Sequences of one kind."""

    kind: Kind
    items: list[Any]
    """Float arrays (T_i, width), or lists of tokens."""


def read(X: Any, tokens: Tokens) -> Read:
    """Return what ``X`` holds.

    Raises
    ------
    TypeError, ValueError
        If it holds no sequences, or of several kinds; the message names the first that differs.
    """
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens: expected one of {list(get_args(Tokens))}, got {tokens!r}")
    if hasattr(X, "toarray"):
        raise TypeError(
            "X: expected sequences, got a sparse matrix; sparse data are no sequences, "
            "X.toarray() makes a table of them"
        )
    if hasattr(X, "__array__") and not isinstance(X, np.ndarray):
        X = np.asarray(X)
    if isinstance(X, np.ndarray) and X.dtype != object:
        return _of_array(X)
    if isinstance(X, str) or not hasattr(X, "__len__"):
        raise TypeError(f"X: expected a list of sequences or an array, got {type(X).__name__}")
    rows = list(X)
    if not rows:
        raise ValueError("X: expected at least 1 sequence, got 0 sample(s)")
    if all(isinstance(row, str) for row in rows):
        return Read("tokens", [list(words) for words in _split(rows, tokens)])
    if _is_tokens(rows):
        return Read("tokens", [[_token(t) for t in row] for row in rows])
    return Read("series", _series(rows))


def _of_array(X: Array) -> Read:
    if X.dtype.kind in "US":
        return read(X.tolist(), "auto")
    if X.dtype.kind == "c":
        raise ValueError(f"X: expected real numbers, got {X.dtype}. Complex data not supported")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X: expected numbers, got an array of {X.dtype}")
    if X.ndim == 2:
        return Read("table", _series(list(X)))
    if X.ndim == 3:
        if len(X) == 0:
            raise ValueError("X: expected at least 1 sequence, got 0 sample(s)")
        return Read("series", _series(list(X)))
    raise ValueError(
        f"X: expected (n, T) or (n, T, width), got shape {X.shape}. Reshape your data: one series "
        "is X.reshape(1, -1)"
    )


def _is_tokens(rows: Sequence[Any]) -> bool:
    """Return whether every row is a sequence of strings or of ints."""
    first = next((row for row in rows if _size(row)), None)
    if first is None:
        return False
    if isinstance(first, np.ndarray):
        return first.ndim == 1 and first.dtype.kind in "iuUS"
    return all(isinstance(t, str | int | np.integer) and not isinstance(t, bool) for t in first)


def _size(row: Any) -> int:
    return len(row) if hasattr(row, "__len__") else 0


def _token(value: Any) -> Token:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f"X: expected tokens that are strings or ints, got {value!r}")


def _split(texts: Sequence[str], tokens: Tokens) -> Iterable[Iterable[str]]:
    if tokens == "auto":
        spaced = sum(" " in text.strip() for text in texts)
        tokens = "words" if 2 * spaced >= len(texts) else "characters"
    return (text if tokens == "characters" else _WORD.findall(text) for text in texts)


def _series(rows: Sequence[Any]) -> list[Array]:
    """Return float64 arrays (T_i, width) of one width."""
    series: list[Array] = []
    for i, row in enumerate(rows):
        try:
            x = np.asarray(row, np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"X[{i}]: expected a series of numbers: {error}") from error
        if x.ndim == 1:
            x = x[:, None]
        if x.ndim != 2:
            raise ValueError(f"X[{i}]: expected (T,) or (T, width), got shape {x.shape}")
        if x.shape[1] == 0 or len(x) == 0:
            raise ValueError(
                f"X[{i}]: expected at least 1 step of 1 number, got shape {x.shape}: 0 feature(s) "
                f"(shape={x.shape}) while a minimum of 1 is required."
            )
        if series and x.shape[1] != series[0].shape[1]:
            raise ValueError(
                f"X[{i}]: expected width {series[0].shape[1]} like the first, got {x.shape[1]}"
            )
        if not np.isfinite(x).all():
            what = "NaN" if np.isnan(x).any() else "infinity"
            raise ValueError(f"X[{i}]: expected finite numbers, got {what}")
        series.append(x)
    return series


class Scaler(NamedTuple):
    """Standardisation of features, fitted on the steps of all training sequences."""

    mean: Array
    """(width,) float64."""
    scale: Array
    """(width,) float64; 1 where all steps are equal."""

    @classmethod
    def fitted(cls, series: Sequence[Array]) -> Scaler:
        """Return the mean and the deviation of all steps."""
        steps = np.concatenate(series)
        deviation = steps.std(axis=0)
        return cls(steps.mean(axis=0), np.where(deviation > 0, deviation, 1.0))

    def __call__(self, series: Sequence[Array]) -> list[Array]:
        """Return float32 arrays of mean 0 and deviation 1."""
        return [((x - self.mean) / self.scale).astype(np.float32) for x in series]


UNKNOWN = 0
"""The id of a token that training never saw."""


class Vocabulary:
    """Tokens and their ids: by how often they come, from 1 on; 0 is any other token."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = list(tokens)
        self._ids = {token: i + 1 for i, token in enumerate(self.tokens)}

    @classmethod
    def fitted(cls, sequences: Sequence[Sequence[Token]], most: int | None = None) -> Vocabulary:
        """Return the tokens of all sequences, or the ``most`` frequent; ties by first use."""
        counts = Counter(token for sequence in sequences for token in sequence)
        return cls([token for token, _ in counts.most_common(most)])

    def __len__(self) -> int:
        return len(self.tokens) + 1

    def __call__(self, sequences: Sequence[Sequence[Token]]) -> list[Array]:
        """Return the ids of every sequence; an empty one is one unknown token."""
        return [
            np.array([self._ids.get(token, UNKNOWN) for token in sequence] or [UNKNOWN], np.int64)
            for sequence in sequences
        ]
