"""Launching the kernels of ``kernels.optim`` over many arrays."""

import itertools
from typing import Any

import numpy as np

from miniattn import kernels
from miniattn._typing import Array


def launch(task: Any, *roles: list[Array], factors: list[float]) -> None:
    """Run a kernel over arrays of one dtype; they keep their number from role to role."""
    arrays = roles[0]
    if not arrays:
        return
    ends = chunks(arrays)
    everything = [a for role in roles for a in role]
    kernels.compile.launch.run(
        task,
        arrays[0].dtype,
        min(ends[-1], kernels.compile.settings.get_num_threads()),
        ends[-1],
        kernels.compile.queue.Told(
            np.array([len(arrays), *ends, *(a.size for a in arrays)]),
            np.array(factors, np.float64),
            np.array(kernels.compile.tables.addresses(everything)),
        ),
        everything,
    )


def chunks(arrays: list[Array]) -> list[int]:
    """Return how many chunks reach to the end of each array."""
    return list(itertools.accumulate(-(-a.size // kernels.optim.CHUNK) for a in arrays))
