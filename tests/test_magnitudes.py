"""Every pair at every magnitude: the rows of the gradient table, scaled, levelled and spiked.

Every finite input gets what exact arithmetic says, rounded, or the overflow that the result itself
has. Exact is `reference` in the next wider precision, whose exponents reach further as well. What
rounding may cost is asked of the function itself: how far the exact result moves where its inputs
move by their last place. Plain NumPy in the same precision is no measure here: it overflows. Where
all numbers of a row are equal not even that much is allowed, because there nothing need be rounded.
"""

import warnings

import numpy as np
import pytest
from samples import fresh
from test_gradcheck import PAIRS
from test_reference import FINER, as_dtype, kept_weights, run_reference, several

import miniattn.functional as F
from miniattn.reference import _arrays

# Powers of ten that inputs are multiplied by: their squares and products are no numbers.
POWERS = {np.float32: (-30, -9, 9, 30), np.float64: (-200, -30, 30, 200)}
# Options that may be of any size, too.
SIZES = ("temperature", "eps", "softcap", "scale")

EQUAL, MOST = "equal numbers", "as large as can be"
# From equal rows of x and of weights come logits that are not equal, and their softmax is rounded.
UNEQUAL = {"linear_cross_entropy"}

# A matrix product adds up in its own precision: no partial sum may overflow. Nor may one of the
# gradients that a parameter or a row collects.
PARTIAL_SUMS = {"linear", "linear_cross_entropy", "attention", "merge_attention"}
COLLECT = PARTIAL_SUMS | {"batch_norm", "embedding", "layer_norm", "rms_norm", "log_softmax"}


def first_of_each_kind():
    """(name, inputs, options) of the rows of the table that differ in more than numbers."""
    seen = set()
    for name, rows in PAIRS.items():
        for i, (inputs, options) in enumerate(rows):
            options = {key: value for key, value in options.items() if key != "samples"}
            axes = tuple((key, x.ndim) for key, x in inputs.items())
            kind = name, axes, tuple(options), type(options.get("mask"))
            if kind not in seen:
                yield pytest.param(name, inputs, options, id=f"{name}-{i}")
            seen.add(kind)


def variants(inputs, options, dtype):
    """(what was done, inputs, options, the power of ten of dy) of one row."""
    floats = [name for name, x in inputs.items() if x.dtype.kind == "f"]
    powers = POWERS[dtype]
    for power in powers:
        for names in [*((name,) for name in floats), tuple(floats)][: None if floats[1:] else 1]:
            scaled = {n: inputs[n] * dtype(10.0**power) for n in names}
            yield f"{', '.join(names)} · 1e{power}", {**inputs, **scaled}, options, 0
        for option in (o for o in SIZES if options.get(o) is not None):
            other = {**options, option: options[option] * 10.0**power}
            yield f"{option} · 1e{power}", inputs, other, 0
        yield f"dy · 1e{power}", inputs, options, power
    yield f"dy {MOST}", inputs, options, np.inf
    for name in floats:
        x = inputs[name]
        most = x / np.nanmax(np.abs(x)) * np.finfo(dtype).max
        yield f"{name} {MOST}", {**inputs, name: most}, options, 0
        for power in (powers[0], powers[-1]):
            spiked = x.copy()
            spiked.reshape(-1)[::7] *= dtype(10.0**power)
            yield f"some of {name} · 1e{power}", {**inputs, name: spiked}, options, 0
    for power in (0, *powers[2:]):
        level = {n: inputs[n][..., :1] * dtype(10.0**power) + 0 * inputs[n] for n in floats}
        yield f"{EQUAL} · 1e{power}", {**inputs, **level}, options, 0


