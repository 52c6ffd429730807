"""What a type checker says to a caller: misspelt options are found, and results have types."""

import ast
import inspect
import subprocess
import sys
import tomllib
import typing
from pathlib import Path

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import losses, models, nn, optim, reference
from miniattn.functional._attention.options import Weighing, WeighingOptions
from miniattn.models._parts import LayerOptions
from miniattn.models.gpt import GPTOptions

ROOT = Path(__file__).parents[1]

# An ignored error that is none would be an error itself: each of them has to be found.
CALLS = """
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, models, nn

x: NDArray[np.float32] = np.ones((2, 3, 4), np.float32)
weights: bool = bool(x.size)

assert_type(F.attention(x, x, x), NDArray[Any])
assert_type(F.attention(x, x, x, mask=masks.causal(), return_weights=False), NDArray[Any])
assert_type(F.attention(x, x, x, scale=1.0, return_weights=True), tuple[NDArray[Any], NDArray[Any]])
either = F.attention(x, x, x, return_weights=weights)
assert_type(either, NDArray[Any] | tuple[NDArray[Any], NDArray[Any]])
F.attention(x, x, x, maks=masks.causal())  # type: ignore[call-overload]
F.attention_forward(x, x, x, maks=masks.causal())  # type: ignore[call-arg]
F.attention_weights(x, x, dropout=0.1)  # type: ignore[call-arg]
F.attention(x, x, x, mask="causal")  # type: ignore[call-overload]
F.softmax(x, -1)  # type: ignore[call-arg]

y, ctx = F.linear_forward(x[0], x[0])
assert_type(F.linear_backward(y, ctx, needs=("x",)).dweight, NDArray[Any] | None)
F.linear_backward(y, ctx, needs=("wieght",))  # type: ignore[arg-type]
F.linear_backward(y, ctx, needs="x")  # type: ignore[arg-type]
F.linear_backward(y, ctx, needs_grad=(True, True, True))  # type: ignore[call-arg]
out, attention = F.attention_forward(x, x, x)
assert_type(
    F.attention_backward(out, attention), F.AttentionGrads | F.ScoredAttentionGrads
)
F.attention_backward(out, attention, needs=("key",))  # type: ignore[arg-type]

nn.Linear(2, 3, baism=True)  # type: ignore[call-arg]
nn.MultiHeadAttention(8, 2, kv_heads=1)  # type: ignore[call-arg]
nn.TransformerEncoderLayer(8, 2, num_kv_head=1)  # type: ignore[call-arg]
nn.TransformerEncoder(1, 8, 2, ffn_dim=4, window=(2, 0), norm="rms", dropout=0.1)
nn.TransformerEncoder(1, 8, 2, ffn_dims=4)  # type: ignore[call-arg]
nn.TransformerEncoder(1, 8, 2, activation="golu")  # type: ignore[arg-type]
nn.TransformerDecoder(1, 8, 2, memory_dim=4, causal=False)
nn.TransformerDecoder(1, 8, 2, casual=False)  # type: ignore[call-arg]
models.GPT(9, 8, embed_dims=8)  # type: ignore[call-arg]
models.GPT.preset("gpt2", dropout=0.0, window=(4, 0))
models.GPT.preset("gpt2", drop_out=0.0)  # type: ignore[call-arg]
models.GPT(9, 8).generate([1], 2, topk=3)  # type: ignore[call-arg]
decoder = nn.TransformerDecoder(1, 8, 2)
assert_type(decoder.backward(y, decoder.forward(x, x)[1]).dmemory, NDArray[Any])

ma.atention  # type: ignore[attr-defined]
"""


@pytest.mark.slow
def test_a_type_checker_finds_what_is_misspelt(tmp_path):
    pytest.importorskip("mypy")
    calls = tmp_path / "calls.py"
    calls.write_text(CALLS, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(calls)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("Success: no issues found in 1 source file\n", 0)


def arguments(cls):
    return set(inspect.signature(cls).parameters) - {"options", "layers"}


@pytest.mark.parametrize(
    ("layer", "own", "handed_on"),
    [
        (
            nn.TransformerEncoderLayer,
            arguments(nn.TransformerEncoder),
            nn.TransformerEncoderOptions,
        ),
        (
            nn.TransformerDecoderLayer,
            arguments(nn.TransformerDecoder),
            nn.TransformerDecoderOptions,
        ),
        (models.GPT, {"vocab_size"}, GPTOptions),
    ],
)
def test_every_option_is_one_to_a_type_checker(layer, own, handed_on):
    handed_on = set(handed_on.__annotations__)
    assert arguments(layer) <= own | handed_on
    known = {*nn.LayerAttentionOptions.__annotations__, *LayerOptions.__annotations__}
    assert handed_on <= arguments(layer) | known


OF_ATTENTION = [F.attention, F.attention_forward, F.attention_weights, F.attention_map]


@pytest.mark.parametrize("call", OF_ATTENTION, ids=lambda f: f.__name__)
def test_options_are_the_same_to_type_checkers_to_help_and_to_the_call(call):
    assert WeighingOptions.__annotations__ == Weighing.__annotations__
    shown = inspect.signature(call).parameters
    assert {name: shown[name].default for name in Weighing._fields} == Weighing._field_defaults
    assert not any(p.kind is p.VAR_KEYWORD for p in shown.values())
    with pytest.raises(
        TypeError, match=r"^attention\w*\(\) got an unexpected keyword argument 'maks'$"
    ):
        call(*np.ones((3, 2, 4))[: 2 + ("v" in shown)], maks=None)


# What may be given by position although it need not be: inputs, and main sizes.
BY_POSITION = {"bias", "ffn_dim", "target_vocab_size", "lr", "warmup"}
AS_ELSEWHERE = {"scaled_dot_product_attention"}  # the call of another library


def calls(home):
    for name in home.__all__:
        made = getattr(home, name)
        is_plain = hasattr(made, "_fields") or typing.is_typeddict(made)
        if not is_plain and (inspect.isfunction(made) or isinstance(made, type)):
            yield name, inspect.signature(made).parameters.values()


HOMES = [F, nn, models, losses, optim, reference]


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.__name__)
def test_options_are_given_by_name(home):
    by_position = [
        (name, argument.name)
        for name, given in calls(home)
        for argument in given
        if name not in AS_ELSEWHERE
        and argument.kind is argument.POSITIONAL_OR_KEYWORD
        and argument.default is not argument.empty
        and argument.name not in BY_POSITION
    ]
    assert by_position == []


def functions(tree, compiled=False):
    """All functions below a node: whether each has types, and whether it is compiled or emits."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = (*node.args.args, *node.args.kwonlyargs)
            typed = node.returns and all(a.annotation for a in arguments if a.arg != "self")
            inside = compiled or bool(node.decorator_list)
            yield node.name, bool(typed), inside
            yield from functions(node, inside)
        else:
            yield from functions(node, compiled)


def test_the_exceptions_of_the_type_checker_are_needed_and_for_compiled_functions():
    """Under a decorator of Numba's, or of ours that hands to it, types are Numba's business."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    excepted = next(o for o in settings["overrides"] if "disallow_untyped_defs" in o)["module"]
    assert excepted == sorted(excepted)
    assert all(name.startswith("miniattn.kernels.") for name in excepted)
    for name in excepted:
        file = ROOT / (name.replace(".", "/") + ".py")
        found = [
            (f, inside)
            for f, typed, inside in functions(ast.parse(file.read_text("utf-8")))
            if not typed
        ]
        assert found, f"{name} needs no exception"
        assert [f for f, inside in found if not inside] == []
