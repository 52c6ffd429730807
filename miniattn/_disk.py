"""Files that are written whole or not at all, and what killed writers leave behind."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.miniattn\.tmp")
_STALE_SECONDS = 3600


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes ``path`` once all is written and on the disk.

    Its writer holds a lock on it, which ends with the process: what nobody holds was left behind
    by one that was killed, and is removed here.
    """
    temporary, file = _temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # as long as the lock is held
                os.replace(temporary, path)
        if fcntl is None:  # Windows replaces no file that is open
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    _remove_leftovers(path.parent)


def check_writable(name: str, path: str | os.PathLike[str]) -> None:
    """Raise OSError, naming the argument, unless a file can be put at ``path``."""
    place = Path(path)
    if not place.parent.is_dir():
        raise FileNotFoundError(f"{name}: expected a path in a folder that exists, got {place}")
    if place.is_dir():
        raise IsADirectoryError(f"{name}: expected the path of a file, got the folder {place}")
    try:
        temporary, file = _temporary(place)
    except OSError as error:
        reason = error.strerror
        raise type(error)(
            f"{name}: expected a folder that files can be put into, got {place.parent} ({reason})"
        ) from error
    file.close()
    temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Return the name of a new file beside ``path``, and the file, locked."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.miniattn.tmp")
        file = temporary.open("xb")
        if fcntl is not None:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return temporary, file
        file.close()  # taken for a leftover before it was locked


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too."""
    with suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    names: list[str] = []
    with suppress(OSError):  # a folder that may be written to and not read
        names = os.listdir(folder)
    for name in filter(_TEMPORARY.fullmatch, names):
        with suppress(OSError):
            _remove_unless_written(folder / name)


def _remove_unless_written(temporary: Path) -> None:
    if fcntl is not None:
        with temporary.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # somebody is writing it
            except OSError:
                pass  # a disk without locks: its age decides
            else:
                temporary.unlink()
                return
    if time.time() - temporary.stat().st_mtime > _STALE_SECONDS:
        temporary.unlink()
