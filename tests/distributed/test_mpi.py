"""Under MPI: the programs beside this file on two and four ranks, and what becomes of faults."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniattn import checkpoint
from miniattn.distributed import _process

pytest.importorskip("mpi4py", reason="needs mpi4py and mpiexec: pip install 'miniattn[mpi]'")
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
HERE = Path(__file__).parent
HANG = 60  # seconds after which a run has hung


def start(n, *command, **environment):
    """Start a Python program on ``n`` ranks."""
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"} | environment
    return subprocess.Popen(
        [MPIEXEC, "-n", str(n), sys.executable, *map(str, command)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=HANG):
    """Return status, output and errors of a program; one that hangs is killed, and fails."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def run(n, *command, **environment):
    return finish(start(n, *command, **environment))


@pytest.mark.parametrize("n", [2, 4])
def test_all_checks(n):
    """What `on_ranks.py` checks, on real ranks: the same as in one process."""
    status, out, err = run(n, HERE / "on_ranks.py")
    assert status == 0, err
    assert "checks passed" in out


def test_a_rank_that_raises_ends_all_with_its_traceback():
    status, _, err = run(2, HERE / "faults.py", "raise")
    assert status != 0
    assert "rank 1 of 2 ends all ranks:" in err
    assert "ValueError: broken on purpose" in err
    assert "faults.py" in err


def test_what_is_unread_in_a_pipe_is_known():
    """An abort drops what the launcher has not read, so a rank waits until it has."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        stream.write("the last line")
        stream.flush()
        assert _process._unread(stream) is (sys.platform == "linux")
        os.read(reader, 100)
        assert not _process._unread(stream)
    os.close(reader)


def test_a_status_ends_all_by_the_launcher():
    status, _, err = run(2, "-m", "miniattn.distributed", HERE / "faults.py", "exit")
    assert status == 3
    assert "unfinished" not in err


def test_settings_that_differ_are_named_on_the_way_out():
    status, _, err = run(2, HERE / "faults.py", "differ")
    assert status != 0
    assert "batch_size: expected the same on every rank, got 4 on rank 0 and 5 on rank 1" in err


def test_the_launcher_tells_what_there_is():
    process = subprocess.run(
        [sys.executable, "-m", "miniattn.distributed", "-n", "2"],
        capture_output=True,
        text=True,
        timeout=HANG,
        env={k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"},
    )
    assert process.returncode == 0, process.stderr
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    lines = process.stdout.splitlines()
    assert [line.split(", ")[1].split()[0] for line in lines[:2]] == [str(threads)] * 2
    assert "GB/s" in lines[2]


KILLS = int(os.environ.get("MINIATTN_KILLS", "1"))


@pytest.mark.parametrize("number", range(KILLS))
def test_a_rank_that_is_killed_ends_all_and_leaves_the_last_checkpoint_whole(number, tmp_path, rng):
    path = tmp_path / "state.npz"
    process = start(2, HERE / "faults.py", "train", path)
    ranks = [int(process.stdout.readline().split()[1]) for _ in range(2)]
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    time.sleep(float(rng.uniform(0, 0.5)))
    os.kill(ranks[int(rng.integers(2))], signal.SIGKILL)
    began = time.monotonic()
    status, _, _ = finish(process, timeout=30)
    assert status != 0
    assert time.monotonic() - began < 30
    assert checkpoint.read(path, verify=True, dtype=None).metadata["trainer"]["step"] > 0
