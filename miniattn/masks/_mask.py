"""`Mask`: what all masks can do, whatever their rules are."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.masks._arguments import index
from miniattn.masks._places import Pairs, Place, Sizes, all_pairs
from miniattn.masks._program import Program

if TYPE_CHECKING:
    from miniattn.masks._lowered import Lowered


class Mask:
    """A rule that says which keys each query may attend to.

    Made by `causal`, `window`, `padding`, `documents`, `where`, `as_mask` and so on, never
    directly. ``a & b`` is visible where both are, ``a | b`` where one is, ``~a`` where ``a`` is
    not. Bool arrays may stand on either side.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.causal() & ~masks.dilated(2)
    >>> mask
    causal() & ~dilated(2)
    >>> mask.to_array(B=1, H=1, T=4, S=4)[0, 0].astype(int)
    array([[0, 0, 0, 0],
           [1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0]])
    """

    # What combines masks is made of masks, too: it is imported where it is needed.
    __slots__ = ("__weakref__",)
    __array_ufunc__ = None  # so that `bool_array & mask` is left to __rand__

    @property
    def rules(self) -> "tuple[Mask, ...]":
        """The masks whose intersection this is: itself alone if it is none.

        Examples
        --------
        >>> from miniattn import masks
        >>> (masks.causal() & (masks.dilated(2) | masks.globals([0]))).rules
        (causal(), dilated(2) | globals([0]))
        """
        return (self,)

    def __and__(self, other: object) -> "Mask":
        from miniattn.masks._combined import intersection

        return intersection(self, other)

    def __rand__(self, other: object) -> "Mask":
        from miniattn.masks._combined import intersection

        return intersection(other, self)

    def __or__(self, other: object) -> "Mask":
        from miniattn.masks._combined import union

        return union(self, other)

    def __ror__(self, other: object) -> "Mask":
        from miniattn.masks._combined import union

        return union(other, self)

    def __invert__(self) -> "Mask":
        from miniattn.masks._combined import complement

        return complement(self)

    def __bool__(self) -> bool:
        # `causal() and padding(n)` would silently drop a rule.
        raise TypeError(
            "mask: a mask has no truth value; combine masks with `&`, `|` and `~`, test `is None`"
        )

    def to_array(self, B: int, H: int, T: int, S: int) -> Array:
        """Return the mask as a new bool array of shape (B, H, T, S), True = may attend.

        Parameters
        ----------
        B, H, T, S : int
            Batch, heads, query length, key length.

        Raises
        ------
        ValueError
            If the mask does not fit these sizes.

        Examples
        --------
        >>> from miniattn import masks
        >>> masks.window(1, 0).to_array(B=1, H=1, T=3, S=3)[0, 0].astype(int)
        array([[1, 0, 0],
               [1, 1, 0],
               [0, 1, 1]])
        """
        sizes = {"B": B, "H": H, "T": T, "S": S}
        B, H, T, S = (_checks.integer(name, n, least=0) for name, n in sizes.items())
        if self._has_function():  # by machine code: Python would take a microsecond for each pair
            from miniattn.masks._combined import unpacked

            return unpacked(self, B, H, T, S)
        return self.by_definition(B, H, T, S)

    def by_definition(self, B: int, H: int, T: int, S: int) -> Array:
        """Return what `to_array` does, from each rule's definition in NumPy, and without kernels.

        Functions of `where` are called in Python, pair by pair.

        Examples
        --------
        >>> from miniattn import masks
        >>> masks.dilated(2).by_definition(B=1, H=1, T=2, S=3)[0, 0].astype(int)
        array([[0, 1, 0],
               [1, 0, 1]])
        """
        self._fit(B, H, T, S)
        return np.broadcast_to(self._sees(all_pairs(B, H, T, S)), (B, H, T, S)).copy()

    def _repr_html_(self) -> str:
        from miniattn import _rich

        return _rich.of_mask(self)

    def explain(
        self, b: int, h: int, i: int, j: int, *, T: int | None = None, S: int | None = None
    ) -> str:
        """Say in words whether query ``i`` may attend to key ``j``, and if not, why.

        Parameters
        ----------
        b, h, i, j : int
            Batch row, head, query and key.
        T, S : int, optional
            Query and key length. Only a rule that is aligned to the end (``offset=None``) needs
            them; without them it takes T = S, and says so.

        Returns
        -------
        str
            ``"visible: ..."``, or ``"hidden by ..."`` with every rule that hides the key.

        Raises
        ------
        ValueError
            If an index is out of the range that the mask or the given sizes allow.

        Examples
        --------
        >>> from miniattn import masks
        >>> mask = masks.causal() & masks.padding([3, 8])
        >>> mask.explain(b=1, h=0, i=3, j=7, T=6, S=8)
        'hidden by causal(): key 7 is after query 3 + offset 2 = 5'
        >>> mask.explain(b=0, h=0, i=1, j=3, T=6, S=8)
        'hidden by padding([3, 8]): key 3 is not among the first 3 keys of row 0'
        >>> mask.explain(b=1, h=0, i=3, j=2, T=6, S=8)
        'visible: query 3 may attend to key 2 under causal() & padding([3, 8])'
        >>> (~masks.dilated(2)).explain(b=0, h=0, i=3, j=1)
        'hidden by ~dilated(2): query 3 and key 1 are 2 apart, a multiple of 2 (taking T = S)'
        """
        if (T is None) != (S is None):
            raise ValueError("T, S: expected both or neither")
        for name, value, size in (("b", b, None), ("h", h, None), ("i", i, T), ("j", j, S)):
            index(name, value, size)
        at = Place(b, h, i, j, None if T is None or S is None else S - T)
        facts = [(rule, *rule._fact(at)) for rule in self.rules]
        why = "; ".join(f"hidden by {rule!r}: {fact}" for rule, seen, fact in facts if not seen)
        return why or f"visible: query {i} may attend to key {j} under {self!r}"

    # What each kind of mask says of itself.

    @abstractmethod
    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        """Raise ValueError unless the mask fits these sizes."""

    def _lower(self, B: int, H: int, T: int, S: int) -> "Lowered":
        """Return what attention works with, of sizes that fit."""
        from miniattn.masks._lowered import split, with_tiles

        form, rest = split(self, B, T, S)
        return with_tiles(self, rest, form, B, H, T, S)

    @abstractmethod
    def _sees(self, at: Pairs) -> Array:
        """Return which pairs are visible: the definition, of which all else is another form."""

    @abstractmethod
    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        """Return what fills a tile map."""

    @abstractmethod
    def _fact(self, at: Place) -> tuple[bool, str]:
        """Return whether one pair is visible, and the fact that makes it so, in words."""

    @abstractmethod
    def _key(self) -> Any:
        """Return what is equal for equal masks alone, by which tile maps are found again."""

    def _sizes(self) -> Sizes:
        """Return the sizes that the mask itself has."""
        return Sizes(None, None, None, None)

    def _has_function(self) -> bool:
        """Return whether a function of a user's is part of it."""
        return False

    def _differs_by_head(self) -> bool:
        """Return whether heads may see different keys."""
        return self._sizes().H is not None

    def _is_borrowed(self) -> bool:
        """Return whether it looks at an array that is not its own."""
        return False


def joined(*sizes: Sizes) -> Sizes:
    """Return the sizes that some masks have together."""
    return Sizes(*(next((n for n in each if n is not None), None) for each in zip(*sizes)))  # noqa: B905
