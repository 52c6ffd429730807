"""The processor that Numba compiles for: how wide its registers are, and whether it has tiles.

Usually it is the one at hand; ``NUMBA_CPU_NAME``, ``NUMBA_CPU_FEATURES`` and ``NUMBA_ENABLE_AVX``
ask for another. To ask the host instead leads to instructions that the target does not have, at
which LLVM ends the process.

Two environment variables overrule what is found. ``MINIATTN_LANES`` (4, 8 or 16) says how many
float32 numbers a vector holds: LLVM splits those wider than a register, correctly on any machine,
only slower. ``MINIATTN_AMX`` says when attention is left to the matrix unit::

    0        never
    1        where the unit is there and faster (the default)
    always   wherever it can be
    emulate  as always, but the vector registers do what the unit would, on any machine and much
             slower: to test its kernels. Vectors then have the unit's 16 lanes.
"""

import ctypes
import os
import platform
import re
import sys
from typing import Any, NamedTuple

from llvmlite import binding
from numba.core.registry import cpu_target

__all__ = ["LANES", "SCALEF", "UNIT", "Unit", "features", "name", "register_lanes"]

# What LLVM makes of these tells what registers there are. Names of features do not: that of a
# processor stands for many.
_PROBE = """
define <16 x i32> @add(<16 x i32> %x) {
  %y = add <16 x i32> %x, %x
  ret <16 x i32> %y
}
define <8 x i64> @multiply(<8 x i64> %x) {
  %y = mul <8 x i64> %x, %x
  ret <8 x i64> %y
}
"""
_PERMISSION, _TILES = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
_ARCH_PRCTL = 158


def _codegen() -> Any:
    return cpu_target.target_context.codegen()


def name() -> str:
    """Return LLVM's name for the processor."""
    return str(_codegen().magic_tuple()[1])


def features() -> set[str]:
    """Return the features asked for by name; the processor itself may imply more."""
    words = _codegen().magic_tuple()[2].split(",")
    return {word[1:] for word in words if word.startswith("+")}


def register_lanes() -> int:
    """Return how many float32 numbers one register holds."""
    for register, count in (("zmm", 16), ("ymm", 8)):
        if re.search(f"vpaddd.*%{register}", _instructions):
            return count
    return 4


def _assembly() -> str:
    """Return what LLVM makes of `_PROBE`, which takes 5 ms."""
    machine = _codegen()._tm
    module = binding.parse_assembly(_PROBE)
    module.triple = machine.triple
    return str(machine.emit_assembly(module))


def _choice(variable: str, default: str, *choices: str) -> str:
    """Return what the environment says."""
    chosen = os.environ.get(variable)
    if chosen is not None and chosen not in choices:
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise ValueError(f"{variable}: expected {expected}, got {chosen!r}")
    return default if chosen is None else chosen


class Unit(NamedTuple):
    """When attention is left to the matrix unit.

    No part of the cache's keys, as constants are: it chooses among kernels, and changes none.
    """

    used: bool
    always: bool
    emulated: bool


def _lanes(wanted: str, unit: str) -> int:
    """Return how many float32 numbers a vector holds: as many as one register, unless told."""
    if unit == "emulate":
        if wanted not in ("", "16"):
            raise ValueError(
                f"MINIATTN_LANES: expected 16 with MINIATTN_AMX=emulate, got {wanted!r}"
            )
        return 16
    return int(wanted) if wanted else register_lanes()


def _unit(lanes: int, wanted: str) -> Unit:
    emulated = wanted == "emulate"
    used = emulated or (wanted != "0" and lanes == 16 and _exists())
    return Unit(used, used and wanted in ("always", "emulate"), emulated)


def _exists() -> bool:
    """Return whether this process may use the unit; the system wants to be asked for it once."""
    host = binding.get_host_cpu_features()
    if not all(host.get(part) and part in features() for part in ("amx-tile", "amx-bf16")):
        return False
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _PERMISSION, _TILES) == 0)


_instructions = _assembly()
_amx = _choice("MINIATTN_AMX", "1", "0", "1", "always", "emulate")
LANES = _lanes(_choice("MINIATTN_LANES", "", "4", "8", "16"), _amx)
# Whether there are VSCALEF and VREDUCE, which is of AVX512DQ as VPMULLQ is.
SCALEF = LANES == 16 and re.search(r"vpmullq.*%zmm", _instructions) is not None
UNIT = _unit(LANES, _amx)
