"""Element-wise activations: ``relu``, ``sigmoid``, ``tanh``, ``silu``, ``gelu`` and their pairs."""

from typing import Any, Literal, NamedTuple

from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.functional._elementwise import apply
from miniattn.kernels import activation


@context
class ReluContext(NamedTuple):
    """What `relu_backward` needs: the output, whose sign is the derivative."""

    y: Array


def relu(x: Array) -> Array:
    """Rectified linear unit: y = max(x, 0).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64. NaN stays NaN.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64.

    Notes
    -----
    The derivative at 0 is taken to be 0. Backward by hand: ``docs/derivations/relu.md``.

    References
    ----------
    Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines",
    ICML 2010, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return relu_forward(x)[0]


def relu_forward(x: Array) -> tuple[Array, ReluContext]:
    """Return ``relu(x)`` and the context for `relu_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    y = apply(activation.relu, _checks.float_array("x", x))
    return y, ReluContext(y)


def relu_backward(dy: Array, ctx: ReluContext) -> Array:
    """Return ``dx`` = dy where y > 0, else 0."""
    (y,) = _checks.context(ctx, ReluContext)
    return _backward(activation.relu_backward, dy, y)


@context
class SigmoidContext(NamedTuple):
    """What `sigmoid_backward` needs: the output, in which the derivative is simplest."""

    y: Array


def sigmoid(x: Array) -> Array:
    """Logistic function: y = 1 / (1 + exp(−x)).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64. Large abs(x) does not overflow.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64.

    Notes
    -----
    Backward by hand: ``docs/derivations/sigmoid.md``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    return sigmoid_forward(x)[0]


def sigmoid_forward(x: Array) -> tuple[Array, SigmoidContext]:
    """Return ``sigmoid(x)`` and the context for `sigmoid_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    y = apply(activation.sigmoid, _checks.float_array("x", x))
    return y, SigmoidContext(y)


def sigmoid_backward(dy: Array, ctx: SigmoidContext) -> Array:
    """Return ``dx`` = dy · y · (1 − y)."""
    (y,) = _checks.context(ctx, SigmoidContext)
    return _backward(activation.sigmoid_backward, dy, y)


@context
class TanhContext(NamedTuple):
    """What `tanh_backward` needs: the output, in which the derivative is simplest."""

    y: Array


def tanh(x: Array) -> Array:
    """Hyperbolic tangent: y = (exp(x) − exp(−x)) / (exp(x) + exp(−x)).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64.

    Notes
    -----
    Backward by hand: ``docs/derivations/tanh.md``.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.tanh(np.array([-np.inf, 0.0, np.inf]))
    array([-1.,  0.,  1.])
    """
    return tanh_forward(x)[0]


def tanh_forward(x: Array) -> tuple[Array, TanhContext]:
    """Return ``tanh(x)`` and the context for `tanh_backward`.

    The context holds y itself: before the backward, write to a copy.
    """
    y = apply(activation.tanh, _checks.float_array("x", x))
    return y, TanhContext(y)


def tanh_backward(dy: Array, ctx: TanhContext) -> Array:
    """Return ``dx`` = dy · (1 − y²)."""
    (y,) = _checks.context(ctx, TanhContext)
    return _backward(activation.tanh_backward, dy, y)


@context
class SiluContext(NamedTuple):
    """What `silu_backward` needs: the input."""

    x: Array


def silu(x: Array) -> Array:
    """Sigmoid-weighted linear unit, also called swish: y = x · sigmoid(x).

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64.

    Notes
    -----
    As in PyTorch, silu(−inf) is NaN: −inf · 0. Backward by hand: ``docs/derivations/silu.md``.

    References
    ----------
    Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function
    Approximation in Reinforcement Learning", Neural Networks 107 (2018), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.silu(np.array([-2.0, 0.0, 2.0])).round(4)
    array([-0.2384,  0.    ,  1.7616])
    """
    return silu_forward(x)[0]


def silu_forward(x: Array) -> tuple[Array, SiluContext]:
    """Return ``silu(x)`` and the context for `silu_backward`.

    The context holds x itself: before the backward, write to a copy.
    """
    x = _checks.float_array("x", x)
    return apply(activation.silu, x), SiluContext(x)


def silu_backward(dy: Array, ctx: SiluContext) -> Array:
    """Return ``dx`` = dy · s · (1 + x · (1 − s)) with s = sigmoid(x)."""
    (x,) = _checks.context(ctx, SiluContext)
    return _backward(activation.silu_backward, dy, x)


Approximation = Literal["none", "tanh"]


@context
class GeluContext(NamedTuple):
    """What `gelu_backward` needs: the input, and which of the two formulas was used."""

    x: Array
    approximate: Approximation


def gelu(x: Array, *, approximate: Approximation = "none") -> Array:
    """Gaussian error linear unit: y = x · Φ(x), with Φ the normal distribution function.

    Parameters
    ----------
    x : ndarray, shape (...)
        float32 or float64.
    approximate : {"none", "tanh"}
        "none": Φ(x) = (1 + erf(x / √2)) / 2.
        "tanh": Φ(x) ≈ (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2, off by at most 5e-4 in y;
        the formula that GPT-2 was trained with.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    TypeError
        If ``x`` is not float32 or float64.
    ValueError
        If ``approximate`` is neither "none" nor "tanh".

    Notes
    -----
    As in PyTorch, gelu(−inf) is NaN: −inf · 0. Backward by hand: ``docs/derivations/gelu.md``.

    References
    ----------
    Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> import miniattn.functional as F
    >>> F.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return gelu_forward(x, approximate=approximate)[0]


def gelu_forward(x: Array, *, approximate: Approximation = "none") -> tuple[Array, GeluContext]:
    """Return ``gelu(x)`` and the context for `gelu_backward`.

    The context holds x itself: before the backward, write to a copy.
    """
    x = _checks.float_array("x", x)
    _checks.choice("approximate", approximate, ("none", "tanh"))
    kernel = activation.gelu if approximate == "none" else activation.gelu_tanh
    return apply(kernel, x), GeluContext(x, approximate)


def gelu_backward(dy: Array, ctx: GeluContext) -> Array:
    """Return ``dx`` = dy · (Φ(x) + x · φ(x)), with φ = Φ' the density that belongs to Φ."""
    x, approximate = _checks.context(ctx, GeluContext)
    exact = approximate == "none"
    kernel = activation.gelu_backward if exact else activation.gelu_tanh_backward
    return _backward(kernel, dy, x)


def _backward(kernel: Any, dy: Array, saved: Array) -> Array:
    """Return dx = kernel(dy, saved), element by element."""
    return apply(kernel, _checks.gradient("dy", dy, saved.shape, saved.dtype), saved)
