"""Layers without attention: gradients, equality with PyTorch, no hidden state, wrong calls."""

import numpy as np
import pytest

from miniattn import gradcheck, nn
from miniattn.nn import _linear

F64 = {"dtype": np.float64}
WIDTH = 6


def layers(rng):
    """Every layer of one array in float64, by name."""
    return {
        "linear": nn.Linear(WIDTH, 4, rng=rng, **F64),
        "linear without bias": nn.Linear(WIDTH, 4, bias=False, rng=rng, **F64),
        "layer norm": nn.LayerNorm(WIDTH, **F64),
        "layer norm without bias": nn.LayerNorm(WIDTH, bias=False, **F64),
        "rms norm": nn.RMSNorm(WIDTH, **F64),
        "relu": nn.ReLU(),
        "sigmoid": nn.Sigmoid(),
        "tanh": nn.Tanh(),
        "silu": nn.SiLU(),
        "gelu": nn.GELU(),
        "gelu tanh": nn.GELU(approximate="tanh"),
        "dropout": nn.Dropout(0.4),
        "sequential": nn.Sequential(
            nn.Linear(WIDTH, 3, rng=rng, **F64), nn.Tanh(), nn.Dropout(0.3), nn.RMSNorm(3, **F64)
        ),
        "feed forward": nn.FeedForward(WIDTH, 5, dropout=0.3, rng=rng, **F64),
        "feed forward relu": nn.FeedForward(WIDTH, activation="relu", bias=False, rng=rng, **F64),
        "swiglu": nn.SwiGLU(WIDTH, 5, dropout=0.3, bias=True, rng=rng, **F64),
        "sinusoidal": nn.SinusoidalPositions(WIDTH),
        "learned": nn.LearnedPositions(9, WIDTH, rng=rng, **F64),
    }


NAMES = list(layers(np.random.default_rng(0)))


def shake(module, rng):
    """Move every parameter away from its start, so that zeros and ones hide no mistake."""
    for parameter in module.parameters():
        parameter.data += 0.3 * rng.standard_normal(parameter.shape)
    return module


def off_kinks(layer, rng):
    """An input that keeps what a relu is given away from 0, where differences have no slope."""
    given = {nn.ReLU: lambda x: x, nn.FeedForward: getattr(layer, "up", None)}.get(type(layer))
    while True:
        x = rng.standard_normal((2, 3, WIDTH))
        if given is None or np.abs(given(x)).min() > 0.01:
            return x


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dropping", [False, True], ids=["plain", "dropout"])
def test_gradients_match_central_differences(name, dropping, rng):
    layer = shake(layers(rng)[name], rng)
    seed = {"rng": np.random.default_rng(3)} if dropping else {}
    assert gradcheck(layer, {"x": off_kinks(layer, rng)}, **seed).passed


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_may_be_used_twice(name, rng):
    """Two forwards, then both backwards: as if each had been done alone."""
    layer = shake(layers(rng)[name], rng)
    x1, x2 = rng.standard_normal((2, 2, 3, WIDTH))
    alone = []
    for x in (x1, x2):
        layer.zero_grad()
        y, ctx = layer.forward(x)
        dx = layer.backward(np.cos(y), ctx)
        alone.append((y, dx, [p.grad for p in layer.parameters()]))
    layer.zero_grad()
    before = dict(vars(layer))
    y1, ctx1 = layer.forward(x1)
    y2, ctx2 = layer.forward(x2)
    assert vars(layer) == before
    dx1, dx2 = layer.backward(np.cos(y1), ctx1), layer.backward(np.cos(y2), ctx2)
    for got, wanted in (
        (y1, alone[0][0]),
        (dx1, alone[0][1]),
        (y2, alone[1][0]),
        (dx2, alone[1][1]),
    ):
        np.testing.assert_array_equal(got, wanted)
    for p, g1, g2 in zip(layer.parameters(), alone[0][2], alone[1][2], strict=True):
        np.testing.assert_array_equal(p.grad, g1 + g2)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_never_written_to_and_outputs_are_fresh(name, rng):
    layer = layers(rng)[name]
    x = rng.standard_normal((2, 3, WIDTH))
    x.flags.writeable = False
    for generator in (rng, None):
        y, ctx = layer.forward(x, rng=generator)
        dy = np.ones_like(y)
        dy.flags.writeable = False
        dx = layer.backward(dy, ctx)
        assert not np.shares_memory(y, x)
        assert not np.shares_memory(dx, dy)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_layer_passes_the_gradient_on_and_keeps_none(name, rng):
    layer = shake(layers(rng)[name], rng)
    x = rng.standard_normal((2, 3, WIDTH))
    y, ctx = layer.forward(x)
    wanted = layer.backward(np.cos(y), ctx)
    layer.freeze()
    np.testing.assert_array_equal(layer.backward(np.cos(y), ctx), wanted)
    assert all(p.grad is None for p in layer.parameters())


