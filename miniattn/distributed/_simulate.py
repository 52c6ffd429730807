"""Several ranks in one process: the same code, one rank after another, and a clock for each.

Ranks are threads, of which one runs at a time: until it waits for a message that is not there, or
ends. Then the next that can go on does. So a run is the same every time, an error has one place,
ranks that wait for each other are found out, and what a rank computes is timed as if it were
alone. A message arrives, by the clocks, after the latency and its bytes over the bandwidth.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.distributed._comm import gather

# Who sends to whom, both among all ranks; of which communicator; and the tag.
_Address: TypeAlias = tuple[int, int, tuple[int, ...], int]
WAITING = "waiting"
"""What a rank does that waits for a message."""


class Span(NamedTuple):
    """What one rank did for a while."""

    rank: int
    name: str
    """What it computed, or ``"waiting"``."""
    start: float
    """In seconds since the beginning, by the rank's own clock."""
    end: float


class Simulation:
    """Ranks in one process; made by `simulate`.

    Attributes
    ----------
    spans : list of Span
        What each rank did when, in the last `run`.
    seconds : float
        How long the last run took, by the clock of the last rank to end.
    sent : list of int
        The bytes that each rank has sent in the last run.
    """

    def __init__(self, n: int, *, latency: float, bandwidth: float) -> None:
        self.n, self.latency, self.bandwidth = n, latency, bandwidth
        self.spans: list[Span] = []
        self.seconds = 0.0
        self.sent = [0] * n

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return ``function(comm, *arguments)`` of every rank, in their order.

        Raises
        ------
        RuntimeError
            If ranks wait for messages that nobody sends; it says who waits for whom.
        Exception
            What a rank raised, with a note of which one; the others are stopped.
        """
        _checks.function("function", function)
        ranks = _Ranks(self)
        results = ranks.run(function, arguments)
        self.spans, self.sent = [span for each in ranks.spans for span in each], ranks.sent
        self.seconds = max(ranks.clocks)
        return results

    def __repr__(self) -> str:
        return f"Simulation({self.n} ranks)"


def simulate(n: int, *, latency: float = 0.0, bandwidth: float | None = None) -> Simulation:
    """Return ``n`` ranks in this process, to run what `mpiexec` would run.

    Parameters
    ----------
    n : int
        How many.
    latency : float, default 0
        Seconds until a message of no length is there, by the simulated clocks.
    bandwidth : float, optional
        Bytes a second that a rank can send; None is no limit.

    Returns
    -------
    Simulation

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int of at least 1, or a number is negative.

    Notes
    -----
    Only the clocks know of latency and bandwidth: nothing sleeps. What ranks compute is timed as
    it runs, so that the time of a run is measured where it computes and modelled where it sends.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import distributed
    >>> def neighbour(comm):
    ...     rank, n = comm.Get_rank(), comm.Get_size()
    ...     mine, other = np.array([rank]), np.empty(1, int)
    ...     sent = comm.Isend(mine, (rank + 1) % n)
    ...     comm.Irecv(other, (rank - 1) % n).Wait()
    ...     sent.Wait()
    ...     return int(other[0])
    >>> distributed.simulate(4).run(neighbour)
    [3, 0, 1, 2]
    """
    n = _checks.integer("n", n, least=1)
    if (latency := _checks.number("latency", latency)) < 0:
        raise ValueError(f"latency: expected a number >= 0, got {latency}")
    rate = float("inf") if bandwidth is None else _checks.positive("bandwidth", bandwidth)
    return Simulation(n, latency=latency, bandwidth=rate)


class _Stopped(BaseException):
    """Ends the thread of a rank because another one has failed."""


class _Ranks:
    """One run: the ranks' clocks, what they have sent, and whose turn it is."""

    def __init__(self, simulation: Simulation) -> None:
        n = simulation.n
        self.latency, self.bandwidth = simulation.latency, simulation.bandwidth
        self.turns = [threading.Semaphore(0) for _ in range(n)]
        self.waiting: dict[int, _Arriving] = {}  # which message a rank waits for
        self.alive = set(range(n))
        self.mail: dict[_Address, deque[_Message]] = defaultdict(deque)
        self.asked: dict[_Address, deque[_Arriving]] = defaultdict(deque)
        self.clocks, self.started = [0.0] * n, [0.0] * n
        self.free = [0.0] * n  # when a rank's line has sent all it was given
        self.names = [""] * n
        self.spans: list[list[Span]] = [[] for _ in range(n)]
        self.sent = [0] * n
        self.results: list[Any] = [None] * n
        self.error: BaseException | None = None

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
        threads = [
            threading.Thread(target=self._work, args=(rank, function, arguments), daemon=True)
            for rank in sorted(self.alive)
        ]
        for thread in threads:
            thread.start()
        self.turns[0].release()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error
        return self.results

    def _work(self, rank: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            self._take_turn(rank)
            self.results[rank] = function(SimulatedComm(self, rank), *arguments)
            self.tick(rank)
        except _Stopped:
            pass
        except BaseException as error:
            if self.error is None:
                error.add_note(f"(on rank {rank} of {len(self.turns)})")
                self.error = error
        finally:
            self.alive.discard(rank)
            self._pass_on(rank)

    # -- turns ---------------------------------------------------------------------------------

    def wait_for(self, rank: int, message: _Arriving) -> None:
        """Let others run until a message of ``rank`` has been sent."""
        while not message.is_sent():
            self.waiting[rank] = message
            self._pass_on(rank)
            self._take_turn(rank)
        self.waiting.pop(rank, None)

    def _take_turn(self, rank: int) -> None:
        self.turns[rank].acquire()
        if self.error is not None:
            raise _Stopped
        self.started[rank] = time.perf_counter()

    def _pass_on(self, rank: int) -> None:
        """Give the turn to the next rank that can go on; to all, to end, where none can."""
        n = len(self.turns)
        for other in (*range(rank + 1, n), *range(rank + 1)):
            can = other in self.alive and (
                other not in self.waiting or self.waiting[other].is_sent()
            )
            if can and self.error is None:
                self.turns[other].release()
                return
        if self.alive and self.error is None:
            lines = [f"rank {r} waits for {self.waiting[r]}" for r in sorted(self.alive)]
            self.error = RuntimeError("expected messages, got none: " + ", ".join(lines))
        for other in self.alive:
            self.turns[other].release()

    # -- clocks --------------------------------------------------------------------------------

    def tick(self, rank: int) -> float:
        """Return a rank's time, what it has computed since included."""
        now = time.perf_counter()
        self._spend(rank, self.names[rank], self.clocks[rank] + now - self.started[rank])
        self.started[rank] = now
        return self.clocks[rank]

    def until(self, rank: int, moment: float) -> None:
        """Let a rank have waited until a moment."""
        self._spend(rank, WAITING, max(self.clocks[rank], moment))
        self.started[rank] = time.perf_counter()

    def _spend(self, rank: int, name: str, end: float) -> None:
        start, self.clocks[rank] = self.clocks[rank], end
        if name and end > start:
            known = self.spans[rank]
            if known and known[-1].name == name and known[-1].end == start:
                start = known.pop().start
            known.append(Span(rank, name, start, end))


class SimulatedComm:
    """The communicator of one simulated rank; see `Comm`."""

    def __init__(self, ranks: _Ranks, rank: int, members: tuple[int, ...] | None = None) -> None:
        self._ranks, self._own = ranks, rank  # the rank among all
        self._members = tuple(range(len(ranks.turns))) if members is None else members

    def Get_rank(self) -> int:
        """Return the number of this rank."""
        return self._members.index(self._own)

    def Get_size(self) -> int:
        """Return how many ranks there are."""
        return len(self._members)

    def Split(self, color: int = 0, key: int = 0) -> SimulatedComm:
        """Return a communicator of the ranks of one color, in the order of their keys."""
        everyone = gather(self, (color, key, self.Get_rank()))
        chosen = sorted((k, rank) for c, k, rank in everyone if c == color)
        members = tuple(self._members[rank] for _, rank in chosen)
        return SimulatedComm(self._ranks, self._own, members)

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> _Left:
        """Send a copy of an array."""
        ranks, rank = self._ranks, self._own
        array = _contiguous(buf)
        start = max(ranks.tick(rank), ranks.free[rank])
        ranks.free[rank] = start + array.nbytes / ranks.bandwidth
        ranks.sent[rank] += array.nbytes
        message = _Message(array.copy(), ranks.free[rank] + ranks.latency)
        ranks.mail[rank, self._peer("dest", dest), self._members, tag].append(message)
        return _Left()

    def Irecv(self, buf: Any, source: int, tag: int = 0) -> _Arriving:
        """Receive into an array, once somebody waits for it."""
        self._ranks.tick(self._own)
        key = self._peer("source", source), self._own, self._members, tag
        return _Arriving(self._ranks, key, buf)

    def Abort(self, errorcode: int = 0) -> None:
        """End all ranks."""
        raise RuntimeError(f"a rank called Abort({errorcode})")

    def mark(self, name: str) -> None:
        """Say what is computed from now on; an empty name is not recorded."""
        self._ranks.tick(self._own)
        self._ranks.names[self._own] = name

    def _peer(self, name: str, rank: int) -> int:
        if not 0 <= rank < self.Get_size():
            raise ValueError(f"{name}: expected a rank below {self.Get_size()}, got {rank}")
        return self._members[rank]


class _Message(NamedTuple):
    array: Array
    arrival: float


class _Left:
    """A message that was copied when it was sent."""

    in_turn = True

    def Test(self) -> bool:
        return True

    def Wait(self) -> None:
        return None


class _Arriving:
    """A message to come. Those between two ranks are taken in the order they were asked for."""

    in_turn = True

    def __init__(self, ranks: _Ranks, key: _Address, buf: Any) -> None:
        self._ranks, (self._source, self._rank, _, _) = ranks, key
        self._buf = _contiguous(buf)
        self._done = False
        self._box, self._queue = ranks.mail[key], ranks.asked[key]
        self._queue.append(self)

    def __str__(self) -> str:
        return f"rank {self._source}"

    def is_sent(self) -> bool:
        """Return whether it, and what was asked for before it, has been sent."""
        return self._done or len(self._box) > self._queue.index(self)

    def Test(self) -> bool:
        now = self._ranks.tick(self._rank)
        while not self._done and self._box and self._box[0].arrival <= now:
            self._take_first()
        return self._done

    def Wait(self) -> None:
        self._ranks.tick(self._rank)
        self._ranks.wait_for(self._rank, self)
        while not self._done:
            self._take_first()

    def _take_first(self) -> None:
        """Deliver the oldest message to the oldest request."""
        first, message = self._queue.popleft(), self._box.popleft()
        if first._buf.nbytes < message.array.nbytes:
            raise ValueError(
                f"buf: expected room for {message.array.nbytes} bytes from rank {self._source}, "
                f"got {first._buf.nbytes}"
            )
        flat = first._buf.reshape(-1).view(np.uint8)
        flat[: message.array.nbytes] = message.array.reshape(-1).view(np.uint8)
        first._done = True
        if first is self:
            self._ranks.until(self._rank, message.arrival)


def _contiguous(buf: Any) -> Array:
    array = np.asarray(buf)
    if not array.flags.c_contiguous:
        raise ValueError("buf: expected a contiguous array, got one with gaps")
    return array
