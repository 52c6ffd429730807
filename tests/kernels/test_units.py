"""Units of attention: each against plain loops, and who is asked.

`scalar` is the slow twin of the others: it has no tiles, no groups of queries, no padding and no
packing, so that what goes wrong in these shows as a difference.
"""

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, scores
from miniattn.functional import _attention_calls
from miniattn.kernels.attention import weights
from miniattn.kernels.attention.problem import NORMALIZERS, Problem
from miniattn.kernels.attention.scalar import forward as scalar
from miniattn.kernels.attention.scalar import weights as scalar_weights
from miniattn.kernels.attention.units import FEW_QUERIES, UNITS, unit_for
from miniattn.kernels.attention.vector import forward as vector
from miniattn.kernels.compile.target import LANES, UNIT

NAMES = [unit.name for unit in UNITS if unit.name != "whole"]  # which does no softmax
B, H, G, T, S, D, DV = 2, 4, 2, 70, 83, 9, 33  # more than a tile, and no whole number of anything


def some_dense(rng):
    """An array with a query that sees nothing, and a tile that is hidden from all."""
    mask = rng.random((B, 1, T, S)) < 0.6
    mask[:, :, 3] = False
    mask[..., :64, :64] = False
    return mask


def hiding(rng):
    """A bias of its own for each head and key, some of which it hides."""
    bias = rng.standard_normal((H, 1, S))
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    return bias


@scores.function
def by_distance(s, b, h, i, j, table, power):
    return s * power + table[h, j - i + 70]


@by_distance.backward
def _(ds, s, b, h, i, j, table, power, dtable):
    dtable[h, j - i + 70] += ds
    return ds * power


def pulled(rng):
    """A table that is too large for a loop's own registers, and a number."""
    return by_distance(rng.standard_normal((H, 160)), 0.7)


@scores.function
def nearby(s, b, h, i, j):
    return s if abs(i - j) < 40 else -np.inf


@nearby.backward
def _(ds, s, b, h, i, j):
    return ds


