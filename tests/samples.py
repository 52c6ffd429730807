"""Random numbers for tests: each test has a seed of its own, and so has each module's table.

What a test draws must not depend on which tests ran before it. So there is no generator here that
lives on: `begin` starts anew before every test (``conftest`` calls it), and at the head of a table
that is filled when its module is imported.
"""

import zlib

import numpy as np

_source: np.random.Generator | None = None


def seed(name):
    """A seed that depends on nothing but the name."""
    return zlib.crc32(name.encode())


def begin(name):
    """Draw from here on what belongs to ``name``: a test, or a module that fills a table."""
    global _source
    _source = np.random.default_rng(seed(name))


def end():
    """Nothing is drawn outside a test or a table."""
    global _source
    _source = None


def source():
    """The generator of the test or the table at hand."""
    if _source is None:
        raise RuntimeError("a table is filled with random numbers: call begin(__name__) before it")
    return _source


def normal(*shape):
    return source().standard_normal(shape)


def off_zero(*shape):
    """Numbers that keep away from the kink at 0."""
    x = normal(*shape)
    return x + np.sign(x) * 0.1


def shuffled(n):
    """0 to n - 1 in some order: numbers of which no two are close."""
    return source().permutation(n).astype(float)


def choose(*shape, share=0.6):
    return source().random(shape) < share


def sees_some(*shape):
    """A random mask with one row that may attend to nothing."""
    mask = choose(*shape)
    mask[..., 0, :] = False
    return mask


def dice():
    """A generator to drop with: a new one each time, in the same state."""
    return np.random.default_rng(7)


def fresh(options):
    """Options of a row of a table with new dice, whatever a call before has drawn."""
    return {key: dice() if key == "rng" else value for key, value in options.items()}
