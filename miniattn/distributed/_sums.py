r"""Data parallel: one gradient out of those of all ranks, in an order that their number is not in.

A step's examples are cut into pieces. Each piece gives a gradient, and the pieces are added up like
the leaves of a tree, two neighbours at a time::

    0   1   2   3   4   5   6   7      pieces
     \ /     \ /     \ /     \ /
      +       +       +       +        one rank of four does so much by itself,
       \     /         \     /
        + - +           + - +          the rest is a matter between ranks
            \           /
             + - - - - +

A floating-point sum depends on its order. This order is the same for 1, 2, 4 and 8 ranks, and so
are the bits. Between ranks each number is added up in one place: rank r receives the r-th share of
every rank's gradient, adds them up by the tree, and sends the result to all. Every rank sends and
receives 2 (n - 1) / n times the gradient, as in a ring, in two messages to each other rank.

Parameters are dealt into buckets from the last to the first, which is how backward comes by them. A
bucket leaves as soon as all its gradients are final, while backward goes on.

References
----------
Li et al. "PyTorch Distributed: Experiences on Accelerating Data Parallel Training" (2020),
section 3.2 (buckets, and communication beside computation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from miniattn._memory import empty
from miniattn._typing import Array
from miniattn.distributed._comm import BUCKETS, Comm, Request, gather, wait

T = TypeVar("T")

BUCKET = 2**21  # bytes: long enough for bandwidth, short enough that the first leaves early
_LINE = 64  # bytes: where a parameter begins in its bucket, so that all ranks' lie alike


class Summed(Protocol):
    """What is asked of a parameter."""

    data: Array
    grad: Array | None
    trainable: bool
    on_grad: Callable[[], None] | None


class GradientSums:
    """Sums of a model's gradients over all pieces of a step, on all ranks.

    A step is ``begin()``; for each piece of this rank backward and ``add()``; ``end(note)``. Before
    the last backward of all comes ``watch()``: what it finishes leaves at once. Every rank has as
    many pieces, a power of two.
    """

    def __init__(self, comm: Comm, parameters: Sequence[Summed], *, bucket: int = BUCKET) -> None:
        self._comm, self._parameters, self._size = comm, parameters, bucket
        self._buckets: list[_Bucket] = []
        self._heard: dict[int, int] = {}
        # How often the last backward adds to each gradient: a parameter that is used twice (tied
        # weights) is final the second time. Learned from the first step, which sends at its end.
        self._final: dict[int, int] | None = None

    def begin(self) -> None:
        """Begin a step: what is frozen by now takes no part."""
        trainable = [p for p in self._parameters if p.trainable]
        if [p for bucket in self._buckets for p in bucket.parameters] != trainable[::-1]:
            self._buckets, self._final = _dealt(trainable[::-1], self._size), None
        for bucket in self._buckets:
            bucket.begin()

    def add(self) -> None:
        """Take the gradients of a piece, and forget them in the parameters."""
        for bucket in self._buckets:
            bucket.take()

    def watch(self) -> None:
        """Be told of what is added to each gradient by the last backward."""
        self._heard = {}
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                parameter.on_grad = _Listener(self, number, id(parameter))

    def end(self, note: T) -> list[T]:
        """Give every parameter the sum over all pieces; return what each rank has to note."""
        for parameter in self._parameters:
            parameter.on_grad = None
        missing = {n for n, p in enumerate(self._parameters) if p.grad is None}
        everyone = gather(self._comm, (missing, self._late(), note))
        for number, bucket in enumerate(self._buckets):
            bucket.leave(self._comm, number)
            if any(number in late for _, late, _ in everyone):
                bucket.finish()  # somebody's left too early: it arrives, and all leave again
                bucket.journey = None
                bucket.leave(self._comm, number)
        for bucket in self._buckets:
            bucket.sum_up()
        for bucket in self._buckets:
            bucket.finish()
            bucket.give_back()
        for n in set.intersection(*(missing for missing, _, _ in everyone)):
            self._parameters[n].grad = None
        self._final = self._heard
        return [said for _, _, said in everyone]

    def heard(self, number: int, key: int) -> None:
        """Note that backward has added to a gradient; send its bucket off if that is complete."""
        self._heard[key] = self._heard.get(key, 0) + 1
        bucket = self._buckets[number]
        if self._final is not None and bucket.journey is None:
            keys = [id(parameter) for parameter in bucket.parameters]
            if all(self._heard.get(k, 0) == self._final.get(k, 0) for k in keys):
                bucket.leave(self._comm, number)
        for other in self._buckets:  # MPI moves on when it is asked
            other.sum_up_if_there()

    def _late(self) -> set[int]:
        """Return the buckets that have left before backward was done with them."""
        final = self._final or {}
        return {
            number
            for number, bucket in enumerate(self._buckets)
            if bucket.journey is not None
            and any(self._heard.get(id(p), 0) > final.get(id(p), 0) for p in bucket.parameters)
        }


class _Listener:
    """What a parameter calls when backward has added to its gradient."""

    def __init__(self, sums: GradientSums, number: int, key: int) -> None:
        self._sums, self._number, self._key = sums, number, key

    def __call__(self) -> None:
        self._sums.heard(self._number, self._key)


class _Bucket:
    """Parameters of one dtype whose gradients travel together, one behind the other."""

    def __init__(self, parameters: list[Summed]) -> None:
        self.parameters = parameters
        self.dtype = parameters[0].data.dtype
        line = _LINE // self.dtype.itemsize
        self.places: list[slice] = []
        self.size = 0
        for parameter in parameters:
            self.places.append(slice(self.size, self.size + parameter.data.size))
            self.size += -(-parameter.data.size // line) * line
        self.sums: list[tuple[int, Array]] = []  # of pieces: how high in the tree, and the sum
        self.journey: _Journey | None = None

    def begin(self) -> None:
        self.sums, self.journey = [], None

    def take(self) -> None:
        """Add the gradients of one more piece; the parameters forget them."""
        self._push(self._flat())
        for parameter in self.parameters:
            parameter.grad = None

    def leave(self, comm: Comm, number: int) -> None:
        """Send the sum over this rank's pieces, the last one's gradients included."""
        if self.journey is None:
            before = [(height, total.copy()) for height, total in self.sums]
            self._push(self._flat())
            ((_, own),) = self.sums
            self.sums, self.journey = before, _Journey(comm, own, BUCKETS + 2 * number)

    def sum_up_if_there(self) -> None:
        if self.journey is not None and self.journey.is_there():
            self.journey.sum_up()

    def sum_up(self) -> None:
        if self.journey is not None:
            self.journey.sum_up()

    def finish(self) -> None:
        if self.journey is not None:
            self.journey.finish()

    def give_back(self) -> None:
        """Give the sums to the parameters."""
        assert self.journey is not None  # every bucket has left
        total = self.journey.total
        for parameter, place in zip(self.parameters, self.places, strict=True):
            parameter.grad = total[place].reshape(parameter.data.shape)

    def _flat(self) -> Array:
        flat = empty((self.size,), self.dtype)
        flat[...] = 0
        for parameter, place in zip(self.parameters, self.places, strict=True):
            if parameter.grad is not None:
                flat[place] = parameter.grad.reshape(-1)
        return flat

    def _push(self, flat: Array) -> None:
        height = 0
        while self.sums and self.sums[-1][0] == height:  # a neighbour of the same height
            _, left = self.sums.pop()
            left += flat
            flat, height = left, height + 1
        self.sums.append((height, flat))


class _Journey:
    """One bucket on its way: shares to those who add them up, and the sums to all."""

    def __init__(self, comm: Comm, own: Array, tag: int) -> None:
        self._comm, self._own, self._tag = comm, own, tag
        self._rank, self._n = comm.Get_rank(), comm.Get_size()
        self._others = [other for other in range(self._n) if other != self._rank]
        self.total = own if self._n == 1 else empty(own.shape, own.dtype)
        mine = self._share(self._rank)
        size = mine.stop - mine.start
        self._parts = {other: empty((size,), own.dtype) for other in self._others}
        self._coming = [comm.Irecv(self._parts[other], other, tag) for other in self._others]
        self._leaving = [comm.Isend(own[self._share(o)], o, tag) for o in self._others]
        self._totals: list[Request] | None = None

    def is_there(self) -> bool:
        """Return whether all parts of this rank's share have come and are not yet added up."""
        return self._totals is None and all(r.Test() for r in self._coming)

    def sum_up(self) -> None:
        """Add up this rank's share of all ranks' gradients, and send the sum to all."""
        if self._totals is not None:
            return
        wait(self._coming)
        mine, tag = self._share(self._rank), self._tag + 1
        parts = self._parts | {self._rank: self._own[mine]}
        total = tree_sum([parts[rank] for rank in range(self._n)])
        if self._n > 1:
            self.total[mine] = total
        self._leaving += [self._comm.Isend(self.total[mine], o, tag) for o in self._others]
        self._totals = [self._comm.Irecv(self.total[self._share(o)], o, tag) for o in self._others]

    def finish(self) -> None:
        """Return once all sums are here, and what this rank sends has left."""
        self.sum_up()
        wait(self._totals or [])
        wait(self._leaving)

    def _share(self, rank: int) -> slice:
        size = len(self._own)
        return slice(size * rank // self._n, size * (rank + 1) // self._n)


def tree_sum(parts: Sequence[Array]) -> Array:
    """Return the sum of arrays, two neighbours at a time; they may be written to."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1  # the largest power of two below
    total = tree_sum(parts[:half])
    total += tree_sum(parts[half:])
    return total


def _dealt(parameters: Sequence[Summed], size: int) -> list[_Bucket]:
    """Return buckets of at least ``size`` bytes, each of one dtype, but for the last."""
    buckets: list[_Bucket] = []
    held: list[Summed] = []
    for parameter, following in zip(parameters, [*parameters[1:], None], strict=True):
        held.append(parameter)
        another = following is None or following.data.dtype != parameter.data.dtype
        if another or sum(p.data.nbytes for p in held) >= size:
            buckets.append(_Bucket(held))
            held = []
    return buckets
