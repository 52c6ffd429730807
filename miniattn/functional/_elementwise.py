"""Functions of each element alone, by all threads, each the rows that it has at hand."""

import numpy as np

from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.functional._arrays import kernel_input
from miniattn.kernels import activation
from miniattn.kernels.compile.launch import NO_FACTORS, run
from miniattn.kernels.compile.queue import Told
from miniattn.kernels.compile.settings import Task, get_num_threads
from miniattn.kernels.compile.tables import addresses


def apply(task: Task, *inputs: Array) -> Array:
    """Return what an element-wise task makes of arrays of one shape and dtype."""
    arrays = [kernel_input(x) for x in inputs]
    result = empty(arrays[0].shape, arrays[0].dtype)
    arrays.append(result)
    pieces = -(-result.size // activation.CHUNK)
    workers = max(1, min(pieces, get_num_threads()))
    told = Told(np.array([result.size]), NO_FACTORS, np.array(addresses(arrays)))
    run(task, result.dtype, workers, pieces, told, arrays)
    return result


def add(x: Array, y: Array) -> Array:
    """Return x + y for arrays of one shape and dtype."""
    return apply(activation.add, np.asarray(x), y)


def multiply(x: Array, y: Array) -> Array:
    """Return x · y for arrays of one shape and dtype."""
    return apply(activation.multiply, np.asarray(x), y)
