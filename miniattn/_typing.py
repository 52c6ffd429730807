"""The types that signatures are written in: one name for one kind of thing."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

from numpy.typing import NDArray

if TYPE_CHECKING:  # masks are written in these types themselves
    from miniattn import masks

Array: TypeAlias = NDArray[Any]
"""An array whose dtype is checked when it comes: float32 or float64 unless something else is said.
"""

Shape: TypeAlias = tuple[int, ...]
"""Sizes of the axes of an array."""

MaskLike: TypeAlias = Union["masks.Mask", Array, None]
"""What says which keys a query may attend to: a rule, a bool array (True = may attend), or all."""

AffineInput: TypeAlias = Literal["x", "weight", "bias"]
"""The inputs of an operation with a weight and a bias, for ``needs=``."""

AFFINE: tuple[AffineInput, ...] = ("x", "weight", "bias")
"""All of them."""

Normalizer: TypeAlias = Literal["softmax", "sigmoid", "sparsemax", "entmax15"]
"""What makes weights of scores."""

NORMALIZERS: tuple[Normalizer, ...] = ("softmax", "sigmoid", "sparsemax", "entmax15")
"""All of them."""
