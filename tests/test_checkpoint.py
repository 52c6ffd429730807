"""Checkpoints: what was saved comes back, whole or not at all."""

import json
import os
import re
import time
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from miniattn import _disk, checkpoint, nn
from miniattn.checkpoint import CheckpointError

FLOATS = ["float64", "float32", "float16"]
INTS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]


def arrays_of_all_kinds():
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, (3, 5)).astype(name) for name in [*FLOATS, *INTS, "bool"]}
    base = rng.standard_normal((4, 6, 8))
    return arrays | {
        "transposed": base.T,
        "strided": base[::2, 1::3, ::-1],
        "broadcast": np.broadcast_to(base[0, :1], (5, 8)),
        "fortran": np.asfortranarray(base[0]),
        "big-endian": base.astype(">f4"),
        "read-only": np.frombuffer(base.tobytes(), np.float64),
        "scalar": np.array(3.5),
        "empty": np.empty((0, 3), np.float32),
        "nan": np.array([np.nan, np.inf, -0.0]),
        'quoted "name" \\ ü': np.ones(2),
    }


def test_arrays_of_any_dtype_and_stride_come_back(tmp_path):
    arrays = arrays_of_all_kinds()
    checkpoint.save(tmp_path / "a", arrays)
    for loaded in (
        checkpoint.load(tmp_path / "a").arrays,
        safetensors.numpy.load_file(tmp_path / "a"),  # any other reader of the format
    ):
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype.newbyteorder("="), name
            np.testing.assert_array_equal(loaded[name], array, err_msg=name)
    for array in checkpoint.load(tmp_path / "a").arrays.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_files_of_the_same_content_are_the_same(tmp_path):
    arrays = arrays_of_all_kinds()
    checkpoint.save(tmp_path / "a", arrays, metadata={"x": 1})
    checkpoint.save(tmp_path / "b", dict(reversed(arrays.items())), metadata={"x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("metadata", [None, {}, {"a": [1, 2.5, None, 'ü "q" "sha256":"0"']}, 7])
def test_metadata_comes_back(tmp_path, metadata):
    checkpoint.save(tmp_path / "a", {"x": np.ones(1)}, metadata=metadata)
    assert checkpoint.load(tmp_path / "a").metadata == metadata
    assert safetensors.numpy.load_file(tmp_path / "a")["x"] == 1


def test_big_integers_in_metadata_are_exact(tmp_path):
    state = np.random.default_rng(0).bit_generator.state
    checkpoint.save(tmp_path / "a", {}, metadata=state)
    assert checkpoint.load(tmp_path / "a").metadata == state


def test_parts():
    arrays = {"model.a.b": np.ones(1), "model.c": np.zeros(1), "models.d": np.ones(2)}
    assert list(checkpoint.Checkpoint(arrays, None).part("model")) == ["a.b", "c"]


# ----------------------------------------------------------------------------------- into a model


def model(seed=0, width=4):
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Linear(3, width, rng=rng), nn.LayerNorm(width))


def unchanged(module, before):
    after = module.state_dict()
    return all(np.array_equal(after[name], before[name]) for name in before)


def test_into_a_model(tmp_path):
    old, new = model(0), model(1)
    checkpoint.save(tmp_path / "a", old)
    checkpoint.load(tmp_path / "a", into=new)
    assert unchanged(new, old.state_dict())


def test_errors_list_every_name_that_does_not_fit(tmp_path):
    state = model().state_dict()
    names = list(state)
    state["extra"] = state.pop(names[0])
    state[names[1]] = np.ones((2, 2))
    checkpoint.save(tmp_path / "a", state)
    other = model(1)
    before = other.state_dict()
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "a", into=other)
    for words in (
        str(tmp_path / "a"),
        f"missing: {names[0]}",
        "unexpected: extra",
        f"misshapen: {names[1]} expected (4,) float32, got (2, 2) float64",
    ):
        assert words in str(error.value)
    assert unchanged(other, before)


