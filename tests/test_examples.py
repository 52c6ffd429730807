"""The examples' own parts: data makers, scores and head surgery. (CI runs the scripts whole.)"""

import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import miniattn
import miniattn.functional as F
from miniattn import gradcheck, masks, trace

FOLDER = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_docstring_shows_the_commands(script):
    module = load(script.stem)
    assert f"python examples/{script.name}\n" in module.__doc__ or (
        f"python examples/{script.name} " in module.__doc__
    )
    assert f"python examples/{script.name} --quick" in module.__doc__
    assert f"[{script.stem}]({script.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_char_gpt_has_a_text_to_learn_from():
    assert len(load("char_gpt").python_documentation()) > 100_000


def test_reverse_strings_are_reversed():
    example = load("reverse")
    strings = example.Strings(50, seed=0)
    for i in range(50):
        (source, read), written = strings[i]
        letters = source[:-1]
        assert example.SHORTEST <= len(letters) <= example.LONGEST
        assert source[-1] == read[0] == written[-1] == example.END
        np.testing.assert_array_equal(read[1:], letters[::-1])
        np.testing.assert_array_equal(written[:-1], letters[::-1])
    np.testing.assert_array_equal(strings[7][1], strings[7][1])
    assert example.decode(example.encode("backwards")) == "backwards"


def test_reverse_scores_the_antidiagonal():
    weights = np.zeros((1, 2, 4, 4))
    weights[0, 0, range(3), [2, 1, 0]] = 1.0
    np.testing.assert_array_equal(load("reverse").mirrored(weights, 3), [[1.0, 0.0]])


def test_induction_asks_only_for_what_can_be_known():
    example = load("induction_heads")
    examples = example.Repeats(20, seed=0)
    for i in range(20):
        tokens, targets = examples[i]
        asked = np.flatnonzero(targets != example.IGNORED)
        assert asked[0] >= 7
        for at in asked:
            earlier = np.flatnonzero(tokens[:at] == tokens[at])
            if at == asked[0]:  # the token that ends the first round is followed by a known one
                assert targets[at] == tokens[0]
            else:
                assert targets[at] == tokens[earlier[-1] + 1]


def test_induction_model_has_the_gradients_of_its_forward():
    example = load("induction_heads")
    model = example.AttentionOnly(np.random.default_rng(0))
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    ids = np.random.default_rng(1).integers(0, example.VOCAB, (2, 5))
    gradcheck(model, {"ids": ids}, samples=12)


def test_heads_taken_out_write_nothing():
    example = load("induction_heads")
    model = example.AttentionOnly(np.random.default_rng(0))
    ids = np.arange(12)[None] % 5
    one, _ = trace.run(model, ids, edits=example.without([(1, 0)]))
    assert not np.array_equal(one, model(ids))
    none, _ = trace.run(
        model, ids, edits=example.without(np.ndindex(example.LAYERS, example.HEADS))
    )
    np.testing.assert_array_equal(none, model.head(model.norm(model.tokens(ids))))


def test_grokking_frequencies(rng):
    """A wave is its own frequency alone, and filtering keeps what is asked for and the rest out."""
    example = load("grokking")
    wave = np.cos(2 * np.pi * 5 * np.arange(example.P) / example.P + 0.3)
    table = np.outer(wave, rng.standard_normal(4))
    power = example.frequencies(table)
    assert power.argmax() == 5
    assert power[5] == pytest.approx(1)
    whole = np.concatenate([table, rng.standard_normal((1, 4))])
    np.testing.assert_allclose(example.filtered(whole, np.array([5])), whole, atol=1e-12)
    without = example.filtered(whole, np.array([1, 2]))
    np.testing.assert_allclose(without[:-1], 0, atol=1e-12)
    np.testing.assert_array_equal(without[-1], whole[-1])


def test_indirect_objects_ask_for_the_name_that_came_once(rng):
    example = load("indirect_objects")
    for _ in range(20):
        tokens, once, twice = example.sentence(rng)
        names = tokens[tokens < example.NAMES].tolist()
        assert sorted(names) == sorted([once, twice, twice])
        assert names[-1] == twice
        assert tokens[-1] == example.GAVE
    clean, other, metric = example.questions(10, seed=1)
    for a, b, right, wrong in zip(clean, other, metric.right, metric.wrong, strict=True):
        changed = a != b
        np.testing.assert_array_equal(changed, a < example.NAMES)
        assert len({*b[changed].tolist(), right, wrong}) == 5


def test_kinds_of_heads():
    before, after = np.array([[0.1, 0.9, 0.5], [0.9, 0, 0]]), np.array([[0, 0, 0], [0.2, 0.3, 0.9]])
    assert load("induction_heads").kinds(before, after) == {
        "token before": [(0, 1), (0, 2)],
        "others of layer 0": [(0, 0)],
        "induction": [(1, 2)],
        "others of layer 1": [(1, 1), (1, 0)],
    }


def test_turned_four_times_is_as_before():
    example = load("finetune_adapter")
    examples = [(np.array([[-3.5, 2.5, 0.5], [1.5, 0.5, -2.0]], np.float32), 3)]
    once = example.turned(examples)
    np.testing.assert_array_equal(once[0][0], [[2.5, 3.5, 0.5], [0.5, -1.5, -2.0]])
    again = example.turned(example.turned(example.turned(once)))
    np.testing.assert_array_equal(again[0][0], examples[0][0])
    assert once[0][0].dtype == np.float32