def moved(x, generator):
    """Every number of x up or down by its last place."""
    if not (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
        return x
    wide = x.astype(FINER[x.dtype.type])
    return wide * (1 + generator.choice([-1, 1], x.shape) * np.finfo(x.dtype).eps)


def ours(name, inputs, options, power):
    """([y, gradients], dy); dy is 0 where y is no number any more, and has no slope.

    The power of ten that dy is multiplied by is infinite where dy is to be as large as can be.
    """
    y, ctx = getattr(F, f"{name}_forward")(**inputs, **fresh(options))
    dtype = next(x.dtype.type for x in inputs.values() if x.dtype.kind == "f")
    dy = np.random.default_rng(1).standard_normal(np.shape(y)).astype(dtype)
    most = dtype(0.99) * np.finfo(dtype).max / np.abs(dy).max(initial=1)
    dy = np.where(np.isfinite(y), dy * (most if power == np.inf else dtype(10.0**power)), dtype(0))
    return [np.asarray(y), *several(getattr(F, f"{name}_backward")(dy[()], ctx))], dy


def specification(name, inputs, options, y):
    """The options of the reference: what dropout keeps in place of dice."""
    spec = {key: value for key, value in options.items() if key != "rng"}
    if "rng" in options:
        spec["keep"] = y != 0 if name == "dropout" else kept_weights(inputs, options)
    return spec


def size(x):
    x = np.abs(x)
    return x[np.isfinite(x)].max(initial=0)


# What is multiplied on the way, to numbers that the dtype has to hold. Where float32 cannot, the
# loss of a linear map is that of float64.
ON_THE_WAY = {"attention": ("q", "k"), "linear_cross_entropy": ("x", "weight")}


def has_products(name, inputs, options):
    """Whether what is multiplied on the way, and what that adds up to, are numbers of the dtype."""
    a, b = (inputs[factor].astype(np.longdouble) for factor in ON_THE_WAY[name])
    scale = max(1.0, abs(options.get("scale", 1.0)))
    dtype = np.float64 if name == "linear_cross_entropy" else inputs["q"].dtype
    return size(a) * size(b) * a.shape[-1] * scale < np.finfo(dtype).max / 8


def four_axes(x):
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


class Case:
    """A row with what `reference` says of it."""

    def __init__(self, name, inputs, options, power, use):
        self.name, self.use = name, use
        self.dtype = next(x.dtype.type for x in inputs.values() if x.dtype.kind == "f")
        self.got, self.dy = ours(name, inputs, options, power)
        self.inputs, self.spec = inputs, specification(name, inputs, options, self.got[0])
        if name == "attention" and inputs["q"].ndim < 4:
            self.inputs = {n: four_axes(x) for n, x in inputs.items()}
            self.got, self.dy = [four_axes(x) for x in self.got], four_axes(self.dy)
        self.exact = self.reference(self.inputs, self.dy)
        self.rounded = [x.astype(self.dtype) for x in self.exact]

    def reference(self, inputs, dy):
        self.use(FINER[self.dtype])
        y, grads = run_reference(self.name, inputs, self.spec, dy)
        return [np.asarray(y), *map(np.asarray, grads)]

    def floors(self):
        """What the last rounding may cost, and numbers below the smallest normal one."""
        info = np.finfo(self.dtype)
        sizes = [size(x) for x in self.rounded]
        if self.name == "attention":
            for i, terms in enumerate(self.terms()):
                sizes[i + 1] = max(sizes[i + 1], terms)
        return [8 * info.eps * n + 4 * info.tiny for n in sizes]

    def terms(self):
        """How large the numbers are that cancel in dq, dk, dv and dbias of attention.

        A gradient of a score is w (dw − Σ w dw): 0 but for rounding where one key has all weight.
        """
        q, k, v = (self.inputs[n].astype(np.longdouble) for n in "qkv")
        scale = self.spec.get("scale", 1 / np.sqrt(q.shape[-1]))
        dw = size(self.dy) * size(v) * v.shape[-1] / (1 - self.spec.get("dropout", 0))
        found = [dw * scale * size(k), dw * scale * size(q) * q.shape[-2], 0]
        if "bias" in self.inputs:
            shape = self.inputs["bias"].shape
            found.append(dw * q.shape[-2] * k.shape[-2] * q.shape[1] * q.shape[0] / np.prod(shape))
        return found

    def shifts(self):
        """How far each result moves where all inputs do by their last place."""
        generator = np.random.default_rng(0)
        found = []
        for _ in range(3):
            inputs = {name: moved(x, generator) for name, x in self.inputs.items()}
            other = self.reference(inputs, moved(self.dy, generator))
            found.append([size(a - b) for a, b in zip(other, self.exact, strict=True)])
        return [sum(shifts) for shifts in zip(*found, strict=True)]

    def wrong(self, exactly):
        """What is wrong, in words, of each wrong result."""
        found, allowed = {}, self.floors()
        for i, (a, b) in enumerate(zip(self.got, self.exact, strict=True)):
            is_number = np.isfinite(self.rounded[i])
            if np.isfinite(a[~is_number]).any():
                found[i] = "finite"
            elif not np.isfinite(a[is_number]).all():
                found[i] = "not finite"
            elif size(a[is_number].astype(b.dtype) - b[is_number]) > allowed[i]:
                found[i] = "far off"
        if "far off" in found.values() and not exactly:
            shifts = self.shifts()
            for i in [i for i, word in found.items() if word == "far off"]:
                is_number = np.isfinite(self.rounded[i])
                off = size(self.got[i][is_number].astype(np.longdouble) - self.exact[i][is_number])
                if off <= allowed[i] + 2 * shifts[i]:
                    del found[i]
        return [
            f"result {i} is {word}: {self.got[i].ravel()[:4]}, right {self.rounded[i].ravel()[:4]}"
            for i, word in found.items()
        ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "inputs", "options"), list(first_of_each_kind()))
def test_every_magnitude(name, inputs, options, dtype, monkeypatch):
    def use(precision):
        monkeypatch.setattr(_arrays, "PRECISION", precision)

    inputs, options = as_dtype(inputs, options, dtype)
    found = []
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for what, changed, other, power in variants(inputs, options, dtype):
            if what.endswith(MOST) and name in (COLLECT if what.startswith("dy") else PARTIAL_SUMS):
                continue
            if name in ON_THE_WAY and not has_products(name, changed, other):
                continue
            exactly = what.startswith(EQUAL) and name not in UNEQUAL
            wrong = Case(name, changed, other, power, use).wrong(exactly)
            found += [f"{what}: {words}" for words in wrong]
    assert not found, "\n".join(found)
