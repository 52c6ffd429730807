"""A long map is drawn in bounded memory: the program that measures it, run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "map_memory.py"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_map_of_65536_tokens_takes_at_most_512_mib():
    command = [sys.executable, SCRIPT, "--width", "8", "--kinds", "png", "svg"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peaks = {what: int(mib) for what, mib in re.findall(r"(\w+) +(\d+) MiB", done.stdout)}
    assert list(peaks) == ["map", "png", "svg"]
    assert 1 < peaks["map"] <= peaks["png"] <= peaks["svg"] <= 512, done.stdout
