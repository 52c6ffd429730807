"""The imports run one way, and `import miniattn` is cheap."""

import ast
import importlib.util
from pathlib import Path

import pytest

import miniattn

PACKAGE = Path(miniattn.__file__).parent

# What each part may import, besides itself. What is not listed may import everything but `plot`.
ALLOWED = {
    "_checks": set(),
    "_context": set(),
    "_memory": set(),
    "kernels": set(),
    "masks": {"_checks"},
    "reference": {"_checks", "masks"},
    "functional": {"_checks", "_context", "_memory", "kernels", "masks"},
    "nn": {"_checks", "_context", "_memory", "functional", "masks"},
    "models": {"_checks", "_context", "_memory", "functional", "masks", "nn"},
    "optim": {"_checks", "_memory", "functional", "kernels", "nn"},
    "bridges": {"_checks", "models", "nn"},
}
MAY_PLOT = {"__init__", "__main__", "plot", "demo"}  # the command line, and the lazy import


def part(module):
    """The first name below the package: ``miniattn.kernels.simd`` is of the part ``kernels``."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(path):
    """The parts of miniattn that a file imports, wherever in the file that happens."""
    module = ".".join(("miniattn", *path.relative_to(PACKAGE).with_suffix("").parts))
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (part(name) for name in names if name.split(".")[0] == "miniattn")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    found = set(imports(path)) - {own}
    if own in ALLOWED:
        assert found <= ALLOWED[own]
    if own not in MAY_PLOT:
        assert "plot" not in found


def test_the_parts_exist():
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert set(ALLOWED) | MAY_PLOT <= names


def test_llvm_is_emitted_in_two_files():
    def emits(path):
        return any(
            isinstance(node, ast.ImportFrom)
            and node.module == "llvmlite"
            and "ir" in [alias.name for alias in node.names]
            for node in ast.walk(ast.parse(path.read_bytes()))
        )

    assert [path.name for path in FILES if emits(path)] == ["amx.py", "simd.py"]


def test_numba_is_set_up_in_one_place():
    """No kernel is compiled past the flags, the cache and the lock of `_runtime`."""

    compilers = ("njit", "jit", "guvectorize", "vectorize")

    def compiles(node):
        match node:
            case ast.Attribute(value=ast.Name(id="numba"), attr=name):
                return name in compilers
            case ast.ImportFrom(module="numba", names=names):
                return any(alias.name in compilers for alias in names)
        return False

    def decorates(path):
        return any(map(compiles, ast.walk(ast.parse(path.read_bytes()))))

    assert [path.name for path in FILES if decorates(path)] == ["_runtime.py"]


def test_import_loads_nothing_heavy(python):
    code = (
        "import sys, numba; known = {*sys.modules}; import miniattn; print(*{*sys.modules} - known)"
    )
    loaded = {name.split(".")[0] for name in python(code).split()}
    assert loaded == {"miniattn", "numpy"}
    assert "miniattn.functional" not in python(code).split()


def test_importing_everything_compiles_nothing(python):
    code = """
import importlib, pkgutil
import numba.core.event as event
import miniattn
with event.install_recorder("numba:compile") as compiled:
    for name in ("functional", "nn", "models", "masks", "kernels"):
        package = importlib.import_module(f"miniattn.{name}")
        for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
            importlib.import_module(f"miniattn.{name}.{module.name}")
print(len(compiled.buffer))
import numba
numba.njit(lambda: 0)()
"""
    assert python(code).strip() == "0"


def test_submodules_are_found_without_importing_them(python):
    python("import miniattn as ma; ma.nn.Linear; ma.functional.softmax; ma.masks.causal")
    assert {"functional", "nn", "masks"} <= set(dir(miniattn))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        miniattn.nothing  # noqa: B018


def test_all_public_names_exist():
    assert list(miniattn.__all__) == sorted(miniattn.__all__)
    for name in miniattn.__all__:
        assert getattr(miniattn, name) is not None
