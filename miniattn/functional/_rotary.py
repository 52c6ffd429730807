"""Rotary position embedding: ``rotary`` and its pair."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._context import context
from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.functional._arrays import rows
from miniattn.functional._rows import run_rows
from miniattn.kernels import rotary as rotary_kernel


@context
class RotaryContext(NamedTuple):
    """What `rotary_backward` needs: the angles' cosines and sines, and which numbers are a pair."""

    shape: tuple[int, ...]
    cos: Array
    sin: Array
    interleaved: bool


def rotary(
    x: Array,
    positions: Array,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: Sequence[float] | Array | None = None,
    magnitude: float = 1.0,
) -> Array:
    """Rotary position embedding: turn the i-th pair of x at position t by t · base^(−2i/dim).

    The dot product of a turned query and a turned key depends on their distance alone.

    Parameters
    ----------
    x : ndarray, shape (..., T, D)
        Queries or keys, usually (B, H, T, D); float32 or float64.
    positions : ndarray of int, shape (T,) or (B, T)
        One for each step, or for each step of each batch row; (B, T) needs x (B, H, T, D).
    base : float
        The slowest pair turns once in about 2π · base steps.
    interleaved : bool
        False: the pairs are (i, i + dim/2), as in GPT-NeoX and Llama.
        True: the pairs are (2i, 2i + 1), as in the paper and GPT-J.
    dim : int, optional
        How many entries of a row are turned, the first ones; even. The others stay as they are.
        D by default, or twice the number of frequencies.
    frequencies : floats, shape (dim/2,), optional
        The angle of pair i at position 1, instead of base^(−2i/dim).
    magnitude : float
        What turned pairs are multiplied by.

    Returns
    -------
    ndarray, shape (..., T, D)
        Where x is a view of (B, T, H, D), as in attention, y is one too.

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64 or ``positions`` are not integers.
    ValueError
        If ``dim`` is odd or above D, the shapes do not fit, or ``base`` or ``magnitude`` is not
        positive.

    Notes
    -----
    Angles are computed in float64, so that float32 is exact to rounding at any position.
    Backward by hand: ``docs/derivations/rotary.md``.

    References
    ----------
    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    arXiv:2104.09864, section 3.2 and equation 34.

    Examples
    --------
    A query and a key, each moved by 5 steps, have the same product:

    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> q, k = np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.5, -1.0, 0.0, 2.0]])
    >>> near = F.rotary(q, np.array([3])) @ F.rotary(k, np.array([1])).T
    >>> far = F.rotary(q, np.array([8])) @ F.rotary(k, np.array([6])).T
    >>> bool(np.allclose(near, far))
    True
    """
    y, _ = rotary_forward(
        x,
        positions,
        base=base,
        interleaved=interleaved,
        dim=dim,
        frequencies=frequencies,
        magnitude=magnitude,
    )
    return y


def rotary_forward(
    x: Array,
    positions: Array,
    *,
    base: float = 10000.0,
    interleaved: bool = False,
    dim: int | None = None,
    frequencies: Sequence[float] | Array | None = None,
    magnitude: float = 1.0,
) -> tuple[Array, RotaryContext]:
    """Return ``rotary(x, positions, ...)`` and the context for `rotary_backward`."""
    x = _checks.float_array("x", x)
    positions = _checks.int_array("positions", positions)
    interleaved = _checks.flag("interleaved", interleaved)
    _checks.shape("x", x, "..., T, D")
    steps, width = x.shape[-2:]
    if positions.ndim == 2:
        _checks.shape("x", x, "B, H, T, D")
        _checks.shape("positions", positions, "B, T", {"B": x.shape[0], "T": steps})
        positions = positions[:, None, :]
    else:
        _checks.shape("positions", positions, "T", {"T": steps})
    if width % 2 and dim is None and frequencies is None:
        raise ValueError(f"x: expected shape (..., T, D) with even D, got {x.shape}")
    angle = positions[..., None] * _frequencies(width, base, dim, frequencies)
    magnitude = _checks.positive("magnitude", magnitude)
    cos = (np.cos(angle) * magnitude).astype(x.dtype)
    sin = (np.sin(angle) * magnitude).astype(x.dtype)
    ctx = RotaryContext(x.shape, cos, sin, interleaved)
    return _turn(x, cos, sin, interleaved, back=False), ctx


def rotary_backward(dy: Array, ctx: RotaryContext) -> Array:
    """Return ``dx``: dy turned back by the same angles; a rotation's transpose is its inverse.

    A magnitude is that of both.
    """
    ctx = _checks.context(ctx, RotaryContext)
    dy = _checks.gradient("dy", dy, ctx.shape, ctx.cos.dtype)
    return _turn(dy, ctx.cos, ctx.sin, ctx.interleaved, back=True)


def checked_frequencies(frequencies: Sequence[float] | Array) -> Array:
    """Return frequencies, checked, float64 (dim/2,)."""
    given = _checks.any_array("frequencies", frequencies, "an array of numbers")
    _checks.shape("frequencies", given, "dim/2")
    if given.dtype.kind not in "fiu":
        raise TypeError(f"frequencies: expected an array of numbers, got {given.dtype}")
    if not np.isfinite(given).all():
        raise ValueError(f"frequencies: expected finite numbers, got {_checks.brief(frequencies)}")
    return given.astype(np.float64, copy=False)


def _frequencies(
    width: int, base: float, dim: int | None, frequencies: Sequence[float] | Array | None
) -> Array:
    """Return what position 1 is turned by, (dim/2,) float64."""
    base = _checks.positive("base", base)
    if frequencies is not None:
        given = checked_frequencies(frequencies)
        if dim is None:
            dim = 2 * given.size
        elif dim != 2 * given.size:
            raise ValueError(f"frequencies: expected dim/2 = {dim / 2:g} of them, got {given.size}")
    if dim is None:
        dim = width
    elif _checks.integer("dim", dim, least=0) % 2 or dim > width:
        raise ValueError(f"dim: expected an even number up to D = {width}, got {dim}")
    if frequencies is not None:
        return given
    return base ** (-np.arange(0, dim, 2) / dim) if dim else np.empty(0)


def _turn(x: Array, cos: Array, sin: Array, interleaved: bool, *, back: bool) -> Array:
    """Return x with every pair turned by its angle, or turned back."""
    steps = x.shape[-2]
    # Attention's (B, H, T, D) is a view of (B, T, H, D): rows are taken in the order of memory.
    heads_last = x.ndim == 4 and not x.flags.c_contiguous and x.swapaxes(1, 2).flags.c_contiguous
    source = x.swapaxes(1, 2) if heads_last else x
    y = empty(source.shape, x.dtype)
    share = x.shape[1] if heads_last else 1
    per_batch = x.shape[1] * steps if cos.ndim == 4 else 0
    if y.size:
        x_rows = rows(source)
        operands = x_rows, rows(cos), rows(sin), y
        told = steps, share, per_batch, cos.shape[-1], back, interleaved
        run_rows(rotary_kernel.turn, x_rows, (), operands, *told)
    return y.swapaxes(1, 2) if heads_last else y
