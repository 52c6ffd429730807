"""The norm of gradients: clipped, and refused where it is not finite."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from miniattn import _checks, kernels
from miniattn._typing import Array
from miniattn.functional._arrays import kernel_input
from miniattn.nn import Parameter
from miniattn.optim._launch import chunks, launch
from miniattn.optim._parameters import pairs

_SMALLEST = 1e-280
"""A sum of squares from which on what vanished of it, below 1e-308, does not count."""


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / norm), in place, and return the norm before that.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient are passed over.
    max_norm : float > 0
        The largest norm that is let through; ``math.inf`` only measures.

    Returns
    -------
    float
        The L2 norm of all gradients taken as one vector. Where it is NaN or infinite the gradients
        stay as they are, for an optimiser to refuse.

    References
    ----------
    Pascanu, Mikolov, Bengio. "On the difficulty of training recurrent neural networks" (2013),
    section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn, optim
    >>> p = nn.Parameter(np.zeros(2))
    >>> p.accumulate(np.array([3.0, 4.0]))
    >>> optim.clip_grad_norm([p], max_norm=1.0)
    5.0
    >>> p.grad.round(3)
    array([0.6, 0.8])
    """
    if not (isinstance(max_norm, float) and max_norm == math.inf):
        max_norm = _checks.positive("max_norm", max_norm)
    groups = _by_dtype([parameter for _, parameter in pairs(parameters)])
    norm = _norm(groups)
    if max_norm < norm < math.inf:
        for group in groups:
            for factor in _factors(max_norm / norm, group[0].dtype):
                _scale(group, factor)
    return norm


def refuse_infinite(parameters: Mapping[str, Parameter], *, squares: bool = False) -> None:
    """Raise FloatingPointError where a gradient is not finite, or with ``squares`` its square."""
    for group in _by_dtype(parameters.values()):
        largest = float(np.finfo(group[0].dtype).max)
        if _total(group) <= largest:
            continue  # one pass over all: no entry can be too large
        limit = math.sqrt(largest) if squares else largest
        sizes = {n: _size(p.grad) for n, p in parameters.items() if p.grad is not None}
        wrong = [f"{size:.3g} in {name!r}" for name, size in sizes.items() if not size <= limit]
        if wrong:
            raise FloatingPointError(
                f"grad: expected finite gradients{', with finite squares' if squares else ''}, "
                f"got {', '.join(wrong)}; nothing was updated"
            )


def _by_dtype(parameters: Iterable[Parameter]) -> list[list[Array]]:
    """Return the gradients that there are, those of one dtype together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    return [[g for g in grads if g.dtype == dtype] for dtype in {g.dtype for g in grads}]


def _norm(groups: list[list[Array]]) -> float:
    """Return the L2 norm of all arrays taken as one vector, whatever the size of their entries."""
    total = _sum(_total(group) for group in groups)
    if _SMALLEST < total < math.inf:
        return math.sqrt(total)
    # The squares overflow or vanish in float64, or an entry is not finite.
    largest = max((_size(g) for group in groups for g in group), key=_nan_last, default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return largest
    scaled = (g.astype(np.float64) / largest for group in groups for g in group)
    return largest * math.sqrt(_sum(float(np.vdot(g, g)) for g in scaled))


def _size(array: Array) -> float:
    """Return the largest absolute value; NaN where there is one."""
    return float(np.abs(array).max(initial=0))


def _nan_last(size: float) -> tuple[bool, float]:
    return math.isnan(size), size


def _factors(factor: float, dtype: np.dtype[Any]) -> list[float]:
    """Return numbers whose product is ``factor``, so that none is subnormal in ``dtype``."""
    return [factor] if factor >= np.finfo(dtype).tiny else [math.sqrt(factor)] * 2


def _scale(grads: list[Array], factor: float) -> None:
    in_place: list[Array] = []
    for grad in grads:
        if kernel_input(grad) is grad:
            in_place.append(grad)
        else:  # assigned by the user
            grad *= factor
    launch(kernels.optim.scale, in_place, factors=[factor])


def _total(arrays: list[Array]) -> float:
    """Return Σ x² over arrays of one dtype, in float64."""
    return _sum(_sums_of_squares(arrays))


def _sum(numbers: Iterable[float]) -> float:
    try:
        return math.fsum(numbers)
    except OverflowError:  # finite numbers, whose sum is not
        return math.inf


def _sums_of_squares(arrays: list[Array]) -> list[float]:
    """Return numbers, float64, that add up to the sum of the squares of ``arrays``."""
    arrays = [kernel_input(a) for a in arrays]
    sums = np.empty(chunks(arrays)[-1])
    launch(kernels.optim.sums_of_squares, arrays, [sums], factors=[])
    return sums.tolist()
