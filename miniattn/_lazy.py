"""Public names: they alone are offered after a dot, and what is not used costs nothing.

Packages import them at their first use. To import Numba takes three times as long as NumPy, and
matplotlib twice; neither is needed to build a mask, to read a docstring or to be told the options
of a command.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence


def names(
    package: str, public: Sequence[str], homes: Sequence[str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Parameters
    ----------
    package : str
        Its name.
    public : sequence of str
        Its public names: submodules, and what is found in one of ``homes``.
    homes : sequence of str
        Submodules, in which names are looked for in this order. They are attributes too.
    """

    def find(name: str) -> object:
        found: object
        if name not in public and name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        if importlib.util.find_spec(f"{package}.{name}"):
            return importlib.import_module(f"{package}.{name}")
        modules = (importlib.import_module(f"{package}.{home}") for home in homes)
        found = next(vars(module)[name] for module in modules if name in vars(module))
        setattr(sys.modules[package], name, found)  # the next time it is simply there
        return found

    return find, listed(package, public)


def listed(module: str, public: Sequence[str]) -> Callable[[], list[str]]:
    """Return ``__dir__`` of a module: what is offered after a dot is what is public."""

    def names_of() -> list[str]:
        special = (name for name in vars(sys.modules[module]) if name.startswith("__"))
        return sorted({*public, *special})

    return names_of
