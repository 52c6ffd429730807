"""Masks made of masks: ``&``, ``|``, ``~``, and one for each head."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array, MaskLike
from miniattn.masks._arguments import index
from miniattn.masks._array import as_mask
from miniattn.masks._mask import Mask, joined
from miniattn.masks._places import Pairs, Place, Sizes
from miniattn.masks._program import All, ByHead, Not, Program, Some


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Combined(Mask):
    """What all of them have in common."""

    parts: tuple[Mask, ...]

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        for part in self.parts:
            part._fit(B, H, T, S)

    def _key(self) -> Any:
        return (type(self).__name__, *(part._key() for part in self.parts))

    def _sizes(self) -> Sizes:
        return joined(*(part._sizes() for part in self.parts))

    def _has_function(self) -> bool:
        return any(part._has_function() for part in self.parts)

    def _differs_by_head(self) -> bool:
        return isinstance(self, _Heads) or any(part._differs_by_head() for part in self.parts)

    def _is_borrowed(self) -> bool:
        return any(part._is_borrowed() for part in self.parts)


class _Intersection(_Combined):
    __slots__ = ()

    def __repr__(self) -> str:
        return " & ".join(f"({p!r})" if isinstance(p, _Union) else repr(p) for p in self.parts)

    @property
    def rules(self) -> tuple[Mask, ...]:
        return self.parts

    def _sees(self, at: Pairs) -> Array:
        return reduce(np.logical_and, (part._sees(at) for part in self.parts))

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return All(tuple(part._program(B, H, T, S) for part in self.parts))

    def _fact(self, at: Place) -> tuple[bool, str]:
        facts = [part._fact(at) for part in self.parts]
        seen = all(each for each, _ in facts)
        return seen, ", and ".join(fact for each, fact in facts if each == seen)


class _Union(_Combined):
    __slots__ = ()

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))

    def _sees(self, at: Pairs) -> Array:
        return reduce(np.logical_or, (part._sees(at) for part in self.parts))

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return Some(tuple(part._program(B, H, T, S) for part in self.parts))

    def _fact(self, at: Place) -> tuple[bool, str]:
        facts = [part._fact(at) for part in self.parts]
        seen = any(each for each, _ in facts)
        return seen, ", and ".join(fact for each, fact in facts if each == seen)


class _Complement(_Combined):
    __slots__ = ()

    def __repr__(self) -> str:
        (part,) = self.parts
        return f"~({part!r})" if isinstance(part, _Intersection | _Union) else f"~{part!r}"

    def _sees(self, at: Pairs) -> Array:
        return ~self.parts[0]._sees(at)

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return Not(self.parts[0]._program(B, H, T, S))

    def _fact(self, at: Place) -> tuple[bool, str]:
        seen, fact = self.parts[0]._fact(at)
        return not seen, fact


class _Heads(_Combined):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"heads({', '.join(map(repr, self.parts))})"

    def _fit(self, B: int, H: int, T: int, S: int) -> None:
        if len(self.parts) != H:
            raise ValueError(f"heads: expected a mask for each of H = {H}, got {len(self.parts)}")
        super()._fit(B, H, T, S)

    def _sizes(self) -> Sizes:
        return super()._sizes()._replace(H=len(self.parts))

    def _sees(self, at: Pairs) -> Array:
        shape = np.broadcast_shapes(at.b.shape, at.h.shape, at.i.shape, at.j.shape)
        seen = np.zeros(shape, np.bool_)
        for head, part in enumerate(self.parts):
            seen |= (at.h == head) & part._sees(at)
        return seen

    def _program(self, B: int, H: int, T: int, S: int) -> Program:
        return ByHead(tuple(part._program(B, H, T, S) for part in self.parts))

    def _fact(self, at: Place) -> tuple[bool, str]:
        part = self.parts[index("h", at.h, len(self.parts))]
        seen, fact = part._fact(at)
        return seen, f"head {at.h} has {part!r}, and {fact}"


def heads(*masks: MaskLike) -> Mask:
    """Give each head a mask of its own.

    Parameters
    ----------
    *masks : Mask or bool array
        As many as there are heads. Each fits all of (B, H, T, S); its part for this head counts.

    Returns
    -------
    Mask

    Raises
    ------
    TypeError, ValueError
        If there are none, or one is not a mask. Another number than H is a ValueError when the mask
        is used.

    Examples
    --------
    >>> from miniattn import masks
    >>> mask = masks.heads(masks.causal(), masks.window(0, 0))
    >>> mask.to_array(B=1, H=2, T=2, S=2)[0].astype(int).tolist()
    [[[1, 0], [1, 1]], [[1, 0], [0, 1]]]
    >>> mask.explain(b=0, h=1, i=1, j=0)
    'hidden by heads(causal(), window(0, 0)): head 1 has window(0, 0), and key 0 is before query 1 \
(taking T = S)'
    """
    if not masks:
        raise ValueError("masks: expected a mask for each head, got none")
    given = []
    for i, mask in enumerate(masks):
        with _checks.renamed(mask=f"masks[{i}]"):
            given.append(_given(mask, "in heads"))
    return _Heads(tuple(given))


def intersection(left: object, right: object) -> Mask:
    """Return ``left & right``; None hides nothing."""
    parts = [part for part in (as_mask(left), as_mask(right)) if part is not None]
    rules = tuple(rule for part in parts for rule in part.rules)
    return parts[0] if len(parts) == 1 else _Intersection(rules)


def union(left: object, right: object) -> Mask:
    """Return ``left | right``."""
    parts: list[Mask] = []
    for mask in (_given(left, "beside |"), _given(right, "beside |")):
        parts += mask.parts if isinstance(mask, _Union) else (mask,)
    return _Union(tuple(parts))


def complement(mask: Mask) -> Mask:
    """Return ``~mask``."""
    return mask.parts[0] if isinstance(mask, _Complement) else _Complement((mask,))


def _given(mask: object, where: str) -> Mask:
    checked = as_mask(mask)
    if checked is None:
        raise TypeError(f"mask: expected a Mask or a bool array {where}, got None")
    return checked


def unpacked(mask: Mask, B: int, H: int, T: int, S: int) -> Array:
    """Return (B, H, T, S) of a mask, by its tile map."""
    from miniattn.masks._lowered import lower, rows_of_form

    form = lower(mask, B, H, T, S)
    queries = np.arange(T)
    rows = [rows_of_form(form, b, h, queries, S) for b in range(B) for h in range(H)]
    return np.array(rows, np.bool_).reshape(B, H, T, S)
