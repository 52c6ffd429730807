"""miniattn: attention that you can read, run and see.

NumPy arrays in, NumPy arrays out; Numba-JIT parallel kernels underneath; every gradient by hand.

    import miniattn as ma
    import miniattn.functional as F
    from miniattn import masks, nn
"""

from miniattn.gradcheck import GradcheckError, gradcheck

__all__ = [
    "GradcheckError",
    "gradcheck",
]

__version__ = "0.1.0"
