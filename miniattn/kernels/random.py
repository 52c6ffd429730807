"""Random numbers by counting: what is dropped depends on (seed, b, h, i, j) alone.

Tiled forward, tiled backward and any other traversal draw the same numbers, in any order and on
any number of threads, and nothing is stored.

References
----------
Salmon, Moraes, Dror, Shaw. "Parallel Random Numbers: As Easy as 1, 2, 3" (2011), section 3.2
(Threefry, here with two words of 32 bits and 20 rounds).
"""

import numpy as np

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import splat

_PARITY = np.uint32(0x1BD11BDA)


@inner
def _mix(x):
    """Return 64 bits that look unrelated to ``x`` (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inner
def stream_key(seed, b, h):
    """Return the two words of key that name the stream of batch row ``b`` and head ``h``."""
    key = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    key = _mix(key + np.uint64(b) * np.uint64(0x9E3779B97F4A7C15))
    key = _mix(key + np.uint64(h) * np.uint64(0xD1B54A32D192ED03))
    return np.uint32(key >> np.uint64(32)), np.uint32(key & np.uint64(0xFFFFFFFF))


@inner
def _four_rounds(x, y, a, b, c, d):
    """Four rounds of add, rotate, exclusive or."""
    x = x + y
    y = ((y << a) | (y >> (32 - a))) ^ x
    x = x + y
    y = ((y << b) | (y >> (32 - b))) ^ x
    x = x + y
    y = ((y << c) | (y >> (32 - c))) ^ x
    x = x + y
    y = ((y << d) | (y >> (32 - d))) ^ x
    return x, y


@inner
def threefry(k0, k1, x, y):
    """Return the first word of Threefry-2x32-20 of counters (x, y), vectors of uint32."""
    k0 = splat(k0, x)
    k1 = splat(k1, x)
    k2 = k0 ^ k1 ^ _PARITY
    x, y = _four_rounds(x + k0, y + k1, 13, 15, 26, 6)
    x, y = _four_rounds(x + k1, y + k2 + 1, 17, 29, 16, 24)
    x, y = _four_rounds(x + k2, y + k0 + 2, 13, 15, 26, 6)
    x, y = _four_rounds(x + k0, y + k1 + 3, 17, 29, 16, 24)
    x, y = _four_rounds(x + k1, y + k2 + 4, 13, 15, 26, 6)
    return x + k2
