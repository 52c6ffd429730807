"""From examples to batches: padding, and the order in which examples come."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from miniattn import _checks
from miniattn._typing import Array

IGNORED = -100
"""The integer target of a padded step; losses do not count it. A float target is NaN there."""


class Batch(NamedTuple):
    """What one call of a model takes: ``model.forward(*inputs, **keywords, rng=rng)``."""

    inputs: tuple[Array, ...]
    """Positional arguments; the first axis is B."""
    targets: Array
    """What the loss compares the model's outputs with."""
    keywords: dict[str, Array] = {}  # noqa: RUF012  a default that nobody writes to
    """Keyword arguments, such as ``lengths``."""

    @property
    def num_tokens(self) -> int:
        """The number of real steps in all sequences."""
        lengths = [array for name, array in self.keywords.items() if name.endswith("lengths")]
        if lengths:
            return sum(int(array.sum()) for array in lengths)
        return sum(int(np.prod(array.shape[:2])) for array in self.inputs)


class Dataset(Protocol):
    """A sequence of examples (x, y); a list of tuples is one.

    x is an array (T, ...) with a length T of its own, or a tuple of several such arrays. y is a
    number, an array of one shape for all, or an array (T', ...) with one entry for each step.
    """

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int, /) -> tuple[Any, Any]:
        """Return one example."""


class Windows:
    """Stretches of ``block_size`` tokens of a text, with the token that follows each step.

    Example i begins at s = i · stride and is (tokens[s : s + block_size], tokens[s + 1 : s + 1 +
    block_size]); both are views.

    Parameters
    ----------
    tokens : (n,) ints
        n > block_size.
    block_size : int >= 1
    stride : int >= 1, default 1
        1 gives every stretch there is; ``block_size`` covers the text once, for evaluation.

    Raises
    ------
    TypeError, ValueError
        If ``tokens`` are not ints on one axis, or too few.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.data import Windows
    >>> windows = Windows(np.array([5, 6, 7, 8]), block_size=2)
    >>> len(windows), windows[1]
    (2, (array([6, 7]), array([7, 8])))
    """

    def __init__(self, tokens: Array, block_size: int, *, stride: int = 1) -> None:
        self.tokens = _checks.int_array("tokens", tokens)
        _checks.shape("tokens", self.tokens, "n")
        self.block_size = _checks.integer("block_size", block_size, least=1)
        self.stride = _checks.integer("stride", stride, least=1)
        if len(self.tokens) <= self.block_size:
            raise ValueError(
                f"tokens: expected more than block_size = {self.block_size}, got {len(self.tokens)}"
            )

    def __len__(self) -> int:
        return (len(self.tokens) - self.block_size - 1) // self.stride + 1

    def __getitem__(self, index: int, /) -> tuple[Array, Array]:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected an index in [0, {len(self)}), got {index}")
        start = index * self.stride
        piece = self.tokens[start : start + self.block_size + 1]
        return piece[:-1], piece[1:]


def pad(
    examples: Sequence[tuple[Any, Any]], *, lengths: Sequence[str | None] = ("lengths",)
) -> Batch:
    """Make a batch of examples of different lengths: zeros fill each row up to the longest.

    Parameters
    ----------
    examples : sequence of (x, y)
        As in `Dataset`. Targets of one shape are stacked; targets of different lengths are filled
        up with `IGNORED` (ints) or NaN (floats), which losses do not count.
    lengths : sequence of str or None
        For each array of x, the keyword under which the model is told the lengths (B,), or None
        for not telling it. ``functools.partial`` sets it for a `Trainer`::

            partial(pad, lengths=("source_lengths", None))  # EncoderDecoder
            partial(pad, lengths=(None,))  # GPT: nothing sees the padding at the end

    Returns
    -------
    Batch

    Raises
    ------
    TypeError, ValueError
        If an example is no (x, y), the arrays of the examples do not agree in dtype and in all axes
        but the first, or a target is NaN.

    Examples
    --------
    >>> from miniattn.data import pad
    >>> batch = pad([([5, 6, 7], 1), ([8], 0)])
    >>> batch.inputs[0]
    array([[5, 6, 7],
           [8, 0, 0]])
    >>> batch.keywords["lengths"], batch.targets
    (array([3, 1]), array([1, 0]))
    """
    columns, targets = _columns(examples)
    if len(columns) != len(lengths):
        raise ValueError(f"x: expected {len(lengths)} arrays, for {lengths}, got {len(columns)}")
    inputs, keywords = [], {}
    for name, column in zip(lengths, columns, strict=True):
        sequences = _agreeing("x", column)
        inputs.append(_padded(sequences, fill=0))
        if name is not None:
            keywords[name] = np.array([len(sequence) for sequence in sequences])
    return Batch(tuple(inputs), _targets(targets), keywords)


def stack(examples: Sequence[tuple[Any, Any]]) -> Batch:
    """Make a batch of examples of one length, without telling the model any lengths.

    Parameters
    ----------
    examples : sequence of (x, y)
        As in `Dataset`, all of one shape.

    Returns
    -------
    Batch
        Without options.

    Raises
    ------
    TypeError, ValueError
        If an example is no (x, y), or the shapes differ.

    Examples
    --------
    >>> from miniattn.data import Windows, stack
    >>> import numpy as np
    >>> windows = Windows(np.arange(10, 20), block_size=3)
    >>> stack([windows[0], windows[4]]).inputs[0]
    array([[10, 11, 12],
           [14, 15, 16]])
    """
    columns, targets = _columns(examples)
    return Batch(tuple(_stacked("x", column) for column in columns), _stacked("y", targets))


