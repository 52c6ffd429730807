"""From files and texts to batches: sequences read, texts cut into tokens, examples padded."""

from miniattn import _lazy
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

__dir__ = _lazy.listed(__name__, __all__)
