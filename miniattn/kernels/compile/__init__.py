"""How kernels are compiled, kept on disk and run in threads: all that stands on Numba's internals.

`settings` has the decorators `inner`, `kernel` and `task`, with the flags and the locks; `launch`
is the one parallel region, `queue` what its threads take work from, and `tables` how arrays lie, as
kernels are told. `user` compiles functions that users write, `ahead` several kernels at once in
processes of their own, `beside` the launcher in another. Underneath: `threads` (whose threads),
`target` (which processor), `compiler` and `cache` (compiled once, kept on disk).
"""

from typing import TYPE_CHECKING

from miniattn import _lazy

if TYPE_CHECKING:  # imported at their first use, and Numba with them
    from miniattn.kernels.compile import cache, launch, settings, tables, threads, user

# What modules that are to be read without Numba ask for by attribute.
__all__ = ["cache", "launch", "settings", "tables", "threads", "user"]

if not TYPE_CHECKING:  # else every misspelt name would be one to a type checker
    __getattr__, __dir__ = _lazy.names(__name__, __all__, ())
