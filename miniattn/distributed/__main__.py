"""The launcher: ``python -m miniattn.distributed -n 4 train.py``, or within ``mpiexec -n 4``.

The script runs on every rank as it would alone, with a fair share of the cores from the start. A
rank that ends by an error, or by ``sys.exit`` with a status, ends all.
"""

import argparse
import os
import platform
import runpy
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miniattn._command import whole
from miniattn.distributed import _process
from miniattn.distributed._comm import Comm, gather, wait


def main(argv: Sequence[str] | None = None) -> int:
    """Run a script on all ranks, or tell what they are; return the exit status."""
    args = _parser().parse_args(argv)
    if args.n is not None:
        return _start(args.n, args.script)
    try:
        comm = _process.world()
    except ModuleNotFoundError as error:
        print(f"miniattn.distributed: {error}", file=sys.stderr)
        return 1
    if args.script:
        return _run(args.script, comm)
    _tell(comm)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miniattn.distributed",
        description="Run a script on several ranks; without one, tell what ranks there are.",
    )
    parser.add_argument("-n", type=whole(1), help="start so many ranks on this machine, by mpiexec")
    parser.add_argument(
        "script", nargs=argparse.REMAINDER, help="a Python script and its arguments"
    )
    return parser


def _start(n: int, script: Sequence[str]) -> int:
    """Become ``mpiexec`` with this launcher on each rank; return only where there is none."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    mpiexec = beside or shutil.which("mpiexec")
    if mpiexec is not None:
        sys.stdout.flush()
        rank = [sys.executable, "-m", "miniattn.distributed", *script]
        os.execv(mpiexec, [mpiexec, "-n", str(n), *rank])
    print(
        "miniattn.distributed: expected mpiexec beside Python or in PATH, got none; "
        "pip install 'miniattn[mpi]' has one",
        file=sys.stderr,
    )
    return 1


def _run(script: Sequence[str], comm: Any) -> int:
    """Run a script as the main program of this rank."""
    sys.argv[:] = script
    sys.path[0] = str(Path(script[0]).resolve().parent)
    try:
        runpy.run_path(script[0], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0) and comm.Get_size() > 1:  # the others would wait for it
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr, flush=True)
            _process.wait_until_read()
            comm.Abort(end.code if isinstance(end.code, int) else 1)
        raise
    return 0


def _tell(comm: Comm) -> None:
    """Print where the ranks are, and how fast numbers travel between the first and the last."""
    from miniattn import runtime

    found = gather(comm, (platform.node(), runtime.get_num_threads()))
    seconds = {size: _there_and_back(comm, size) / 2 for size in (8, 2**22)}
    if comm.Get_rank():
        return
    for rank, (machine, threads) in enumerate(found):
        print(f"rank {rank}: {machine}, {threads} thread{'s' * (threads > 1)}")
    if len(found) > 1:
        rate = 2**22 / seconds[2**22] / 1e9
        print(f"rank 0 to {len(found) - 1}: {seconds[8] * 1e6:.1f} us, {rate:.2f} GB/s")


def _there_and_back(comm: Comm, size: int, times: int = 20) -> float:
    """Return the least time of a message of ``size`` bytes to the last rank and back."""
    last, rank = comm.Get_size() - 1, comm.Get_rank()
    buffer, best = np.zeros(size, np.uint8), np.inf
    for _ in range(times if last else 0):
        start = time.perf_counter()
        if rank == 0:
            wait([comm.Isend(buffer, last)])
            wait([comm.Irecv(buffer, last)])
        elif rank == last:
            wait([comm.Irecv(buffer, 0)])
            wait([comm.Isend(buffer, 0)])
        best = min(best, time.perf_counter() - start)
    return float(best)


if __name__ == "__main__":
    sys.exit(main())
