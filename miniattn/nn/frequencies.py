"""Frequencies of rotary positions: plain, and stretched for longer sequences than were trained on.

Each function returns the angles of the dim/2 pairs at position 1, to be given as
``nn.Rotary(frequencies=...)``. The first pairs turn fast and tell neighbours apart, the last ones
slowly; ways of stretching differ in what they leave to the fast ones.
"""

from __future__ import annotations

import math

import numpy as np

from miniattn import _checks
from miniattn._typing import Array

__all__ = ["linear", "llama3", "ntk", "plain", "yarn", "yarn_magnitude"]


def plain(dim: int, *, base: float = 10000.0) -> Array:
    """Return base^(−2i/dim) for i = 0, ..., dim/2 − 1, float64 (dim/2,).

    References
    ----------
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
    section 3.2.2.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.frequencies.plain(4)
    array([1.  , 0.01])
    """
    if _checks.integer("dim", dim, least=2) % 2:
        raise ValueError(f"dim: expected an even number, got {dim}")
    base = _checks.positive("base", base)
    return np.asarray(base ** (-np.arange(0, dim, 2) / dim))


def linear(dim: int, *, factor: float, base: float = 10000.0) -> Array:
    """Return all frequencies divided by ``factor``: position interpolation.

    References
    ----------
    Chen et al., "Extending Context Window of Large Language Models via Positional Interpolation",
    2023, section 2.3.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.frequencies.linear(4, factor=2.0)
    array([0.5  , 0.005])
    """
    return plain(dim, base=base) / _stretch(factor)


def ntk(dim: int, *, factor: float, base: float = 10000.0) -> Array:
    """Return the frequencies of base · factor^(dim/(dim − 2)).

    The slowest pair is stretched by ``factor``, the fastest is left as it is.

    References
    ----------
    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023,
    section 3.1, definition 1.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.frequencies.ntk(4, factor=2.0)
    array([1.   , 0.005])
    """
    if _checks.integer("dim", dim, least=2) < 4:
        raise ValueError(f"dim: expected at least 4, got {dim}")
    base = _checks.positive("base", base)
    return plain(dim, base=base * _stretch(factor) ** (dim / (dim - 2)))


def yarn(
    dim: int,
    *,
    factor: float,
    original_length: int,
    base: float = 10000.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    whole: bool = True,
) -> Array:
    """Return frequencies by parts: fast pairs as they are, slow ones divided by ``factor``.

    A pair is fast if it turns more than ``beta_fast`` times in ``original_length`` tokens, and slow
    below ``beta_slow`` turns; between the two, pairs go over linearly in their number.

    Parameters
    ----------
    dim : int
    factor : float
        How many times longer sequences become.
    original_length : int
        What was trained on.
    base : float
    beta_fast, beta_slow : float
    whole : bool
        Whether the ramp begins and ends at whole pairs, as in the authors' code.

    References
    ----------
    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023,
    section 3.2, definition 2.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.frequencies.yarn(8, factor=4.0, original_length=64, base=100.0).round(4)
    array([1.    , 0.2372, 0.05  , 0.0079])
    """
    fast = plain(dim, base=base)
    slow = fast / _stretch(factor)
    length = _checks.integer("original_length", original_length, least=1)

    def pair_that_turns(times: float) -> float:
        return dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(base))

    low = pair_that_turns(_checks.positive("beta_fast", beta_fast))
    high = pair_that_turns(_checks.positive("beta_slow", beta_slow))
    if _checks.flag("whole", whole):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return np.asarray(fast * (1 - ramp) + slow * ramp)


def yarn_magnitude(factor: float) -> float:
    """Return 0.1 · ln(factor) + 1, by which YaRN multiplies queries and keys.

    References
    ----------
    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023,
    section 3.3, equation 22.

    Examples
    --------
    >>> from miniattn import nn
    >>> round(nn.frequencies.yarn_magnitude(4.0), 4)
    1.1386
    """
    return 0.1 * math.log(_stretch(factor)) + 1.0


def llama3(
    dim: int,
    *,
    factor: float,
    original_length: int,
    base: float = 10000.0,
    low_frequency_factor: float = 1.0,
    high_frequency_factor: float = 4.0,
) -> Array:
    """Return Llama 3.1's: slow pairs divided by ``factor``, fast ones as they are.

    A pair is fast if it turns more than ``high_frequency_factor`` times in ``original_length``
    tokens, and slow below ``low_frequency_factor`` turns; between the two, the share of the plain
    frequency grows linearly with the turns.

    References
    ----------
    Grattafiori et al., "The Llama 3 Herd of Models", 2024, section 3.4.2, and the authors'
    published code.

    Examples
    --------
    >>> from miniattn import nn
    >>> nn.frequencies.llama3(8, factor=8.0, original_length=64, base=100.0).round(4)
    array([1.    , 0.2444, 0.013 , 0.004 ])
    """
    fast = plain(dim, base=base)
    slow = fast / _stretch(factor)
    turns = _checks.integer("original_length", original_length, least=1) * fast / (2 * math.pi)
    low = _checks.positive("low_frequency_factor", low_frequency_factor)
    high = _checks.positive("high_frequency_factor", high_frequency_factor)
    if high <= low:
        raise ValueError(
            f"high_frequency_factor: expected more than low_frequency_factor = {low}, got {high}"
        )
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(slow * (1 - share) + fast * share)


def _stretch(factor: float) -> float:
    if _checks.number("factor", factor) < 1.0:
        raise ValueError(f"factor: expected a number >= 1, got {factor}")
    return float(factor)
