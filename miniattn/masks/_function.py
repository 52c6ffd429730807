"""Masks by functions that users write, compiled by Numba at their first use."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import frozen
from miniattn.masks._mask import Mask
from miniattn.masks._places import Pairs, Place
from miniattn.masks._program import Function, Program

_ARGUMENTS = ("b", "h", "i", "j")
_KINDS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Where(Mask):
    """A function as it was when the mask was made, and copies of its tables."""

    maker: "MaskFunction"
    frozen: Any
    tables: tuple[Array, ...]
    by_row: bool
    by_head: bool
    key: Any

    def __repr__(self) -> str:
        tables = ", ".join(f"{x.dtype}{list(x.shape)}" for x in self.tables)
        return f"{self.maker.__name__}({tables})"

    def __reduce__(self) -> Any:
        return self.maker, self.tables

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        pass  # a function knows what it is asked

    def _key(self) -> Any:
        return self.key

    def _differs_by_head(self) -> bool:
        return self.by_head

    def _has_function(self) -> bool:
        return True

    def _call(self, b: int, h: int, i: int, j: int) -> bool:
        """Return what Python makes of the function."""
        return bool(self.frozen.function(int(b), int(h), int(i), int(j), *self.tables))

    def _sees(self, at: Pairs) -> Array:
        return np.asarray(np.frompyfunc(self._call, 4, 1)(at.b, at.h, at.i, at.j), np.bool_)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return Function(self.frozen, self.tables, self.by_row, self.by_head)

    def _fact(self, at: Place) -> tuple[bool, str]:
        seen = self._call(at.b, at.h, at.i, at.j)
        arguments = ", ".join(map(str, at[:4]))
        return seen, f"{self.maker.__name__}({arguments}) is {seen}"


class MaskFunction:
    """What `where` makes of a function: called with tables, it returns a mask.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> @masks.where
    ... def banded(b, h, i, j, width):
    ...     return abs(i - j) <= width[h]
    >>> banded(np.array([0, 1]))
    banded(int64[2])
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[..., Any]) -> None:
        function = getattr(function, "py_func", function)
        if not inspect.isfunction(function):
            raise TypeError(
                "where: expected a function (b, h, i, j, *tables) written with def or lambda, "
                f"got {_checks.shown(function)}"
            )
        self.function = function
        self.signature = inspect.signature(function)
        given = list(self.signature.parameters.values())[: len(_ARGUMENTS)]
        if len(given) < len(_ARGUMENTS) or any(p.kind not in _KINDS for p in given):
            raise TypeError(
                f"where: expected a function (b, h, i, j, *tables), got {function.__name__}"
                f"{self.signature}"
            )
        functools.update_wrapper(self, function)

    def __repr__(self) -> str:
        return f"<masks.where {self.__name__}{self.signature}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # found again where it was defined

    def __call__(self, *tables: object) -> Mask:
        """Return the mask, with what the function reads as it is now.

        Parameters
        ----------
        *tables : arrays of 1 to 4 axes
            Bools, ints or floats. The mask keeps copies.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError, ValueError
            If the tables are not such arrays, or not as many as the function takes; if the function
            reads something besides that machine code cannot hold.
        """
        from miniattn.kernels.compile import user

        try:
            self.signature.bind(*_ARGUMENTS, *tables)
        except TypeError:
            raise TypeError(
                f"tables: expected those of {self.__name__}{self.signature}, got {len(tables)}"
            ) from None
        copies = tuple(_table(x) for x in tables)
        function = user.frozen(self.function, "mask")
        known = [(x.dtype.str, x.shape, sha256(x.tobytes()).hexdigest()) for x in copies]
        return _Where(
            self,
            function,
            copies,
            user.reads(self.function, 0),
            user.reads(self.function, 1),
            ("where", function.fingerprint, *known),
        )


def _table(x: object) -> Array:
    array = _checks.any_array("tables", x, "arrays of bools, ints or floats")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.dtype == np.float16:
        raise TypeError(f"tables: expected arrays of bools, ints or floats, got {array.dtype}")
    if not 1 <= array.ndim <= 4:
        raise ValueError(f"tables: expected arrays of 1 to 4 axes, got shape {array.shape}")
    return frozen(array.astype(array.dtype.newbyteorder("="), copy=False))


def where(function: Callable[..., Any]) -> MaskFunction:
    """Make masks of a function: key j is visible to query i iff it returns True.

    Parameters
    ----------
    function : callable
        ``function(b, h, i, j, *tables) -> bool``, of ints, written in what Numba compiles: numbers,
        comparisons, ``and``, ``or``, ``not``, loops, NumPy arrays. It may call such functions.

    Returns
    -------
    MaskFunction
        Called with the tables, or without any, it returns the `Mask`.

    Raises
    ------
    TypeError
        If it is no such function. What Numba cannot compile is a TypeError at the first use of the
        mask, which says why.

    Notes
    -----
    The function is compiled by itself, in 0.2 to 0.7 s, and kept on disk, also if it was written in
    a notebook. Globals and closures that it reads are those of the moment in which the mask is
    made: a mask never changes. Indices into tables are not checked, as always in Numba.

    A mask is asked once for each pair of a query and a key that nothing else hides, and not at all
    for batch rows and heads that the function doesn't look at. What bounds say is better said by
    them: ``masks.causal() & near()``.

    References
    ----------
    Dong et al. "Flex Attention: A Programming Model for Generating Optimized Attention Kernels"
    (2024), section 3.2 (there: ``mask_mod``).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import masks
    >>> @masks.where
    ... def same_colour(b, h, i, j, colour):
    ...     return colour[i] == colour[j]
    >>> mask = same_colour(np.array([0, 1, 0])) & masks.causal()
    >>> mask.to_array(B=1, H=1, T=3, S=3)[0, 0].astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [1, 0, 1]])
    >>> mask.explain(b=0, h=0, i=1, j=0)
    'hidden by same_colour(int64[3]): same_colour(0, 0, 1, 0) is False'
    """
    return MaskFunction(function)
