"""Compiled kernels on disk: never stale, never in the way.

An entry's name is a digest of everything that its machine code depends on: the source of the
kernel's module and of the kernel modules that it imports, the function's bytecode and closure,
the flags, the argument types, the processor and the versions. After an edit or an upgrade the old
entry is simply not found, and two processes that write one name write the same function.

An entry is unpickled, which runs what it says. So folder and file have to be the user's own, or
root's, and nobody else may be able to write there. Whatever is wrong, kernels are compiled as if
there were no cache, and the first time a warning says why.

Numba's own ``cache=True`` looks at one file only, and fails at import where it may not write.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import pickle
import stat
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

PACKAGE = ".".join(__name__.split(".")[:2])  # wherever in it this file is
SUFFIX = ".kernel"
UNUSED_DAYS = 30
WRITING_HOURS = 1  # past which a file that was begun is one of a process that was killed
MAX_BYTES = 256 * 2**20


class KernelCache:
    """What Numba's dispatchers expect of a cache, for one kernel."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self._function = function
        self._options = options
        # Now, not at the first launch: the file may be edited while the old code runs.
        _remember_sources(function.__module__)

    @property
    def cache_path(self) -> str | None:
        """The folder in use, or None; Numba shows it in ``dispatcher.stats``."""
        root = folder()
        return None if root is None else str(root)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """Return the compiled function for ``signature``, or None to have it compiled."""
        # Reference counts are all that loaded code needs. Numba's own caches load the compiler's
        # modules too, SciPy's BLAS among them: 0.3 s.
        rtsys.initialize(target)
        with _without_cache_if_it_fails():
            path = self._path(signature, target.codegen())
            data = None if path is None else _read(path)
            if data is not None:
                # Whatever is wrong with what was kept, the answer is to compile again.
                with contextlib.suppress(Exception):
                    return CompileResult._rebuild(target, *pickle.loads(data))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function; where nothing can be written, do nothing."""
        with _without_cache_if_it_fails():
            path = self._path(signature, result.codegen)
            if path is None or result.library.has_dynamic_globals:
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _trust(path.parent, os.stat(path.parent))
            _write(path, dumps(result._reduce()))
            _prune(path.parent)

    def keeps(self, signature: Any, codegen: Any) -> bool:
        """Return whether there is a file for ``signature``."""
        with contextlib.suppress(OSError):  # which is said when it is read
            path = self._path(signature, codegen)
            return path is not None and path.is_file()
        return False

    def flush(self) -> None:
        """Do nothing: Numba calls this before a forced recompilation, which overwrites."""

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        root = folder()
        function = self._function
        if root is None or not _has_file(function.__module__):
            return None
        key = (
            versions(),
            sources_of(function.__module__),
            fingerprint(function),
            fingerprint(self._options),
            [fingerprint(t) for t in signature],
            codegen.magic_tuple(),
        )
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return root / f"{function.__name__}-{digest[:40]}{SUFFIX}"


def folder() -> Path | None:
    """Return where compiled kernels are kept: per user, so that a read-only install works.

    ``NUMBA_CACHE_DIR`` comes first; ``MINIATTN_CACHE=0`` switches the cache off (None).
    """
    if os.environ.get("MINIATTN_CACHE") == "0":
        return None
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR, "miniattn")
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local")
    elif sys.platform == "darwin":
        root = os.path.expanduser("~/Library/Caches")
    else:
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root, "miniattn") if os.path.isabs(root) else None  # no home, no cache


# What machine code depends on


class _Source(NamedTuple):
    """A module's text as it was imported; the mark tells whether the file changed since."""

    text: bytes
    mark: tuple[int, int]


_sources: dict[str, _Source] = {}
_modules = 0  # how many there were when sources were last looked for


def _remember_sources(module: str) -> None:
    """Read the file of ``module``, which is being imported, and those of new kernel modules."""
    global _modules
    names = [module]
    if len(sys.modules) != _modules or module not in _sources:
        _modules = len(sys.modules)
        names += [n for n in list(sys.modules) if _is_ours(n) and n not in _sources]
    for name in names:
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and path.endswith(".py"):
            with contextlib.suppress(OSError):
                status = os.stat(path)
                mark = (status.st_mtime_ns, status.st_size)
                if name not in _sources or _sources[name].mark != mark:
                    _sources[name] = _Source(Path(path).read_bytes(), mark)


def _is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _has_file(module: str) -> bool:
    """Return whether a module comes from a file: what is typed in at a prompt is not kept."""
    return getattr(sys.modules.get(module), "__file__", None) is not None


def sources_of(module: str) -> list[tuple[str, str, str]]:
    """Return (name, digest, constants) of ``module`` and of all kernel modules it imports."""
    found: dict[str, tuple[str, str, str]] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or name not in sys.modules:  # what else a module imports, by name
            continue
        if name not in _sources:
            raise OSError(f"the source of {name} is not there, by which changes would be noticed")
        text = _sources[name].text
        found[name] = (name, hashlib.sha256(text).hexdigest(), _constants(name))
        todo += _imports(sys.modules[name].__package__ or "", text)
    return sorted(found.values())


def _constants(module: str) -> str:
    """Return the module's constants, which may come from the processor or the environment."""
    values = sorted(vars(sys.modules[module]).items())
    return repr([(k, v) for k, v in values if k.isupper() and isinstance(v, _PLAIN)])


