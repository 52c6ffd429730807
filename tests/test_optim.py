"""Optimisers against a plain loop over single numbers, and against PyTorch."""

import math
import re

import numpy as np
import pytest

import miniattn as ma
from miniattn import optim
from miniattn.kernels.optim import CHUNK
from miniattn.nn import Linear, Parameter

RNG_SEED = 7
SHAPES = {"embed": (5, 4), "weight": (3, 4), "bias": (3,), "scalar": ()}

SETTINGS = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ],
    "Adam": [{"lr": 0.1}, {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}],
    "AdamW": [{"lr": 0.1}, {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}],
}
CASES = [(kind, settings) for kind, many in SETTINGS.items() for settings in many]


def fresh(dtype=np.float64):
    rng = np.random.default_rng(RNG_SEED)
    return {name: Parameter(rng.standard_normal(s).astype(dtype)) for name, s in SHAPES.items()}


def gradients(steps, dtype=np.float64):
    """One dict of gradients a step; `bias` has none in step 1."""
    rng = np.random.default_rng(RNG_SEED + 1)
    many = [
        {n: rng.standard_normal(s).astype(dtype) for n, s in SHAPES.items()} for _ in range(steps)
    ]
    many[1]["bias"] = None
    return many


def train(optimizer, parameters, many, factors=None):
    for step, grads in enumerate(many):
        for name, parameter in parameters.items():
            parameter.grad = grads[name]
        optimizer.step(1.0 if factors is None else factors[step])


