"""A user's own function as machine code: compiled alone, kept on disk, never stale.

What a function reads besides its arguments, globals and closures, Numba takes for constants. So it
is read once, by `frozen`, which returns the function as it is at that moment, with a `fingerprint`
of everything that its machine code depends on. Changed since, it is another function, with another
fingerprint; machine code is found by that, in this process and on disk.

Kernels are not compiled anew for it. The function becomes part of a loop over a tile, which `build`
writes around it, and that loop is known by its address (`compiled`). Numba takes 0.2 to 0.7 s for
one, and a few hundredths of a second to read it from disk.
"""

import builtins
import functools
import hashlib
import types
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba.core import errors

from miniattn.kernels.compile.cache import (
    SUFFIX,
    KernelCache,
    fingerprint,
    folder,
    sources_of,
    versions,
)
from miniattn.kernels.compile.settings import Inner, jit

_OPTIONS = {"nogil": True, "error_model": "numpy"}
_KNOWN = ("numpy", "math", "cmath", "numba", "operator", "builtins")  # nobody changes these
_PLAIN = (bool, int, float, complex, str, np.generic, type(None))


class Frozen(NamedTuple):
    """A function with the globals and closures that it had when it was looked at."""

    function: Callable[..., Any]
    name: str
    """What messages call it."""
    fingerprint: str
    """Of its bytecode, its defaults and all that it reads; the same in every process."""


class Code(NamedTuple):
    """A compiled loop."""

    address: int
    owner: Any
    """Whose machine code it is: it lives as long as this."""


def frozen(function: Callable[..., Any], argument: str = "function") -> Frozen:
    """Return a function as it is now.

    Raises
    ------
    TypeError
        If it isn't a Python function, or reads something that machine code cannot hold.
    """
    taken = _taken(function)
    if taken is None:
        raise TypeError(
            f"{argument}: expected a function written with def or lambda, got {function!r}"
        )
    seen = _seen.get(taken)
    if seen is not None and all(look() is what for look, what in seen[1]):
        return seen[0]
    name = getattr(taken, "__qualname__", "function").rpartition("<locals>.")[2]
    freezer = _Freezer(argument)
    copy, what = freezer.function(taken)
    result = Frozen(copy, name, hashlib.sha256(repr(what).encode()).hexdigest())
    if freezer.looks is not None:
        _seen[taken] = result, freezer.looks
    return result


_Looks: TypeAlias = list[tuple[Callable[[], Any], Any]]
_ABSENT = object()
_seen: weakref.WeakKeyDictionary[Any, tuple[Frozen, _Looks]] = weakref.WeakKeyDictionary()
"""What functions were when they were last looked at, and where to look whether they still are:
to read all again takes 0.1 to 0.4 ms, as long as a small call."""


def reads(function: Callable[..., Any], number: int) -> bool:
    """Return whether a Python function may read its argument of this number."""
    code = function.__code__
    name = code.co_varnames[number]
    return any(name in _names_of(step.argval) for step in _steps(code))


def _names_of(value: Any) -> tuple[Any, ...]:
    """Return what an instruction names: since Python 3.13 one may name two variables."""
    return value if isinstance(value, tuple) else (value,)


def _steps(code: types.CodeType) -> Any:
    import dis  # takes a hundredth of a second, and masks without functions don't need it

    return (step for step in dis.get_instructions(code) if isinstance(step.argval, str | tuple))


def _taken(function: Any) -> Any:
    """Return the Python function that was given, perhaps in Numba's wrapping, or None."""
    inside = getattr(function, "py_func", function)
    return inside if isinstance(inside, types.FunctionType) else None


def _attribute_of(function: weakref.ref[Any], name: str) -> Any:
    return getattr(function(), name, None)


