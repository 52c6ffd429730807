"""The gradient of a sink: a score that takes part in a row's normalizer, and carries no value."""

import math

import numpy as np

from miniattn._typing import Array
from miniattn.functional._attention.context import Normalizer


def sink_gradient(arrays: dict[str, Array], normalizer: Normalizer) -> Array:
    """Return ``dsink = sum_bi u_i (dP - delta_i)`` with dP = 0, from the operands of a backward.

    u_i is the slope of the sink's own weight: under softmax that weight itself, and delta_i less
    dlse_i.
    """
    sink, stats = arrays["sink"].astype(np.float64)[:, None], arrays["stats"].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        if normalizer == "softmax":
            slope = np.exp((sink - stats[0]) - stats[1] * math.log(2))
            delta = np.einsum("bhte,bhte->bht", arrays["dout"], arrays["out"], dtype=np.float64)
            if "dlse" in arrays:
                delta -= arrays["dlse"]
        else:
            squared, delta = normalizer == "entmax15", arrays["delta"].astype(np.float64)
            top = np.where(np.isneginf(stats[0]), 0.0, stats[0])
            above = np.maximum((sink - top) / (1 + squared) - stats[1], 0.0)
            slope = above if squared else np.sign(above)
        parts = np.where(slope == 0, 0, slope * -delta)
        dsink: Array = parts.sum(axis=(0, 2)).astype(arrays["q"].dtype)
    return dsink