def test_frozen_parameters_take_no_gradient_work(rng, monkeypatch):
    """The products that only a weight's gradient needs are not computed."""
    import miniattn.functional as F
    from miniattn.functional import _linear

    products = []

    def counted(*sums, original=_linear.products):
        products.append(len(sums))
        return original(*sums)

    monkeypatch.setattr(_linear, "products", counted)
    linear = nn.Linear(WIDTH, 2, **F64).freeze()
    x = rng.standard_normal((2, WIDTH))
    linear.backward(np.ones((2, 2)), linear.forward(x)[1])
    assert products == [1]
    linear.unfreeze().backward(np.ones((2, 2)), linear.forward(x)[1])
    assert products == [1, 2]

    asked = []
    for name in ("layer_norm_backward", "rms_norm_backward"):
        original = getattr(F, name)

        def spy(dy, ctx, *, needs, original=original):
            grads = original(dy, ctx, needs=needs)
            asked.append((needs, [g is not None for g in grads]))
            return grads

        monkeypatch.setattr(F, name, spy)
    monkeypatch.setattr(F, "embedding_backward", lambda dy, ctx: pytest.fail("not needed"))
    for layer in (nn.LayerNorm(WIDTH, **F64), nn.RMSNorm(WIDTH, **F64)):
        layer.freeze()
        y, ctx = layer.forward(x)
        layer.backward(y, ctx)
    table = nn.Embedding(4, WIDTH, **F64).freeze()
    y, ctx = table.forward(np.array([1, 2]))
    table.backward(y, ctx)
    assert asked == [
        (["x"], [True, False, False]),
        (("x",), [True, False]),
    ]


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_embedding_gradient(scale, rng):
    table = nn.Embedding(7, 3, scale=scale, rng=rng, **F64)
    ids = np.array([[0, 3, 3], [6, 0, 1]])
    assert gradcheck(table, {"ids": ids}).passed
    np.testing.assert_array_equal(table(ids), scale * table.weight.data[ids])


@pytest.mark.parametrize("positions", [np.array([4, 0, 4]), np.array([[0, 1, 2], [5, 5, 0]])])
def test_positions_may_be_given(positions, rng):
    x = rng.standard_normal((2, 3, WIDTH))
    learned = nn.LearnedPositions(6, WIDTH, rng=rng, **F64)
    assert gradcheck(learned, {"x": x}, positions=positions).passed
    np.testing.assert_array_equal(
        learned(x, positions=positions), x + learned.weight.data[positions]
    )
    sinusoidal = nn.SinusoidalPositions(WIDTH)
    table = sinusoidal(np.zeros((1, 6, WIDTH)))[0]
    np.testing.assert_array_equal(sinusoidal(x, positions=positions), x + table[positions])


def test_sinusoids_are_those_of_the_paper():
    table = nn.SinusoidalPositions(8)(np.zeros((1, 100, 8)))[0]
    for t in (0, 1, 99):
        for i in range(4):
            angle = t / 10000 ** (2 * i / 8)
            np.testing.assert_allclose(
                table[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-12
            )


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_gradient_and_relative_scores(interleaved, rng):
    rotary = nn.Rotary(base=100.0, interleaved=interleaved)
    x = rng.standard_normal((2, 2, 3, 4))
    assert gradcheck(rotary, {"x": x, "positions": np.array([0, 5, 2])}).passed
    q, k = rng.standard_normal((2, 1, 1, 1, 4))
    scores = [
        (rotary(q, np.array([at + 3])) * rotary(k, np.array([at]))).sum() for at in (0, 7, 100)
    ]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-12)


# What transformers 5.24's ROPE_INIT_FUNCTIONS give for heads of width 16, to 7 digits.
STRETCHED = {
    "linear": (
        lambda: nn.frequencies.linear(16, factor=4.0),
        [0.25, 0.0790569, 0.025, 0.0079057, 0.0025, 0.0007906, 0.00025, 7.91e-05],
    ),
    "yarn": (
        lambda: nn.frequencies.yarn(16, factor=4.0, original_length=128),
        [1.0, 0.2371708, 0.05, 0.0079057, 0.0025, 0.0007906, 0.00025, 7.91e-05],
    ),
    "llama3": (
        lambda: nn.frequencies.llama3(16, factor=8.0, original_length=128, base=5e5),
        [1.0, 0.1911265, 0.0047008, 0.0009116, 0.0001768, 3.43e-05, 6.6e-06, 1.3e-06],
    ),
}