class _Freezer:
    """Copies what functions read; ``inside`` are those that are being copied."""

    def __init__(self, argument: str) -> None:
        self.argument = argument
        self.inside: list[Any] = []
        self.looks: _Looks | None = []
        """What returns the same objects while nothing changes; None where those may change."""

    def _watch(self, look: Callable[[], Any]) -> None:
        if self.looks is not None:
            self.looks.append((look, look()))

    def function(self, given: Any) -> tuple[Any, Any]:
        """Return a copy that reads what was there at this moment, and what describes it."""
        if any(given is other for other in self.inside):
            raise TypeError(
                f"{self.argument}: expected functions that don't call themselves, "
                f"got {given.__name__}"
            )
        self.inside.append(given)
        code = given.__code__
        itself = weakref.ref(given)  # it is known for as long as somebody has it
        for attribute in ("__code__", "__defaults__"):
            self._watch(functools.partial(_attribute_of, itself, attribute))
        read, described = {}, []
        for name in sorted(_global_names(code)):
            self._watch(functools.partial(given.__globals__.get, name, _ABSENT))
            if name in given.__globals__:
                read[name], what = self.value(name, given.__globals__[name], code)
                described.append((name, what))
        cells = []
        for name, cell in zip(code.co_freevars, given.__closure__ or (), strict=True):
            self._watch(functools.partial(getattr, cell, "cell_contents"))
            value, what = self.value(name, cell.cell_contents, code)
            cells.append(types.CellType(value))
            described.append((name, what))
        defaults = tuple(given.__defaults__ or ())
        described.append(("defaults", [self.value("a default", x, code)[1] for x in defaults]))
        self.inside.pop()
        read |= {"__builtins__": builtins, "__name__": given.__module__}
        copy = types.FunctionType(code, read, given.__name__, defaults or None, tuple(cells))
        what = _described(code), described
        copy.__qualname__ = f"{given.__qualname__}.{_digest(what)}"
        return copy, what

    def value(self, name: str, value: Any, code: types.CodeType) -> tuple[Any, Any]:
        """Return what a function shall find under ``name``, and what describes it."""
        match value:
            case np.ndarray():
                self.looks = None  # its numbers may change
                copy = np.array(value, order="C")
                copy.flags.writeable = False
                return copy, fingerprint(copy)
            case tuple():
                parts = [self.value(name, x, code) for x in value]
                fields = getattr(value, "_fields", None)
                made = tuple(x for x, _ in parts)
                whole = made if fields is None else type(value)(*made)
                return whole, ("tuple", fields, [what for _, what in parts])
            case types.ModuleType():
                return self.module(value, code)
        if isinstance(value, _PLAIN):
            return value, (type(value).__name__, fingerprint(value))
        if isinstance(value, type | np.ufunc | types.BuiltinFunctionType | np.dtype):
            return value, fingerprint(value)
        inside = _taken(value)
        if inside is None:
            raise TypeError(
                f"{self.argument}: expected a function that reads numbers, arrays, tuples, modules "
                f"and functions, got one that reads {name}, a {type(value).__name__}; "
                "hand arrays over as tables"
            )
        if (inside.__module__ or "").partition(".")[0] in _KNOWN:
            return value, (inside.__module__, inside.__qualname__)
        copy, what = self.function(inside)
        return Inner(copy, _OPTIONS), what

    def module(self, module: types.ModuleType, code: types.CodeType) -> tuple[Any, Any]:
        """Return a module of the user's own with those of its names that are read."""
        if module.__name__.partition(".")[0] in _KNOWN:
            return module, module.__name__
        copy, described = types.ModuleType(module.__name__), []
        for name in sorted(_global_names(code)):
            self._watch(functools.partial(getattr, module, name, _ABSENT))
            if hasattr(module, name) and not name.startswith("__"):
                value, what = self.value(name, getattr(module, name), code)
                setattr(copy, name, value)
                described.append((name, what))
        return copy, (module.__name__, described)


