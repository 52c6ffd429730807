"""Averages of maps: over the heads of a layer, and over the pieces of words."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._checked import weight_map

Marks = Literal["##", "Ġ", "▁", " "]


class Words(NamedTuple):
    """Which tokens make a word."""

    texts: tuple[str, ...]
    """Of each word, its pieces together, without what marks them as pieces."""
    groups: Array
    """(T,) int64: of each token the number of its word, counted from 0."""


def mean_over_heads(weights: Array) -> Array:
    """Return the mean of a layer's maps: (1/H) Σ_h w_h.

    Parameters
    ----------
    weights : (..., H, T, S) float array
        Maps, or their gradients.

    Returns
    -------
    (..., T, S) array
        A row sums to the mean of what it sums to in the heads.

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is not float32 or float64 with at least three axes, or has no head.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> analysis.mean_over_heads(np.array([[[1.0, 0.0]], [[0.5, 0.5]]]))
    array([[0.75, 0.25]])
    """
    weights = weight_map("weights", weights, "..., H, T, S")
    if not weights.shape[-3]:
        raise ValueError(f"weights: expected at least one head, got shape {weights.shape}")
    mean: Array = weights.mean(axis=-3, dtype=np.float64)
    return mean.astype(weights.dtype)


def word_groups(tokens: Sequence[object], mark: Marks | None = None) -> Words:
    """Return which word each token belongs to, by the mark that its tokenizer leaves.

    BERT's ``##`` stands before a piece that goes on with a word; GPT-2's ``Ġ``, SentencePiece's
    ``▁`` and a plain blank stand before one that begins a word. Tokens in brackets, such as
    ``[CLS]`` and ``</s>``, are words of their own.

    Parameters
    ----------
    tokens : sequence of T tokens
        Anything with a ``str``.
    mark : {"##", "Ġ", "▁", " "}, optional
        By default the first of these that some token has; with none, each token is a word.

    Returns
    -------
    Words
        ``(texts, groups)``.

    Raises
    ------
    TypeError
        If ``tokens`` is no sequence, or one string.
    ValueError
        If there is no such mark.

    Examples
    --------
    >>> from miniattn import analysis
    >>> words = analysis.word_groups(["[CLS]", "un", "##believ", "##able", "[SEP]"])
    >>> words.texts, words.groups
    (('[CLS]', 'unbelievable', '[SEP]'), array([0, 1, 1, 1, 2]))
    """
    if isinstance(tokens, str | bytes):
        raise TypeError(f"tokens: expected a sequence of tokens, got one {type(tokens).__name__}")
    pieces = [str(token) for token in _checks.sequence("tokens", tokens, "tokens")]
    if mark is not None:
        _checks.choice("mark", mark, get_args(Marks))
    found = _mark_of(pieces) if mark is None else mark
    begins = _BEGINS[found]
    starts = [
        i == 0 or begins(piece) or _alone(piece) or _alone(pieces[i - 1])
        for i, piece in enumerate(pieces)
    ]
    groups = np.cumsum(np.array(starts, np.int64)) - 1
    texts = ["" for start in starts if start]
    for group, piece in zip(groups, pieces, strict=True):
        texts[group] += piece if found is None else plain(piece)
    return Words(tuple(texts), groups)


def merge_words(
    weights: Array,
    groups: Sequence[int | None] | Array,
    key_groups: Sequence[int | None] | Array | None = None,
    *,
    keys: Literal["sum", "mean"] = "sum",
) -> Array:
    """Return the map between words: over a key's pieces the sum, over a query's the mean.

    What a word reads is the mean of what its pieces read; how much of a word is read, the sum over
    its pieces. So a row still sums to what its rows did on the average: 1 where each did.

    Parameters
    ----------
    weights : (..., T, S) float array
        A map, or w · dw, of which the same holds.
    groups : T ints
        Of each query the number of its word, as `word_groups` or a tokenizer's ``word_ids()``
        give them: a run of equal numbers is a word, None is a word of its own.
    key_groups : S ints, optional
        Of each key; as ``groups`` by default.
    keys : {"sum", "mean"}
        With "mean" both are averaged, which is what a gradient d loss / d w needs: that of a
        weight which a word shares out to its pieces equally.

    Returns
    -------
    (..., words of the queries, words of the keys) array

    Raises
    ------
    TypeError, ValueError
        If ``weights`` is no float array (..., T, S), or the groups do not fit it.

    References
    ----------
    Clark et al., "What Does BERT Look At? An Analysis of BERT's Attention", 2019, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis
    >>> weights = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    >>> analysis.merge_words(weights, [0, 1, 1])  # the last two tokens are one word
    array([[1.   , 0.   ],
           [0.375, 0.625]])
    """
    weights = weight_map("weights", weights)
    _checks.choice("keys", keys, ("sum", "mean"))
    T, S = weights.shape[-2:]
    rows = word_starts("groups", groups, T)
    if key_groups is None and T != S:
        raise ValueError(f"key_groups: expected {S} numbers, one a key, got None for T = {T}")
    columns = rows if key_groups is None else word_starts("key_groups", key_groups, S)
    merged = _over_runs(weights.astype(np.float64), columns, -1, mean=keys == "mean")
    return _over_runs(merged, rows, -2, mean=True).astype(weights.dtype)


def word_starts(name: str, groups: Sequence[int | None] | Array, count: int) -> Array:
    """Return at which of ``count`` tokens a word begins: where the number is not the last one."""
    numbers = list(_checks.sequence(name, groups, "one number a token"))
    if len(numbers) != count:
        raise ValueError(f"{name}: expected {count} numbers, one a token, got {len(numbers)}")
    for number in numbers:
        if number is not None:
            _checks.integer(name, number)
    changes = [
        i == 0 or number is None or number != numbers[i - 1] for i, number in enumerate(numbers)
    ]
    return np.flatnonzero(changes)


def _over_runs(x: Array, starts: Array, axis: int, *, mean: bool) -> Array:
    """Return the sums, or means, of the runs of an axis that begin at ``starts``."""
    if not x.shape[axis]:
        return x
    sums: Array = np.add.reduceat(x, starts, axis=axis)
    if not mean:
        return sums
    lengths = np.diff(starts, append=x.shape[axis])
    return sums / (lengths if axis == -1 else lengths[:, None])


_BEGINS: dict[str | None, Callable[[str], bool]] = {
    "##": lambda piece: not piece.startswith("##"),
    "Ġ": lambda piece: piece.startswith(("Ġ", "Ċ")),  # Ċ is GPT-2's end of a line
    "▁": lambda piece: piece.startswith("▁"),
    " ": lambda piece: piece[:1].isspace(),
    None: lambda piece: True,
}
"""By the mark, whether a piece begins a word."""


def _mark_of(pieces: Sequence[str]) -> str | None:
    return next((m for m in get_args(Marks) if any(p.startswith(m) for p in pieces)), None)


def plain(piece: str) -> str:
    """Return a piece of a word without its mark."""
    for mark in get_args(Marks):
        if piece.startswith(mark) and len(piece) > len(mark):
            return piece[len(mark) :]
    return piece


def _alone(piece: str) -> bool:
    """Return whether a token is no text: [CLS], <s>, <|endoftext|>."""
    return len(piece) > 2 and (piece[0], piece[-1]) in (("[", "]"), ("<", ">"))
