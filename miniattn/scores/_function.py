"""What makes a function of scores of a Python function, and a score of that and its tables."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._typing import Array

Table: TypeAlias = Array | int | float
"""What a function of scores reads: an array, with a gradient if it is of floats, or a number."""


class Score(NamedTuple):
    """A function of scores with its tables: what ``score=`` takes.

    Made by calling a `ScoreFunction`, or by `alibi`, `t5_bias`, `decay`, `softcap`.
    """

    function: "ScoreFunction"
    tables: tuple[Table, ...]
    shift: Array | None = None
    """What is added to i: one int for each batch row."""

    def shifted(self, offset: int | Array) -> "Score":
        """Return the score for queries that are the tokens i + offset.

        As in decoding with a cache, where the first query of a call is not the first token.

        Parameters
        ----------
        offset : int or int array (B,)

        Examples
        --------
        >>> import numpy as np
        >>> from miniattn import scores
        >>> from miniattn.functional import attention_weights
        >>> x, score = np.zeros((4, 2)), scores.alibi(1, np.float64)
        >>> np.array_equal(
        ...     attention_weights(x[3:], x, score=score.shifted(3)),
        ...     attention_weights(x, x, score=score)[3:],
        ... )
        True
        """
        shift = np.atleast_1d(_checks.int_array("offset", np.asarray(offset)).astype(np.int64))
        _checks.shape("offset", shift, "B")
        return self._replace(shift=shift)


class ScoreFunction:
    """A function ``(s, b, h, i, j, *tables) -> s`` of the score of query i and key j.

    Made by `function` or `by_distance`. Called with its tables it gives a `Score`.
    """

    _first: tuple[str, ...] = ("s", "b", "h", "i", "j")
    _gradient = "ds"

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = _checks.function("function", forward)
        self.name = str(getattr(forward, "__name__", "function"))
        self.__name__ = self.name
        self.__qualname__ = str(getattr(forward, "__qualname__", self.name))
        self.__module__ = str(getattr(forward, "__module__", ""))
        self.__doc__ = forward.__doc__
        self.backward_half: Callable[..., Any] | None = None
        self.bias: Callable[..., Any] | None = None
        """What is added to s, of a function of head and distance."""
        self.bias_backward: Callable[..., Any] | None = None
        self.table_names = _check_arguments(forward, self._first, "function")
        """What the function calls its tables."""

    def backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        """Take the backward half, as a decorator: ``(ds, s, b, h, i, j, *tables, *dtables) -> ds``.

        ``ds`` is the gradient of what the function returned, ``s`` what it was given. It adds to
        the gradients ``dtables``, float64 arrays of the shapes of those tables that are float
        arrays, and returns what goes back to s.
        """
        _checks.function("backward", backward)
        _check_arguments(backward, (self._gradient, *self._first), "backward")
        self.backward_half = backward
        return backward

    def __call__(self, *tables: Table) -> Score:
        """Return the score with these tables: arrays of 1 to 4 axes, and numbers.

        Float arrays have a gradient, and are of the dtype of the queries; ints, bools and numbers
        have none.
        """
        checked = tuple(_table(f"tables[{n}]", table) for n, table in enumerate(tables))
        _check_count(len(self.table_names), len(tables), f"{self.name}: tables")
        return Score(self, checked)

    def __repr__(self) -> str:
        return f"scores.function({self.name})"


class _ByDistance(ScoreFunction):
    """A function ``(h, d, *tables) -> bias`` of the head and of d = j − i, which is added to s."""

    _first = ("h", "d")
    _gradient = "dbias"

    def __init__(self, bias: Callable[..., Any]) -> None:
        super().__init__(bias)
        self.bias = bias
        self.forward = _adding(bias)

    def backward(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        """Take the backward half, ``(dbias, h, d, *tables, *dtables)``; it returns nothing."""
        self.bias_backward = super().backward(backward)
        self.backward_half = _adding_backward(backward)
        return backward


def _adding(bias: Callable[..., Any]) -> Callable[..., Any]:
    def forward(s, b, h, i, j, *tables):  # type: ignore[no-untyped-def]
        return s + bias(h, j - i, *tables)

    return forward


def _adding_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    def backward_half(ds, s, b, h, i, j, *tables):  # type: ignore[no-untyped-def]
        backward(ds, h, j - i, *tables)
        return ds

    return backward_half


def by_distance(bias: Callable[..., Any]) -> ScoreFunction:
    """Make a function of scores that adds what the head and the distance j − i say; a decorator.

    Attention asks for it once for each distance in a tile, and not once for each pair: 127 times
    in place of 4,096. Relative positions cost next to nothing so.

    Parameters
    ----------
    bias : function ``(h, d, *tables) -> bias``
        Of head h and distance d = j − i, ints. -inf hides all keys at that distance. Its
        ``backward`` half is a function ``(dbias, h, d, *tables, *dtables)`` that adds to the
        gradients of the tables and returns nothing.

    Returns
    -------
    ScoreFunction
        Call it with its tables.

    Raises
    ------
    TypeError
        If it is no function, or does not begin with the arguments h, d.

    See Also
    --------
    function : For what depends on the score itself, or on more than the distance.

    References
    ----------
    Shaw, Uszkoreit, Vaswani. "Self-Attention with Relative Position Representations" (2018),
    section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F, scores
    >>> @scores.by_distance
    ... def relative(h, d, table):
    ...     return table[h, d + 2]
    >>> @relative.backward
    ... def _(dbias, h, d, table, dtable):
    ...     dtable[h, d + 2] += dbias
    >>> zero, table = np.zeros((1, 3, 2)), np.log([[1.0, 2.0, 4.0, 2.0, 1.0]])
    >>> F.attention_weights(zero, zero, score=relative(table))[0].round(2)
    array([[0.57, 0.29, 0.14],
           [0.25, 0.5 , 0.25],
           [0.14, 0.29, 0.57]])
    """
    return _ByDistance(bias)


def function(forward: Callable[..., Any]) -> ScoreFunction:
    """Make a function of scores that attention compiles; a decorator.

    Parameters
    ----------
    forward : function ``(s, b, h, i, j, *tables) -> s``
        Of one score ``s`` (float32 or float64, as q), after scale and softcap, of batch row b, head
        h, query i and key j (ints): it returns the new score. -inf hides the key. It is called for
        those pairs alone that the mask shows. Whatever Numba compiles may be in it: ``if``,
        ``math``, loops, other such functions.

    Returns
    -------
    ScoreFunction
        Call it with its tables, and give it a ``backward`` half.

    Raises
    ------
    TypeError
        If it is no function, or does not begin with the arguments s, b, h, i, j. What Numba refuses
        is a TypeError of the first call of attention.

    Notes
    -----
    Globals and closures are constants to the compiled code; where one has changed, the function is
    compiled anew (0.2 to 0.7 s, and kept on disk). Numbers that change belong among the tables.

    An index outside of a table is an IndexError of the call, as in NumPy. `gradcheck` judges the
    backward half.

    References
    ----------
    Dong et al. "Flex Attention" (2024), section 3.1 (score_mod).

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import functional as F, scores
    >>> @scores.function
    ... def nearer(s, b, h, i, j, slope):
    ...     return s - slope[h] * abs(i - j)
    >>> @nearer.backward
    ... def _(ds, s, b, h, i, j, slope, dslope):
    ...     dslope[h] -= ds * abs(i - j)
    ...     return ds
    >>> zero = np.zeros((1, 3, 2))
    >>> out, ctx = F.attention_forward(zero, zero, np.eye(3)[None], score=nearer(np.ones(1)))
    >>> out[0].round(2)
    array([[0.67, 0.24, 0.09],
           [0.21, 0.58, 0.21],
           [0.09, 0.24, 0.67]])
    >>> F.attention_backward(np.eye(3)[None], ctx).dscore[0].round(2)
    array([0.81])
    """
    return ScoreFunction(forward)


# --- Checks --------------------------------------------------------------------------------------


def _table(name: str, table: object) -> Table:
    """Return a table, checked: an array that machine code can hold, or a number."""
    if isinstance(table, bool | np.bool_):
        return int(table)
    if isinstance(table, int | np.integer):
        return _checks.integer(name, table)
    if isinstance(table, float | np.floating):
        return float(table)
    checked = _checks.any_array(name, table, "an array or a number")
    if checked.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected floats, ints or bools, got {_checks.shown(checked)}")
    if checked.dtype.kind == "f":
        checked = _checks.float_array(name, checked)
    if not 1 <= checked.ndim <= 4:
        raise ValueError(f"{name}: expected 1 to 4 axes, got shape {checked.shape}")
    return checked


def _check_arguments(
    given: Callable[..., Any], first: tuple[str, ...], name: str
) -> tuple[str, ...]:
    """Refuse a function without the arguments that all have; return the names of the others."""
    parameters = inspect.signature(given).parameters.values()
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    if not plain or len(parameters) < len(first):
        raise TypeError(
            f"{name}: expected a function of ({', '.join(first)}, and then its tables), "
            f"got {inspect.signature(given)}"
        )
    return tuple(p.name for p in parameters)[len(first) :]


def _check_count(wanted: int, count: int, name: str) -> None:
    """Refuse another number of tables than a function takes."""
    if count != wanted:
        raise TypeError(f"{name}: expected {wanted}, got {count}")
