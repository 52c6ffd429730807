"""A program for `mpiexec` that goes wrong in a way that it is told: see `test_mpi.py`."""

import os
import sys

import numpy as np

from miniattn import distributed, nn, optim
from miniattn.training import Trainer


class Sum(nn.Module):
    """The smallest model there is: a number for each of four features, without a kernel."""

    def __init__(self):
        self.weight = nn.Parameter(np.ones((4, 2)))

    def forward(self, x, *, rng=None):
        return x @ self.weight.data, x

    def backward(self, dy, ctx):
        self.weight.accumulate(ctx.T @ dy)


class Squares:
    """Mean of squares: a loss without a kernel, which would take seconds to compile."""

    def forward(self, outputs, targets):
        return float((outputs**2).mean()), outputs

    def backward(self, dloss, ctx):
        return 2 * dloss * ctx / ctx.size

    def count(self, targets):
        return len(targets)

    def metrics(self, outputs, targets):
        return {}

    def __repr__(self):
        return "Squares()"


def collate(examples):
    from miniattn.data import Batch

    return Batch((np.array([x for x, _ in examples]),), np.array([y for _, y in examples]))


def trainer(comm, batch_size=4, pieces=None):
    model = Sum()
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    settings = {"batch_size": batch_size, "collate": collate, "progress": False, "loss": Squares()}
    return Trainer(
        model, optimizer, rng=np.random.default_rng(0), comm=comm, pieces=pieces, **settings
    )


ROWS = [(np.arange(4.0) + i, i % 2) for i in range(8)]


def main(fault, *arguments):
    comm = distributed.world()
    rank = comm.Get_rank()
    if fault == "differ":
        trainer(comm, batch_size=4 + rank).fit(ROWS, steps=1)
    training = trainer(comm)
    if fault == "train":
        # One write: lines of two ranks must not mix.
        os.write(1, f"rank {os.getpid()}\n".encode())
        training.fit(ROWS, steps=10**9, save_to=arguments[0], save_every=1)
    training.fit(ROWS, steps=2)
    if rank == 1:
        if fault == "raise":
            raise ValueError("broken on purpose")
        sys.exit(3)
    training.fit(ROWS, steps=4)
    print("unfinished", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
