"""Prompts as one padded batch, and what is written in the form in which they were given."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array

Prompts = Array | Sequence[int] | Sequence[Sequence[int]] | Sequence[Array]


def padded(name: str, prompts: Prompts, vocab_size: int) -> tuple[Array, Array]:
    """Return prompts as ids (B, T), padded with 0 at the end, and their lengths (B,)."""
    _checks.sequence(name, prompts, "ids, or of sequences of ids")
    if isinstance(prompts, np.ndarray):
        rows = [ids_of(name, row, vocab_size) for row in np.atleast_2d(prompts)]
    elif is_single(prompts):
        rows = [ids_of(name, prompts, vocab_size)]
    else:
        rows = [ids_of(f"{name}[{i}]", row, vocab_size) for i, row in enumerate(prompts)]
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), lengths.max(initial=0)), np.int64)
    for padded_row, row in zip(ids, rows, strict=True):
        padded_row[: len(row)] = row
    return ids, lengths


def is_single(prompts: Prompts) -> bool:
    """Whether ``prompts`` is one sequence of ids rather than several."""
    return len(prompts) == 0 or np.ndim(prompts[0]) == 0


def joined(prompts: Prompts, ids: Array, lengths: Array, new: Sequence[Array]) -> Any:
    """Return each prompt with its new tokens, in the form in which the prompts were given.

    In an array, a row that has fewer new tokens than others is filled up with its last.
    """
    if isinstance(prompts, np.ndarray):
        most = max((len(row) for row in new), default=0)
        filled = [np.concatenate([row, np.repeat(row[-1:], most - len(row))]) for row in new]
        written = np.array(filled, np.int64).reshape(len(ids), most)
        return np.concatenate([ids, written], axis=1).reshape(*prompts.shape[:-1], -1)
    rows = [
        np.concatenate([prompt[:length], row])
        for prompt, length, row in zip(ids, lengths, new, strict=True)
    ]
    return rows[0] if is_single(prompts) else rows


def ids_of(name: str, row: object, vocab_size: int) -> Array:
    """Return ids (T,), at least one, all of the vocabulary."""
    ids = _checks.int_array(name, row)
    _checks.shape(name, ids, "T")
    if ids.size == 0:
        raise ValueError(f"{name}: expected at least one token, got none")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"{name}: expected ids in [0, V) with V = {vocab_size}, got {wrong}")
    return ids
