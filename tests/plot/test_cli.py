"""``python -m miniattn plot``: every kind of file in and out; an error leaves nothing behind."""

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from miniattn import checkpoint, plot
from miniattn.__main__ import main
from miniattn.trace import Trace

TOKENS = "the cat sat on the mat".split()  # noqa: SIM905
T = len(TOKENS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(rng):
    """Causal maps (L, H, T, T)."""
    w = np.tril(rng.random((2, 3, T, T)))
    return w / w.sum(axis=-1, keepdims=True)


@pytest.fixture
def file(weights):
    np.savez("w.npz", weights=weights)
    return "w.npz"


@pytest.fixture
def drawn(monkeypatch):
    """The calls of the drawing functions, as (name, arguments, keywords), in order."""
    calls = []

    def spy(name):
        original = getattr(plot, name)

        def call(*args, **keywords):
            calls.append((name, args, keywords))
            return original(*args, **keywords)

        monkeypatch.setattr(plot, name, call)

    for name in (
        "attention_map",
        "attention_heads",
        "attention_layers",
        "attention_lines",
        "head_summary",
        "html",
    ):
        spy(name)
    return calls


def run(*words):
    return main(["plot", *map(str, words)])


STARTS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-", "html": b"<!doctype html>"}


@pytest.mark.parametrize("ending", STARTS)
def test_every_kind_of_file_comes_out(ending, file, folder, capsys):
    assert run(file, "--out", f"fig.{ending}") == 0
    assert capsys.readouterr() == (f"fig.{ending}\n", "")
    assert (folder / f"fig.{ending}").read_bytes().startswith(STARTS[ending])
    assert sorted(path.name for path in folder.iterdir()) == [f"fig.{ending}", file]


def test_the_command_as_it_is_typed(file, folder):
    words = [sys.executable, "-m", "miniattn", "plot", file, "--out", "fig.pdf"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fig.pdf\n", "")
    assert (folder / "fig.pdf").read_bytes().startswith(b"%PDF-")


def test_an_error_as_it_is_seen(file, folder):
    (folder / "fig.png").write_text("an older picture")
    words = [sys.executable, "-m", "miniattn", "plot", file, "--out", "fig.png", "--layer", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "miniattn plot: --layer: expected an index in [0, 2), got 2\n"
    assert (folder / "fig.png").read_text() == "an older picture"


@pytest.mark.parametrize(
    ("shape", "options", "function", "shown"),
    [
        ((T, T), [], "attention_map", ...),
        ((3, T, T), [], "attention_heads", ...),
        ((1, T, T), [], "attention_map", 0),
        ((3, T, T), ["--head", 2], "attention_map", 2),
        ((3, T, T), ["--kind", "lines"], "attention_lines", ...),
        ((2, 3, T, T), ["--layer", 1], "attention_heads", 1),
        ((2, 3, T, T), ["--layer", 1, "--head", 0], "attention_map", (1, 0)),
        ((2, 3, T, T), ["--batch", 1], "attention_heads", 1),
        ((2, 4, 3, T, T), ["--layer", 0], "attention_heads", (0, 0)),
        ((2, 4, 3, T, T), ["--layer", 1, "--batch", 3], "attention_heads", (1, 3)),
    ],
)
def test_the_axes_choose_the_picture(rng, drawn, shape, options, function, shown):
    w = rng.random(shape, np.float32)
    np.save("w.npy", w)
    assert run("w.npy", "--out", "fig.svg", *options) == 0
    [(name, (array,), _)] = drawn
    assert name == function
    np.testing.assert_array_equal(array, w[shown])


@pytest.mark.parametrize(
    ("shape", "options", "shown"),
    [
        ((2, 3, T, T), [], (slice(None),)),
        ((2, 4, 3, T, T), ["--batch", 1], (slice(None), 1)),
        ((2, 3, T, T), ["--head", 2], (slice(None), slice(2, 3))),
    ],
)
@pytest.mark.parametrize(
    ("kind", "name"), [("layers", "attention_layers"), ("summary", "head_summary")]
)
def test_layers_are_drawn_together(rng, drawn, shape, options, shown, kind, name):
    w = rng.random(shape, np.float32)
    np.save("w.npy", w)
    assert run("w.npy", "--out", "fig.svg", "--kind", kind, *options) == 0
    [(called, (maps,), _)] = drawn
    assert called == name
    np.testing.assert_array_equal(np.concatenate(list(maps.weights.values())), w[shown])


@pytest.fixture
def traced(rng):
    """A trace of twelve layers, (B, H, T, T) each."""
    names = [f"layers.{i}.attn" for i in range(12)]
    return Trace({name: rng.random((2, 2, T, T), np.float32) for name in names}, TOKENS)


def test_a_trace_in_npz(traced, drawn):
    np.savez("maps.npz", **traced.weights, tokens=traced.tokens)
    assert run("maps.npz", "--out", "fig.svg", "--batch", 1) == 0
    assert run("maps.npz", "--out", "fig.html") == 0
    assert run("maps.npz", "--out", "fig.svg", "--layer", 10) == 0
    layers, page, heads = drawn
    assert list(layers[1][0].weights) == list(page[1][0]) == list(traced.weights)
    for name in traced.weights:
        np.testing.assert_array_equal(layers[1][0].weights[name][0], traced.weights[name][1])
        np.testing.assert_array_equal(page[1][0][name], traced.weights[name][0])
    assert page[2]["tokens"] == TOKENS
    assert heads[2]["tokens"] == TOKENS
    np.testing.assert_array_equal(heads[1][0], traced["layers.10.attn.weights"][0])


def test_a_trace_in_safetensors(traced, drawn):
    checkpoint.save("maps.safetensors", traced.weights, metadata={"tokens": TOKENS})
    assert run("maps.safetensors", "--out", "fig.html") == 0
    [(_, (layers,), options)] = drawn
    assert list(layers) == list(traced.weights), "layers.2 comes before layers.10"
    assert options["tokens"] == TOKENS


def test_safetensors_of_another_origin(weights):
    safetensors.numpy.save_file({"w": weights[0]}, "w.safetensors")
    assert run("w.safetensors", "--out", "fig.svg") == 0


def test_one_array_of_several_is_chosen(rng, drawn):
    w = rng.random((3, T, T))
    np.savez("w.npz", w=w, x=rng.random((5, 8)), ids=np.arange(T))
    assert run("w.npz", "--out", "fig.svg", "--name", "w") == 0
    np.testing.assert_array_equal(drawn[0][1][0], w)


def test_options_reach_the_figure(rng, drawn):
    np.save("w.npy", rng.random((4, T)))
    words = ["--tokens", "a b c d", "--key-tokens", " ".join(TOKENS), "--scale", "log", "--causal"]
    words += ["--cmap", "gray", "--title", "Title", "--extent", 4, T]
    assert run("w.npy", "--out", "fig.svg", *words) == 0
    options = drawn[0][2]
    assert options["tokens"] == list("abcd")
    assert options["key_tokens"] == TOKENS
    assert (options["scale"], options["cmap"], options["title"]) == ("log", "gray", "Title")
    assert options["extent"] == (4, T)
    assert "causal" in repr(options["mask"])


def test_a_file_of_tokens_has_one_a_line(weights, drawn, folder):
    np.save("w.npy", weights[0, 0, :4, :4])
    (folder / "tokens.txt").write_text("two words\n\n@\nlast\n", encoding="utf-8")
    assert run("w.npy", "--out", "fig.svg", "--tokens", "@tokens.txt") == 0
    assert drawn[0][2]["tokens"] == ["two words", "", "@", "last"]


def test_tokens_of_the_command_line_come_first(weights, drawn):
    np.savez("w.npz", w=weights[0], tokens=TOKENS, key_tokens=TOKENS)
    assert run("w.npz", "--out", "fig.svg", "--tokens", "a b c d e f") == 0
    assert run("w.npz", "--out", "fig.svg") == 0
    given, kept = (options for _, _, options in drawn)
    assert given["tokens"] == list("abcdef")
    assert "key_tokens" not in given
    assert kept["tokens"] == kept["key_tokens"] == TOKENS


def test_dpi_is_pixels_an_inch(file):
    assert run(file, "--out", "a.png", "--dpi", 50) == 0
    assert run(file, "--out", "b.png", "--dpi", 100) == 0
    with Image.open("a.png") as small, Image.open("b.png") as large:
        assert large.size == pytest.approx(2 * np.array(small.size), abs=1)


def test_hostile_tokens_stay_text(weights, folder):
    np.save("w.npy", weights[0, 0])
    hostile = ["</script><script>alert(1)</script>", "$x$", "&lt;", "\x00", "猫", "\u202e"]
    (folder / "tokens.txt").write_text("\n".join(hostile), encoding="utf-8")
    for name in ("fig.html", "fig.svg"):
        assert run("w.npy", "--out", name, "--tokens", "@tokens.txt") == 0
        assert "<script>alert" not in (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.npz", "--out", "x.png"], "none.npz: No such file or directory"),
        (["w.csv", "--out", "x.png"], "w.csv: expected a name that ends in .npz, .npy"),
        (["w.npz", "--out", "x.jpg"], "--out: expected .svg, .png, .pdf or .html, got 'x.jpg'"),
        (["w.npz", "--out", "none/x.png"], "--out: expected a folder that exists, got 'none'"),
        (
            ["w.npz", "--out", "x.png", "--name", "v"],
            "--name: expected one of weights (2, 3, 6, 6)",
        ),
        (["w.npz", "--out", "x.png", "--kind", "map"], "--layer: expected an index in [0, 2) for"),
        (
            ["w.npz", "--out", "x.png", "--kind", "map", "--layer", "0"],
            "--head: expected an index in [0, 3) for",
        ),
        (
            ["w.npz", "--out", "x.png", "--head", "-1"],
            "--head: expected an index in [0, 3), got -1",
        ),
        (
            ["w.npz", "--out", "x.png", "--batch", "2"],
            "--batch: expected an index in [0, 2), got 2",
        ),
        (["w.npz", "--out", "x.png", "--dpi", "0"], "--dpi: expected 1 to 10,000"),
        (["w.npz", "--out", "x.png", "--dpi", "nan"], "--dpi: expected 1 to 10,000"),
        (
            ["w.npz", "--out", "x.png", "--cmap", "no"],
            "--cmap: expected a colour map of matplotlib",
        ),
        (["w.npz", "--out", "x.png", "--tokens", "a"], "--tokens: a picture of kind layers has no"),
        (["w.npz", "--out", "x.html", "--kind", "map"], "--kind: the page has no such option"),
        (["w.npz", "--out", "x.html", "--dpi", "90"], "--dpi: the page has no such option"),
        (
            ["w.npz", "--out", "x.png", "--kind", "summary", "--causal"],
            "--causal: a picture of kind summary has no such option",
        ),
        (
            ["w.npz", "--out", "x.png", "--layer", "0", "--tokens", "a b"],
            "tokens: expected T = 6 tokens, got 2",
        ),
        (["w.npz", "--out", "x.html", "--tokens", "a b"], "tokens: expected T = 6 tokens"),
        (["w.npz", "--out", "x.html", "--tokens", "@none"], "none: No such file or directory"),
        (["flat.npz", "--out", "x.png", "--batch", "0"], "--batch: expected weights with a batch"),
        (["mixed.npz", "--out", "x.png"], "choose with --name of a (3, 3), b (2, 3, 3)"),
        (
            ["ints.npz", "--out", "x.png"],
            "a floating-point array with 2 to 5 axes, not empty, got a",
        ),
        (["objects.npz", "--out", "x.png"], "objects.npz: expected NumPy arrays of plain numbers"),
        (["objects.npy", "--out", "x.png"], "objects.npy: expected NumPy arrays of plain numbers"),
        (["cut.npz", "--out", "x.png"], "cut.npz: expected NumPy arrays of plain numbers"),
        (["text.npz", "--out", "x.png"], "text.npz: expected NumPy arrays of plain numbers"),
        (["empty.npz", "--out", "x.png"], "empty.npz: expected NumPy arrays of plain numbers"),
        (["nothing.npz", "--out", "x.png"], "with 2 to 5 axes, not empty, got no array"),
        (["text.safetensors", "--out", "x.png"], "text.safetensors: expected a safetensors file"),
        (["heads.npz", "--out", "x.png"], "not empty, got a (0, 3, 3)"),
    ],
    ids=lambda value: " ".join(value[:1] + value[3:]) if isinstance(value, list) else "",
)
def test_wrong_calls(words, message, file, folder, capsys):
    np.savez("flat.npz", a=np.eye(3))
    np.savez("mixed.npz", a=np.eye(3), b=np.ones((2, 3, 3)))
    np.savez("ints.npz", a=np.eye(3, dtype=int))
    np.savez("heads.npz", a=np.ones((0, 3, 3)))
    np.savez("nothing.npz")
    objects = np.array([{}], object)
    np.save("objects.npy", objects, allow_pickle=True)
    with zipfile.ZipFile("objects.npz", "w") as archive:
        archive.write("objects.npy")
    (folder / "cut.npz").write_bytes((folder / file).read_bytes()[:-50])
    (folder / "empty.npz").touch()
    for name in ("text.npz", "text.safetensors", "w.csv"):
        (folder / name).write_text("text")
    before = {path.name for path in folder.iterdir()}
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert {path.name for path in folder.iterdir()} == before


def test_nothing_in_a_file_is_run(folder, capsys):
    """A pickle that would write a file when it is loaded."""

    class Payload:
        def __reduce__(self):
            return (open, ("ran", "w"))

    np.save("w.npy", np.array([Payload()], object), allow_pickle=True)
    assert run("w.npy", "--out", "x.png") == 2
    assert not (folder / "ran").exists()
    with zipfile.ZipFile("w.npz", "w") as archive:
        archive.write("w.npy", "weights.npy")
    assert run("w.npz", "--out", "x.png") == 2
    assert not (folder / "ran").exists()
    assert capsys.readouterr().err.count("Python objects") == 2


def test_a_failed_write_leaves_the_old_picture(file, folder, monkeypatch, capsys):
    def fail(*_):
        raise OSError("the disk is full")

    (folder / "fig.png").write_text("an older picture")
    monkeypatch.setattr(checkpoint.os, "fsync", fail)
    assert run(file, "--out", "fig.png") == 2
    assert capsys.readouterr().err == "miniattn plot: the disk is full\n"
    assert (folder / "fig.png").read_text() == "an older picture"
    assert sorted(path.name for path in folder.iterdir()) == ["fig.png", file]


def test_the_help_says_what_the_axes_mean(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for axes in ("(T, S)", "(H, T, S)", "(L, H, T, S)", "(B, H, T, S)", "(L, B, H, T, S)"):
        assert axes in text


def test_the_stored_page_is_the_page_of_the_function(weights, file, folder):
    assert run(file, "--out", "fig.html", "--tokens", " ".join(TOKENS)) == 0
    layers = {f"layer {i}": w for i, w in enumerate(weights)}
    assert (folder / "fig.html").read_text() == plot.html(layers, TOKENS).text
    [data] = re.findall(r'id="data">(.*?)</script>', (folder / "fig.html").read_text())
    assert json.loads(data)["tokens"] == [TOKENS]


def test_a_mask_in_the_file_hides(weights, drawn):
    seen = np.ones((T, T), bool)
    seen[:, 2] = False
    np.savez("w.npz", w=weights[0], mask=seen)
    assert run("w.npz", "--out", "fig.svg", "--causal") == 0
    mask = drawn[0][2]["mask"].to_array(1, 1, T, T)[0, 0]
    np.testing.assert_array_equal(mask, seen & np.tri(T, dtype=bool))


def test_labels_of_many_layers_are_told_where_there_are_any(file, capsys):
    assert run(file, "--out", "x.png", "--tokens", "a b c d e f") == 2
    assert "choose one layer by --layer, or write a page" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "html"])
@pytest.mark.parametrize(("bad", "code"), [(np.nan, 0), (np.inf, 0), (-0.25, 2)])
def test_numbers_that_are_no_weights_follow_the_rule_of_the_figures(weights, ending, bad, code):
    weights[1, 2, 3, 0] = bad
    np.save("w.npy", weights)
    assert run("w.npy", "--out", f"fig.{ending}") == code


@pytest.fixture
def files(weights, rng):
    """Weights and gradients of two layers, of the same names."""
    gradients = rng.standard_normal(weights.shape)
    np.savez("w.npz", **dict(zip("ab", weights, strict=True)), tokens=TOKENS)
    np.savez("g.npz", **dict(zip("ab", gradients, strict=True)))
    return gradients


CHOSEN = {
    "map": ("--layer", 1, "--head", 2),
    "heads": ("--layer", 1),
    "lines": ("--layer", 1, "--kind", "lines"),
    "layers": (),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_gradients_of_a_second_file(kind, files, drawn):
    options = ("--gradients", "g.npz", "--value", "weights*gradient", "--words")
    assert run("w.npz", "--out", "x.png", *CHOSEN[kind], *options) == 0
    [(name, _, how)] = [call for call in drawn if call[0] == f"attention_{kind}"]
    assert (how["value"], how["words"]) == ("weights*gradient", True)
    shown = {"map": files[1, 2], "heads": files[1], "lines": files[1]}
    expected = (
        dict(zip("ab", files[:, None], strict=True)) if kind == "layers" else {"b": shown[kind]}
    )
    got = how["gradients"] if kind == "layers" else {"b": how["gradients"]}
    for layer, dw in expected.items():
        np.testing.assert_array_equal(got[layer], dw, err_msg=name)


def test_gradients_on_the_page(files, drawn, folder):
    assert run("w.npz", "--out", "x.html", "--gradients", "g.npz", "--words") == 0
    [(_, _, how)] = drawn
    assert list(how["gradients"]) == ["a", "b"]
    assert "weights*gradient" in (folder / "x.html").read_text(encoding="utf-8")
    np.save("w.npy", np.eye(T))
    np.save("slope.npy", -np.eye(T))  # an array alone has the name of its file
    options = ("--gradients", "slope.npy", "--value", "gradient")
    assert run("w.npy", "--out", "x.png", *options) == 0
    np.testing.assert_array_equal(drawn[-1][2]["gradients"], -np.eye(T))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--value", "gradient"], "--value: expected --gradients beside it"),
        (["--gradients", "g.npz"], "--gradients: expected --value beside it"),
        (
            ["--gradients", "other.npz", "--value", "gradient"],
            "--gradients: expected a (3, 6, 6), b (3, 6, 6), got a (3, 6, 6), c (3, 6, 6)",
        ),
        (
            ["--gradients", "small.npz", "--value", "gradient"],
            "--gradients: expected the shape of a, (3, 6, 6), got (2, 6, 6)",
        ),
        (
            ["--kind", "summary", "--gradients", "g.npz", "--value", "gradient"],
            "--value: a picture of kind summary has no such option",
        ),
    ],
)
def test_wrong_gradients(words, message, files, folder, capsys):
    np.savez("other.npz", a=files[0], c=files[1])
    np.savez("small.npz", a=files[0, :2], b=files[1])
    assert run("w.npz", "--out", "x.png", *words) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "x.png").exists()
