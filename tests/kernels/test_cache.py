"""Compiled kernels on disk: found again, never stale, never in the way.

Most tests run a copy of the package, with two small kernel modules added, in fresh processes.
"""

import os
import py_compile
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numba
import numpy as np
import pytest

import miniattn
from miniattn.kernels.compile import cache as _cache

pytestmark = pytest.mark.slow  # most compile in a process of their own

# Without threads of its own, which take Numba seconds: what is kept, and when, is the same.
TINY = """
from miniattn.kernels.compile.settings import kernel
from miniattn.kernels.tiny_inner import FACTOR, step
from miniattn.kernels import tiny_constants

@kernel(parallel=False)
def scale(x, y):
    for i in range(x.shape[0]):
        y[i] = step(x[i]) * FACTOR + tiny_constants.OFFSET
"""
TINY_INNER = """
from miniattn.kernels.compile.settings import inner
FACTOR = 10

@inner
def step(x):
    return x + 1
"""
CONSTANTS = """
import os
OFFSET = int(os.environ.get("OFFSET", "0"))
"""
OTHER = """
from miniattn.kernels.compile.settings import kernel

@kernel(parallel=False)
def other(x):
    return x[0]
"""

# Prints the result for x = 5, then how often the cache was hit and missed.
RUN = """
import numpy as np
from miniattn.kernels import tiny
from miniattn.kernels import tiny_other
{before}
y = np.empty(3)
tiny.scale(np.full(3, 5.0), y)
stats = tiny.scale.dispatcher.stats
print(y[0], sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


class Copy:
    """A copy of the package that can be edited, and a cache of its own."""

    def __init__(self, root, python):
        self.root = root
        self.cache = root / "cache"
        self._python = python
        shutil.copytree(
            Path(miniattn.__file__).parent,
            root / "miniattn",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name, text in [
            ("tiny", TINY),
            ("tiny_inner", TINY_INNER),
            ("tiny_constants", CONSTANTS),
            ("tiny_other", OTHER),
        ]:
            self.module(name).write_text(text)

    def module(self, name):
        return self.root / "miniattn" / "kernels" / f"{name}.py"

    def edit(self, name, old, new):
        text = self.module(name).read_text()
        assert old in text
        self.module(name).write_text(text.replace(old, new))

    def run(self, before="", **env):
        env = {"NUMBA_CACHE_DIR": str(self.cache)} | env
        result, hits, misses = self._python(RUN.format(before=before), **env).split()
        assert int(hits) + int(misses) == 1
        return float(result), int(hits) == 1

    def entries(self):
        return sorted(self.cache.rglob("*.kernel"))


@pytest.fixture
def copy(tmp_path, python):
    return Copy(tmp_path, python)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_second_process_compiles_nothing(copy, parallel):
    copy.edit("tiny", "parallel=False", f"parallel={parallel}")
    assert copy.run() == (60, False)
    assert copy.run() == (60, True)
    assert len(copy.entries()) == 1


@pytest.mark.parametrize(
    ("module", "old", "new", "result"),
    [
        ("tiny", "* FACTOR", "* FACTOR * 2", 120),
        ("tiny_inner", "x + 1", "x + 2", 70),  # the kernel's own file stays as it was
        ("tiny_inner", "FACTOR = 10", "FACTOR = 20", 120),
        ("compile/settings", '"reassoc"}', "}", 60),  # flags
    ],
)
def test_an_edit_is_noticed(copy, module, old, new, result):
    copy.run()
    copy.edit(module, old, new)
    assert copy.run() == (result, False)
    assert copy.run() == (result, True)


def test_an_edit_that_keeps_size_and_date_is_noticed(copy):
    copy.run()
    before = os.stat(copy.module("tiny_inner"))
    copy.edit("tiny_inner", "x + 1", "x + 2")
    os.utime(copy.module("tiny_inner"), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(copy.module("tiny_inner")).st_size == before.st_size
    assert copy.run() == (70, False)


def test_an_edit_elsewhere_costs_nothing(copy):
    copy.run()
    copy.edit("tiny_other", "x[0]", "x[1]")
    assert copy.run() == (60, True)


def test_an_edit_in_a_nested_package_is_noticed(copy):
    """At any depth, however it is imported, also through a package that is not yet complete."""
    inner = copy.module("tiny_inner").read_text()
    folder = copy.module("deep").parent / "deep" / "deeper"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("from miniattn.kernels.deep import user\n")
    (folder / "__init__.py").write_text("from .last import step\n")
    (folder / "last.py").write_text(inner)
    (folder.parent / "user.py").write_text(
        TINY.replace(
            "tiny_inner import FACTOR, step", "tiny_inner import FACTOR\nfrom .deeper import step"
        )
    )
    copy.edit("tiny", "@kernel", "from miniattn.kernels.deep.user import scale as other\n@kernel")
    before = "tiny.scale = tiny.other\n"
    assert copy.run(before=before) == (60, False)
    assert copy.run(before=before) == (60, True)
    for old, new, result in [("x + 1", "x + 2", 70), ("x + 2", "x + 3", 80)]:
        (folder / "last.py").write_text((folder / "last.py").read_text().replace(old, new))
        assert copy.run(before=before) == (result, False)
        assert copy.run(before=before) == (result, True)


def test_an_undone_edit_finds_the_first_entry_again(copy):
    copy.run()
    copy.edit("tiny", "* FACTOR", "* FACTOR * 2")
    copy.run()
    copy.edit("tiny", "* FACTOR * 2", "* FACTOR")
    assert copy.run() == (60, True)


def test_an_edit_between_import_and_launch(copy):
    """The old code still runs then; it must not be kept under the new source."""
    edit = "path = tiny.__file__.replace('tiny.py', 'tiny_inner.py')\n"
    edit += "text = open(path).read()\nopen(path, 'w').write(text.replace('x + 1', 'x + 2'))\n"
    assert copy.run(before=edit) == (60, False)
    assert copy.run() == (70, False)


def test_constants_from_the_environment_are_part_of_the_key(copy):
    assert copy.run() == (60, False)
    assert copy.run(OFFSET="3") == (63, False)
    assert copy.run(OFFSET="3") == (63, True)
    assert copy.run() == (60, True)


@pytest.mark.parametrize(
    "change",
    [
        "import miniattn; miniattn.__version__ = '99'",
        "import numba; numba.__version__ = '99'",
        "import llvmlite; llvmlite.__version__ = '99'",
        "import sys; sys.implementation.cache_tag = 'cpython-399'",
        "import numba; numba.config.BOUNDSCHECK = 1",
    ],
)
def test_an_upgrade_is_noticed(copy, change):
    copy.run()
    assert copy.run(before=change)[1] is False


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "not ours", "folder"])
def test_a_damaged_file_is_compiled_again(copy, damage):
    copy.run()
    (entry,) = copy.entries()
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(
            {
                "empty": b"",
                "truncated": entry.read_bytes()[:-100],
                "flipped": bytes(content),
                "not ours": b"hello",
            }[damage]
        )
    assert copy.run() == (60, False)
    if damage != "folder":
        assert copy.run() == (60, True)


def test_switched_off(copy):
    assert copy.run(MINIATTN_CACHE="0") == (60, False)
    assert copy.run(MINIATTN_CACHE="0") == (60, False)
    assert not copy.cache.exists()


def test_nothing_is_written_beside_the_source(copy):
    copy.run()
    assert not list((copy.root / "miniattn").rglob("*.nb?"))
    assert not list((copy.root / "miniattn").rglob("*.kernel"))


# Prints what was said about the cache, and what `show_config` says of it.
SAID = """
import warnings
caught = []
warnings.showwarning = lambda message, category, *rest: caught.append((category, str(message)))
import miniattn, miniattn.kernels.tiny, miniattn.kernels.tiny_other
{before}
y = np.empty(3)
miniattn.kernels.tiny.scale(np.full(3, 5.0), y)
assert y[0] == 60, y
miniattn.kernels.tiny_other.other(y)  # a second kernel, of which nothing is said
miniattn.kernels.tiny_other.other(np.empty(3, np.float32))
print(sum(miniattn.kernels.tiny.scale.dispatcher.stats.cache_hits.values()))
for category, message in caught:
    assert category is RuntimeWarning
    print(message)
