"""What ranks say to each other: numbers in buffers, and now and then a few words.

Everything here stands on two calls of a communicator, ``Isend`` and ``Irecv``, so that mpi4py's and
the simulator's serve alike. Messages between two ranks arrive in the order they were sent.
"""

import pickle
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.distributed import _process

T = TypeVar("T")

# Tags keep one kind of message from another, and from those of the caller's own.
WORDS, LONG_WORDS, KEYS, GRADIENTS, HEADS = range(7100, 7105)
BUCKETS = 7200  # and two for each bucket of gradients

_HEAD = 256  # bytes: words that are shorter travel in one message
_LENGTH = 8  # of them say how long the words are
_PATIENCE = 2000  # polls before a waiting rank leaves its core to others
_NAP = 2e-5


class Request(Protocol):
    """A message on its way."""

    def Test(self) -> bool:
        """Return whether it is there, or has left."""

    def Wait(self) -> object:
        """Return once it is there, or has left: then its buffer is free."""


@runtime_checkable
class Comm(Protocol):
    """What is asked of a communicator: a small part of mpi4py's ``MPI.Comm``.

    ``MPI.COMM_WORLD`` is one, and so is what `simulate` gives to each of its ranks.
    """

    def Get_rank(self) -> int:
        """Return the number of this process among all: 0, 1, ..."""

    def Get_size(self) -> int:
        """Return how many processes there are."""

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        """Begin to send a contiguous array; it must not change before the request is done."""

    def Irecv(self, buf: Any, source: int, tag: int = 0) -> Request:
        """Begin to receive into a contiguous array."""

    def Abort(self, errorcode: int = 0) -> None:
        """End all processes."""


def checked(comm: object, name: str = "comm") -> Comm:
    """Return ``comm`` if it is a communicator, and make this process one of its ranks."""
    methods = ("Get_rank", "Get_size", "Isend", "Irecv", "Abort")
    found: Any = _checks.having(name, comm, *methods)
    _process.prepare(found)
    return found  # type: ignore[no-any-return]


def wait(requests: Iterable[Request]) -> None:
    """Return once all messages are there, or have left.

    MPI waits by asking without end. Where ranks share cores, that is the time of others: after a
    while it is asked now and then.
    """
    for request in requests:
        if getattr(request, "in_turn", False):  # of the simulator: others run meanwhile
            request.Wait()
            continue
        asked = 0
        while not request.Test():
            asked += 1
            if asked > _PATIENCE:
                time.sleep(_NAP)


def gather(comm: Comm, value: T) -> list[T]:
    """Return the values of all ranks, in their order; any objects that can be pickled."""
    rank, size = comm.Get_rank(), comm.Get_size()
    others = [other for other in range(size) if other != rank]
    if not others:
        return [value]
    words = pickle.dumps(value)
    heads = {other: np.empty(_HEAD, np.uint8) for other in others}
    coming = [comm.Irecv(heads[other], other, WORDS) for other in others]
    leaving = [sent for other in others for sent in _send(comm, words, other)]
    wait(coming)
    values = {rank: value} | {other: _read(comm, heads[other], other) for other in others}
    wait(leaving)
    return [values[each] for each in range(size)]


def broadcast(comm: Comm, value: T) -> T:
    """Return rank 0's value, on every rank."""
    if comm.Get_rank():
        head = np.empty(_HEAD, np.uint8)
        wait([comm.Irecv(head, 0, WORDS)])
        received: T = _read(comm, head, 0)
        return received
    words = pickle.dumps(value) if comm.Get_size() > 1 else b""
    wait([s for other in range(1, comm.Get_size()) for s in _send(comm, words, other)])
    return value


def _send(comm: Comm, words: bytes, dest: int) -> list[Request]:
    head = np.zeros(_HEAD, np.uint8)
    head[:_LENGTH] = np.frombuffer(len(words).to_bytes(_LENGTH, "little"), np.uint8)
    short = len(words) <= _HEAD - _LENGTH
    if short:
        head[_LENGTH : _LENGTH + len(words)] = np.frombuffer(words, np.uint8)
        return [_Kept(comm.Isend(head, dest, WORDS), head)]
    body = np.frombuffer(words, np.uint8)
    return [
        _Kept(comm.Isend(head, dest, WORDS), head),
        _Kept(comm.Isend(body, dest, LONG_WORDS), body),
    ]


def _read(comm: Comm, head: Array, source: int) -> Any:
    length = int.from_bytes(head[:_LENGTH].tobytes(), "little")
    if length <= _HEAD - _LENGTH:
        return pickle.loads(head[_LENGTH : _LENGTH + length].tobytes())
    body = np.empty(length, np.uint8)
    wait([comm.Irecv(body, source, LONG_WORDS)])
    return pickle.loads(body.tobytes())


class _Kept:
    """A request whose buffer lives as long as it does."""

    def __init__(self, request: Request, buffer: Array) -> None:
        self._request, self._buffer = request, buffer
        self.in_turn = getattr(request, "in_turn", False)

    def Test(self) -> bool:
        return self._request.Test()

    def Wait(self) -> object:
        return self._request.Wait()


def exchange(comm: Comm, leaving: Sequence[Array], coming: Sequence[Array], tag: int) -> None:
    """Send ``leaving[r]`` to each rank r and receive ``coming[r]`` from it; own ones are copied."""
    rank = comm.Get_rank()
    others = [other for other in range(comm.Get_size()) if other != rank]
    requests = [comm.Irecv(coming[other], other, tag) for other in others]
    requests += [comm.Isend(leaving[other], other, tag) for other in others]
    coming[rank][...] = leaving[rank]
    wait(requests)


def agree(comm: Comm, settings: dict[str, Any], own: Any = None) -> list[Any]:
    """Raise ValueError, on every rank and naming the setting, where ranks differ in one.

    To be called before the first exchange of buffers, which would wait for ever, or tear one
    message into another, if ranks did not mean the same. Returns what is each rank's ``own``.
    """
    everyone, owns = zip(*gather(comm, (settings, own)), strict=True)
    for name in {name: None for known in everyone for name in known}:
        values = [known.get(name, "nothing") for known in everyone]
        if any(value != values[0] for value in values):
            raise ValueError(f"{name}: expected the same on every rank, got {_by_rank(values)}")
    return list(owns)


def _by_rank(values: Sequence[object]) -> str:
    """Return e.g. "32 on ranks 0, 2 and 16 on rank 1"."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(str(value), []).append(str(rank))
    words = [f"{v} on rank{'s' * (len(r) > 1)} {', '.join(r)}" for v, r in ranks.items()]
    return " and ".join(words)


def mark(comm: Comm, name: str) -> None:
    """Say what is computed from now on, to a communicator that keeps a record of it."""
    note = getattr(comm, "mark", None)
    if note is not None:
        note(name)