class OneNumber:
    """The update of a single float, from the papers, in plain Python."""

    def __init__(self, kind, lr=0.0, weight_decay=None, momentum=0.0, nesterov=False,
                 betas=(0.9, 0.999), eps=1e-8):  # fmt: skip
        self.kind, self.lr, self.momentum, self.nesterov = kind, lr, momentum, nesterov
        self.decay = {"AdamW": 0.01}.get(kind, 0.0) if weight_decay is None else weight_decay
        (self.beta1, self.beta2), self.eps = betas, eps
        self.t, self.m, self.v, self.u = 0, 0.0, 0.0, None

    def __call__(self, p, g):
        self.t += 1
        if self.kind == "AdamW":
            p = p - self.lr * self.decay * p
        else:
            g = g + self.decay * p
        if self.kind == "SGD":
            self.u = g if self.u is None else self.momentum * self.u + g
            return p - self.lr * (g + self.momentum * self.u if self.nesterov else self.u)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g
        m_hat, v_hat = self.m / (1 - self.beta1**self.t), self.v / (1 - self.beta2**self.t)
        return p - self.lr * m_hat / (math.sqrt(v_hat) + self.eps)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_updates_are_those_of_a_plain_loop(kind, settings):
    parameters, many = fresh(), gradients(5)
    expected = {}
    for name, parameter in parameters.items():
        expected[name] = parameter.data.copy()
        for index in np.ndindex(parameter.shape):
            update = OneNumber(kind, **settings)
            for grads in many:
                if grads[name] is not None:
                    expected[name][index] = update(expected[name][index], grads[name][index])
    train(getattr(optim, kind)(parameters.items(), **settings), parameters, many)
    for name, parameter in parameters.items():
        np.testing.assert_allclose(parameter.data, expected[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_updates_are_those_of_pytorch(kind, settings, dtype):
    torch = pytest.importorskip("torch")
    parameters, many = fresh(dtype), gradients(6, dtype)
    theirs = {n: torch.nn.Parameter(torch.tensor(p.data)) for n, p in parameters.items()}
    reference = getattr(torch.optim, kind)(theirs.values(), **settings)
    base = settings["lr"]
    factors = [1.0, 0.5, 0.25, 0.0, 1.0, 2.0]
    for grads, factor in zip(many, factors, strict=True):
        for name, parameter in theirs.items():
            parameter.grad = None if grads[name] is None else torch.tensor(grads[name])
        reference.param_groups[0]["lr"] = base * factor
        reference.step()
    train(getattr(optim, kind)(parameters.items(), **settings), parameters, many, factors)
    tolerance = 2e-6 if dtype == np.float32 else 1e-13
    for name, parameter in parameters.items():
        np.testing.assert_allclose(
            parameter.data, theirs[name].detach().numpy(), rtol=tolerance, atol=tolerance
        )


def test_large_arrays_take_the_parallel_path():
    size = 3 * 16_384 + 5
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, size))
    parameter = Parameter(start)
    parameter.grad = grad
    optim.AdamW([parameter], lr=0.1, weight_decay=0.2).step()
    expected = start * (1 - 0.1 * 0.2) - 0.1 * grad / (np.abs(grad) + 1e-8)
    np.testing.assert_allclose(parameter.data, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_decay_chooses_by_name_and_shape(kind):
    def moved(decay):
        parameters = fresh()
        before = {name: p.data.copy() for name, p in parameters.items()}
        zero = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        optimizer = getattr(optim, kind)(parameters.items(), lr=0.1, weight_decay=0.5, decay=decay)
        train(optimizer, parameters, [zero])
        return {n for n, p in parameters.items() if not np.array_equal(p.data, before[n])}

    assert moved(None) == set(SHAPES)
    assert moved(optim.only_matrices) == {"embed", "weight"}
    assert moved(lambda name, p: name == "bias") == {"bias"}


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_rate_and_decay_by_group_are_those_of_optimizers_of_their_own(kind):
    """Each group goes as it would with an optimizer that has its numbers."""
    many = gradients(3)
    together, apart = fresh(), fresh()
    rates = {"embed": 0.25, "bias": 0.0}
    train(
        getattr(optim, kind)(
            together.items(),
            lr=0.1,
            weight_decay=0.5,
            rate=lambda name, p: rates.get(name, 1.0),
            decay=lambda name, p: 0.5 if name == "embed" else p.data.ndim > 1,
        ),
        together,
        many,
    )
    for name, p in apart.items():
        decay = 0.25 if name == "embed" else 0.5 * (p.data.ndim > 1)
        alone = {name: p}
        train(
            getattr(optim, kind)(alone.items(), lr=0.1 * rates.get(name, 1), weight_decay=decay),
            alone,
            [{name: grads[name]} for grads in many],
        )
        np.testing.assert_array_equal(together[name].data, p.data)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_frozen_parameters_and_those_without_gradient_stay(kind, settings):
    parameters = fresh()
    before = {name: p.data.copy() for name, p in parameters.items()}
    parameters["weight"].trainable = False
    optimizer = getattr(optim, kind)(parameters.items(), **settings)
    many = gradients(2)
    for grads in many:
        grads["embed"] = None
    train(optimizer, parameters, many)
    for name in ("weight", "embed"):
        np.testing.assert_array_equal(parameters[name].data, before[name])
        assert f"{name}.step" not in optimizer.state_dict()
    assert optimizer.state_dict()["bias.step"] == 1
    assert optimizer.state_dict()["scalar.step"] == 2


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_gradients_are_read_only_for_the_optimizer(kind):
    parameters = fresh()
    grads = {n: np.ones(s) for n, s in SHAPES.items()}
    for grad in grads.values():
        grad.flags.writeable = False
    optimizer = getattr(optim, kind)(parameters.items(), lr=0.1, weight_decay=0.1)
    train(optimizer, parameters, [grads])
    assert all((grad == 1).all() for grad in grads.values())
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters.values())


def test_data_of_any_layout_is_updated():
    parameter = Parameter(np.ones((3, 4)))
    parameter.data = np.ones((4, 3)).T
    parameter.grad = np.ones((4, 3)).T
    optim.Adam([parameter], lr=0.1).step()
    np.testing.assert_allclose(parameter.data, 0.9, rtol=1e-7)


