"""Activations as layers, and the names by which other layers ask for them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn._module import Module

Activation = Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh"]


class _Elementwise(Module):
    """A function of each entry alone, without parameters."""

    operation: ClassVar[str]
    """Its name in `miniattn.functional`."""

    def forward(self, x: Array, *, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """Return (y, ctx), both x and y (...)."""
        y, ctx = getattr(F, f"{self.operation}_forward")(x)
        return y, ctx

    def backward(self, dy: Array, ctx: Any) -> Array:
        """Return dx (...)."""
        # y = f(x)
        dx: Array = getattr(F, f"{self.operation}_backward")(dy, ctx)
        return dx


class ReLU(_Elementwise):
    """Rectified linear unit: y = max(x, 0).

    References
    ----------
    Nair & Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    operation = "relu"


class Sigmoid(_Elementwise):
    """Logistic function: y = 1 / (1 + exp(−x)).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.Sigmoid()(np.array([0.0]))
    array([0.5])
    """

    operation = "sigmoid"


class Tanh(_Elementwise):
    """Hyperbolic tangent: y = tanh(x).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.Tanh()(np.array([0.0]))
    array([0.])
    """

    operation = "tanh"


class SiLU(_Elementwise):
    """Sigmoid linear unit, also called swish: y = x · sigmoid(x).

    References
    ----------
    Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016, section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.SiLU()(np.array([1.0])).round(4)
    array([0.7311])
    """

    operation = "silu"


class GELU(_Elementwise):
    """Gaussian error linear unit: y = x · Φ(x), Φ the standard normal distribution function.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        Exact, or the approximation by tanh that GPT-2 uses.

    References
    ----------
    Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.GELU()(np.array([1.0])).round(4)
    array([0.8413])
    """

    operation = "gelu"

    _live = ("approximate",)

    def __init__(self, *, approximate: Literal["none", "tanh"] = "none") -> None:
        _checks.choice("approximate", approximate, ("none", "tanh"))
        self.approximate = approximate

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.GeluContext]:
        """Return (y, ctx), both x and y (...)."""
        return F.gelu_forward(x, approximate=self.approximate)

    def describe(self) -> str:
        """Return ``"tanh"`` for the approximation."""
        return "" if self.approximate == "none" else "tanh"


class QuickGELU(_Elementwise):
    """GELU by a logistic function: y = x · sigmoid(1.702 x), as CLIP has it.

    References
    ----------
    Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.QuickGELU()(np.array([1.0])).round(4)
    array([0.8458])
    """

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.SiluContext]:
        """Return (y, ctx), both x and y (...)."""
        # silu(1.702 x) = 1.702 x · sigmoid(1.702 x)
        x = _checks.float_array("x", x)
        y, ctx = F.silu_forward(x * np.asarray(_QUICK, x.dtype))
        return np.asarray(y / np.asarray(_QUICK, y.dtype)), ctx

    def backward(self, dy: Array, ctx: F.SiluContext) -> Array:
        """Return dx (...)."""
        # y = silu(1.702 x) / 1.702: both factors go
        return F.silu_backward(dy, ctx)


_QUICK = 1.702


@context
class IdentityContext(NamedTuple):
    """What `Identity.backward` needs: what its result looks like."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Identity(Module):
    """What changes nothing: y = x, in the place of a part that a model does without.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.Identity()(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    def forward(self, x: Array, *, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """Return (y, ctx), both x and y (...)."""
        x = _checks.float_array("x", x)
        return x.copy(), IdentityContext(x.shape, x.dtype)

    def backward(self, dy: Array, ctx: Any) -> Array:
        """Return dx (...)."""
        ctx = _checks.context(ctx, IdentityContext)
        # y = x
        return _checks.gradient("dy", dy, ctx.shape, ctx.dtype).copy()


class Softcap(Module):
    """Numbers kept below a cap, smoothly: y = cap · tanh(x / cap), as Gemma 2 has it for logits.

    Parameters
    ----------
    cap : float
        What no entry of y exceeds.

    References
    ----------
    Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> nn.Softcap(30.0)(np.array([1.0, 30.0, 1e6])).round(2)
    array([ 1.  , 22.85, 30.  ])
    """

    _live = ("cap",)

    def __init__(self, cap: float) -> None:
        self.cap = _checks.positive("cap", cap)

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, F.TanhContext]:
        """Return (y, ctx), both x and y (...)."""
        x = _checks.float_array("x", x)
        cap = np.asarray(self.cap, x.dtype)
        y, ctx = F.tanh_forward(x / cap)
        return y * cap, ctx

    def backward(self, dy: Array, ctx: F.TanhContext) -> Array:
        """Return dx (...)."""
        # y = cap · tanh(x / cap): both factors go
        return F.tanh_backward(dy, ctx)

    def describe(self) -> str:
        """Return e.g. ``"30"``."""
        return f"{self.cap:g}"


def activation_layer(name: Activation) -> Module:
    """Return the layer that ``name`` stands for."""
    match _checks.choice("activation", name, get_args(Activation)):
        case "relu":
            return ReLU()
        case "gelu":
            return GELU()
        case "gelu_tanh":
            return GELU(approximate="tanh")
        case "quick_gelu":
            return QuickGELU()
        case "silu":
            return SiLU()
        case "sigmoid":
            return Sigmoid()
        case _:
            return Tanh()
