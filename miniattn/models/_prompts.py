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


def continued(prompts: Prompts, new: Sequence[Array]) -> Any:
    """Return each prompt with its new tokens, in the form in which the prompts were given."""
    if isinstance(prompts, np.ndarray):
        rows = list(np.atleast_2d(prompts))
    else:
        rows = [prompts] if is_single(prompts) else list(prompts)
    texts = [np.concatenate([np.asarray(a, np.int64), b]) for a, b in zip(rows, new, strict=True)]
    return in_form(prompts, texts)


def in_form(given: Any, texts: Sequence[Array], axes: int = 1) -> Any:
    """Return a text for each of what was given, as it was: one, an array, or a list.

    In an array, a row that is shorter than others is filled up with its last token. ``axes`` says
    how many one of those given has.
    """
    if isinstance(given, np.ndarray):
        most = max((len(row) for row in texts), default=0)
        filled = [np.concatenate([row, np.repeat(row[-1:], most - len(row))]) for row in texts]
        return np.array(filled, np.int64).reshape(*given.shape[:-axes], most)
    return texts[0] if is_single(given) else list(texts)


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