print(miniattn.runtime.config()["compiled kernels"])
"""
NOBODY = """
import os
@numba.njit
def warm(x):  # a nobody may not be able to read Python's own files: compile something before
    for i in range(x.shape[0]):
        x[i] += 1
warm(np.zeros(3))
miniattn.runtime.config()
os.setgid(65534); os.setuid(65534)
"""
needs_root = pytest.mark.skipif(
    os.name == "nt" or os.geteuid() != 0, reason="needs root, to become a nobody"
)
needs_owners = pytest.mark.skipif(os.name == "nt", reason="files have no owner's mode here")


def said(python, copy, before="", **env):
    """Return how often the cache was hit, what was said once, and the line of `show_config`."""
    env = {"NUMBA_CACHE_DIR": str(copy.cache)} | env
    code = "import numba, numpy as np\n" + SAID.format(before=before)
    hits, *messages, shown = python(code, **env).splitlines()
    return int(hits), messages, shown


def assert_said_once(messages, reason):
    (message,) = messages
    assert message.startswith("compiled kernels are not kept: ")
    assert reason in message
    assert message.endswith("MINIATTN_CACHE=0 does without one.")


def test_a_read_only_install_and_no_folder_at_all(copy, python):
    copy.cache.write_text("a file where the folder should be")
    hits, messages, shown = said(python, copy)
    assert hits == 0
    assert_said_once(messages, str(copy.cache))
    assert shown.startswith("not kept: ")
    assert copy.cache.read_text() == "a file where the folder should be"


def test_nothing_is_said_of_a_folder_that_works(copy, python):
    assert said(python, copy)[:2] == (0, [])
    hits, messages, shown = said(python, copy)
    assert (hits, messages) == (1, [])
    assert "(3 kernels" in shown


@needs_root
@pytest.mark.parametrize("home", ["/root", "shared"])
def test_a_folder_that_may_not_be_entered(copy, python, home):
    """Of a second user's, or of a nobody's who kept the home of root."""
    folder = copy.root / "home"
    folder.mkdir(mode=0o700)
    copy.root.chmod(0o755)
    env = {"NUMBA_CACHE_DIR": str(folder)}
    if home == "/root":
        env = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": str(folder)}
    hits, messages, shown = said(python, copy, before=NOBODY, **env)
    assert hits == 0
    assert_said_once(messages, "Permission denied")
    assert shown.startswith("not kept: ")
    assert "Permission denied" in shown
    assert not list(folder.iterdir())


@needs_owners
@pytest.mark.parametrize("what", ["folder", "entry"])
@pytest.mark.parametrize("mode", [0o722, 0o702, 0o720])
def test_what_others_can_write_is_not_read(copy, python, what, mode):
    copy.run()
    (entry,) = copy.entries()
    (entry.parent if what == "folder" else entry).chmod(mode)
    before = entry.read_bytes()
    hits, messages, shown = said(python, copy)
    assert hits == 0
    assert_said_once(messages, "can be written by other users")
    assert ("can be written by other users" in shown) == (what == "folder")
    if what == "folder":
        assert copy.entries() == [entry]
        assert entry.read_bytes() == before


@needs_root
@pytest.mark.parametrize("what", ["folder", "entry"])
def test_what_belongs_to_another_is_not_read(copy, python, what):
    copy.run()
    (entry,) = copy.entries()
    os.chown(entry.parent if what == "folder" else entry, 65534, 65534)
    hits, messages, _ = said(python, copy)
    assert hits == 0
    assert_said_once(messages, "belongs to another user")


def test_what_belongs_to_root_is_read():
    status = os.stat(os.__file__)
    fields = list(status)
    fields[0], fields[4] = 0o100644, 0  # mode and owner
    _cache._trust(Path("entry"), os.stat_result(fields))


def test_an_entry_under_another_name_is_not_taken(copy):
    copy.run()
    copy.run(OFFSET="3")
    first, second = copy.entries()
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert copy.run() == (60, False)
    assert copy.run(OFFSET="3") == (63, False)
    assert copy.run() == (60, True)


def test_an_install_without_sources(copy, python):
    """Nothing tells then whether a module changed."""
    for path in (copy.root / "miniattn").rglob("*.py"):
        py_compile.compile(str(path), cfile=f"{path}c", doraise=True)
        path.unlink()
    for _ in range(2):
        hits, messages, _ = said(python, copy)
        assert hits == 0
        assert_said_once(messages, "the source of miniattn.kernels.tiny")
    assert not copy.entries()


def test_an_entry_that_vanishes_does_not_stop_the_list(tmp_path, monkeypatch):
    for name in ("a.kernel", "b.kernel"):
        (tmp_path / name).write_bytes(b"1234")
    path_stat = Path.stat

    def vanish(self, **options):
        if self.name == "a.kernel":
            raise FileNotFoundError(self)
        return path_stat(self, **options)

    monkeypatch.setattr(_cache, "folder", lambda: tmp_path)
    monkeypatch.setattr(Path, "stat", vanish)
    assert "(1 kernels" in miniattn.runtime.config()["compiled kernels"]


def test_a_file_that_may_not_be_replaced_is_left(tmp_path, monkeypatch):
    """So Windows answers while another process reads it."""
    path = tmp_path / "entry.kernel"

    def refuse(source, target):
        raise PermissionError(13, "another process reads it", target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        _cache._write(path, b"new")
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"as it was")
    _cache._write(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"as it was"]


@needs_root
def test_a_user_without_a_home(copy, python):
    env = {"NUMBA_CACHE_DIR": None, "XDG_CACHE_HOME": None, "HOME": "/nonexistent"}
    hits, messages, _ = said(python, copy, before=NOBODY, **env)
    assert hits == 0
    assert_said_once(messages, "Permission denied: '/nonexistent'")


@pytest.mark.skipif(sys.platform != "linux", reason="the folder is named otherwise")
def test_the_users_cache_folder(copy):
    copy.run(NUMBA_CACHE_DIR=None, XDG_CACHE_HOME=str(copy.root / "xdg"))
    assert len(list((copy.root / "xdg" / "miniattn").glob("scale-*.kernel"))) == 1
    copy.run(NUMBA_CACHE_DIR=None, XDG_CACHE_HOME=None, HOME=str(copy.root / "home"))
    assert len(list((copy.root / "home" / ".cache" / "miniattn").glob("scale-*.kernel"))) == 1


def test_processes_that_write_at_the_same_time(copy):
    env = os.environ | {"NUMBA_CACHE_DIR": str(copy.cache), "PYTHONPATH": str(copy.root)}
    command = [sys.executable, "-c", RUN.format(before="")]
    processes = [
        subprocess.Popen(command, env=env, cwd=copy.root, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [float(p.communicate(timeout=120)[0].split()[0]) for p in processes] == [60, 60, 60]
    assert [p.name for p in copy.cache.rglob("*") if p.is_file()] == [copy.entries()[0].name]
    assert copy.run() == (60, True)


def test_kernels_from_a_factory_are_told_apart(tmp_path, python):
    (tmp_path / "factory.py").write_text(
        """