OPTIONS = {
    "nothing": lambda rng: {},
    "causal": lambda rng: {"mask": masks.causal()},
    "a window": lambda rng: {"mask": masks.window(20, 3, sinks=2)},
    "lengths": lambda rng: {"mask": masks.padding([S - 20, 0])},
    "documents": lambda rng: {"mask": masks.documents(np.arange(T) // 20, np.arange(S) // 20)},
    "a mask for each head": lambda rng: {
        "mask": masks.heads(
            masks.dilated(3) & masks.causal(),
            ~masks.window(20, 3),
            masks.window(9, 9, sinks=2) | masks.globals([0, 70]),
            masks.tree([-1, *(n // 2 for n in range(S - 1))]),
        )
    },
    "a bool array": lambda rng: {"mask": some_dense(rng)},
    "a bias": lambda rng: {"bias": rng.standard_normal((B, H, T, S))},
    "a bias that hides": lambda rng: {"bias": hiding(rng)},
    "a bias for all, causal": lambda rng: {"bias": rng.random((T, 1)), "mask": masks.causal()},
    "a softcap": lambda rng: {"softcap": 1.5, "mask": masks.causal()},
    "a negative scale": lambda rng: {"scale": -0.3},
    "a function": lambda rng: {"score": pulled(rng), "mask": masks.window(20, 9)},
    "a function that hides": lambda rng: {"score": nearby(), "bias": hiding(rng)},
    "a sink": lambda rng: {"sink": rng.standard_normal(H), "mask": masks.padding([S - 20, 0])},
    "dropout": lambda rng: {"dropout": 0.3, "mask": masks.causal()},
    "all of it": lambda rng: {
        "mask": masks.as_mask(some_dense(rng)) & masks.window(40, 9),
        "bias": rng.standard_normal((1, H, T, S)),
        "softcap": 2.0,
        "dropout": 0.2,
        "scale": 0.7,
    },
}


def both(unit, arrays, options):
    """out, lse, the maxima and sums, and all gradients, by one unit."""
    *operands, dout = arrays
    rng = {"rng": np.random.default_rng(5)} if "dropout" in options else {}
    with ma.runtime.use(unit):
        out, ctx = F.attention_forward(*operands, **options, **rng)
        found = {"out": out, "lse": ctx.lse, "stats": ctx.stats}
        grads = F.attention_backward(dout, ctx)._asdict()
        found |= {"weights": weights_of(operands, options, None)}
        found |= {"map": weights_of(operands, options, (3, 7))}
    if grads.get("dscore"):
        grads["dscore"] = grads["dscore"][0]
    return found | {name: x for name, x in grads.items() if x is not None}


def weights_of(operands, options, bins):
    """The weights, or a map of them, which know nothing of dropout."""
    q, k, *_ = operands
    options = {name: x for name, x in options.items() if name != "dropout"}
    if bins is None:
        return F.attention_weights(q, k, **options)
    return F.attention_map(q, k, **options, bins=bins)


def operands(rng, dtype, queries=T):
    shapes = (B, H, queries, D), (B, G, S, D), (B, G, S, DV), (B, H, queries, DV)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def cast(options, dtype):
    def of(x):
        if isinstance(x, scores.Score):
            return x._replace(tables=tuple(of(table) for table in x.tables))
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    return {name: of(x) for name, x in options.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("unit", [name for name in NAMES if name != "scalar"])
def test_units_agree_with_plain_loops(unit, case, dtype, rng):
    if unit == "matrix" and dtype == np.float64:
        pytest.skip("the matrix unit does not do float64")
    if unit == "matrix" and not UNIT.used:
        pytest.skip("the matrix unit is not there, or is off")
    queries = FEW_QUERIES if unit == "decode" else T
    options = cast(OPTIONS[case](rng), dtype)
    for name in ("bias", "mask"):
        x = options.get(name)
        if isinstance(x, np.ndarray) and x.shape[-2] > 1:
            options[name] = x[..., :queries, :]
    if unit == "decode" and case in ("documents", "all of it"):
        options["mask"] = masks.documents(np.arange(queries) // 3, np.arange(S) // 20)
    arrays = operands(rng, dtype, queries)
    got, want = both(unit, arrays, options), both("scalar", arrays, options)
    assert got.keys() == want.keys()
    assert "dbias" in got or "bias" not in options
    for name, x in got.items():
        size = np.abs(want[name]).max(initial=1.0, where=np.isfinite(want[name]))
        error = 24 * np.finfo(dtype).eps * size
        np.testing.assert_allclose(x, want[name], rtol=0, atol=error, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mapped", [False, True])
def test_hidden_poison_reaches_no_row(name, mapped, rng):
    """By whichever unit: hidden keys and values are not even read."""
    queries = FEW_QUERIES if name == "decode" else T
    arrays = operands(rng, np.float64, queries)
    options = {"mask": masks.padding([S - 20, S])}
    if mapped:  # the same, but for one key more
        options["mask"] = options["mask"] & (np.arange(S) != S - 25)
    clean = both(name, arrays, options)
    for x, poison in zip(arrays[1:3], (np.nan, np.inf), strict=True):
        x[0, :, S - 5] = poison
    for key, x in both(name, arrays, options).items():
        np.testing.assert_array_equal(x, clean[key], err_msg=key)


@pytest.mark.parametrize("name", ["vector", "scalar"])
def test_what_float32_cannot_hold_is_noticed(name, rng):
    q, k, v, dout = operands(rng, np.float32)
    arrays = [q * np.float32(1e20), k * np.float32(1e20), v, dout]
    options = {"scale": 1e-40}
    want = both("auto", [x.astype(np.float64) for x in arrays], options)
    for key, x in both(name, arrays, options).items():
        np.testing.assert_allclose(x, want[key], rtol=1e-4, atol=1e-30, err_msg=key)


# --- Who is asked --------------------------------------------------------------------------------


def problem(queries=70, width=64):
    return Problem(1, 1, 1, queries, 500, width, width, 1, 0, 0, 0, 0, 1.0, 1.0, 0.0, 0.0)


def test_the_list_has_an_answer_for_every_call():
    assert len(set(NAMES)) == len(NAMES)
    for queries in (0, 1, FEW_QUERIES, FEW_QUERIES + 1, 400):
        for lanes in (LANES, LANES // 2):
            for width in (0, 8, 64):
                asked = problem(queries, width)
                found = unit_for(asked, lanes, None)
                assert found.supports(asked, lanes)
                assert found.name != "scalar"
                for name in NAMES:
                    assert unit_for(asked, lanes, name).name in (name, found.name)
    assert unit_for(problem(1), LANES, None).name == "decode"
    assert unit_for(problem(1), LANES, "vector").name == "vector"
    assert unit_for(problem(70, 8), LANES // 2, None).name == "vector"


def test_a_fallback_is_a_unit():
    assert {unit.fallback for unit in UNITS} <= {None, *NAMES}


def test_other_normalizers_have_a_unit_of_their_own():
    for number in range(1, len(NORMALIZERS)):
        for queries in (0, 1, 70):
            asked = problem(queries)._replace(normalizer=number)
            for name in (None, *NAMES):
                assert unit_for(asked, LANES, name).name == "whole"
    assert unit_for(problem(), LANES, "whole").name != "whole"


def test_the_choice_holds_until_the_next():
    def shown():
        return ma.runtime.config()["attention"]

    ma.runtime.use("scalar")
    try:
        assert shown() == "scalar unit, where it can"
        with ma.runtime.use("vector"):
            assert shown() == "vector unit, where it can"
            with ma.runtime.use("auto"):
                assert shown() == "the fastest unit, by shape"
        assert shown() == "scalar unit, where it can"
    finally:
        ma.runtime.use(None)
    assert shown() == "the fastest unit, by shape"


def test_the_choice_reaches_the_next_call(monkeypatch):
    """Though the call before it, of the same layouts, left its plan."""
    x = np.ones((20, 8))
    F.attention(x, x, x)
    ran = []
    run = _attention_calls.run
    monkeypatch.setattr(_attention_calls, "run", lambda task, *a: (ran.append(task), run(task, *a)))
    with ma.runtime.use("scalar"):
        F.attention(x, x, x)
    F.attention(x, x, x)
    assert ran == [scalar.forward, vector.forward]


def test_the_choice_reaches_maps_and_weights(monkeypatch):
    x = np.ones((20, 8))
    ran = []
    run = _attention_calls.run
    monkeypatch.setattr(_attention_calls, "run", lambda task, *a: (ran.append(task), run(task, *a)))
    with ma.runtime.use("scalar"):
        F.attention_map(x, x, bins=(2, 3))
        F.attention_weights(x, x)
    F.attention_weights(x, x)
    by_pairs = scalar_weights.attention_map
    assert ran == [by_pairs, by_pairs, weights.attention_map]


@pytest.mark.parametrize(("name", "dtype"), [("decode", np.float32), ("matrix", np.float64)])
def test_what_a_unit_cannot_do_is_done_as_the_list_says(name, dtype, rng):
    arrays = operands(rng, dtype)
    want = both(None, arrays, {})
    for key, x in both(name, arrays, {}).items():
        np.testing.assert_array_equal(x, want[key])


def test_other_names_are_refused():
    message = "name: expected matrix, decode, vector, scalar, whole or auto, got 'tensor'"
    with pytest.raises(ValueError, match=message):
        ma.runtime.use("tensor")
    with pytest.raises(TypeError, match="name: expected a str or None, got int"):
        ma.runtime.use(3)
    assert ma.runtime.config()["attention"] == "the fastest unit, by shape"


def test_plain_loops_are_not_compiled_until_somebody_asks(python):
    python("""
import numpy as np, miniattn as ma, miniattn.functional as F
from miniattn.kernels.attention.scalar import backward, forward
x = np.ones((1, 20, 8))
tasks = forward.forward, backward.backward, backward.bias_backward
out, ctx = F.attention_forward(x, x, x)
F.attention_backward(out, ctx)
assert not any("dispatcher" in vars(task) for task in tasks)
""")
