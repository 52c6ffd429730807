"""The processor that Numba compiles for is asked, and not the one at hand."""

import platform

import pytest

intel = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="these are processors of another kind"
)
SHOW = "from miniattn.kernels.compile import target as t; print(t.LANES, t.SCALEF, *t.UNIT)"
FEATURES = {"NUMBA_CPU_FEATURES": "", "MINIATTN_LANES": None, "MINIATTN_AMX": None}
OLD = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx"}


@intel
@pytest.mark.parametrize(
    ("target", "lanes", "scalef"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, 4, False),
        ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx2"}, 8, False),
        ({"NUMBA_CPU_NAME": "sandybridge"}, 4, False),  # whose integers are of 128 bits
        (OLD, 8, False),
        ({"NUMBA_CPU_NAME": "knl"}, 16, False),
        ({"NUMBA_CPU_NAME": "skylake-avx512"}, 16, True),
        ({"NUMBA_CPU_NAME": "icelake-server"}, 16, True),
        ({"NUMBA_CPU_NAME": "generic", "MINIATTN_LANES": "16"}, 16, False),
        ({"NUMBA_CPU_NAME": "skylake-avx512", "MINIATTN_LANES": "8"}, 8, False),
    ],
)
def test_registers_are_those_of_the_target(python, target, lanes, scalef):
    shown = python(SHOW, **FEATURES | target).split()
    assert shown == [str(lanes), str(scalef), *("False",) * 3]


@intel
def test_the_matrix_unit_is_the_targets(python):
    """Not used for a processor without it, whatever the host has."""
    host = python(SHOW, **dict.fromkeys([*FEATURES, "NUMBA_CPU_NAME"])).split()[2]
    without = FEATURES | {"NUMBA_CPU_NAME": "skylake-avx512", "MINIATTN_AMX": "always"}
    assert python(SHOW, **without).split()[2:] == ["False"] * 3
    tiles = without | {"NUMBA_CPU_FEATURES": "+amx-tile,+amx-bf16"}
    assert python(SHOW, **tiles).split()[2:] == [host, host, "False"]


def test_the_emulated_unit_is_there_for_any_target(python):
    generic = FEATURES | {"NUMBA_CPU_NAME": "generic", "MINIATTN_AMX": "emulate"}
    assert python(SHOW, **generic).split() == ["16", "False", "True", "True", "True"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [{"NUMBA_CPU_NAME": "generic"}, pytest.param(OLD, marks=intel)],
    ids=["generic", "old"],
)
def test_kernels_run_on_another_target(python, target):
    """An instruction that the target has not would end the process."""
    code = """
import numpy as np
from miniattn import functional as F, reference
x = np.random.default_rng(0).standard_normal((7, 45)).astype(np.float32)
for name in ("softmax", "gelu"):
    y, ctx = getattr(F, name + "_forward")(x)
    np.testing.assert_allclose(y, getattr(reference, name)(x), rtol=1e-5, atol=1e-6)
    getattr(F, name + "_backward")(x, ctx)
q = x[None, :1]
np.testing.assert_allclose(F.attention(q, q, q), q, rtol=1e-5)
print("done")
"""
    clean = {name: None for name in FEATURES if name != "NUMBA_CPU_FEATURES"}
    assert python(code, **clean | target, timeout=300) == "done\n"
