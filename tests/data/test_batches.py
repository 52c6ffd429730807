"""Batches: padding, windows, and the order of examples."""

import re
from functools import partial

import numpy as np
import pytest

from miniattn.data import (
    IGNORED,
    Batch,
    Windows,
    batches,
    pad,
    shuffled,
    sorted_by_length,
    stack,
)


def test_pad_fills_inputs_with_zeros_and_tells_the_lengths():
    batch = pad([([5, 6, 7], 1), ([8], 0), ([], 2)])
    np.testing.assert_array_equal(batch.inputs[0], [[5, 6, 7], [8, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.keywords["lengths"], [3, 1, 0])
    np.testing.assert_array_equal(batch.targets, [1, 0, 2])
    assert batch.inputs[0].dtype.kind == batch.targets.dtype.kind == "i"
    assert batch.num_tokens == 4


def test_pad_keeps_features_and_dtype():
    xs = [np.full((n, 2), n, np.float32) for n in (2, 3)]
    batch = pad([(x, 0) for x in xs])
    assert batch.inputs[0].shape == (2, 3, 2)
    assert batch.inputs[0].dtype == np.float32
    np.testing.assert_array_equal(batch.inputs[0][0, 2], [0, 0])


def test_targets_of_each_step_are_filled_with_what_losses_ignore():
    batch = pad([([1, 2], [3, 4]), ([1], [5])])
    np.testing.assert_array_equal(batch.targets, [[3, 4], [5, IGNORED]])
    batch = pad([([1, 2], [0.5, 1.5]), ([1], [2.5])])
    np.testing.assert_array_equal(batch.targets, [[0.5, 1.5], [2.5, np.nan]])
    batch = pad([([1, 2], [0.5, 1.5, 2.5]), ([1], [2.5, 0.0, 1.0])])  # one shape: stacked
    assert batch.targets.shape == (2, 3)


def test_pad_of_several_arrays_and_of_models_without_lengths():
    examples = [(([1, 2, 3], [4]), [5]), (([6], [7, 8]), [9, 9])]
    batch = pad(examples, lengths=("source_lengths", "target_lengths"))
    np.testing.assert_array_equal(batch.inputs[1], [[4, 0], [7, 8]])
    np.testing.assert_array_equal(batch.keywords["source_lengths"], [3, 1])
    np.testing.assert_array_equal(batch.keywords["target_lengths"], [1, 2])
    assert batch.num_tokens == 7
    batch = partial(pad, lengths=(None,))([([1, 2], 0), ([1], 0)])
    assert batch.keywords == {}
    assert batch.num_tokens == 4


def test_pad_does_not_alias_its_examples():
    x = np.ones(3, int)
    pad([(x, 0)]).inputs[0][:] = 7
    stack([(x, 0)]).inputs[0][:] = 7
    np.testing.assert_array_equal(x, 1)


def test_stack():
    batch = stack([([1, 2], [2, 3]), ([4, 5], [5, 6])])
    np.testing.assert_array_equal(batch.inputs[0], [[1, 2], [4, 5]])
    np.testing.assert_array_equal(batch.targets, [[2, 3], [5, 6]])
    assert batch == Batch(batch.inputs, batch.targets, {})
    assert batch.num_tokens == 4


@pytest.mark.parametrize(("n", "block", "stride"), [(5, 4, 1), (20, 3, 1), (20, 3, 3), (19, 3, 3)])
def test_windows_are_all_the_stretches_of_the_text(n, block, stride):
    tokens = np.arange(100, 100 + n)
    windows = Windows(tokens, block, stride=stride)
    starts = [s for s in range(0, n, stride) if s + block + 1 <= n]
    assert len(windows) == len(starts)
    for i, start in enumerate(starts):
        x, y = windows[i]
        np.testing.assert_array_equal(x, tokens[start : start + block])
        np.testing.assert_array_equal(y, tokens[start + 1 : start + block + 1])
    for outside in (-1, len(windows)):
        with pytest.raises(IndexError):
            windows[outside]
    assert len(list(windows)) == len(windows)


def test_shuffled_is_a_permutation_that_the_generator_decides(rng):
    state = rng.bit_generator.state
    order = shuffled(100, 8, rng)
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(order, shuffled(100, 8, rng))
    rng.bit_generator.state = state
    np.testing.assert_array_equal(order, shuffled(100, 8, rng))


@pytest.mark.parametrize("size", [256, 250])
def test_bucketing_saves_padding_and_keeps_every_example(rng, size):
    lengths = rng.integers(1, 100, size)

    def waste(order):
        rows = [lengths[order[at : at + 8]] for at in range(0, size, 8)]
        return sum(len(row) * row.max() - row.sum() for row in rows)

    plain = shuffled(size, 8, rng, lengths=lengths, pool=0)
    bucketed = shuffled(size, 8, rng, lengths=lengths, pool=16)
    np.testing.assert_array_equal(np.sort(bucketed), np.arange(size))
    assert waste(bucketed) < waste(plain) / 4
    longest = [lengths[bucketed[at : at + 8]].max() for at in range(0, size - 8, 8)]
    assert longest != sorted(longest)  # the batches come in random order


def test_sorted_by_length_and_batches():
    dataset = [([1, 2, 3], "a"), ([1], "b"), (([1], [1, 2]), "c")]
    order, lengths = sorted_by_length(dataset)
    np.testing.assert_array_equal(order, [1, 2, 0])
    np.testing.assert_array_equal(lengths, [3, 1, 2])
    assert [[y for _, y in some] for some in batches(dataset, order, 2)] == [["b", "c"], ["a"]]


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: pad([(3, 0)]), ValueError, "x: expected arrays (T) like the first"),
        (
            lambda: pad([(np.ones((2, 3)), 0), (np.ones((2, 4)), 0)]),
            ValueError,
            "x: expected arrays (T, 3) like the first of the batch, got shape (2, 4) in example 1",
        ),
        (
            lambda: pad([([1], 0), ([1.0], 0)]),
            TypeError,
            "x: expected dtype int64 like the first of the batch, got float64 in example 1",
        ),
        (lambda: pad([(([1], [2]), 0)]), ValueError, "x: expected 1 arrays"),
        (lambda: pad([([1], np.nan)]), ValueError, "y: expected targets without NaN"),
        (lambda: pad([([1], [1, 2]), ([1], 3)]), ValueError, "y: expected arrays (T)"),
        (
            lambda: stack([([1], 0), ([1, 2], 0)]),
            ValueError,
            "x: expected shape (1,) like the first of the batch, got (2,) in example 1",
        ),
        (
            lambda: pad([([1, 2], 0), np.array([1, 2, 3])]),
            TypeError,
            "examples[1]: expected an example (x, y), got an array (3,) of int64",
        ),
        (
            lambda: stack([np.array([1, 2])]),
            TypeError,
            "examples[0]: expected an example (x, y), got an array (2,) of int64",
        ),
        (lambda: pad([([1], 0, 0)]), TypeError, "expected an example (x, y), got a tuple of 3"),
        (lambda: pad([]), ValueError, "examples: expected at least one, got none"),
        (
            lambda: pad([(([1], [2]), 0), (([1],), 0)], lengths=(None, None)),
            ValueError,
            "x: expected 2 arrays like the first of the batch, got 1 in example 1",
        ),
        (lambda: Windows([1, 2, 3], 3), ValueError, "tokens: expected more than block_size = 3"),
        (lambda: Windows([1.0, 2.0], 1), TypeError, "tokens: expected an integer array"),
        (lambda: Windows([[1, 2]], 1), ValueError, "tokens: expected shape (n)"),
        (lambda: Windows([1, 2], 0), ValueError, "block_size: expected an int >= 1"),
    ],
)
def test_wrong_arguments(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()
