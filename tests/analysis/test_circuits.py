"""Circuits against layers that are run: weights say what the run shows."""

import numpy as np
import pytest

from miniattn import analysis, nn


@pytest.fixture
def layer(rng: np.random.Generator) -> nn.MultiHeadAttention:
    return nn.MultiHeadAttention(12, 4, num_kv_heads=2, bias=False, rng=rng, dtype=np.float64)


def test_the_qk_circuit_is_the_scores(rng: np.random.Generator, layer: nn.Module) -> None:
    x = rng.standard_normal((1, 5, 12))
    _, ctx = layer.forward(x)
    scores = analysis.qk_circuit(analysis.head_weights(layer), x[0], x[0])
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, layer.weights(ctx)[0], rtol=1e-12)


def test_heads_write_their_ov_circuit(rng: np.random.Generator, layer: nn.Module) -> None:
    """y_i = Σ_h Σ_j w_hij x_j W_v W_o: each head on its own, and together the layer."""
    x = rng.standard_normal((1, 5, 12))
    y, ctx = layer.forward(x)
    written = analysis.ov_circuit(analysis.head_weights(layer), x[0])
    np.testing.assert_allclose((layer.weights(ctx)[0] @ written).sum(axis=0), y[0], rtol=1e-9)


def test_circuits_between_tokens_are_circuits_between_directions(
    rng: np.random.Generator, layer: nn.Module
) -> None:
    heads = analysis.head_weights(layer)
    a, b = rng.standard_normal((7, 12)), rng.standard_normal((6, 12))
    for circuit in (analysis.qk_circuit, analysis.ov_circuit):
        np.testing.assert_allclose(circuit(heads, a, b), a @ circuit(heads) @ b.T, rtol=1e-9)
    halved = analysis.qk_circuit(heads, a, b, scale=0.5)
    np.testing.assert_allclose(halved, 0.5 * np.sqrt(3) * analysis.qk_circuit(heads, a, b))


def test_copying_score_by_all_eigenvalues(rng: np.random.Generator, layer: nn.Module) -> None:
    heads = analysis.head_weights(layer)
    tokens, logits = rng.standard_normal((9, 12)), rng.standard_normal((9, 12))
    values = np.linalg.eigvals(analysis.ov_circuit(heads, tokens, logits))
    expected = values.sum(axis=-1).real / np.abs(values).sum(axis=-1)
    np.testing.assert_allclose(analysis.copying_score(heads, tokens, logits), expected, rtol=1e-9)


def test_copying_score_at_its_ends() -> None:
    read = np.eye(6)[None, :, :3]
    heads = analysis.HeadWeights(read, read, read, -read.swapaxes(1, 2))
    assert analysis.copying_score(heads) == pytest.approx(-1)
    assert np.isnan(analysis.copying_score(heads._replace(o=np.zeros((1, 3, 6)))))


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition_is_what_a_later_head_reads(kind: str) -> None:
    """A head writes into two directions; one later head reads there, the other elsewhere."""
    here, there = np.eye(6)[:, :2], np.eye(6)[:, 2:4]
    first = analysis.HeadWeights(*(there[None],) * 3, here.T[None])
    reads = {"q": [here, there], "k": [here, there], "v": [here, there]}
    second = analysis.HeadWeights(
        *(np.stack(reads[name] if name == kind else [there, there]) for name in ("q", "k", "v")),
        np.stack([there.T, there.T]),
    )
    # Both products are projections of rank 2: √2 / (√2 √2).
    expected = [[2**-0.5, 0.0]]
    np.testing.assert_allclose(analysis.composition_score(first, second, kind), expected)


def test_composition_of_random_heads_is_about_one_over_the_root_of_the_width(
    rng: np.random.Generator,
) -> None:
    one, two = (analysis.head_weights(nn.MultiHeadAttention(64, 8, rng=rng)) for _ in range(2))
    for kind in ("q", "k", "v"):
        assert analysis.composition_score(one, two, kind).mean() == pytest.approx(1 / 8, rel=0.1)


@pytest.mark.parametrize("kind", ["layer", "rms", None])
def test_parts_add_up_to_the_logits(rng: np.random.Generator, kind: str | None) -> None:
    parts = rng.standard_normal((5, 2, 3, 8))
    norm = {
        "layer": nn.LayerNorm(8, dtype=np.float64),
        "rms": nn.RMSNorm(8, dtype=np.float64),
        None: None,
    }[kind]
    if norm is not None:
        for p in norm.parameters():
            p.data[...] = rng.standard_normal(8)
    head = nn.Linear(8, 7, rng=rng, dtype=np.float64)
    head.bias.data[...] = rng.standard_normal(7)
    x = parts.sum(axis=0)
    logits = head(x if norm is None else norm(x))
    added, rest = analysis.logit_attribution(parts, norm, head)
    np.testing.assert_allclose(added.sum(axis=0) + rest, logits, rtol=1e-12, atol=1e-12)
    some = analysis.logit_attribution(parts, norm, head, tokens=[3, 1])
    np.testing.assert_array_equal(some.parts, added[..., [3, 1]])
    np.testing.assert_array_equal(some.rest, rest[[3, 1]])


def test_the_lens_looks_through_norm_and_head(rng: np.random.Generator) -> None:
    streams = rng.standard_normal((3, 2, 4, 8))
    norm, head = nn.LayerNorm(8, dtype=np.float64), nn.Linear(8, 5, rng=rng, dtype=np.float64)
    got = analysis.logit_lens(streams, norm, head)
    np.testing.assert_array_equal(got[1], head(norm(streams[1])))


HEADS = analysis.head_weights(nn.MultiHeadAttention(8, 2))
WIDER = analysis.head_weights(nn.MultiHeadAttention(12, 2))
HEAD = nn.Linear(8, 5)
X = np.ones((3, 8), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: analysis.head_weights(nn.Linear(4, 4)), TypeError, "layer: expected nn.Multi"),
        (lambda: analysis.qk_circuit(HEADS, X[:, :4]), ValueError, "queries: expected shape"),
        (lambda: analysis.qk_circuit(HEADS, None, X[0]), ValueError, "keys: expected shape"),
        (lambda: analysis.ov_circuit(HEADS, X.astype(float)), TypeError, "inputs: "),
        (lambda: analysis.copying_score(HEADS, X, X[:2]), ValueError, "outputs: expected as many"),
        (lambda: analysis.composition_score(HEADS, WIDER, "q"), ValueError, "second: expected"),
        (lambda: analysis.composition_score(HEADS, HEADS, "o"), ValueError, "kind: expected one"),
        (lambda: analysis.logit_lens(X[0], None, HEAD), ValueError, "streams: expected shape"),
        (lambda: analysis.logit_lens(X, np.tanh, HEAD), TypeError, "norm: "),
        (lambda: analysis.logit_attribution(X, HEAD, HEAD), TypeError, "norm: expected nn.Layer"),
        (lambda: analysis.logit_attribution(X[:, :4], None, HEAD), ValueError, "parts: expected"),
        (
            lambda: analysis.logit_attribution(X, None, HEAD, tokens=[5]),
            ValueError,
            r"tokens: expected ints \(n,\) in \[0, 5\)",
        ),
        (
            lambda: analysis.logit_attribution(X, nn.RMSNorm(4), HEAD),
            ValueError,
            "norm: expected width E = 8",
        ),
    ],
)
def test_wrong_calls(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