import numba
from numba import types
from numba.extending import intrinsic
from miniattn.kernels.compile.settings import inner, kernel

@intrinsic
def plus(context, a, b):
    def emit(context, builder, signature, args):
        return builder.fadd(*args)
    return types.float64(types.float64, types.float64), emit

@inner
def square(x):
    return x * x

@inner
def cube(x):
    return x * x * x

def make(function, constant):
    @kernel
    def made(x, y):
        for i in numba.prange(x.shape[0]):
            y[i] = plus(function(x[i]), constant)
    return made

kernels = [make(f, c) for f in (square, cube) for c in (1.0, 2.0)]
"""
    )
    code = """
import numpy as np
from factory import kernels
y = np.empty(1)
for k in kernels:
    k(np.full(1, 3.0), y)
    print(y[0], len(k.dispatcher.stats.cache_hits))
"""
    cache = str(tmp_path / "cache")
    for hits in "01":
        printed = python(code, NUMBA_CACHE_DIR=cache).split()
        assert printed == ["10.0", hits, "11.0", hits, "28.0", hits, "29.0", hits]


# ------------------------------------------------------------------------------- what is described


def outer(constant):
    def function(x):
        return function(x - 1) + constant if x else 0

    return function


def test_fingerprints_tell_values_apart():
    a, b = np.zeros(2), np.zeros(2, np.float32)
    values = [0, 0.0, False, "0", b"0", None, a, b, a[:1], a + 1, (0,), ((0,),), np.int64(0)]
    values += [{"a": 0}, {"a": 1}, {0}, np.exp, np.dtype("f4"), float, np, numba.types.float32]
    values += [outer(1), outer(2), lambda x: x + 1, lambda x: x + 2, lambda x: x - 1]
    described = [repr(_cache.fingerprint(v)) for v in values]
    assert len(set(described)) == len(values)
    assert described == [repr(_cache.fingerprint(v)) for v in values]
    assert not any(" at 0x" in d for d in described)


def test_a_named_tuple_is_described_with_its_fields():
    import collections

    def described(fields):
        kind = numba.typeof(collections.namedtuple("Pair", fields)(1, 2))
        return _cache.fingerprint(kind)

    assert described("a b") == described("a b")
    assert described("a b") != described("b a")


def test_what_cannot_be_described_is_refused():
    with pytest.raises(TypeError, match="cannot describe"):
        _cache.fingerprint(object())


def test_imports_are_followed_however_they_are_spelled():
    text = b"""
