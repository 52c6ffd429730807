"""The versions that pyproject.toml permits are those that the tests have seen."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "lowest.py"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lowest(*extras):
    command = [sys.executable, str(SCRIPT), *extras]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def number(text):
    return tuple(map(int, re.findall(r"\d+", text)[:2]))


@pytest.mark.parametrize("extra", ["test", "examples"])
def test_each_requirement_has_a_lowest_version(extra):
    pins = lowest(extra)
    names = [re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]]
    assert [pin.partition("==")[0] for pin in pins[: len(names)]] == names
    assert len(pins) > len(names)
    assert any(pin.startswith("scikit-learn==") for pin in pins)  # of an extra within an extra
    assert all(re.fullmatch(r"[\w-]+==[\d.]+(;.*)?", pin) for pin in pins)


def test_numba_is_within_both_bounds():
    (line,) = (line for line in PROJECT["dependencies"] if line.startswith("numba"))
    low, high = re.fullmatch(r"numba>=([\d.]+),<([\d.]+)", line).groups()
    assert number(low) <= number(version("numba")) < number(high)