# ------------------------------------------------------------------------------------------ state


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_state_makes_training_go_on_as_if_it_had_not_stopped(kind, settings):
    make, many = getattr(optim, kind), gradients(6)
    whole = fresh()
    train(make(whole.items(), **settings), whole, many)

    halves = fresh()
    first = make(halves.items(), **settings)
    train(first, halves, many[:3])
    second = make(halves.items(), **settings)
    state = first.state_dict()
    second.load_state_dict(state)
    for array in state.values():  # a copy was taken
        array[...] = 99
    train(second, halves, many[3:])
    for name in SHAPES:
        np.testing.assert_array_equal(halves[name].data, whole[name].data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("weight.m"), ["missing: weight.m"]),
        (lambda s: s.pop("weight.step"), ["missing: weight.step"]),
        (lambda s: s.update(other=np.ones(2)), ["unexpected: other"]),
        (
            lambda s: s.update({"bias.v": np.ones((3, 1))}),
            ["misshapen: bias.v expected (3,) float64, got (3, 1) float64"],
        ),
        (
            lambda s: s.update({"bias.v": np.ones(3, np.float32)}),
            ["misshapen: bias.v expected (3,) float64, got (3,) float32"],
        ),
        (lambda s: s.update({"bias.step": np.array(1.5)}), ["misshapen: bias.step expected ()"]),
        (lambda s: s.update({"bias.step": np.array(0)}), ["bias.step expected at least 1, got 0"]),
        (
            lambda s: (s.pop("weight.m"), s.update(other=np.ones(2))),
            ["missing: weight.m", "unexpected: other"],
        ),
    ],
)
def test_wrong_states_are_named_and_change_nothing(change, words):
    parameters = fresh()
    optimizer = optim.Adam(parameters.items(), lr=0.1)
    train(optimizer, parameters, gradients(2))
    before = optimizer.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(ValueError, match="state: expected the state of Adam") as error:
        optimizer.load_state_dict(state)
    assert all(word in str(error.value) for word in words), str(error.value)
    after = optimizer.state_dict()
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


SIZES = (1, 0, 17, CHUNK, 2 * CHUNK + 3)  # of parameters updated in one launch


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [optim.Adam, optim.AdamW])
def test_adam_over_blocks(kind, dtype, rng):
    parameters = [Parameter(rng.normal(size=n).astype(dtype)) for n in SIZES]
    truths = [p.data.astype(np.float64) for p in parameters]
    ms, vs = ([np.zeros(n) for n in SIZES] for _ in range(2))
    optimizer = kind(parameters, 1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    l2, decay = (0.1, 0.0) if kind is optim.Adam else (0.0, 0.1)
    for step in (1, 2, 3):
        for i, p in enumerate(parameters):
            p.grad = rng.normal(size=p.size).astype(dtype)
            g = p.grad + l2 * truths[i]
            ms[i] = 0.9 * ms[i] + 0.1 * g
            vs[i] = 0.99 * vs[i] + 0.01 * g * g
            root = np.sqrt(vs[i] / (1 - 0.99**step)) + 1e-8
            truths[i] = (1 - 1e-2 * decay) * truths[i] - 1e-2 * ms[i] / (1 - 0.9**step) / root
        optimizer.step()
    tolerance = 16 * np.finfo(dtype).eps
    state = optimizer.state_dict()
    for i, p in enumerate(parameters):
        np.testing.assert_allclose(p.data, truths[i], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(state[f"{i}.m"], ms[i], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(state[f"{i}.v"], vs[i], rtol=tolerance, atol=tolerance)


def test_parameters_of_both_dtypes_and_gradients_of_any_layout(rng):
    shapes = {np.float32: (6, 5), np.float64: (4, 3)}
    plain = [Parameter(rng.normal(size=s).astype(t)) for t, s in shapes.items()]
    odd = [Parameter(p.data) for p in plain]
    for p, q in zip(plain, odd, strict=True):
        p.grad = rng.normal(size=p.shape).astype(p.dtype)
        q.grad = np.asfortranarray(p.grad)
    norms = [optim.clip_grad_norm(ps, 0.1) for ps in (plain, odd)]
    assert norms[0] == pytest.approx(norms[1])
    for ps in (plain, odd):
        optim.Adam(ps, 0.1).step()
    for p, q in zip(plain, odd, strict=True):
        np.testing.assert_allclose(q.grad, p.grad, rtol=1e-6)
        np.testing.assert_allclose(q.data, p.data, rtol=1e-6)


# --------------------------------------------------------------------------- clipping, schedules


def test_the_norm_has_the_same_bits_for_any_number_of_threads(rng):
    parameters = [Parameter(np.zeros(n, np.float32)) for n in SIZES]
    for p in parameters:
        p.grad = rng.normal(size=p.size).astype(np.float32)
    exact = math.sqrt(sum(float((p.grad.astype(np.float64) ** 2).sum()) for p in parameters))
    norm = optim.clip_grad_norm(parameters, math.inf)
    assert norm == pytest.approx(exact, rel=1e-12)
    with ma.threads(1):
        assert optim.clip_grad_norm(parameters, math.inf) == norm
    before = [p.grad.copy() for p in parameters]
    optim.clip_grad_norm(parameters, 1.0)
    for p, grad in zip(parameters, before, strict=True):
        np.testing.assert_allclose(p.grad, grad / norm, rtol=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0, math.inf])
def test_clip_grad_norm_is_that_of_pytorch(max_norm):
    torch = pytest.importorskip("torch")
    parameters, grads = fresh(), gradients(2)[0]
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in parameters.values()]
    for (name, ours), other in zip(parameters.items(), theirs, strict=True):
        ours.grad, other.grad = grads[name].copy(), torch.tensor(grads[name])
    parameters["none"] = Parameter(np.ones(3))
    norm = optim.clip_grad_norm(parameters.values(), max_norm)
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, max_norm).item())
    for name, other in zip(SHAPES, theirs, strict=True):
        np.testing.assert_allclose(parameters[name].grad, other.grad.numpy(), rtol=5e-6)
    assert parameters["none"].grad is None


