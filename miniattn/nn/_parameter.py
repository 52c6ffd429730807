"""Parameter: an array that a model learns, and numbers that it keeps without learning them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._typing import Array


class Parameter:
    """An array that a model learns, with the gradient that backward passes add up.

    Parameters
    ----------
    data : array of float32 or float64
        The values, copied: training never writes to the array that was passed in.
    trainable : bool
        A frozen parameter (False) takes no gradient work and is passed over by optimizers.

    Attributes
    ----------
    grad : array like data, or None
        The sum of the gradients since the last ``zero_grad``; None where there has been none.
    on_grad : function, or None
        Called whenever something was added to ``grad``: sums over several processes begin there,
        while backward goes on.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> p = nn.Parameter(np.zeros(3))
    >>> p.accumulate(np.ones(3)); p.accumulate(np.ones(3)); p.grad
    array([2., 2., 2.])
    """

    def __init__(self, data: Array, *, trainable: bool = True) -> None:
        self.data: Array = np.array(_checks.float_array("data", data), order="C")
        self.grad: Array | None = None
        self.trainable = _checks.flag("trainable", trainable)
        self.on_grad: Callable[[], None] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of ``data``."""
        return self.data.shape

    @property
    def size(self) -> int:
        """The number of entries of ``data``."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of ``data``."""
        return self.data.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return ``data`` to ``numpy.asarray``: the same memory, unless a copy is asked for."""
        return np.array(self.data, dtype=dtype, copy=copy)

    def accumulate(self, grad: Array | None) -> None:
        """Add ``grad``, a fresh array that nobody else holds, unless the parameter is frozen."""
        if not self.trainable or grad is None:
            return
        grad = _checks.float_array("grad", grad)
        if grad.shape != self.shape:
            raise ValueError(f"grad: expected shape {self.shape}, got {grad.shape}")
        if self.grad is None:
            # Taking the array over saves a pass through memory for every parameter and step.
            fits = grad.flags.c_contiguous and grad.flags.writeable and grad.dtype == self.dtype
            self.grad = grad if fits else np.array(grad, dtype=self.dtype, order="C")
        else:
            self.grad += grad
        if self.on_grad is not None:
            self.on_grad()

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def __repr__(self) -> str:
        frozen = "" if self.trainable else ", frozen"
        return f"Parameter({size_words(self.shape)}, {self.dtype}{frozen})"


class Statistics(Parameter):
    """Numbers that a module keeps and that no gradient moves, e.g. running means.

    They are part of the state (``state_dict``, checkpoints) like any parameter, and never
    trainable: ``unfreeze`` leaves them as they are, and optimizers pass them over.

    Parameters
    ----------
    data : array of float32 or float64

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.Statistics(np.zeros(3)).trainable
    False
    """

    def __init__(self, data: Array) -> None:
        super().__init__(data, trainable=False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, False if name == "trainable" else value)


def size_words(shape: tuple[int, ...]) -> str:
    """Return a shape in words."""
    return " x ".join(map(str, shape)) if shape else "scalar"