TILED_MASKS = {
    "none": lambda B, T, S: None,
    "causal": lambda B, T, S: masks.causal(),
    "causal from the start": lambda B, T, S: masks.causal(0),
    "window": lambda B, T, S: masks.window(5, 2, sinks=1),
    "padding": lambda B, T, S: masks.padding([S, 0][:B]),
    "rows that see nothing": lambda B, T, S: masks.causal(-3) & masks.padding([S, S // 2][:B]),
    "array": lambda B, T, S: np.random.default_rng(0).random((B, 1, T, S)) < 0.4,
}


@pytest.mark.parametrize("mask", TILED_MASKS)
@pytest.mark.parametrize(
    ("T", "S", "tile"),
    [(1, 1, 64), (5, 7, (2, 3)), (9, 12, 4), (64, 64, 64), (67, 131, 64)],
    ids=str,
)
@pytest.mark.parametrize(("H", "G"), [(1, 1), (4, 2)])
def test_tiled_attention_is_attention(mask, T, S, tile, H, G, rng, monkeypatch):
    example = load("tiled_attention")
    queries, keys = tile if isinstance(tile, tuple) else (tile, tile)
    monkeypatch.setattr(example, "QUERIES", queries)
    monkeypatch.setattr(example, "KEYS", keys)
    B, D, Dv = 2, 6, 3
    q, dout = rng.standard_normal((B, H, T, D)), rng.standard_normal((B, H, T, Dv))
    k, v = rng.standard_normal((B, G, S, D)), rng.standard_normal((B, G, S, Dv))
    rule = masks.as_mask(TILED_MASKS[mask](B, T, S))
    visible = np.ones((B, H, T, S), bool) if rule is None else rule.to_array(B, H, T, S)

    out, ctx = example.forward(q, k, v, visible, 0.7)
    right, right_ctx = F.attention_forward(q, k, v, mask=rule, scale=0.7)
    grads = F.attention_backward(dout, right_ctx)
    seen = visible.any(-1)
    close = {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(out, right, **close)
    np.testing.assert_allclose((ctx.base + ctx.log_sum)[seen], right_ctx.lse[seen], **close)
    assert (ctx.log_sum[~seen] == np.inf).all()
    for ours, theirs in zip(example.backward(dout, ctx), grads[:3], strict=True):
        np.testing.assert_allclose(ours, theirs, **close)


@pytest.mark.parametrize("size", [1000.0, 2.0**50])
def test_tiled_attention_of_huge_scores(size):
    """The maximum and the logarithm of the sum stay apart: one number would lose the latter."""
    example = load("tiled_attention")
    x, v = np.full((1, 1, 50, 4), size), np.ones((1, 1, 50, 2))
    out, ctx = example.forward(x, x, v, np.ones((1, 1, 50, 50), bool), 1.0)
    np.testing.assert_allclose(out, v, rtol=1e-14)
    np.testing.assert_allclose(example.backward(v, ctx)[2], v, rtol=1e-13)


def test_tiled_attention_walks_to_its_end(rng):
    example = load("tiled_attention")
    q, k, v = rng.standard_normal((3, 1, 1, 150, 4))
    visible = masks.window(70, 0).to_array(1, 1, 150, 150)
    out, ctx = example.forward(q, k, v, visible, 0.5)
    steps = example.walk(ctx, 149)
    assert [n for n, *_ in steps] == [128, 150]  # of the first tile it sees nothing
    np.testing.assert_allclose(steps[-1][3], out[0, 0, 149], rtol=1e-14, atol=1e-15)
    assert steps[0][1] <= steps[1][1]


KERNELS = Path(miniattn.__file__).parent / "kernels"
QUOTE = re.compile(r"^ *# tiled: (.+)$", re.M)


def code_lines(function):
    """Lines of code of a function of the tiled example, without comments."""
    lines = inspect.getsource(getattr(load("tiled_attention"), function)).splitlines()
    return {line.partition("  #")[0].strip() for line in lines}


def quotes():
    return {
        quote for file in KERNELS.rglob("*.py") for quote in QUOTE.findall(file.read_text("utf-8"))
    }


def test_kernels_quote_what_the_tiled_example_says():
    functions = ("scores", "sum_over_keys", "backward")
    assert quotes() <= {line for function in functions for line in code_lines(function)}


@pytest.mark.parametrize("function", ["sum_over_keys", "backward"])
def test_every_step_of_the_tiled_example_is_quoted_by_a_kernel(function):
    """Numbers that the walk computes: what has a name and is worked out in the loop over tiles."""
    steps = "s weight dweight ds total o base decay log_sum share delta dq[rows] dk[tile] dv[tile]"
    lines = {line for line in code_lines(function) if line.split(" ")[0] in steps.split()}
    made = {line for line in lines if not line.endswith("np.zeros(len(q))")}
    assert made - quotes() == set()


def test_denoise_hides_a_third_and_knows_where_periods_lie():
    example = load("denoise")
    given = example.batch(np.random.default_rng(0), 20)
    real = np.arange(example.LONGEST) < given.lengths[:, None]
    assert not (given.hidden & ~real).any()
    shares = given.hidden.sum(axis=1) / given.lengths
    assert (shares >= 1 / 3).all()
    assert (shares < 0.6).all()
    inputs = given.inputs()
    assert not inputs[given.hidden | ~real].any()
    np.testing.assert_array_equal(
        inputs[..., 0][inputs[..., 1] > 0], given.series[real & ~given.hidden]
    )
    near = example.near_periods(6, 14)
    assert np.flatnonzero(near[0]).tolist() == [5, 6, 7, 11, 12, 13]
    assert not near.diagonal().any()
    lines = example.by_lines(given)
    np.testing.assert_array_equal(lines[~given.hidden], given.series[~given.hidden])