def test_clip_grad_norm_in_float32_does_not_overflow():
    parameter = Parameter(np.ones(4, np.float32))
    parameter.grad = np.full(4, 1e30, np.float32)
    assert optim.clip_grad_norm([parameter], 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(parameter.grad, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "entries", "norm"),
    [
        (np.float32, [3e37, -4e37], 5e37),
        (np.float32, [3e-30, 4e-30], 5e-30),
        (np.float64, [3e37, -4e37], 5e37),
        (np.float64, [3e200, 4e200], 5e200),
        (np.float64, [3e-200, 4e-200], 5e-200),
        (np.float64, [1.2e308, 0.5e308], 1.3e308),
        (np.float64, [0.0, 0.0], 0.0),
    ],
)
def test_the_norm_is_right_for_every_size(dtype, entries, norm):
    p, eps = Parameter(np.zeros(2, dtype)), float(np.finfo(dtype).eps)
    p.grad = np.array(entries, dtype)
    assert optim.clip_grad_norm([p], math.inf) == pytest.approx(norm, rel=eps)
    np.testing.assert_array_equal(p.grad, np.array(entries, dtype))
    if norm:
        bound = min(1.0, norm / 2)
        optim.clip_grad_norm([p], bound)
        np.testing.assert_allclose(p.grad, np.array(entries) / norm * bound, rtol=4 * eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW])
def test_an_infinite_gradient_is_refused_before_anything_is_updated(kind, wrong, dtype):
    a, b, c = parameters = [Parameter(np.full(3, i + 1.0, dtype)) for i in range(3)]
    settings = {"momentum": 0.9} if kind is optim.SGD else {}
    optimizer = kind(zip("abc", parameters, strict=True), lr=0.1, **settings)
    for p in parameters:
        p.accumulate(np.ones(3, dtype))
    optimizer.step()
    data, state = [p.data.copy() for p in parameters], optimizer.state_dict()
    b.grad = np.array([1.0, wrong, 2.0], dtype)
    for norm in (math.inf, 1.0):
        assert not math.isfinite(optim.clip_grad_norm(parameters, norm))
        np.testing.assert_array_equal(b.grad, np.array([1.0, wrong, 2.0], dtype))
        np.testing.assert_array_equal(a.grad, np.ones(3, dtype))
    with pytest.raises(FloatingPointError, match=r"grad: .* got (inf|nan) in 'b'; nothing was"):
        optimizer.step()
    c.grad = np.array([np.nan, 0.0, 0.0], dtype)
    with pytest.raises(FloatingPointError, match=r"got (inf|nan) in 'b', nan in 'c'; nothing was"):
        optimizer.step()
    for p, before in zip(parameters, data, strict=True):
        np.testing.assert_array_equal(p.data, before)
    after = optimizer.state_dict()
    assert after.keys() == state.keys()
    for name in state:
        np.testing.assert_array_equal(after[name], state[name])
    b.trainable = c.trainable = False  # frozen: what is in its gradient does not matter
    optimizer.step()
    assert (a.data < 1).all()


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 2e19), (np.float64, 2e154)])
def test_adam_refuses_what_its_second_moment_cannot_hold(dtype, size):
    p = Parameter(np.ones(2, dtype))
    p.grad = np.array([size, 1.0], dtype)
    optimizer = optim.Adam([("p", p)], lr=0.1)
    with pytest.raises(FloatingPointError, match=r"with finite squares, got 2e\+\d+ in 'p'"):
        optimizer.step()
    assert optimizer.state_dict() == {}
    optim.clip_grad_norm([p], 1.0)
    optimizer.step()
    np.testing.assert_allclose(p.data[0], 0.9, rtol=1e-6)
    other = Parameter(np.ones(1, dtype))
    other.grad = np.array([size], dtype)
    optim.SGD([other], lr=1 / size).step()
    np.testing.assert_allclose(other.data, 0.0, atol=1e-6)