@pytest.mark.parametrize("name", STRETCHED)
def test_stretched_frequencies_are_those_of_published_code(name):
    build, wanted = STRETCHED[name]
    np.testing.assert_allclose(build(), wanted, rtol=0, atol=6e-8)


def test_ntk_stretches_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    plain, ntk = nn.frequencies.plain(16), nn.frequencies.ntk(16, factor=3.0)
    assert ntk[0] == plain[0]
    assert ntk[-1] == pytest.approx(plain[-1] / 3)


def test_alibi_slopes_are_those_of_the_authors():
    np.testing.assert_allclose(nn.alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    # get_slopes(12) of the published code: those of 8, then every second one of 16.
    wanted = [*2.0 ** -np.arange(1.0, 9.0), *2.0 ** (-0.5 * np.arange(1, 8, 2))]
    np.testing.assert_allclose(nn.alibi_slopes(12), wanted)
    assert nn.alibi_slopes(1) == pytest.approx(2**-8)


def test_initial_weights_have_the_spread_of_the_papers(rng):
    linear = nn.Linear(300, 200, rng=rng)
    bound = np.sqrt(6 / 500)
    assert np.abs(linear.weight.data).max() <= bound
    assert linear.weight.data.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    assert not linear.bias.data.any()
    assert nn.Embedding(300, 200, rng=rng).weight.data.std() == pytest.approx(0.02, rel=0.02)
    assert nn.LearnedPositions(300, 200, rng=rng).weight.data.std() == pytest.approx(0.02, rel=0.02)


def test_the_same_seed_gives_the_same_weights():
    first, second = (layers(np.random.default_rng(5)) for _ in range(2))
    for name in NAMES:
        for a, b in zip(first[name].parameters(), second[name].parameters(), strict=True):
            np.testing.assert_array_equal(a.data, b.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype, rng):
    x = rng.standard_normal((1, 2, 6)).astype(dtype)
    for layer in (
        nn.Linear(6, 3, dtype=dtype),
        nn.FeedForward(6, dtype=dtype, dropout=0.2),
        nn.SwiGLU(6, dtype=dtype),
        nn.LearnedPositions(4, 6, dtype=dtype),
        nn.SinusoidalPositions(6),
        nn.RMSNorm(6, dtype=dtype),
    ):
        y, ctx = layer.forward(x, rng=rng)
        assert y.dtype == dtype
        assert layer.backward(y, ctx).dtype == dtype
        assert all(p.grad.dtype == dtype for p in layer.parameters())


TORCH = {
    "linear": (lambda t: t.nn.Linear(6, 4), lambda: nn.Linear(6, 4, **F64)),
    "layer norm": (lambda t: t.nn.LayerNorm(6), lambda: nn.LayerNorm(6, **F64)),
    "rms norm": (lambda t: t.nn.RMSNorm(6, eps=1e-6), lambda: nn.RMSNorm(6, **F64)),
    "relu": (lambda t: t.nn.ReLU(), nn.ReLU),
    "sigmoid": (lambda t: t.nn.Sigmoid(), nn.Sigmoid),
    "tanh": (lambda t: t.nn.Tanh(), nn.Tanh),
    "silu": (lambda t: t.nn.SiLU(), nn.SiLU),
    "gelu": (lambda t: t.nn.GELU(), nn.GELU),
    "gelu tanh": (lambda t: t.nn.GELU("tanh"), lambda: nn.GELU(approximate="tanh")),
}


@pytest.mark.parametrize("name", TORCH)
def test_equal_to_torch(name, rng):
    torch = pytest.importorskip("torch")
    theirs, ours = TORCH[name][0](torch).double(), shake(TORCH[name][1](), rng)
    with torch.no_grad():
        for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
            p.copy_(torch.from_numpy(q.data))
    x, dy = (
        rng.standard_normal((2, 3, 6)),
        rng.standard_normal((2, 3, 4 if name == "linear" else 6)),
    )
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = theirs(x_torch)
    y_torch.backward(torch.from_numpy(dy))
    y, ctx = ours.forward(x)
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ours.backward(dy, ctx), x_torch.grad.numpy(), rtol=1e-10, atol=1e-12)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        np.testing.assert_allclose(q.grad, p.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_dropout_without_a_generator_is_the_identity(rng):
    x = rng.standard_normal((3, 4))
    y, ctx = nn.Dropout(0.5).forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(nn.Dropout(0.5).backward(x, ctx), x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Linear(0, 3), ValueError, "in_features: expected an int >= 1, got 0"),
        (lambda: nn.Linear(3, 2.0), TypeError, "out_features: expected an int"),
        (lambda: nn.Linear(3, 2, rng=7), TypeError, "rng: expected a numpy.random.Generator"),
        (lambda: nn.Linear(3, 2, dtype=int), TypeError, "dtype: expected float32 or float64, got"),
        (lambda: nn.RMSNorm(3, dtype="half"), TypeError, "dtype: expected float32 or float64, got"),
        (lambda: nn.LayerNorm(3, dtype="x"), TypeError, "dtype: expected float32 or float64, got"),
        (lambda: nn.Embedding(0, 3), ValueError, "vocab_size"),
        (lambda: nn.Embedding(3, 3, std=-1.0), ValueError, "std"),
        (lambda: nn.LayerNorm(4, eps=0.0), ValueError, "eps"),
        (lambda: nn.RMSNorm(-1), ValueError, "embed_dim"),
        (lambda: nn.Dropout(1.0), ValueError, r"p: expected a probability in \[0, 1\)"),
        (lambda: nn.GELU(approximate="erf"), ValueError, "approximate"),
        (lambda: nn.FeedForward(4, activation="swish"), ValueError, "activation"),
        (lambda: nn.Sequential(), ValueError, "layers: expected at least one"),
        (lambda: nn.Sequential(nn.ReLU(), np.tanh), TypeError, r"layers\[1\]: expected a Module"),
        (lambda: nn.SinusoidalPositions(5), ValueError, "embed_dim: expected an even number"),
        (lambda: nn.LearnedPositions(0, 4), ValueError, "max_length"),
        (lambda: nn.Rotary(base=0), ValueError, "base"),
        (lambda: nn.alibi_slopes(0), ValueError, "num_heads"),
    ],
)
def test_wrong_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.Linear(6, 2)(np.ones((2, 5), np.float32)), ValueError, "x: expected shape"),
        (lambda: nn.Linear(6, 2)(np.ones((2, 6))), TypeError, "dtype"),
        (lambda: nn.LayerNorm(6)(np.ones((2, 5), np.float32)), ValueError, "x: expected shape"),
        (lambda: nn.RMSNorm(6)(np.ones((2, 5), np.float32)), ValueError, "x: expected shape"),
        (lambda: nn.Embedding(3, 2)(np.array([3])), ValueError, "ids: expected ids in"),
        (lambda: nn.Embedding(3, 2)(np.array([0.0])), TypeError, "ids: expected an integer array"),
        (
            lambda: nn.LearnedPositions(3, 2)(np.ones((1, 4, 2), np.float32)),
            ValueError,
            "positions: expected positions < max_length = 3, got 3",
        ),
        (
            lambda: nn.SinusoidalPositions(2)(np.ones((1, 2, 2)), positions=np.array([-1, 0])),
            ValueError,
            "positions: expected positions >= 0, got -1",
        ),
        (
            lambda: nn.SinusoidalPositions(2)(np.ones((1, 2, 2)), positions=np.arange(3)),
            ValueError,
            r"positions: expected shape \(T\) with T = 2, got \(3,\)",
        ),
    ],
)
def test_wrong_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("rows", [3, 40])  # few rows take another kernel
def test_layers_of_one_input_are_what_each_is_alone(rows, rng):
    x = rng.standard_normal((rows, WIDTH))
    plain = [nn.Linear(WIDTH, n, rng=rng, **F64) for n in (2, 5, 5)]
    plain[1].weight.trainable = False
    plain[2] = nn.Linear(WIDTH, 5, bias=False, rng=rng, **F64)
    wrapped = [plain[0], nn.LoRA(nn.Linear(WIDTH, 5, rng=rng, **F64), 2, rng=rng)]
    for layers in (plain, wrapped):
        ys, ctxs = zip(*_linear.forward_together(layers, x), strict=True)
        dys = [np.cos(y) for y in ys]
        for layer in layers:
            layer.zero_grad()
        dx = _linear.backward_together(layers, dys, ctxs)
        together = [p.grad for layer in layers for p in layer.parameters()]
        wanted = 0
        for layer, y, dy in zip(layers, ys, dys, strict=True):
            layer.zero_grad()
            alone, ctx = layer.forward(x)
            np.testing.assert_array_equal(y, alone)
            wanted = wanted + layer.backward(dy, ctx)
        np.testing.assert_allclose(dx, wanted, rtol=0, atol=1e-13)
        alone = [p.grad for layer in layers for p in layer.parameters()]
        for grad, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(grad, expected)
    assert plain[1].weight.grad is None
