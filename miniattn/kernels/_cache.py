"""Compiled kernels on disk: never stale, never in the way.

An entry's name is a digest of everything that its machine code depends on: the source of the
kernel's module and of the kernel modules that it imports, the function's bytecode and closure,
the flags, the argument types, the processor and the versions. After an edit or an upgrade the old
entry is simply not found, and two processes that write one name write the same function.

Numba's own ``cache=True`` looks at one file only, and fails at import where it may not write.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import os
import pickle
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

PACKAGE = __name__.rpartition(".")[0]
SUFFIX = ".kernel"
UNUSED_DAYS = 30
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
        path = self._path(signature, target.codegen())
        if path is None or not path.is_file():
            return None
        # Whatever is wrong with the file, the answer is to compile again.
        with contextlib.suppress(Exception):
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                result = CompileResult._rebuild(target, *pickle.loads(content[32:]))
                with contextlib.suppress(OSError):
                    os.utime(path)  # `_prune` goes by the last use
                return result
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function; where nothing can be written, do nothing."""
        path = self._path(signature, result.codegen)
        if path is None or result.library.has_dynamic_globals:
            return
        data = dumps(result._reduce())
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, hashlib.sha256(data).digest() + data)
            _prune(path.parent)

    def flush(self) -> None:
        """Do nothing: Numba calls this before a forced recompilation, which overwrites."""

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        root = folder()
        function = self._function
        if root is None or function.__module__ not in _sources:
            return None
        key = (
            _versions(),
            _sources_of(function.__module__),
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


def _remember_sources(module: str) -> None:
    """Read the file of ``module``, which is being imported, and those of new kernel modules."""
    for name in (module, *(f"{PACKAGE}.{name}" for name in vars(sys.modules[PACKAGE]))):
        path = getattr(sys.modules.get(name), "__file__", None)
        if path and (name == module or name not in _sources):
            with contextlib.suppress(OSError):
                stat = os.stat(path)
                mark = (stat.st_mtime_ns, stat.st_size)
                if name not in _sources or _sources[name].mark != mark:
                    _sources[name] = _Source(Path(path).read_bytes(), mark)


def _sources_of(module: str) -> list[tuple[str, str, str]]:
    """Return (name, digest, constants) of ``module`` and of all kernel modules it imports."""
    found: dict[str, tuple[str, str, str]] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in _sources and name not in found:
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
    names = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names += [name, *(f"{name}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith(f"{PACKAGE}.")]


def _versions() -> tuple[str, ...]:
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


def _write(path: Path, content: bytes) -> None:
    """Write so that another process sees the whole file or none."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _prune(root: Path) -> None:
    """Delete what was not used for long, then the longest unused beyond the size limit."""
    entries = []
    for path in root.iterdir():
        if path.suffix in (SUFFIX, ".tmp"):
            with contextlib.suppress(FileNotFoundError):  # another process prunes too
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
    oldest = time.time() - UNUSED_DAYS * 86400
    total = 0
    for used, size, path in sorted(entries, reverse=True):
        total += size
        if used < oldest or total > MAX_BYTES:
            path.unlink(missing_ok=True)
