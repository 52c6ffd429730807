"""Byte pair encoding: of single bytes, the most frequent pair becomes a token, again and again."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Self, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.checkpoint import PathLike
from miniattn.data._tokenizers import TextTokenizer, _text, write

Pair: TypeAlias = tuple[str, str]

# No token crosses a border between pieces: words with the blank before them, signs, blanks.
PATTERN = r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+"
PIECES = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
_DECODER = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}


def _characters() -> list[str]:
    """Return a character that can be seen for each byte, as GPT-2 has it.

    Bytes that print stand for themselves; the others follow from U+0100 on.
    """
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printing else next(others)) for byte in range(256)]


_CHARACTERS = _characters()
_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}


def spelled(token: str) -> str:
    """Return the text of a token of bytes; bytes that are no text stay as ``\\xNN``."""
    try:
        return bytes(_BYTES[c] for c in token).decode(errors="backslashreplace")
    except KeyError:  # a token that was added, and is text already
        return token


class BytePairTokenizer(TextTokenizer):
    """Tokens of one or more bytes, learned from a text by byte pair encoding [1]_.

    Every text has tokens: ids 0 to 255 are the single bytes. Token 256 + i is made of the pair
    ``merges[i]``; a text is encoded by making the pairs in that order.

    Parameters
    ----------
    merges : sequence of pairs of str
        What is joined, in the order in which it was learned; a character for each byte, as in
        ``tokenizer.json``.

    References
    ----------
    .. [1] Sennrich et al., "Neural machine translation of rare words with subword units", ACL 2016,
       section 3.2; on bytes as in Radford et al., "Language models are unsupervised multitask
       learners", 2019, section 2.2.

    Examples
    --------
    >>> from miniattn import data
    >>> tokenizer = data.BytePairTokenizer.trained("the cat sat on the mat, the end", 262)
    >>> tokenizer.tokens(tokenizer.encode("the hat"))
    ['the', ' ', 'h', 'at']
    >>> tokenizer.decode(tokenizer.encode("any text, é"))
    'any text, é'
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = [(str(a), str(b)) for a, b in merges]
        alphabet = sorted(_CHARACTERS)
        self._names = alphabet + [a + b for a, b in self.merges]
        self._ids = {name: i for i, name in enumerate(self._names)}
        self._ranks = {pair: i for i, pair in enumerate(self.merges)}
        self._known: dict[str, tuple[str, ...]] = {}
        for i, pair in enumerate(self.merges):
            if missing := [part for part in pair if part not in self._ids]:
                raise ValueError(f"merges[{i}]: expected parts that are tokens, got {missing[0]!r}")

    @classmethod
    def trained(cls, text: str, vocab_size: int) -> Self:
        """Learn from ``text`` until there are ``vocab_size`` tokens, or no pair comes twice.

        Pairs that come equally often are taken by the ids of their parts.
        """
        _checks.integer("vocab_size", vocab_size, least=256)
        return cls(_learned(Counter(_pieces(_text("text", text))), vocab_size - 256))

    @property
    def vocab_size(self) -> int:
        """V: 256 bytes and the pairs."""
        return len(self._names)

    def encode(self, text: str) -> Array:
        """Return the ids (T,) of a text."""
        names = [name for piece in _pieces(_text("text", text)) for name in self._cut(piece)]
        return np.array([self._ids[name] for name in names], np.int64)

    def decode(self, ids: Array | Sequence[int]) -> str:
        """Return the text of ids (T,); bytes that are no text become U+FFFD."""
        joined = "".join(self._names[i] for i in self._checked(ids))
        return bytes(_BYTES[c] for c in joined).decode(errors="replace")

    def tokens(self, ids: Array | Sequence[int]) -> list[str]:
        """Return the text of each id; bytes that are no text by themselves as ``\\xNN``."""
        return [spelled(self._names[i]) for i in self._checked(ids)]

    def save(self, path: PathLike) -> None:
        """Write ``tokenizer.json``, which `read_tokenizer` and the library tokenizers read."""
        write(path, self._ids, merges=self.merges, pieces=PIECES, decoder=_DECODER)

    def _cut(self, piece: str) -> tuple[str, ...]:
        """Return a piece as tokens: of the pairs in it, the one learned first is made first."""
        if piece in self._known:  # words come again and again
            return self._known[piece]
        parts = tuple(piece)
        while len(parts) > 1:
            last = len(self._ranks)
            first = min(pairwise(parts), key=lambda p: self._ranks.get(p, last))
            if first not in self._ranks:
                break
            parts = _joined(parts, first)
        self._known[piece] = parts
        return parts


def _pieces(text: str) -> list[str]:
    """Return the pieces of a text, a character for each byte."""
    return ["".join(_CHARACTERS[b] for b in piece.encode()) for piece in re.findall(PATTERN, text)]


def _joined(parts: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Return ``parts`` with every occurrence of ``pair``, from the left, as one."""
    new, i = [], 0
    while i < len(parts):
        step = 2 if parts[i : i + 2] == pair else 1
        new.append("".join(parts[i : i + step]))
        i += step
    return tuple(new)


def _learned(pieces: Counter[str], most: int) -> list[Pair]:
    """Return up to ``most`` pairs, each the most frequent when it was chosen."""
    words = [tuple(piece) for piece in pieces]
    often = list(pieces.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    ids = {name: i for i, name in enumerate(sorted(_CHARACTERS))}

    def count(i: int, sign: int) -> None:
        for pair in pairwise(words[i]):
            counts[pair] += sign * often[i]
            places[pair].add(i)

    for i in range(len(words)):
        count(i, 1)
    merges: list[Pair] = []
    while len(merges) < most and counts:
        best = min(counts, key=lambda p: (-counts[p], ids[p[0]], ids[p[1]]))
        if counts[best] < 2:
            break
        merges.append(best)
        ids.setdefault("".join(best), len(ids))
        for i in places.pop(best):
            count(i, -1)
            words[i] = _joined(words[i], best)
            count(i, 1)
        del counts[best]
    return merges
