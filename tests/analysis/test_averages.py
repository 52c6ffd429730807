"""Averages over heads and word pieces, and rows of any positive sum: the numbers, worked out."""

import numpy as np
import pytest

from miniattn import analysis


@pytest.mark.parametrize(
    ("tokens", "texts", "groups"),
    [
        (["[CLS]", "un", "##able", "cat"], ["[CLS]", "unable", "cat"], [0, 1, 1, 2]),
        (["The", "Ġun", "able", ".", "Ċ", "Ġa"], ["The", "unable.", "Ċ", "a"], [0, 1, 1, 1, 2, 3]),
        (["<s>", "▁un", "able", "</s>", "x"], ["<s>", "unable", "</s>", "x"], [0, 1, 1, 2, 3]),
        (["to", " be", "long", " to"], ["to", "belong", "to"], [0, 1, 1, 2]),
        (["a", "b"], ["a", "b"], [0, 1]),
        ([], [], []),
    ],
)
def test_words_are_found_by_their_marks(tokens, texts, groups):
    words = analysis.word_groups(tokens)
    assert words.texts == tuple(texts)
    np.testing.assert_array_equal(words.groups, groups)


def test_a_mark_that_is_given_is_the_one_that_counts():
    tokens = ["##a", "Ġb", "c"]
    assert analysis.word_groups(tokens, "Ġ").texts == ("a", "bc")
    assert analysis.word_groups(tokens, "##").texts == ("a", "b", "c")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_words_read_what_their_pieces_do(rng, dtype):
    weights = rng.dirichlet(np.ones(5), (2, 3, 4)).astype(dtype)
    merged = analysis.merge_words(weights, [0, 0, None, None], [7, 7, 7, 2, 2])
    expected = np.empty((2, 3, 3, 2))
    for n, rows in enumerate(([0, 1], [2], [3])):
        for m, columns in enumerate(([0, 1, 2], [3, 4])):
            expected[..., n, m] = sum(
                weights[..., i, j].astype(float) for i in rows for j in columns
            ) / len(rows)
    assert merged.dtype == dtype
    tolerance = {np.float32: 1e-6, np.float64: 1e-14}[dtype]
    np.testing.assert_allclose(merged, expected, rtol=tolerance)
    np.testing.assert_allclose(merged.sum(axis=-1), 1.0, rtol=tolerance)


def test_gradients_of_pieces_are_averaged_on_both_sides():
    """What a weight shared out equally to its pieces changes, against the loss itself."""
    dweights = np.arange(12.0).reshape(3, 4) ** 2
    merged = analysis.merge_words(dweights, [0, 0, 1], [0, 0, 0, 1], keys="mean")
    # Half a word more to each piece of the query, a third of it to each piece of the key.
    more = np.zeros((3, 4))
    more[:2, :3] = 0.5 / 3
    assert merged[0, 0] == pytest.approx((dweights * more).sum())


def test_the_mean_over_heads_keeps_the_mean_of_sums():
    weights = np.array([[[1.0, 0.0]], [[0.25, 0.25]]], np.float32)
    mean = analysis.mean_over_heads(weights)
    np.testing.assert_array_equal(mean, np.array([[0.625, 0.125]], np.float32))
    assert mean.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: analysis.word_groups("abc"), TypeError, "tokens: expected a sequence of tokens"),
        (lambda: analysis.word_groups(["a"], "@@"), ValueError, "mark: expected one of"),
        (lambda: analysis.merge_words(np.eye(3), [0, 1]), ValueError, "groups: expected 3 numbers"),
        (lambda: analysis.merge_words(np.eye(2), ["a", "b"]), TypeError, "groups"),
        (
            lambda: analysis.merge_words(np.ones((2, 3)), [0, 1]),
            ValueError,
            "key_groups: expected 3 numbers",
        ),
        (lambda: analysis.merge_words(np.eye(2), [0, 1], keys="max"), ValueError, "keys: expected"),
        (lambda: analysis.mean_over_heads(np.eye(2)), ValueError, "weights: expected shape"),
        (lambda: analysis.mean_over_heads(np.ones((0, 2, 2))), ValueError, "at least one head"),
        (lambda: analysis.rollout([np.eye(2)[None]], normalize=1), TypeError, "normalize"),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ------------------------------------------------------------------ rows that sum to anything


def test_shares_do_not_depend_on_what_a_row_sums_to(rng):
    weights = rng.dirichlet(np.ones(6), (2, 3, 6))
    scaled = weights * rng.uniform(0.1, 3.0, (2, 3, 6, 1))
    scaled[0, 0, 0] = 0
    for number in (analysis.entropy, analysis.distance):
        exact = number(weights)
        exact[0, 0, 0] = np.nan
        np.testing.assert_allclose(number(scaled), exact, rtol=1e-12)
    same = analysis.head_similarity(np.stack([weights[0, 1], 0.3 * weights[0, 1]]))
    np.testing.assert_allclose(same, 1.0, rtol=1e-12)


def test_masses_are_what_is_there():
    weights = np.array([[0.2, 0.1], [0.9, 0.8]])
    np.testing.assert_allclose(analysis.row_totals(weights), [0.3, 1.7])
    np.testing.assert_allclose(analysis.sink_mass(weights), [0.2, 0.9])
    assert analysis.previous_token_score(weights) == 0.9


def test_rollout_may_keep_what_rows_sum_to():
    """Half goes to a sink in each of two layers: a quarter arrives by attention alone."""
    layer = np.array([[[0.5, 0.0], [0.25, 0.25]]])
    lost = analysis.rollout([layer, layer], residual=0.0, normalize=False)
    np.testing.assert_allclose(lost.sum(axis=-1), 0.25)
    assert analysis.rollout([layer, layer], residual=0.0).sum(axis=-1) == pytest.approx(1.0)
    assert analysis.flow([layer, layer], residual=0.0, normalize=False).max() <= 0.5
