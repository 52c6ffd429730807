"""The process of one submission: checks what it reads from its input, within limits."""

import contextlib
import importlib
import json
import os
import sys
from typing import Any, TextIO

# What a process does that does something else than arithmetic.
REFUSED = (
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.truncate"),
    *("os.link", "os.symlink", "os.kill", "os.killpg", "os.fork", "os.forkpty", "os.exec"),
    *("os.posix_spawn", "os.spawn", "os.system", "os.putenv", "os.utime", "os.setxattr"),
    *("shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.chown", "shutil.unpack_archive"),
    *("subprocess.Popen", "pty.spawn", "signal.pthread_kill"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"),
    *("ctypes.dlopen", "ctypes.dlsym", "sqlite3.connect", "ftplib.connect", "webbrowser.open"),
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what a submission has no need of (an audit hook: nothing can take it away)."""
    if event in REFUSED:
        raise PermissionError(f"{event} is not for a submission")
    if event == "open":
        _, mode, flags = arguments
        writes = set(mode or "") & set("wax+") or (isinstance(flags, int) and flags & WRITES)
        if writes:
            raise PermissionError("a submission writes no files")


def limit(memory: int, seconds: float) -> None:
    """Limit memory, time, and the size of files, where the system can."""
    try:
        resource: Any = importlib.import_module("resource")  # not on Windows
    except ImportError:
        return
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def main() -> None:
    """Check the source that comes in after a word, and print the word and JSON in one line."""
    from miniattn.lab._check import check
    from miniattn.lab._exercise import find

    name, memory, seconds = sys.argv[1:]
    # What is said here begins with a word that the source does not know: it can't mark itself.
    word, _, source = sys.stdin.read().partition("\n")
    find(name).outputs()  # read before nothing may be read any more, and imported
    answer = _apart()
    limit(int(memory), float(seconds))
    sys.addaudithook(guard)
    try:
        report = check(source + "\n", name)
        cause = "" if report.cause is None else str(report.cause)
        found = {"verdict": report.verdict, "line": report.line, "cause": cause}
        found["text"] = report.problem.splitlines()[0] if report.problem else ""
    except SystemExit:
        found = {"verdict": "ended", "line": 0, "cause": "", "text": "it ends the process"}
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        found = {"verdict": "error", "line": 0, "cause": "", "text": text}
    print(word + json.dumps(found), file=answer, flush=True)


def _apart() -> TextIO:
    """Return where the answer goes, and let all else that is printed go nowhere."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return answer


if __name__ == "__main__":
    main()
