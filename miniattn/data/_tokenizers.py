"""Texts as token ids and back: one interface, whoever cuts the text."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from miniattn import _checks
from miniattn._disk import replacing
from miniattn._typing import Array
from miniattn.checkpoint import PathLike
from miniattn.data._batches import pad

FILE = "tokenizer.json"


class Encoded(NamedTuple):
    """Texts as what a model of text takes: ``model(found.ids, found.lengths, ...)``."""

    ids: Array
    """(B, T) ids, 0 beyond the end of a text."""
    lengths: Array
    """(B,) the tokens of each text."""
    types: Array
    """(B, T) 1 for the tokens of the second text of a pair, else 0."""


class TextTokenizer(ABC):
    """What all tokenizers have in common."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V: ids are in [0, V)."""

    @abstractmethod
    def encode(self, text: str) -> Array:
        """Return the ids (T,) of a text."""

    @abstractmethod
    def decode(self, ids: Array | Sequence[int]) -> str:
        """Return the text of ids (T,)."""

    @abstractmethod
    def tokens(self, ids: Array | Sequence[int]) -> list[str]:
        """Return what each of the ids (T,) stands for, as labels of a picture."""

    def batch(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encoded:
        """Return texts as one batch, each followed by the one of ``pairs`` where given."""
        given = _texts("texts", texts)
        if pairs is not None and len(_texts("pairs", pairs)) != len(given):
            raise ValueError(f"pairs: expected {len(given)}, one for each text, got {len(pairs)}")
        rows = [self._row(t, None if pairs is None else pairs[i]) for i, t in enumerate(given)]
        padded = pad([((ids, types), 0) for ids, types in rows], lengths=("lengths", None))
        return Encoded(padded.inputs[0], padded.keywords["lengths"], padded.inputs[1])

    def _row(self, text: str, pair: str | None) -> tuple[Array, Array]:
        """Return the ids of a text, or of two, and which of them are the second's."""
        ids = self.encode(text)
        second = np.zeros(0, np.int64) if pair is None else self.encode(pair)
        types = np.repeat([0, 1], [len(ids), len(second)])
        return np.concatenate([ids, second]), types

    def _checked(self, ids: Array | Sequence[int]) -> Array:
        found = _checks.int_array("ids", ids)
        _checks.shape("ids", found, "T")
        if found.size and (found.min() < 0 or found.max() >= self.vocab_size):
            wrong = found.min() if found.min() < 0 else found.max()
            raise ValueError(f"ids: expected ids in [0, V) with V = {self.vocab_size}, got {wrong}")
        return found


class CharacterTokenizer(TextTokenizer):
    """A token for each character.

    Parameters
    ----------
    characters : sequence of str
        The alphabet; character i has the id i.

    Examples
    --------
    >>> from miniattn import data
    >>> tokenizer = data.CharacterTokenizer.trained("to be or not to be")
    >>> tokenizer.encode("robot")
    array([5, 4, 1, 4, 6])
    >>> tokenizer.decode([1, 2])
    'be'
    """

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self._ids = {character: i for i, character in enumerate(self.characters)}
        if wrong := [c for c in self.characters if not isinstance(c, str) or len(c) != 1]:
            raise ValueError(f"characters: expected single characters, got {wrong[0]!r}")
        if len(self._ids) != len(self.characters):
            raise ValueError("characters: expected each once, got one twice")

    @classmethod
    def trained(cls, text: str) -> Self:
        """Return the tokenizer of all characters of ``text``, in the order of their code points."""
        return cls(sorted(set(_text("text", text))))

    @property
    def vocab_size(self) -> int:
        """V, the number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> Array:
        """Return the ids (T,) of a text; ValueError for a character that has none."""
        try:
            return np.array([self._ids[c] for c in _text("text", text)], np.int64)
        except KeyError as error:
            unknown = error.args[0]
            raise ValueError(
                f"text: expected characters of the alphabet ({self.vocab_size} of them), got "
                f"{unknown!r} at {text.index(unknown)}"
            ) from None

    def decode(self, ids: Array | Sequence[int]) -> str:
        """Return the text of ids (T,)."""
        return "".join(self.tokens(ids))

    def tokens(self, ids: Array | Sequence[int]) -> list[str]:
        """Return the character of each id."""
        return [self.characters[i] for i in self._checked(ids)]

    def save(self, path: PathLike) -> None:
        """Write ``tokenizer.json``, which `read_tokenizer` and the library tokenizers read."""
        write(path, self._ids, merges=[], pieces=None, decoder={"type": "Fuse"})


class Tokenizer(TextTokenizer):
    """The tokenizer of a model that others trained, from its ``tokenizer.json``.

    Needs the library tokenizers: ``pip install "miniattn[text]"``. What the file says of special
    tokens is done, such as ``[CLS]`` before and ``[SEP]`` after a text; what it says of cutting and
    padding is not: every text is encoded whole.

    Parameters
    ----------
    path : path
        The file, or the folder that has it.

    Raises
    ------
    ModuleNotFoundError
        If the library is not installed.
    ValueError
        If there is no such file, or it holds no tokenizer.

    Examples
    --------
    >>> from miniattn import data
    >>> tokenizer = data.Tokenizer("minilm")  # doctest: +SKIP
    >>> tokenizer.tokens(tokenizer.encode("The cat sat"))  # doctest: +SKIP
    ['[CLS]', 'the', 'cat', 'sat', '[SEP]']
    """

    def __init__(self, path: PathLike) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ModuleNotFoundError(
                "Tokenizer: expected the library tokenizers, which is not installed; "
                'pip install "miniattn[text]"',
                name="tokenizers",
            ) from error
        file = file_of(path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more special
            raise ValueError(f"{file}: expected a tokenizer, got {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @property
    def vocab_size(self) -> int:
        """V, with the tokens that were added."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> Array:
        """Return the ids (T,) of a text, special tokens included."""
        return self._row(text, None)[0]

    def decode(self, ids: Array | Sequence[int]) -> str:
        """Return the text of ids (T,), without special tokens."""
        return str(self._tokenizer.decode(self._checked(ids).tolist()))

    def tokens(self, ids: Array | Sequence[int]) -> list[str]:
        """Return what the file calls each id; of bytes, the text that they are."""
        names = [self._tokenizer.id_to_token(int(i)) or "" for i in self._checked(ids)]
        if self._of_bytes:
            from miniattn.data._byte_pairs import spelled

            return [spelled(name) for name in names]
        return [name.replace("\u2581", " ") for name in names]

    @property
    def _of_bytes(self) -> bool:
        return "ByteLevel" in str(self._tokenizer.decoder)

    def _row(self, text: str, pair: str | None) -> tuple[Array, Array]:
        found = self._tokenizer.encode(
            _text("text", text), None if pair is None else _text("pair", pair)
        )
        return np.array(found.ids, np.int64), np.array(found.type_ids, np.int64)


def read_tokenizer(path: PathLike) -> TextTokenizer:
    """Return the tokenizer that a ``tokenizer.json`` holds.

    Parameters
    ----------
    path : path
        The file, or the folder that has it.

    Returns
    -------
    CharacterTokenizer, BytePairTokenizer or Tokenizer
        The first two where their ``save`` wrote it, without any library.

    Raises
    ------
    ValueError, ModuleNotFoundError
        As `Tokenizer` does.

    Examples
    --------
    >>> import tempfile
    >>> from miniattn import data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data.CharacterTokenizer.trained("abc").save(folder)
    ...     data.read_tokenizer(folder).encode("cab")
    array([2, 0, 1])
    """
    from miniattn.data._byte_pairs import PIECES, BytePairTokenizer

    file = file_of(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model, pieces = content["model"], content["pre_tokenizer"]
        if not content.get("added_tokens") and content["normalizer"] is None:
            if pieces is None and model["type"] == "BPE" and model["merges"] == []:
                return CharacterTokenizer(list(model["vocab"]))
            if pieces == PIECES:
                return BytePairTokenizer([(a, b) for a, b in model["merges"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: expected a tokenizer, got {_named(error)}") from error
    return Tokenizer(file)


def _named(error: Exception) -> str:
    return f"none: {type(error).__name__}: {error}"


def file_of(path: PathLike) -> Path:
    """Return the file of a tokenizer, given it or its folder."""
    file = _checks.path("path", path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"{file}: expected a {FILE}, got no such file")
    return file


def write(
    path: PathLike,
    vocabulary: Mapping[str, int],
    *,
    merges: Iterable[tuple[str, str]],
    pieces: Mapping[str, Any] | None,
    decoder: Mapping[str, Any],
) -> None:
    """Write a tokenizer in the format of the library tokenizers."""
    file = _checks.path("path", path)
    file = file / FILE if file.is_dir() else file
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pieces,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": dict(vocabulary),
            "merges": [list(pair) for pair in merges],
        },
    }
    with replacing(file) as stream:
        stream.write(json.dumps(content, ensure_ascii=False, indent=1).encode())


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {_checks.shown(value)}")
    return value


def _texts(name: str, values: object) -> list[str]:
    if isinstance(values, str):
        raise TypeError(f"{name}: expected a list of str, got one str; [text] is a list of one")
    given = _checks.sequence(name, values, "str")
    found = [_text(f"{name}[{i}]", value) for i, value in enumerate(given)]
    if not found:
        raise ValueError(f"{name}: expected at least one text, got none")
    return found
