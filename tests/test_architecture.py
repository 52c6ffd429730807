"""The imports run one way, and `import miniattn` is cheap."""

import ast
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import miniattn
from miniattn import functional, kernels, plot
from miniattn.__main__ import COMMANDS

PACKAGE = Path(miniattn.__file__).parent

# What each part may import, besides itself and what says names: of types, and of what is public.
# What is not listed may import everything but `plot`.
ALLOWED = {
    "_checking": set(),
    "_checks": {"_checking"},
    "_context": {"_checking"},
    "_lazy": set(),
    "_memory": {"_checking"},
    "_options": set(),
    "_tracing": set(),
    "_typing": {"masks"},  # for type checkers only
    "kernels": {"_checking"},
    "scores": {"_checks"},
    "masks": {"_checking", "_checks", "_rich", "kernels"},
    "reference": {"_checks", "_options", "masks", "scores"},
    "functional": {
        *("_checking", "_checks", "_context", "_memory", "_options", "_tracing"),
        *("kernels", "masks", "scores"),
    },
    "distributed": {
        *("_checks", "_command", "_context", "_memory", "functional", "kernels", "masks"),
        "runtime",  # ranks share the cores of a machine
    },
    "nn": {
        "_rich",
        "_checks",
        "_context",
        "_memory",
        "_tracing",
        "distributed",
        "functional",
        "masks",
        "scores",
    },
    "checkpoint": {"_checks", "_disk", "_safetensors"},
    "models": {
        *("_checks", "_context", "_memory", "checkpoint", "distributed", "functional", "masks"),
        *("nn", "scores", "_safetensors"),
    },
    "optim": {"_checks", "_memory", "functional", "kernels", "nn"},
    "_causes": set(),
    "lab": {"_causes", "_checks", "_command"},
    "bridges": {"_checks", "models", "nn"},
}
MAY_PLOT = {
    "_rich",
    "__init__",
    "__main__",
    "plot",
    "demo",
    "explore",
}  # the command line, and the lazy import


def part(module):
    """The first name below the package: ``miniattn.kernels.peak`` is of the part ``kernels``."""
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
    found = set(imports(path)) - {own, "_typing", "_lazy"}
    if own in ALLOWED:
        assert found <= ALLOWED[own]
    if own not in MAY_PLOT:
        assert "plot" not in found


def test_the_parts_exist():
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in FILES}
    assert set(ALLOWED) | MAY_PLOT <= names


PUBLIC = ["miniattn", *(f"miniattn.{n}" for n in miniattn.__all__ if (PACKAGE / n).is_dir())]
PUBLIC += [f"miniattn.{name}" for name in miniattn.__all__ if (PACKAGE / f"{name}.py").is_file()]


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_offered_after_a_dot_is_what_is_public(name):
    module = importlib.import_module(name)
    offered = [each for each in dir(module) if not each.startswith("__")]
    assert offered == sorted(module.__all__)
    assert [each for each in offered if each.startswith("_") or not hasattr(module, each)] == []


def test_llvm_is_emitted_in_one_folder():
    def emits(path):
        return any(
            isinstance(node, ast.ImportFrom)
            and node.module == "llvmlite"
            and "ir" in [alias.name for alias in node.names]
            for node in ast.walk(ast.parse(path.read_bytes()))
        )

    assert {path.parent.name for path in FILES if emits(path)} == {"registers"}


def test_numba_is_set_up_in_one_place():
    """No kernel is compiled past the flags, the cache and the lock of `settings`."""

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

    assert [path.name for path in FILES if decorates(path)] == ["settings.py"]


HEAVY = ("numba", "llvmlite", "matplotlib", "scipy", "sklearn", "torch", "networkx")
LIGHT = {
    "the package": ("import miniattn", ("numpy", *HEAVY)),
    "names": ("import miniattn; dir(miniattn); miniattn.gradcheck; miniattn.threads", HEAVY),
    "help": ("import runpy, sys; sys.argv[1:] = ['--help']", ("numpy", *HEAVY)),
    **{
        f"help of {command}": (f"import runpy, sys; sys.argv[1:] = [{command!r}, '--help']", HEAVY)
        for command in (*COMMANDS, "info", "warmup")
    },
    **{
        name: (f"from miniattn import {name}; dir({name})", HEAVY)
        for name in sorted(miniattn.__all__)
        if name in {info.name for info in pkgutil.iter_modules(miniattn.__path__)}
        and name != "estimators"  # scikit-learn's interface is made of scikit-learn
    },
    "a mask": (
        "from miniattn import masks; (masks.causal() & masks.padding([2])).explain(0, 0, 0, 1)",
        HEAVY,
    ),
    "the reference": ("from miniattn import reference; reference.softmax([1.0, 2.0])", HEAVY),
    "numbers of a map": ("from miniattn import analysis; analysis.entropy([[0.5, 0.5]])", HEAVY),
    "a model": ("from miniattn import models; models.GPT(5, 4, embed_dim=4, num_heads=2)", HEAVY),
}


@pytest.mark.parametrize("case", LIGHT)
def test_what_needs_no_kernel_loads_no_numba(python, case):
    """Nor matplotlib; and what is only imported or asked for help not even NumPy."""
    code, unwanted = LIGHT[case]
    if "runpy" in code:
        code += """
try:
    runpy.run_module("miniattn", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0"""
    loaded = python(f"{code}\nimport sys; print('modules:', *sys.modules)").rpartition("modules:")[
        2
    ]
    assert {name.split(".")[0] for name in loaded.split()} & set(unwanted) == set()


@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import miniattn.functional as F, numpy; F.relu(numpy.ones(2))", "numba"),
        ("from miniattn import nn; import numpy; nn.ReLU()(numpy.ones(2))", "numba"),
        ("import miniattn; miniattn.get_num_threads()", "numba"),
        ("from miniattn.plot import mask", "matplotlib"),
    ],
)
def test_what_is_left_for_later_comes_when_it_is_needed(python, code, loaded):
    python(f"{code}\nimport sys; assert {loaded!r} in sys.modules")


def test_the_thread_pool_is_prepared_before_the_first_launch(python):
    """TBB has to be in memory when Numba looks for a layer, however late Numba is imported."""
    code = """
import miniattn as ma, miniattn.functional as F, numpy as np, sys
from miniattn import masks, models
assert "numba" not in sys.modules
F.softmax(np.ones((2, 3)))
ma.show_config()"""
    direct = python(
        "import numba, miniattn.kernels.compile.settings, miniattn as ma; ma.show_config()"
    )
    layer = [line for line in direct.splitlines() if line.startswith("threading layer")]
    assert layer
    assert layer[0] in python(code)


@pytest.mark.parametrize("package", [miniattn, functional, plot, kernels])
def test_names_that_are_imported_late_are_there(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]  # and found at once the next time
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_what_is_imported_late_is_what_others_import():
    assert functional.softmax is importlib.import_module("miniattn.functional._softmax").softmax
    assert inspect.signature(functional.softmax).parameters["axis"].default == -1
    _, ctx = functional.softmax_forward(np.ones((2, 3)))
    assert type(pickle.loads(pickle.dumps(ctx))) is functional.SoftmaxContext


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