# ----------------------------------------------------------------------------------- damaged files


def mutated(raw, rng):
    """Return the bytes with some damage; never the same bytes."""
    kind = rng.integers(6)
    at = int(rng.integers(len(raw) if rng.random() < 0.5 else 400))  # half of it in the header
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + rng.bytes(int(rng.integers(1, 20))) + raw[at:]
    if kind == 2:
        return raw[:at] + raw[at + int(rng.integers(1, 20)) :]
    if kind == 3:
        return raw + rng.bytes(1)
    if kind == 4:
        return raw[:at] + bytes([raw[at] ^ (1 << int(rng.integers(8)))]) + raw[at + 1 :]
    size = int(rng.integers(1, 16))
    return raw[:at] + bytes(b ^ 0xFF for b in raw[at : at + size]) + raw[at + size :]


@pytest.mark.parametrize("verify", [True, False])
def test_1000_mutated_files_change_nothing(tmp_path, verify):
    """With the digest every change is found; without, none may do worse than other numbers."""
    path, rng = tmp_path / "a", np.random.default_rng(3)
    checkpoint.save(path, model(0), metadata={"step": 7})
    raw = path.read_bytes()
    other = model(1)
    before = other.state_dict()
    errors = []
    for _ in range(1000):
        path.write_bytes(damaged := mutated(raw, rng))
        assert damaged != raw
        try:
            checkpoint.load(path, into=other, verify=verify)
        except CheckpointError as error:
            errors.append(str(error))
            assert unchanged(other, before)
        else:
            assert not verify
            other.load_state_dict(before)
    assert all(error.startswith(f"{path}: ") for error in errors)
    assert len(errors) == 1000 if verify else len(errors) > 500


