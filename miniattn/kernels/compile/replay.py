"""Launches made one after the other, without Python between them; `functional._tape` notes them."""

import numba
import numpy as np

from miniattn.kernels.compile.queue import LINE, fill_queue
from miniattn.kernels.compile.settings import kernel
from miniattn.kernels.registers import call

# What a row of the table of launches says: SIZES, FACTORS and OPERANDS are where the tables of the
# launch begin among those of all, SIZE the bytes of scratch memory that a worker owns.
FUNCTION, WORKERS, PIECES, SIZES, FACTORS, OPERANDS, SIZE = range(7)
COLUMNS = 7


@kernel
def replay(launches, sizes, factors, operands, scratch):
    """Make launches one after the other; each is waited for, as `launch.launch` does.

    Parameters
    ----------
    launches : int64 array, shape (launches, 7)
        See `COLUMNS`.
    sizes, factors, operands : int64, float64 and int64 arrays
    scratch : int
        Address of memory for all workers of a launch, which the next one uses again.
    """
    most = 1
    for n in range(len(launches)):
        most = max(most, launches[n, WORKERS])
    queues = np.empty((most, LINE), np.int64)
    for n in range(len(launches)):
        function, workers, size = launches[n, FUNCTION], launches[n, WORKERS], launches[n, SIZE]
        numbers = sizes[launches[n, SIZES] :]
        others = factors[launches[n, FACTORS] :]
        places = operands[launches[n, OPERANDS] :]
        fill_queue(queues[:workers], launches[n, PIECES])
        if workers > 1:
            for worker in numba.prange(workers):
                own = scratch + worker * size
                call(function, numbers, others, places, queues[worker], own)
        else:
            call(function, numbers, others, places, queues[0], scratch)
