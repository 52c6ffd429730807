"""Many options of one call: written once with their types, once with what they are by default.

To a type checker a function that takes ``**options: Unpack[T]``, T a TypedDict, names each of them.
To help, to completion and to whoever misspells one at run time it does so by what is here.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def spelled_out(options: type[Any]) -> Callable[[_Function], _Function]:
    """Return a decorator that names all fields of a NamedTuple, for ``**``, in the signature."""

    def decorate(function: _Function) -> _Function:
        plain = inspect.signature(function)
        own = [p for p in plain.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=options._field_defaults[name],
                annotation=annotation,
            )
            for name, annotation in options.__annotations__.items()
        ]
        first = next((i for i, p in enumerate(own) if p.kind is p.KEYWORD_ONLY), len(own))
        shown = plain.replace(parameters=[*own[:first], *named, *own[first:]])
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return decorate


def given(call: str, options: type[Any], by_name: Mapping[str, Any]) -> Any:
    """Return the options of a call, a NamedTuple; one that is none is refused in its name."""
    try:
        return options(**by_name)
    except TypeError:
        unknown = next(name for name in by_name if name not in options._fields)
        raise TypeError(f"{call}() got an unexpected keyword argument {unknown!r}") from None