def rewritten(path, change):
    """Write a file anew with another header, as another program might."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    text = change(raw[8 : 8 + size].decode())
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + raw[8 + size :])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: re.sub('("a":{.*?},)', r"\1\1", text),
            "expected a safetensors file, got 'a' twice",
        ),
        (lambda text: text.replace('"b":', '"a":'), "expected a safetensors file"),
        (lambda text: "[]", "expected a safetensors file"),
        (lambda text: "nonsense", "expected a safetensors file"),
        (lambda text: text.replace("F64", "F99"), "expected a safetensors file"),
        (lambda text: text.replace("[2,3]", "[2,4]"), "expected a safetensors file"),
        (lambda text: text.replace("[2,3]", "[-1,3]"), "expected a safetensors file"),
        (lambda text: "[" * 100_000, "expected a safetensors file"),
        (
            lambda text: text.replace(':"null"', f':"{"[" * 100_000}"'),
            "expected a safetensors file",
        ),
        (lambda text: text.replace('"miniattn":', '"miniattn":7,"x":'), "expected a safetensors"),
        (
            lambda text: re.sub('"__metadata__":{.*?},', '"__metadata__":7,', text),
            "expected a safe",
        ),
    ],
)
def test_wrong_headers(tmp_path, change, words):
    path = tmp_path / "a"
    checkpoint.save(path, {"a": np.ones((2, 3)), "b": np.ones((2, 3))})
    rewritten(path, lambda text: text)
    checkpoint.load(path)
    rewritten(path, change)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        checkpoint.load(path, verify=False)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}"])
def test_files_of_something_else(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "a"))):
        checkpoint.load(tmp_path / "a")


def test_files_of_other_programs_are_read_on_request(tmp_path):
    arrays = {"x": np.arange(6.0).reshape(2, 3)}
    safetensors.numpy.save_file(arrays, tmp_path / "a", metadata={"format": "np"})
    with pytest.raises(CheckpointError, match="verify=False reads other safetensors files"):
        checkpoint.load(tmp_path / "a")
    loaded = checkpoint.load(tmp_path / "a", verify=False)
    np.testing.assert_array_equal(loaded.arrays["x"], arrays["x"])
    assert loaded.metadata is None


# ------------------------------------------------------- half precision, shards, other formats


def write(path, arrays, dtype):
    """A safetensors file of one dtype, written from the bytes of its arrays."""
    entries, at = {}, 0
    for name, array in arrays.items():
        places = [at, at + array.nbytes]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": places}
        at += array.nbytes
    text = json.dumps(entries).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


BF16 = {  # sign, 8 bits of exponent, 7 of mantissa
    0x3F80: 1.0, 0xC000: -2.0, 0x4049: 3.140625, 0x0000: 0.0, 0x7F80: np.inf, 0x7F7F: 3.3895314e38,
    0x0001: 9.1835496e-41,
}  # fmt: skip


def test_bfloat16_is_read_as_float32_on_request(tmp_path):
    bits = np.array([*BF16, 0x7FC0], "<u2").reshape(2, 4)
    write(tmp_path / "a", {"x": bits, "y": bits[:1]}, "BF16")
    with pytest.raises(CheckpointError, match=r"x is of dtype BF16.*dtype=np.float32 reads it"):
        checkpoint.load(tmp_path / "a", verify=False)
    arrays = checkpoint.load(tmp_path / "a", verify=False, dtype=np.float32).arrays
    assert arrays["x"].dtype == np.float32
    expected = np.array([*BF16.values(), np.nan], np.float32).reshape(2, 4)
    np.testing.assert_array_equal(arrays["x"], expected)
    np.testing.assert_array_equal(arrays["y"], expected[:1])
    arrays = checkpoint.load(tmp_path / "a", verify=False, dtype=np.float64).arrays
    np.testing.assert_array_equal(arrays["x"], expected.astype(np.float64))


def test_bfloat16_is_read_as_torch_reads_it(tmp_path, rng):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    x = torch.tensor(rng.standard_normal((40, 3))).to(torch.bfloat16)
    save_file({"x": x, "half": x.half()}, tmp_path / "a")
    arrays = checkpoint.load(tmp_path / "a", verify=False, dtype=np.float32).arrays
    np.testing.assert_array_equal(arrays["x"], x.float().numpy())
    np.testing.assert_array_equal(arrays["half"], x.half().float().numpy())


def test_float16_goes_into_a_model_on_request(tmp_path):
    old, new = model(0), model(1)
    state = {name: array.astype(np.float16) for name, array in old.state_dict().items()}
    safetensors.numpy.save_file(state, tmp_path / "a")
    before = new.state_dict()
    with pytest.raises(CheckpointError, match="float16"):
        checkpoint.load(tmp_path / "a", new, verify=False)
    assert unchanged(new, before)
    assert checkpoint.load(tmp_path / "a", verify=False).arrays["layers.0.bias"].dtype == np.float16
    checkpoint.load(tmp_path / "a", new, verify=False, dtype=np.float32)
    assert unchanged(new, {name: array.astype(np.float32) for name, array in state.items()})


def test_casting_leaves_ints_and_refuses_what_does_not_fit(tmp_path):
    checkpoint.save(
        tmp_path / "a", {"x": np.array([1e300]), "n": np.arange(3), "b": np.array(True)}
    )
    with pytest.raises(CheckpointError, match="x holds numbers that are too large for float32"):
        checkpoint.load(tmp_path / "a", dtype=np.float32)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got"):
        checkpoint.load(tmp_path / "a", dtype=np.float16)
    arrays = checkpoint.load(tmp_path / "a", dtype=np.float64).arrays
    assert [arrays[name].dtype for name in "xnb"] == [np.float64, np.int64, np.bool_]


def test_dtypes_that_nothing_here_takes_are_named(tmp_path):
    write(tmp_path / "a", {"x": np.zeros(4, np.uint8)}, "F8_E4M3")
    with pytest.raises(CheckpointError, match=r"x is of dtype F8_E4M3, which NumPy does not have$"):
        checkpoint.load(tmp_path / "a", verify=False, dtype=np.float32)


def sharded(folder, state, *, files=2):
    names = list(state)
    place_of = {name: f"model-{i % files}.safetensors" for i, name in enumerate(names)}
    for file in set(place_of.values()):
        part = {name: state[name] for name in names if place_of[name] == file}
        safetensors.numpy.save_file(part, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": place_of}))
    return index


def test_a_model_in_several_files_is_read_by_its_index(tmp_path):
    old, new = model(0), model(1)
    index = sharded(tmp_path, old.state_dict())
    with pytest.raises(CheckpointError, match="verify=False reads other safetensors files"):
        checkpoint.load(index, into=new)
    loaded = checkpoint.load(index, into=new, verify=False)
    assert unchanged(new, old.state_dict())
    assert list(loaded.arrays) == sorted(old.state_dict())
    assert loaded.metadata is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda index: index.with_name("model-1.safetensors").unlink(), "missing: ['model-1.safe"),
        (lambda index: index.write_text("{}"), "expected an index of safetensors files"),
        (lambda index: index.write_text("[1]"), "expected an index of safetensors files"),
        (lambda index: index.write_text("nonsense"), "expected an index of safetensors files"),
        (lambda index: index.write_text('{"weight_map": {"a": 1}}'), "index of safetensors files"),
        (
            lambda index: index.write_text('{"weight_map": {"a": "../model-1.safetensors"}}'),
            "expected names of files beside the index, got ['../model-1.safetensors']",
        ),
        (
            lambda index: index.write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
            "expected the arrays of the index, differs in ['a', ",
        ),
        (lambda index: index.with_name("model-1.safetensors").write_bytes(b"x"), "cut short"),
    ],
)
def test_an_index_that_does_not_fit_its_files(tmp_path, change, words):
    index = sharded(tmp_path, model(0).state_dict())
    change(index)
    other = model(1)
    before = other.state_dict()
    with pytest.raises(CheckpointError, match=re.escape(words)) as error:
        checkpoint.load(index, into=other, verify=False)
    assert str(index) in str(error.value)
    assert unchanged(other, before)


def test_what_is_no_file_of_arrays_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="expected a file, got a folder; it has no safetens"):
        checkpoint.load(tmp_path)
    checkpoint.save(tmp_path / "one.safetensors", {})
    with pytest.raises(CheckpointError, match=r"got a folder; it has one\.safetensors"):
        checkpoint.load(tmp_path)
    sharded(tmp_path, model().state_dict())
    with pytest.raises(CheckpointError, match=r"it has model\.safetensors\.index\.json"):
        checkpoint.load(tmp_path)
    (tmp_path / "pickle").write_bytes(b"PK\3\4" + b"\xff" * 99)
    with pytest.raises(CheckpointError, match=r"a zip file, as torch\.save writes"):
        checkpoint.load(tmp_path / "pickle")
    (tmp_path / "index").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match=r"JSON; the index of a sharded model ends in"):
        checkpoint.load(tmp_path / "index")


def test_loading_holds_one_array_twice_at_most(tmp_path):
    arrays = {str(i): np.zeros(250_000, np.float32) for i in range(16)}  # 16 MB
    checkpoint.save(tmp_path / "a", arrays)
    for dtype, expected in ((None, 1.1), (np.float32, 1.1), (np.float64, 2.2)):
        tracemalloc.start()
        loaded = checkpoint.load(tmp_path / "a", dtype=dtype)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(loaded.arrays) == 16
        assert peak < expected * 16e6


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "a")


# ------------------------------------------------------------------------------------------ saving


@pytest.mark.parametrize(
    ("arrays", "metadata", "kind", "words"),
    [
        ({"x": np.array(["a"])}, None, TypeError, "x: expected a float, int or bool array"),
        ({"x": np.array([1j])}, None, TypeError, "x: expected a float, int or bool array"),
        ({"x": np.array([None])}, None, TypeError, "x: expected a float, int or bool array"),
        ({3: np.ones(1)}, None, ValueError, "state: expected names of arrays, got 3"),
        ({"__metadata__": np.ones(1)}, None, ValueError, "state: expected names of arrays"),
        ({}, {"x": {1, 2}}, TypeError, "set"),
        ({}, {"x": float("nan")}, ValueError, "JSON"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(tmp_path, arrays, metadata, kind, words):
    checkpoint.save(tmp_path / "a", {"old": np.ones(1)})
    with pytest.raises(kind, match=words):
        checkpoint.save(tmp_path / "a", arrays, metadata=metadata)
    assert list(checkpoint.load(tmp_path / "a").arrays) == ["old"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a", {"old": np.ones(1)})

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(tmp_path / "a", {"new": np.ones(1)})
    assert list(checkpoint.load(tmp_path / "a").arrays) == ["old"]
    assert os.listdir(tmp_path) == ["a"]


LOCKS = pytest.mark.skipif(_disk.fcntl is None, reason="needs locks on files")


def leftovers(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".tmp"))


@LOCKS
def test_what_a_killed_save_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    names = [".a[1].deadbeef.miniattn.tmp", ".b.12345678.miniattn.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"half a checkp")
    others = [".a.deadbeef.tmp", "a.deadbeef.miniattn.tmp", ".a.DEADBEEF.miniattn.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"not ours")
    with _disk.replacing(tmp_path / "c") as file:
        written = set(leftovers(tmp_path)) - {*names, *others}
        assert len(written) == 1
        checkpoint.save(tmp_path / "a[1]", {"x": np.ones(1)})
        assert leftovers(tmp_path) == sorted([*others, *written])
        file.write(b"whole")
    assert (tmp_path / "c").read_bytes() == b"whole"
    assert leftovers(tmp_path) == sorted(others)


def test_without_locks_age_tells_what_was_left(tmp_path, monkeypatch):
    monkeypatch.setattr(_disk, "fcntl", None)
    old, new = (tmp_path / f".a.{kind}.miniattn.tmp" for kind in ("deadbeef", "cafebabe"))
    for leftover in (old, new):
        leftover.write_bytes(b"half a checkp")
    os.utime(old, times=(time.time() - 7200,) * 2)
    checkpoint.save(tmp_path / "a", {"x": np.ones(1)})
    assert leftovers(tmp_path) == [new.name]  # perhaps another process is writing it
    assert list(checkpoint.load(tmp_path / "a").arrays) == ["x"]


def test_the_file_has_the_usual_permissions(tmp_path):
    checkpoint.save(tmp_path / "a", {})
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


KILLED = """
import os, random, signal, sys, time
import numpy as np
from miniattn import checkpoint