# ------------------------------------------------------------------------------------------ order


def shuffled(
    size: int,
    batch_size: int,
    rng: np.random.Generator,
    *,
    lengths: Array | None = None,
    pool: int = 0,
) -> Array:
    """Return a random order of ``size`` examples, whose batches are taken from front to back.

    Parameters
    ----------
    size, batch_size : int
    rng : numpy.random.Generator
    lengths : (size,) ints, optional
        With ``pool``: the lengths of the examples.
    pool : int, default 0
        Length bucketing: examples are drawn for ``pool`` batches at a time and sorted by length
        among these, so that a batch holds sequences of like length and little padding; the batches
        then come in random order. 0 is off.

    Returns
    -------
    (size,) ints

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn.data import shuffled
    >>> lengths = np.array([9, 1, 8, 2, 9, 1])
    >>> order = shuffled(6, 2, np.random.default_rng(3), lengths=lengths, pool=3)
    >>> lengths[order].reshape(3, 2)
    array([[9, 9],
           [2, 8],
           [1, 1]])
    """
    order = rng.permutation(size)
    if lengths is None or pool == 0:
        return order
    pools = [order[at : at + pool * batch_size] for at in range(0, size, pool * batch_size)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
    whole = size - size % batch_size  # a smaller last batch stays the last
    order[:whole] = rng.permutation(order[:whole].reshape(-1, batch_size)).reshape(-1)
    return order


def sorted_by_length(dataset: Dataset) -> tuple[Array, Array]:
    """Return (order, lengths): the examples from short to long, and the length of each.

    The length of an example is that of x, or of the longest array in it.
    """
    lengths = np.array([_length(dataset[i][0]) for i in range(len(dataset))], np.int64)
    return np.argsort(lengths, kind="stable"), lengths


def batches(dataset: Dataset, order: Array, batch_size: int) -> Iterator[list[tuple[Any, Any]]]:
    """Yield lists of at most ``batch_size`` examples in the given order."""
    for at in range(0, len(order), batch_size):
        yield [dataset[int(i)] for i in order[at : at + batch_size]]


# --------------------------------------------------------------------------------- small helpers


def _columns(examples: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """Return each array of x, and y, of all examples."""
    if len(examples) == 0:
        raise ValueError("examples: expected at least one, got none")
    rows, targets = [], []
    for i, example in enumerate(examples):
        if not (isinstance(example, tuple | list) and len(example) == 2):
            raise TypeError(f"examples[{i}]: expected an example (x, y), got {_words(example)}")
        x, y = example
        rows.append(x if isinstance(x, tuple) else (x,))
        targets.append(y)
        if len(rows[-1]) != len(rows[0]):
            raise ValueError(
                f"x: expected {len(rows[0])} arrays like the first of the batch, "
                f"got {len(rows[-1])} in example {i} of the batch"
            )
    return [list(column) for column in zip(*rows, strict=True)], targets


def _words(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"a {type(value).__name__}{size}"


def _stacked(name: str, column: Sequence[Any]) -> Array:
    arrays = [np.asarray(item) for item in column]
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"{name}: expected shape {arrays[0].shape} like the first of the batch, "
                f"got {array.shape} in example {i} of the batch"
            )
    return np.stack(arrays)


def _length(x: Any) -> int:
    return max(len(part) for part in x) if isinstance(x, tuple) else len(x)


def _agreeing(name: str, column: Sequence[Any]) -> list[Array]:
    """Return the arrays of a column, which must fit into one array but for their lengths."""
    arrays = [np.asarray(item) for item in column]
    for i, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:]:
            expected = ("T", *arrays[0].shape[1:])
            raise ValueError(
                f"{name}: expected arrays ({', '.join(map(str, expected))}) like the first of the "
                f"batch, got shape {array.shape} in example {i} of the batch"
            )
        if array.dtype != arrays[0].dtype and array.size and arrays[0].size:
            raise TypeError(
                f"{name}: expected dtype {arrays[0].dtype} like the first of the batch, "
                f"got {array.dtype} in example {i} of the batch"
            )
    return arrays


def _padded(sequences: Sequence[Array], fill: float) -> Array:
    longest = max(map(len, sequences))
    first = max(sequences, key=len)
    padded = np.full((len(sequences), longest, *first.shape[1:]), fill, first.dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def _targets(column: Sequence[Any]) -> Array:
    arrays = [np.asarray(y) for y in column]
    if any(array.dtype.kind == "f" and np.isnan(array).any() for array in arrays):
        raise ValueError("y: expected targets without NaN (it marks padding), got NaN")
    if all(array.shape == arrays[0].shape for array in arrays):
        return np.stack(arrays)
    arrays = _agreeing("y", arrays)
    return _padded(arrays, fill=np.nan if arrays[0].dtype.kind == "f" else IGNORED)
