"""The tests themselves: none depends on another's having run, and none is left out unseen."""

import ast
from pathlib import Path, PurePath

import numpy as np
import pytest
import samples

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
MAKERS = {"default_rng", "Generator", "RandomState", "Random", "dice", "source", "rng"}
KEEPERS = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Dict, ast.Tuple, ast.List, ast.Set)


def at_import(node):
    """(parent, node) of everything that runs when a module is imported: no function's body."""
    for child in ast.iter_child_nodes(node):
        yield node, child
        if isinstance(child, (ast.FunctionDef, ast.Lambda)):
            arguments = child.args
            for default in (*arguments.defaults, *filter(None, arguments.kw_defaults)):
                yield arguments, default
                yield from at_import(default)
            for decorator in getattr(child, "decorator_list", ()):
                yield from at_import(decorator)
        else:
            yield from at_import(child)


def name_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def kept_generators(source):
    """Lines on which a module keeps a generator: in a name, a table, a default, a row."""
    return [
        node.lineno
        for parent, node in at_import(ast.parse(source))
        if isinstance(node, ast.Call)
        and name_of(node) in MAKERS
        and (
            isinstance(parent, (*KEEPERS, ast.arguments))
            or (isinstance(parent, ast.Call) and name_of(parent) in ("param", "partial"))
        )
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_keeps_a_generator(path):
    """What one test draws from it would change what the next one finds."""
    assert kept_generators(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "rng = np.random.default_rng(0)",
        "ROWS = {'dropout': [(1, {'rng': dice()})]}",
        "def draw(rng=np.random.default_rng(0)): ...",
        "CASES = [pytest.param(dice(), id='a')]",
        "class Data:\n    rng: object = random.Random(3)",
        "draw = lambda n, *, rng=default_rng(0): rng.random(n)",
    ],
)
def test_a_kept_generator_is_noticed(line):
    assert kept_generators(line)


@pytest.mark.parametrize(
    "line",
    [
        "X = np.random.default_rng(0).random(3)",
        "LAYER = nn.Linear(4, 2, rng=rng())",
        "ROWS = {'dropout': [(1, {'rng': dice})]}",
        "def draw():\n    rng = np.random.default_rng(0)\n    return rng.random()",
        "build = lambda: {'rng': dice()}",
    ],
)
def test_a_generator_that_is_gone_is_not(line):
    assert not kept_generators(line)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_draws_from_the_global_generators(path):
    attributes = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Attribute)]
    drawn = {n.attr for n in attributes if ast.unparse(n.value) in ("np.random", "random")}
    assert {name for name in drawn if name.islower()} <= {"default_rng"}  # classes are harmless


def draws():
    return samples.normal(3).tolist()


def test_what_a_test_draws_is_its_own(request):
    first = draws()
    assert draws() != first
    samples.begin("test_tests.py::" + request.node.name)
    assert draws() == first


def test_nothing_is_drawn_while_a_module_without_a_seed_is_imported():
    samples.end()
    with pytest.raises(RuntimeError, match="call begin"):
        draws()


def test_a_table_without_rows_fails(pytestconfig):
    """pytest would skip a test whose table has become empty, and say so in a line."""
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"


def test_the_fixture_is_of_the_test(rng, request):
    expected = np.random.default_rng(samples.seed("test_tests.py::" + request.node.name))
    assert rng.random() == expected.random()


# --- Where tests lie -----------------------------------------------------------------------------


def misplaced(tests, modules):
    """Return the tests, by path, that do not lie in the folder of what they are named after.

    ``modules`` are paths in the package. What has the name of a module in one of its folders, and
    not that of a module or a folder at the top, belongs in the folder of the same name.
    """
    folders = {path.split("/")[0] for path in modules if "/" in path}
    homes = {folder: {""} for folder in folders}
    for path in modules:
        *within, name = PurePath(path).with_suffix("").parts
        homes.setdefault(name.strip("_"), set()).add("/".join(within))
    wrong = []
    for path in tests:
        *above, name = PurePath(path).with_suffix("").parts
        of = homes.get(name.removeprefix("test_"), {""})
        strange = above and above[0] not in folders
        if strange or (not above and "" not in of):
            wrong.append(path)
    return wrong


def test_what_is_misplaced():
    modules = ["nn/_attention.py", "masks.py", "nn/masks.py", "plot/cli.py"]
    right = ["nn/test_attention.py", "test_masks.py", "test_everything.py", "plot/test_edges.py"]
    wrong = ["test_attention.py", "test_cli.py", "analysis/test_entropy.py"]
    assert misplaced(right + wrong, modules) == wrong


def test_folders_of_tests_mirror_the_package():
    package = FOLDER.parent / "miniattn"
    parts = [p for p in package.rglob("*.py") if len(p.relative_to(package).parts) < 3]
    tests = [p.relative_to(FOLDER).as_posix() for p in FILES if p.name.startswith("test_")]
    assert misplaced(tests, [p.relative_to(package).as_posix() for p in parts]) == []
