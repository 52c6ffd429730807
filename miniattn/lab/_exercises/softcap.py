"""softcap: scores that cannot grow

capped = cap tanh(scores / cap) keeps scores within -cap and cap. The two factors cancel where
scores are small; what is left is the slope of tanh.

Shapes: scores, dcapped, dscores (T, S); cap a number.
Read: derivations/attention
Hint: d(cap f(x / cap)) / dx = f'(x / cap): outer and inner factor cancel.
Hint: f is tanh, and its slope is 1 - tanh^2.
Hint: dscores = dcapped (1 - tanh(scores / cap)^2).
"""

import numpy as np


def softcap(scores, cap):
    """Return capped (T, S)."""
    return cap * np.tanh(scores / cap)


def softcap_backward(dcapped, scores, cap):
    """Return dscores (T, S)."""
    t = np.tanh(scores / cap)
    # capped = cap tanh(scores / cap)
    slope = 1.0 - t**2
    dscores = dcapped * slope
    return dscores


def data(rng):
    """Return the arguments of one check."""
    scores, dcapped = rng.standard_normal((2, 3, 4))
    return {"dcapped": dcapped, "scores": 2.0 * scores, "cap": 1.5}
