"""From files and texts to batches: sequences read, texts cut into tokens, examples padded."""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # to import them all takes longer than to use one
    from miniattn.data._batches import (
        IGNORED,
        Batch,
        Dataset,
        Windows,
        batches,
        pad,
        shuffled,
        sorted_by_length,
        stack,
    )
    from miniattn.data._byte_pairs import BytePairTokenizer
    from miniattn.data._files import Sequences, read_npz
    from miniattn.data._tables import read_csv
    from miniattn.data._tokenizers import (
        CharacterTokenizer,
        Encoded,
        TextTokenizer,
        Tokenizer,
        read_tokenizer,
    )
    from miniattn.data._ts import read_ts

__all__ = [
    "IGNORED",
    "Batch",
    "BytePairTokenizer",
    "CharacterTokenizer",
    "Dataset",
    "Encoded",
    "Sequences",
    "TextTokenizer",
    "Tokenizer",
    "Windows",
    "batches",
    "pad",
    "read_csv",
    "read_npz",
    "read_tokenizer",
    "read_ts",
    "shuffled",
    "sorted_by_length",
    "stack",
]

_HOMES = ("_batches", "_tokenizers", "_byte_pairs", "_files", "_tables", "_ts")

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, _HOMES)