import numpy
import miniattn.kernels.a as a, miniattn.masks
from miniattn.kernels import b
from miniattn.kernels.c import x
from . import d
from .e import y
from ..kernels.h.i import z
if TYPE_CHECKING:
    from . import for_the_checker
else:
    from . import j
if typing.TYPE_CHECKING:
    from . import for_the_checker
def f():
    from .g import z
"""
    found = set(_cache._imports("miniattn.kernels", text))
    assert {f"miniattn.kernels.{m}" for m in [*"abcdegj", "h.i"]} <= found
    assert not any("numpy" in name or "masks" in name or "checker" in name for name in found)


def test_a_name_of_the_package_itself_is_followed():
    """A module that it imports is what is followed, and not the package as well."""
    assert _cache._imports("miniattn.kernels", b"from . import compile") == [
        "miniattn.kernels.compile"
    ]
    assert "miniattn.kernels" in _cache._imports("miniattn.kernels", b"from . import a_function")


def test_old_and_large_entries_go(tmp_path, monkeypatch):
    now = time.time()

    def entry(name, size, days):
        path = tmp_path / name
        path.write_bytes(bytes(size))
        os.utime(path, (now - days * 86400,) * 2)

    entry("new.kernel", 50, 0)
    entry("recent.kernel", 50, 1)
    entry("large.kernel", 50, 2)
    entry("old.kernel", 1, _cache.UNUSED_DAYS + 1)
    entry("killed.tmp", 1, 2 / 24)
    entry("being-written.tmp", 1, 0)
    entry("not-ours.txt", 1, _cache.UNUSED_DAYS + 1)
    monkeypatch.setattr(_cache, "MAX_BYTES", 120)
    _cache._prune(tmp_path)
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["being-written.tmp", "new.kernel", "not-ours.txt", "recent.kernel"]


def test_use_keeps_an_entry_young(copy):
    copy.run()
    (entry,) = copy.entries()
    os.utime(entry, (0, 0))
    assert copy.run() == (60, True)
    assert time.time() - entry.stat().st_mtime < 3600


def test_modules_without_a_file_are_not_cached():
    module = types.ModuleType("made_up")
    function = types.FunctionType((lambda x: x).__code__, vars(module) | {"__name__": "made_up"})
    assert _cache.KernelCache(function, {})._path((), None) is None
