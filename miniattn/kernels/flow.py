"""Maximum flow through the layers of attention: Dinic's algorithm on a dense layered graph.

Node (l, i) is token i after l layers. An edge runs from (l + 1, i) down to (l, j) with capacity
A_l[i, j]. For a source (L, i) and a sink (0, j) flow is pushed along shortest paths of what is left
of the capacities, flow back up included, until there is no path. One piece of work owns the
sinks of one source.

References
----------
Dinic, "Algorithm for solution of a problem of maximum flow in networks with power estimation",
Soviet Mathematics Doklady 11, 1970.
"""

import numpy as np
from numba import types

from miniattn._typing import Array
from miniattn.kernels.compile.launch import NO_FACTORS, run
from miniattn.kernels.compile.queue import Told, each_piece
from miniattn.kernels.compile.settings import get_num_threads, inner, task
from miniattn.kernels.compile.tables import addresses
from miniattn.kernels.registers.arrays import WORDS, views

# What is left of a capacity after many subtractions is not exactly 0; below this it counts as 0.
EPSILON = 1e-12


_ARRAYS = views(types.float64[:, :, ::1], types.int64[::1], types.float64[:, ::1])


@task
def max_flow(sizes, factors, operands, queue, scratch):
    """Write out[s, j], the maximum flow from (L, sources[s]) to (0, j), capacity (L, T, T).

    ``operands`` describe capacity, sources and out, as `registers.arrays` reads arrays.
    """
    each_piece(queue, _flows, _ARRAYS(operands))


def max_flows(capacity: Array, sources: Array, out: Array) -> None:
    """Run `max_flow` on float64, int64 and float64 arrays, which are contiguous."""
    arrays = capacity, sources, out
    words = np.zeros((len(arrays), WORDS), np.int64)
    words[:, 0] = addresses(arrays)
    for row, x in zip(words, arrays, strict=True):
        row[1 : 1 + x.ndim] = x.shape
    pieces = len(sources)
    workers = max(1, min(pieces, get_num_threads()))
    told = Told(np.empty(0, np.int64), NO_FACTORS, words.reshape(-1))
    run(max_flow, np.float64, workers, pieces, told, arrays)


@inner
def _flows(arrays, s):
    """Do so for one source. It makes arrays, which takes a helper that is given some."""
    capacity, sources, out = arrays
    L, T, _ = capacity.shape
    left = np.empty((L, T, T))
    back = np.empty((L, T, T))
    level = np.empty((L + 1, T), np.int64)
    queue = np.empty(((L + 1) * T, 2), np.int64)
    tried = np.empty((L + 1, T), np.int64)
    path = np.empty(((L + 1) * T, 2), np.int64)
    for sink in range(T):
        left[:] = capacity
        back[:] = 0.0
        total = 0.0
        while _levels(left, back, sources[s], sink, level, queue):
            tried[:] = 0
            while True:
                pushed = _push(left, back, sources[s], sink, level, tried, path)
                if pushed == 0.0:
                    break
                total += pushed
        out[s, sink] = total


@inner
def _room(left, back, l, i, n):
    """Return what still fits through the n-th edge of node (l, i): T edges down, then T up."""
    T = left.shape[1]
    if n < T:
        return left[l - 1, i, n] if l > 0 else 0.0
    return back[l, n - T, i] if l < left.shape[0] else 0.0


@inner
def _levels(left, back, source, sink, level, queue):
    """Number the nodes by their distance from the source; return whether the sink has one."""
    L, T, _ = left.shape
    level[:] = -1
    level[L, source] = 0
    queue[0, 0], queue[0, 1] = L, source
    head, tail = 0, 1
    while head < tail:
        l, i = queue[head, 0], queue[head, 1]
        head += 1
        for n in range(2 * T):
            to_l, to_i = (l - 1, n) if n < T else (l + 1, n - T)
            if _room(left, back, l, i, n) > EPSILON and level[to_l, to_i] < 0:
                level[to_l, to_i] = level[l, i] + 1
                queue[tail, 0], queue[tail, 1] = to_l, to_i
                tail += 1
    return level[0, sink] >= 0


@inner
def _push(left, back, source, sink, level, tried, path):
    """Push what fits along one shortest path; return it, 0 if there is no further such path."""
    L, T, _ = left.shape
    path[0, 0], path[0, 1] = L, source
    depth = 0
    while depth >= 0:
        l, i = path[depth, 0], path[depth, 1]
        if l == 0 and i == sink:
            return _use(left, back, path, depth)
        advanced = False
        while tried[l, i] < 2 * T and not advanced:
            n = tried[l, i]
            to_l, to_i = (l - 1, n) if n < T else (l + 1, n - T)
            if _room(left, back, l, i, n) > EPSILON and level[to_l, to_i] == level[l, i] + 1:
                depth += 1
                path[depth, 0], path[depth, 1] = to_l, to_i
                advanced = True
            else:
                tried[l, i] += 1
        if not advanced:  # a dead end: its predecessor looks further
            depth -= 1
            if depth >= 0:
                tried[path[depth, 0], path[depth, 1]] += 1
    return 0.0


@inner
def _use(left, back, path, depth):
    """Move the bottleneck of ``path[: depth + 1]`` from left to back, or up the other way."""
    T = left.shape[1]
    least = np.inf
    for d in range(depth):
        l, i, to_l, to_i = path[d, 0], path[d, 1], path[d + 1, 0], path[d + 1, 1]
        least = min(least, _room(left, back, l, i, to_i if to_l < l else T + to_i))
    for d in range(depth):
        l, i, to_l, to_i = path[d, 0], path[d, 1], path[d + 1, 0], path[d + 1, 1]
        if to_l < l:
            left[to_l, i, to_i] -= least
            back[to_l, i, to_i] += least
        else:
            left[l, to_i, i] += least
            back[l, to_i, i] -= least
    return least
