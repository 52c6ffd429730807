"""Pieces of work are each taken once, whoever comes when."""

import numba
import numpy as np
import pytest

from miniattn.kernels.compile.queue import LINE, fill_queue, take
from miniattn.kernels.registers import pointer


@numba.njit
def _turns(order, workers, pieces):
    """Return what the workers get that ask in this ``order``."""
    queues = np.empty((workers, LINE), np.int64)
    fill_queue(queues, pieces)
    taken = np.empty(len(order), np.int64)
    for turn, worker in enumerate(order):
        taken[turn] = take(pointer(queues[worker], 0))
    return taken


@numba.njit(parallel=True)
def _race(workers, pieces):
    """Return how often each piece is taken by workers side by side."""
    queues = np.empty((workers, LINE), np.int64)
    fill_queue(queues, pieces)
    counts = np.zeros((workers, pieces), np.int64)
    for worker in numba.prange(workers):
        queue = pointer(queues[worker], 0)
        piece = take(queue)
        while piece < pieces:
            counts[worker, piece] += 1
            piece = take(queue)
    return counts.sum(axis=0)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("pieces", [0, 1, 2, 6, 20])
def test_each_piece_is_taken_once_in_any_order(workers, pieces, rng):
    for _ in range(20):
        order = rng.integers(0, workers, workers * (pieces + 2))
        order[: pieces + 2] = order[0]  # one worker alone comes to the end
        rng.shuffle(order[1:])
        taken = _turns(order, workers, pieces)
        assert sorted(taken[:pieces]) == list(range(pieces))
        assert (taken[pieces:] == pieces).all()


def test_own_pieces_come_first_and_others_from_behind():
    assert _turns(np.array([0, 1, 0, 1, 0, 0, 0, 0]), 2, 7).tolist() == [0, 3, 1, 4, 2, 6, 5, 7]


def test_no_piece_is_taken_twice_in_a_race():
    for workers in (2, 5):
        assert (_race(workers, 10_000) == 1).all()
