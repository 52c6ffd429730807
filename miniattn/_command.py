"""What the commands share: options that say by their flag what was expected and what came."""

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


class WrongCall(Exception):
    """A command that can't be carried out as it was given; its text is all that is shown."""


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that is an int of at least ``least``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an int >= {least}, got {text!r}")
        return value

    return parse


def positive(text: str) -> float:
    """Return the value of an option that is a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text!r}")
    return value


def program(text: str) -> tuple[str, str]:
    """Return the name and the path of NAME=PATH, a program that can be run."""
    name, _, path = text.partition("=")
    if not name or not shutil.which(path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH of a program, got {text!r}")
    return name, path


def output_folder(path: Path) -> None:
    """Make the folder of ``--out`` unless it is there, and see that files can be written to it.

    Before the work begins: what takes minutes should not be lost at its end.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise WrongCall(
            f"--out: expected a folder to write to, got {str(path)!r}: {error.strerror}"
        ) from None