def state(number):
    return {"x": np.full(50_000, number), "y": np.full((3, 7), float(number)).T}

random.seed(0)
started = time.perf_counter()
checkpoint.save("run", state(0), metadata=0)
duration = time.perf_counter() - started
last = in_the_middle = 0
for kill in range(200):
    saved, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = last
        while True:
            number += 1
            checkpoint.save("run", state(number), metadata=number)
            os.write(tell, b".")
    os.read(saved, 1)  # one save at least: from now on it is always in the middle of another
    time.sleep(random.uniform(0, 2 * duration))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    in_the_middle += any(name.endswith(".tmp") for name in os.listdir())
    arrays, number = checkpoint.load("run")
    os.close(saved), os.close(tell)
    assert number > last
    assert all((array == number).all() for array in arrays.values())
    assert arrays["x"].shape == (50_000,) and arrays["y"].shape == (7, 3)
    last = number
killed = [name for name in os.listdir() if name.endswith(".tmp")]
print(in_the_middle, len(killed), end=" ")
checkpoint.save("run", state(0))
print(len([name for name in os.listdir() if name.endswith(".tmp")]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_200_kills_in_the_middle_of_saving(python):
    in_the_middle, left, then = map(int, python(KILLED).split())
    assert in_the_middle > 20  # as many were killed while writing
    assert left <= 1  # each save removes what the one before it left
    assert then == 0
