"""The numbers of `miniattn.analysis` against loops and solvers that share no code with them."""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats

from miniattn import analysis, reference


def maps(rng: np.random.Generator, *shape: int, causal: bool = False) -> np.ndarray:
    scores = 3 * rng.standard_normal(shape)
    if causal:
        scores = np.where(np.tri(*shape[-2:], dtype=bool), scores, -np.inf)
    return scipy.special.softmax(scores, axis=-1)


@pytest.fixture
def weights(rng: np.random.Generator) -> np.ndarray:
    w = maps(rng, 2, 3, 5, 7)
    w[1, 2, 3] = 0  # an empty row
    return w


def test_entropy_is_scipys(weights: np.ndarray) -> None:
    expected = scipy.stats.entropy(weights, axis=-1)
    expected[1, 2, 3] = np.nan
    np.testing.assert_allclose(analysis.entropy(weights), expected, rtol=1e-12)


def test_entropy_bounds() -> None:
    sharp, flat = np.eye(4), np.full((4, 4), 0.25)
    np.testing.assert_array_equal(analysis.entropy(sharp), 0)
    np.testing.assert_allclose(analysis.entropy(flat), math.log(4))
    assert analysis.entropy(sharp.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("offset", [None, 0, 4])
def test_distance_by_a_loop(weights: np.ndarray, offset: int | None) -> None:
    T, S = weights.shape[-2:]
    start = S - T if offset is None else offset
    got = analysis.distance(weights, offset=offset)
    for b, h, i in itertools.product(*map(range, weights.shape[:3])):
        expected = sum(weights[b, h, i, j] * abs(i + start - j) for j in range(S))
        assert got[b, h, i] == pytest.approx(
            expected if weights[b, h, i].any() else np.nan, nan_ok=True
        )


def test_sink_mass(weights: np.ndarray) -> None:
    got = analysis.sink_mass(weights, sinks=2)
    np.testing.assert_allclose(got[0], weights[0, ..., 0] + weights[0, ..., 1])
    assert np.isnan(got[1, 2, 3])


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_rollout_by_paths(rng: np.random.Generator, heads: str) -> None:
    """A rollout entry is the sum over all paths of the product of what lies on them."""
    L, H, T = 3, 2, 4
    w = maps(rng, L, H, T, T, causal=True)
    layers = []
    for layer in w:
        joined = layer.mean(axis=0) if heads == "mean" else layer.max(axis=0)
        mixed = 0.3 * np.eye(T) + 0.7 * joined
        layers.append(mixed / mixed.sum(axis=1, keepdims=True))
    got = analysis.rollout(w, residual=0.3, heads=heads)
    for i, j in itertools.product(range(T), repeat=2):
        paths = (
            layers[2][i, a] * layers[1][a, b] * layers[0][b, j]
            for a, b in itertools.product(range(T), repeat=2)
        )
        assert got[i, j] == pytest.approx(sum(paths), rel=1e-12)
    np.testing.assert_allclose(got.sum(axis=-1), 1)


def test_rollout_keeps_leading_axes(rng: np.random.Generator) -> None:
    w = maps(rng, 2, 5, 3, 4, 4)  # L, B, H, T, T
    got = analysis.rollout(w)
    np.testing.assert_allclose(got[3], analysis.rollout(w[:, 3]), rtol=1e-12)


def networkx_flow(layers: np.ndarray, source: int, sink: int) -> float:
    graph = nx.DiGraph()
    L, T, _ = layers.shape
    graph.add_nodes_from((l, i) for l in range(L + 1) for i in range(T))
    for l, i, j in itertools.product(range(L), range(T), range(T)):
        if layers[l, i, j] > 0:
            graph.add_edge((l + 1, i), (l, j), capacity=float(layers[l, i, j]))
    return nx.maximum_flow_value(graph, (L, source), (0, sink))


@pytest.mark.parametrize(("L", "T", "causal"), [(1, 3, False), (2, 5, True), (4, 6, False)])
def test_flow_is_networkxs(rng: np.random.Generator, L: int, T: int, causal: bool) -> None:
    w = maps(rng, L, 2, T, T, causal=causal)
    layers = 0.5 * np.eye(T) + 0.5 * w.mean(axis=1)
    got = analysis.flow(w)
    expected = [[networkx_flow(layers, i, j) for j in range(T)] for i in range(T)]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_flow_needs_to_go_back_up() -> None:
    """A greedy choice must be undone here: without flow back up the answer would be 1."""
    first = np.zeros((1, 4, 4))
    first[0, 0, 0] = first[0, 1, 0] = first[0, 1, 1] = 1.0
    last = np.zeros((1, 4, 4))
    last[0, 0, 0] = last[0, 0, 1] = 0.5
    layers = np.concatenate([first, last])
    got = analysis.flow([first, last], residual=0.0, queries=[0])
    rows = layers / np.maximum(layers.sum(axis=-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(got[0], [networkx_flow(rows, 0, j) for j in range(4)], atol=1e-12)


def test_flow_of_some_queries(rng: np.random.Generator) -> None:
    w = maps(rng, 3, 1, 5, 5)
    np.testing.assert_array_equal(analysis.flow(w, queries=[4, 1]), analysis.flow(w)[[4, 1]])


def test_head_similarity_is_scipys_jensen_shannon(rng: np.random.Generator) -> None:
    w = maps(rng, 2, 3, 4, 5)
    got = analysis.head_similarity(w)
    for a, b in itertools.product(range(3), repeat=2):
        js = scipy.spatial.distance.jensenshannon(w[:, a], w[:, b], base=2, axis=-1) ** 2
        assert got[a, b] == pytest.approx(1 - js.mean())


def test_head_similarity_passes_over_empty_rows(rng: np.random.Generator) -> None:
    w = maps(rng, 2, 4, 5)
    expected = analysis.head_similarity(w[:, 1:])
    w[0, 0] = 0
    np.testing.assert_allclose(analysis.head_similarity(w), expected)


def test_previous_token_score(rng: np.random.Generator) -> None:
    w = maps(rng, 2, 5, 5)
    expected = [np.mean([w[h, i, i - 1] for i in range(1, 5)]) for h in range(2)]
    np.testing.assert_allclose(analysis.previous_token_score(w), expected)
    assert np.isnan(analysis.previous_token_score(np.ones((1, 1))))


def test_token_scores_by_loops(rng: np.random.Generator) -> None:
    B, H, T = 2, 3, 9
    w = maps(rng, B, H, T, T, causal=True)
    tokens = rng.integers(0, 4, (B, T))
    duplicate = analysis.duplicate_token_score(w, tokens)
    induction = analysis.induction_score(w, tokens)
    for b, h in itertools.product(range(B), range(H)):
        same, follows = [], []
        for i in range(T):
            before = [p for p in range(i) if tokens[b, p] == tokens[b, i]]
            if before:
                same.append(sum(w[b, h, i, p] for p in before))
                follows.append(sum(w[b, h, i, p + 1] for p in before))
        assert duplicate[b, h] == pytest.approx(np.mean(same))
        assert induction[b, h] == pytest.approx(np.mean(follows))


def test_token_scores_without_repetition() -> None:
    w = np.full((1, 3, 3), 1 / 3)
    assert np.isnan(analysis.induction_score(w, ["a", "b", "c"])).all()


def test_weight_gradients_are_those_of_the_product(rng: np.random.Generator) -> None:
    """Against central differences of Σ (w v) · dout, with two query heads to a value head."""
    B, H, G, T, S, Dv = 1, 4, 2, 2, 3, 3
    w, v = maps(rng, B, H, T, S), rng.standard_normal((B, G, S, Dv))
    dout = rng.standard_normal((B, H, T, Dv))
    got = analysis.weight_gradients(dout, v)
    spread = np.repeat(v, H // G, axis=1)
    step = 1e-6
    for index in np.ndindex(*w.shape):
        up, down = w.copy(), w.copy()
        up[index] += step
        down[index] -= step
        change = ((up @ spread - down @ spread) * dout).sum() / (2 * step)
        assert got[index] == pytest.approx(change, rel=1e-6, abs=1e-8)


def test_gradient_times_attention_adds_up(rng: np.random.Generator) -> None:
    """Σ_j w · dw is delta, the number a row that attention's backward is built on."""
    q, k, v, dout = rng.standard_normal((4, 1, 2, 3, 4))
    out, w, _ = reference.attention(q, k, v)
    relevance = analysis.gradient_times_attention(w, analysis.weight_gradients(dout, v))
    np.testing.assert_allclose(relevance.sum(axis=-1), (out * dout).sum(axis=-1))
    assert (analysis.gradient_times_attention(w, -w, positive=True) == 0).all()


def test_top_links(weights: np.ndarray) -> None:
    indices, strength = analysis.top_links(weights, 10)
    np.testing.assert_array_equal(strength, np.sort(weights, axis=None)[::-1][:10])
    np.testing.assert_array_equal(weights[tuple(indices.T)], strength)
    assert len(analysis.top_links(np.eye(3), 100).weights) == 3
    assert analysis.top_links(np.eye(3), 0).indices.shape == (0, 2)


W = np.full((1, 3, 3), 1 / 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: analysis.entropy(np.ones((2, 2), int)), TypeError, "weights: expected a float32"),
        (lambda: analysis.entropy(np.ones(3)), ValueError, r"weights: expected shape"),
        (lambda: analysis.sink_mass(W, sinks=0), ValueError, "sinks: expected an int >= 1, got 0"),
        (lambda: analysis.distance(W, offset=0.5), TypeError, "offset: expected an int"),
        (lambda: analysis.rollout([]), ValueError, "weights: expected the maps of at least one"),
        (lambda: analysis.rollout([W, W[:, :2, :2]]), ValueError, "one shape in all layers"),
        (lambda: analysis.rollout([W], heads="sum"), ValueError, "heads: expected one of"),
        (lambda: analysis.flow([W[None]]), ValueError, r"weights: expected arrays \(H, T, T\)"),
        (lambda: analysis.flow([W], queries=[3]), ValueError, r"queries: expected ints"),
        (lambda: analysis.induction_score(W, "ab"), ValueError, "tokens: expected shape"),
        (lambda: analysis.previous_token_score(W[:, :2]), ValueError, "weights: expected shape"),
        (lambda: analysis.gradient_times_attention(W, W[:, 1:]), ValueError, "dweights: expected"),
        (lambda: analysis.top_links(W, -1), ValueError, "count: expected an int >= 0, got -1"),
    ],
)
def test_wrong_calls(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
