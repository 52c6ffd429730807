"""Who takes which piece of work: each worker those of its own share first, then some of others'.

Pieces that follow each other lie side by side in memory, and the same worker has the same share in
every kernel: it finds in its own cache what it wrote there. To fetch it from another core's took
2 % of a training step.
"""

from typing import Any, NamedTuple

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import fetch_and_add

LINE = 8  # numbers of each worker: a cache line, which no other then writes to
WORKER, WORKERS, PIECES, TAKEN = range(4)
# How many pieces of a share are taken: by its owner from the front, and by others from the back.
FRONT, BACK = 1, 1 << 32


class Told(NamedTuple):
    """What a task is told, but for its queue: three tables of numbers, and memory of its own."""

    sizes: Any
    factors: Any
    operands: Any
    scratch: Any = None


@inner
def fill_queue(queues, pieces):
    """Set up queues (workers, LINE) for ``pieces`` of work."""
    for worker in range(len(queues)):
        queue = queues[worker]
        queue[WORKER], queue[WORKERS], queue[PIECES] = worker, len(queues), pieces
        queue[TAKEN] = 0


@inner
def take(queue):
    """Return a piece that nobody took before, or how many there are once none is left."""
    worker, workers, pieces = queue[WORKER], queue[WORKERS], queue[PIECES]
    for i in range(workers):
        owner = (worker + i) % workers
        start, stop = owner * pieces // workers, (owner + 1) * pieces // workers
        taken = queue + ((owner - worker) * LINE + TAKEN)
        # One step that no other thread can split, on one number: both ends are known together.
        counts = fetch_and_add(taken, FRONT if i == 0 else BACK)
        front, back = counts % BACK, counts // BACK
        if start + front + back < stop:
            return start + front if i == 0 else stop - 1 - back
    return pieces


@inner
def each_piece(queue, work, job):
    """Do ``work(job, piece)`` for each piece that this worker can get."""
    pieces = queue[PIECES]
    piece = take(queue)
    while piece < pieces:
        work(job, piece)
        piece = take(queue)
