"""Writing results: from one boundary of a register to the next, and large ones past the caches.

An ordinary store reads the cache line that it is going to write. Of a result that is larger than
the caches, nothing is left there by the time somebody asks for it: then the line is written without
having been read, and memory moves two arrays where it would move three.
"""

from miniattn.kernels.compile.settings import inner
from miniattn.kernels.registers import (
    drain,
    lanes,
    lookup,
    store,
    store_first,
    store_streaming,
    to_boundary,
)

# Bytes from which on a result is written past the caches. Measured: a copy of 32 MiB takes as long
# either way, and what reads the result next finds a part of it in the third cache; at 40 MiB
# the caches lose.
LARGE = 2**25


@inner(forceinline=True)
def one(number, places):
    """Return a number of the only row."""
    return number


@inner(forceinline=True)
def each(numbers, places):
    """Return for each element a number of its row; ``places`` says which of the numbers that is."""
    return lookup(numbers, places)


@inner(forceinline=True)
def fill(y, n, large, term, of, operands):
    """Set y[j] for j < n, a register at a time, to ``term(of, j, k, operands)``.

    ``term`` is a function of the k elements from j on, which it reads by `load_first`: where k is a
    full register, as it nearly always is, LLVM makes plain loads of that. ``of`` is how it gets the
    numbers that a row has: `one` for a row, `each` for several that are filled as if they were one.
    Once all of y is filled, `finish`.
    """
    step = lanes(y)
    head = min(n, to_boundary(y)) if large else 0
    if head > 0:
        store_first(y, term(of, 0, head, operands), head)
    rest = (n - head) % step
    if large:
        for j in range(head, n - rest, step):
            store_streaming(y + j, term(of, j, step, operands))
    else:
        for j in range(head, n - rest, step):
            store(y + j, term(of, j, step, operands))
    if rest > 0:
        store_first(y + (n - rest), term(of, n - rest, rest, operands), rest)


@inner
def finish(large):
    """Let all threads see what was filled."""
    if large:
        drain()
