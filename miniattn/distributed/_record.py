"""Who computes what when: a communicator that keeps a record, under MPI as in the simulator."""

from __future__ import annotations

import time
from typing import Any

from miniattn.distributed._comm import Comm, Request, checked, gather, wait
from miniattn.distributed._simulate import WAITING, Span


class Recorded:
    """A communicator that notes what its rank computes and when it waits, by the clock.

    Give it to whatever takes a ``comm``. Under MPI this is what `Simulation.spans` are of a
    simulated run: `plot.timeline` draws both.

    Parameters
    ----------
    comm : Comm
        Whose messages it passes on. All ranks make one at the same time, which is second 0.

    Attributes
    ----------
    spans : list of Span
        Of this rank.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import distributed
    >>> def attend(comm):
    ...     record = distributed.Recorded(comm)
    ...     x = np.ones((4, 2))
    ...     distributed.ring_attention(x, x, x, comm=record)
    ...     return [span.name for span in record.everyone()]
    >>> sorted(set(distributed.simulate(2).run(attend)[0]) - {"waiting"})
    ['keys of rank 0', 'keys of rank 1']
    """

    def __init__(self, comm: Comm) -> None:
        self._comm = checked(comm)
        self.spans: list[Span] = []
        self._name, self._since = "", 0.0
        gather(self._comm, None)
        self._began = time.perf_counter()

    def Get_rank(self) -> int:
        """Return the number of this rank."""
        return self._comm.Get_rank()

    def Get_size(self) -> int:
        """Return how many ranks there are."""
        return self._comm.Get_size()

    def Isend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        """Begin to send an array."""
        return _Noted(self._comm.Isend(buf, dest, tag), self)

    def Irecv(self, buf: Any, source: int, tag: int = 0) -> Request:
        """Begin to receive an array."""
        return _Noted(self._comm.Irecv(buf, source, tag), self)

    def Abort(self, errorcode: int = 0) -> None:
        """End all processes."""
        self._comm.Abort(errorcode)

    def mark(self, name: str) -> None:
        """Say what is computed from now on; an empty name is not recorded."""
        now = time.perf_counter() - self._began
        if self._name:
            self.note(self._name, self._since, now)
        self._name, self._since = name, now

    def everyone(self) -> list[Span]:
        """Return the spans of all ranks; all of them ask."""
        return [span for spans in gather(self._comm, self.spans) for span in spans]

    def note(self, name: str, start: float, end: float) -> None:
        """Add a span of this rank."""
        self.spans.append(Span(self.Get_rank(), name, start, end))

    def waited(self, request: Request) -> None:
        """Wait for a message, and note for how long."""
        start = time.perf_counter() - self._began
        wait([request])
        self.note(WAITING, start, time.perf_counter() - self._began)


class _Noted:
    """A message whose waiting is noted."""

    in_turn = True  # it is asked to wait, and waits as its communicator does

    def __init__(self, request: Request, record: Recorded) -> None:
        self._request, self._record = request, record

    def Test(self) -> bool:
        return self._request.Test()

    def Wait(self) -> None:
        if not self._request.Test():
            self._record.waited(self._request)
