"""The parameters that an optimiser is given, and numbers beside them."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from miniattn import _checks
from miniattn.nn import Module, Parameter


def named(
    parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
) -> dict[str, Parameter]:
    named: dict[str, Parameter] = {}
    seen: dict[int, str] = {}
    for name, parameter in pairs(parameters):
        if name in named or id(parameter) in seen:
            raise ValueError(
                f"parameters: expected each once, got {name!r} again"
                + ("" if name in named else f" (it is {seen[id(parameter)]!r})")
            )
        named[name] = parameter
        seen[id(parameter)] = name
    if not named:
        raise ValueError("parameters: expected at least one, got none")
    return named


def pairs(
    parameters: Iterable[Parameter] | Iterable[tuple[str, Parameter]],
) -> Iterator[tuple[str, Parameter]]:
    """Yield (name, parameter); where there are no names, the number of each."""
    if isinstance(parameters, Module | Parameter) or not isinstance(parameters, Iterable):
        raise TypeError(
            "parameters: expected those of a model (model.named_parameters()), "
            f"got a {type(parameters).__name__}"
        )
    for i, item in enumerate(parameters):
        name, parameter = item if isinstance(item, tuple) and len(item) == 2 else (str(i), item)
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"parameters: expected Parameter or (name, Parameter), got {item!r} at {i}"
            )
        yield name, parameter


def factor(
    name: str, of: Callable[[str, Parameter], float] | None, path: str, parameter: Parameter
) -> float:
    """Return what a function says for a parameter, a number >= 0; without a function 1."""
    if of is None:
        return 1.0
    found = _checks.function(name, of)(path, parameter)
    if isinstance(found, bool | np.bool_):
        return float(found)
    return not_negative(f"{name}({path!r})", found)


def not_negative(name: str, value: object) -> float:
    number = _checks.number(name, value)
    if number < 0:
        raise ValueError(f"{name}: expected a number >= 0, got {value}")
    return number
