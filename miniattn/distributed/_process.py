"""What a process does once when it becomes a rank: a share of the cores, and a way to stop all.

A rank that ended by an error would leave the others waiting for its messages: MPI's own end waits
for them too. So an error that nobody catches is printed and ends all ranks.
"""

import os
import stat
import sys
import time
from types import TracebackType
from typing import Any

# What launchers tell a process: how many ranks its machine has.
_LOCAL_RANKS = (
    "MPI_LOCALNRANKS",  # mpich, Intel MPI
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
)
_LONGEST_WAIT = 2.0  # seconds for the launcher to read an error, before all ranks are ended


class _Prepared:
    """Whether this process is one of several ranks already."""

    done = False


def world() -> Any:
    """Return mpi4py's ``MPI.COMM_WORLD``, this process made one of its ranks.

    Returns
    -------
    mpi4py.MPI.Comm
        All processes that ``mpiexec`` started.

    Raises
    ------
    ModuleNotFoundError
        If mpi4py, or an MPI library for it, is not installed; says what to install.

    Notes
    -----
    Ranks on one machine share its cores: each takes cores / ranks threads, unless
    ``NUMBA_NUM_THREADS`` or `runtime.set_num_threads` said otherwise before. An error that no one
    catches ends all ranks.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no library of MPI was found
        raise ModuleNotFoundError(
            "mpi4py: expected it, and a library of MPI, to be installed for several processes; "
            f"pip install 'miniattn[mpi]' has both ({error})"
        ) from error
    prepare(MPI.COMM_WORLD)
    return MPI.COMM_WORLD


def prepare(comm: Any) -> None:
    """Make this process a rank, once: nothing is to be done for simulated ones, or for one."""
    if _Prepared.done or not type(comm).__module__.startswith("mpi4py") or comm.Get_size() == 1:
        return
    _Prepared.done = True
    share_cores()
    _stop_all_at_an_error(comm)


def local_ranks() -> int:
    """Return how many ranks this machine has, as the launcher says; 1 if it says nothing."""
    for name in _LOCAL_RANKS:
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return 1


def share_cores() -> None:
    """Use cores / local ranks threads, unless somebody has said how many."""
    if "NUMBA_NUM_THREADS" in os.environ or local_ranks() == 1:
        return
    from miniattn import runtime
    from miniattn.kernels.compile.threads import processors

    cores = processors()
    if runtime.get_num_threads() == cores:
        runtime.set_num_threads(max(1, cores // local_ranks()))


def _stop_all_at_an_error(comm: Any) -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(f"rank {comm.Get_rank()} of {comm.Get_size()} ends all ranks:", file=sys.stderr)
        before(kind, error, trace)
        sys.stderr.flush()
        wait_until_read()
        comm.Abort(1)

    sys.excepthook = hook


def wait_until_read() -> None:
    """Wait until the launcher has read what this rank printed: at an abort it drops the rest.

    Errors reach the launcher by a pipe, the abort by another way that may be the faster one. What
    is left in a pipe can be asked on Linux; where it cannot, a moment must do.
    """
    end = time.monotonic() + _LONGEST_WAIT
    while _unread(sys.stderr) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)  # the launcher has it and still must hand it on


def _unread(stream: Any) -> bool:
    """Return whether what was written lies unread in a pipe, as far as that can be known."""
    try:
        import fcntl
        import termios

        file = stream.fileno()
        if not stat.S_ISFIFO(os.fstat(file).st_mode):  # a terminal would tell what was typed
            return False
        answer = fcntl.ioctl(file, termios.FIONREAD, bytes(4))
    except (ImportError, AttributeError, OSError, ValueError):  # not POSIX, or not a file
        return False
    return any(answer)