@pytest.mark.parametrize("what", [Linear(2, 2), Parameter(np.ones(2)), None, 3])
def test_parameters_are_asked_for_by_name(what):
    got = type(what).__name__
    message = rf"parameters: expected those of a model \(model.named_parameters\(\)\), got a {got}"
    for call in (
        optim.AdamW,
        optim.Adam,
        lambda p: optim.SGD(p, 0.1),
        lambda p: optim.clip_grad_norm(p, 1.0),
    ):
        with pytest.raises(TypeError, match=message):
            call(what)


def test_cosine_is_the_schedule_of_nanogpt():
    def reference(step, lr=1e-3, low=1e-4, warmup=100, total=2000):
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        if step > total:
            return low
        ratio = (step - warmup) / (total - warmup)
        return low + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (lr - low)

    schedule = optim.cosine(warmup=100, total=2000, floor=0.1)
    for step in (0, 1, 99, 100, 101, 1000, 1999, 2000, 2001, 5000):
        assert 1e-3 * schedule(step) == pytest.approx(reference(step), rel=1e-12)


# ----------------------------------------------------------------------------------------- errors

P = Parameter(np.ones(3))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: optim.SGD([], lr=0.1), ValueError, "parameters: expected at least one"),
        (lambda: optim.SGD([np.ones(3)], lr=0.1), TypeError, "parameters: expected Parameter"),
        (lambda: optim.SGD([P, P], lr=0.1), ValueError, "got '1' again (it is '0')"),
        (lambda: optim.SGD([("a", P), ("a", Parameter(np.ones(2)))], lr=0.1), ValueError, "'a'"),
        (lambda: optim.SGD([P], lr=-1), ValueError, "lr: expected a number >= 0, got -1"),
        (lambda: optim.SGD([P], lr="1"), TypeError, "lr: expected a number"),
        (lambda: optim.SGD([P], lr=1, momentum=1), ValueError, "momentum"),
        (lambda: optim.SGD([P], lr=1, nesterov=True), ValueError, "nesterov"),
        (lambda: optim.Adam([P], betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda: optim.Adam([P], betas=(0.9,)), ValueError, "betas: expected two"),
        (lambda: optim.Adam([P], eps=0), ValueError, "eps"),
        (lambda: optim.AdamW([P], weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda: optim.SGD([P], 1, rate=2.0), TypeError, "rate: expected a function"),
        (lambda: optim.SGD([P], 1, rate=lambda *_: -1), ValueError, "rate('0'): expected a number"),
        (lambda: optim.SGD([P], 1, decay=lambda *_: "a"), TypeError, "decay('0'): expected a n"),
        (lambda: optim.Adam([P]).step(math.nan), ValueError, "factor: expected a finite"),
        (lambda: optim.clip_grad_norm([P], 0.0), ValueError, "max_norm"),
        (lambda: optim.constant(-1), ValueError, "warmup"),
        (lambda: optim.linear(5, 5), ValueError, "total: expected an int >= 6"),
        (lambda: optim.cosine(1, 5, floor=2), ValueError, "floor"),
    ],
)
def test_wrong_arguments(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()