@functools.cache
def _imports(package: str, text: bytes) -> list[str]:
    """Return the kernel modules that a text imports, and names that may be modules."""
    names = []
    for node in _executed(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            members = [f"{name}.{alias.name}" for alias in node.names]
            names += members
            # The package of all kernels is the map of its modules, which nothing depends on.
            if name != PACKAGE or not all(member in sys.modules for member in members):
                names.append(name)
    return [name for name in names if _is_ours(name)]


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement and those in it, but for what is there for type checkers."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            parts: list[ast.AST] = [*node.orelse]
        case _:
            yield node
            parts = list(ast.iter_child_nodes(node))
    for part in parts:
        if not isinstance(part, ast.expr):  # most of a tree, and nothing is imported there
            yield from _executed(part)


def versions() -> tuple[str, ...]:
    """Return the versions and settings that machine code depends on."""
    # These settings of Numba's change the machine code as well.
    settings = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")
    return (
        getattr(sys.modules[PACKAGE.partition(".")[0]], "__version__", ""),
        numba.__version__,
        llvmlite.__version__,
        np.__version__,
        sys.implementation.cache_tag or "",
        *(str(getattr(config, name, "")) for name in settings),
    )


_PLAIN = bool | int | float | complex | str | bytes | np.generic | None


def fingerprint(value: Any, outer: tuple[Any, ...] = ()) -> Any:
    """Describe a value that a kernel closes over, the same in every process.

    Numba pickles the closure instead, with random ids in it where it holds compiled functions,
    so that such a kernel is never found again.
    """
    if any(value is o for o in outer):
        return "recursion"
    deeper = (*outer, value)
    match value:
        case bool() | int() | float() | complex() | str() | bytes() | np.generic() | None:
            return repr(value)
        case tuple() | list():
            return tuple(fingerprint(v, deeper) for v in value)
        case set() | frozenset():
            return ("set", sorted(repr(fingerprint(v, deeper)) for v in value))
        case dict():
            return ("dict", sorted(repr(fingerprint(item, deeper)) for item in value.items()))
        case np.ndarray():
            digest = hashlib.sha256(value.tobytes()).hexdigest()
            return (str(value.dtype), value.shape, digest)
        case types.CodeType():
            return (value.co_code.hex(), value.co_names, fingerprint(value.co_consts, deeper))
        case types.FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            parts = (value.__code__, cells, value.__defaults__)
            return (value.__module__, value.__qualname__, fingerprint(parts, deeper))
        case numba.types.BaseNamedTuple():  # fields are compiled to positions
            return (str(value), value.fields, fingerprint(value.types, deeper))
        case numba.types.Type():
            return str(value)
        case np.dtype() | np.ufunc() | types.BuiltinFunctionType():
            return repr(value)
        case type() | types.ModuleType():
            return f"{getattr(value, '__module__', '')}.{value.__name__}"
    # Compiled functions and intrinsics stand for the Python function that they were made of.
    function = getattr(value, "py_func", None) or getattr(value, "_defn", None)
    if function is None:
        raise TypeError(f"a kernel closes over {value!r}, which its cache cannot describe")
    return fingerprint(function, deeper)


# Files


_said = False


@contextlib.contextmanager
def _without_cache_if_it_fails() -> Iterator[None]:
    """Go on without the cache where the system doesn't let us, and say so once."""
    global _said
    try:
        yield
    except OSError as error:
        if not _said:
            _said = True
            warnings.warn(
                f"compiled kernels are not kept: {error}. The environment variable NUMBA_CACHE_DIR "
                "names another folder, MINIATTN_CACHE=0 does without one.",
                RuntimeWarning,
                stacklevel=2,
            )


def _trust(path: Path, status: os.stat_result) -> None:
    """Refuse a folder or a file into which somebody else may have written."""
    if not hasattr(os, "geteuid"):  # Windows keeps users apart by their folders
        return
    if status.st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{path} belongs to another user")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by other users")


def _read(path: Path) -> bytes | None:
    """Return what was kept under the name ``path``, or None if that is nothing, or damaged."""
    try:
        _trust(path.parent, os.stat(path.parent))
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return None
    with file:
        _trust(path, os.fstat(file.fileno()))
        content = file.read()
    if _seal(path, content[32:]) != content[:32]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # `_prune` goes by the last use
    return content[32:]


def _write(path: Path, data: bytes) -> None:
    """Write so that another process sees the whole file or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(path, data) + data)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        # Windows doesn't replace a file that another process reads; it holds the same.
        if not (isinstance(error, PermissionError) and path.is_file()):
            raise


def _seal(path: Path, data: bytes) -> bytes:
    """Return the digest of an entry and its name: under another it is not what was asked for."""
    return hashlib.sha256(path.name.encode() + b"\0" + data).digest()


def entries(root: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the files of a cache, those that were only begun among them, as far as they stay."""
    _trust(root, os.stat(root))
    found = []
    for path in root.iterdir():
        if path.suffix in (SUFFIX, ".tmp"):
            with contextlib.suppress(OSError):  # another process prunes too
                found.append((path, path.stat()))
    return found


def _prune(root: Path) -> None:
    """Delete what was not used for long, then the longest unused beyond the size limit."""
    now, total = time.time(), 0
    for path, status in sorted(entries(root), key=lambda entry: -entry[1].st_mtime):
        total += status.st_size
        hours = WRITING_HOURS if path.suffix == ".tmp" else 24 * UNUSED_DAYS
        if status.st_mtime < now - 3600 * hours or total > MAX_BYTES:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