def _global_names(code: types.CodeType) -> set[str]:
    """Return the names of globals and attributes in a function and in those within it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _digest(what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _described(code: types.CodeType) -> Any:
    """Describe a function's own bytecode."""
    constants = [
        _described(x) if isinstance(x, types.CodeType) else (type(x).__name__, fingerprint(x))
        for x in code.co_consts
    ]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code.hex(), code.co_argcount, code.co_flags, names, constants


# --- Compiling -----------------------------------------------------------------------------------

_compiled: dict[Any, Code] = {}


def compiled(
    build: Callable[..., Callable[..., Any]],
    functions: Sequence[Frozen],
    arguments: Sequence[Any],
    argument: str = "function",
    key: Sequence[Any] = (),
    **options: Any,
) -> Code:
    """Return the loop around users' functions, compiled once for these, wherever they come from.

    Parameters
    ----------
    build : function
        Of a module of kernels: ``build(*functions, *key)`` returns the loop, a Python function that
        calls what it was given. Numba inlines it.
    functions : sequence of Frozen
    arguments : sequence of numba types
        Of the loop.
    argument : str
        What messages call the function that Numba may refuse.
    key : sequence
        What else ``build`` is told; Numba types, numbers and strings.
    **options
        Of Numba, for functions and loop alike.

    Raises
    ------
    TypeError
        If Numba cannot compile a function.
    """
    prints = tuple(f.fingerprint for f in functions)
    own = (build.__module__, build.__qualname__, prints, str(tuple(arguments)), repr(key))
    name = (*own, repr(fingerprint(options)))
    found = _compiled.get(name)
    if found is None:
        found = _compiled[name] = _compile(
            build, functions, tuple(arguments), argument, key, name, {**_OPTIONS, **options}
        )
    return found


def _compile(
    build: Callable[..., Callable[..., Any]],
    functions: Sequence[Frozen],
    arguments: tuple[Any, ...],
    argument: str,
    key: Sequence[Any],
    name: tuple[Any, ...],
    options: dict[str, Any],
) -> Code:
    loop = build(*(Inner(f.function, options) for f in functions), *key)
    # Machine code is known by its name in a process, and that of two loops, compiled in processes
    # of their own, would be the same.
    loop.__qualname__ += f".{_digest(name)}"
    dispatcher = jit(loop, no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)
    dispatcher._cache = _UserCache(loop, build.__module__, name)
    try:
        dispatcher.compile(arguments)
    except (errors.NumbaError, errors.UnsupportedBytecodeError, NotImplementedError) as error:
        names = ", ".join(f.name for f in functions)
        raise TypeError(
            f"{argument}: expected a function that Numba can compile, got {names}: {_reason(error)}"
        ) from error
    result = dispatcher.overloads[arguments]
    place = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return Code(int(place), dispatcher)


def _reason(error: BaseException) -> str:
    """Return what Numba says first, without where in itself it was when it said so."""
    said: list[str] = []
    for line in map(str.strip, str(error).splitlines()):
        if said and line.startswith(("File ", "During:", "There are", "raised from")):
            break
        if line and not line.startswith("Failed in"):
            said.append(line)
    return " ".join(said)[:300] or type(error).__name__


class _UserCache(KernelCache):
    """Entries named after the functions' fingerprints and the sources of the loop around them."""

    def __init__(self, loop: Callable[..., Any], module: str, name: tuple[Any, ...]) -> None:
        super().__init__(loop, {})
        self._module = module
        self._name = name

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        root = folder()
        if root is None:
            return None
        key = versions(), sources_of(self._module), self._name, codegen.magic_tuple()
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return root / f"user-{digest[:40]}{SUFFIX}"


# --- Tables --------------------------------------------------------------------------------------


def table_type(table: np.ndarray[Any, Any]) -> numba.types.Array:
    """Return the type of a table as functions see it: C-contiguous, not to be written to."""
    return numba.types.Array(numba.from_dtype(table.dtype), table.ndim, "C", readonly=True)
