"""Every argument of every public call, wrong in every way: the error names it.

Each argument is replaced by things that it can't be. The call raises a TypeError or a ValueError
that begins with the argument's name, "expected" and "got"; or it goes well, where the thing will
do. What is public is read off the package: a new function, layer or option is tried without being
listed, and fails here if no right values are known to start from.
"""

import inspect
import re
from typing import NamedTuple

import numpy as np
import pytest
from samples import dice, fresh
from test_completeness import modules, pairs, singles
from test_gradcheck import MODULES, PAIRS, built

import miniattn as ma
import miniattn.functional as F
from miniattn import analysis, losses, masks, models, nn, optim, training


class Foreign(NamedTuple):
    """A context of no pair."""

    x: np.ndarray


MASKED = np.ma.masked_array(np.ones((2, 3)), np.eye(2, 3) > 0)

# What no argument can be, but for the names below.
NEVER = {
    "an object": object(),
    "a word": "nonsense",
    "a function": len,
    "a class": nn.Linear,
    "a masked array": MASKED,
    "a dict": {"x": 1},
    "a context": Foreign(np.ones((2, 3))),
}
FITTING = {
    ("f", "a function"),
    ("tokens", "a word"),
    ("inputs", "a dict"),
    ("state", "a dict"),
    ("collate", "a function"),
    ("augment", "a function"),
    ("schedule", "a function"),
}
# What some can be.
SOMETIMES = {
    "None": None,
    "nothing": [],
    "a mixture": [1.0, "a"],
    "-1": -1,
    "0": 0,
    "too large": 10**30,
    "NaN": float("nan"),
    "True": True,
    "1.5": 1.5,
    "halves": np.ones((2, 3), np.float16),
    "ints": np.ones((2, 3), int),
    "singles": np.ones((7, 3, 2), np.float32),
    "five axes": np.ones((7, 5, 3, 2, 1)),
}
# Numbers of a right kind that don't fit another argument, which may then be the one to blame.
NUMBERS = {"nothing", "0", "1.5", "NaN", "ints", "singles", "five axes"}


def refuses_by_name(call, argument, label):
    """What is wrong with the answer to a wrong call, in words; nothing where it is right."""
    try:
        with np.errstate(all="ignore"):
            answer = call()
            if inspect.isgenerator(answer):
                list(answer)
    except (TypeError, ValueError) as error:
        names = re.match(r"([\w\[\]', ]+): expected .*\bgot\s", str(error), re.DOTALL)
        if names is None:
            return f"{type(error).__name__}: {error}"
        blamed = {name.partition("[")[0] for name in names[1].split(", ")}
        others = NUMBERS if argument not in blamed else ()
        return "" if argument in blamed or label in others else f"blames {names[1]}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "is taken" if label in NEVER and (argument, label) not in FITTING else ""


def findings(make, arguments, names):
    """Everything that is wrong with ``make()`` called with each of its arguments wrong."""
    wrong = {**NEVER, **SOMETIMES}
    for name in names:
        for label, value in wrong.items():

            def call(name=name, value=value):
                return make()(**{**arguments(), name: value})

            if answer := refuses_by_name(call, name, label):
                yield f"{name} = {label}: {answer}"


def named(function, leave_out=()):
    """The names of a function's arguments, those of the options of a layer's layer included."""
    options = {"options": nn.AttentionOptions.__annotations__}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from options.get(parameter.name, ())
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name not in leave_out:
            yield parameter.name


# ---------------------------------------------------------------------------- what there is to call


def operations():
    """(name, function, its arguments) of every public operation, forward and backward."""
    for op in pairs(F.__all__):
        inputs, options = PAIRS[op][0]
        options = {name: value for name, value in options.items() if name != "samples"}
        for name in (op, f"{op}_forward"):
            yield name, getattr(F, name), lambda i=inputs, o=options: {**i, **fresh(o)}
        y, ctx = getattr(F, f"{op}_forward")(**inputs, **fresh(options))
        backward = getattr(F, f"{op}_backward")
        dy = next(iter(inspect.signature(backward).parameters))
        yield f"{op}_backward", backward, lambda n=dy, y=y, c=ctx: {n: np.ones_like(y), "ctx": c}
    for name in singles(F.__all__):
        yield name, getattr(F, name), lambda n=name: SINGLES[n]


Q = np.ones((2, 3, 4))
SINGLES = {
    "attention_weights": {"q": Q, "k": Q},
    "attention_map": {"q": Q, "k": Q},
    "scaled_dot_product_attention": {"query": Q, "key": Q, "value": Q},
}
SIZES = {
    "in_features": 4,
    "out_features": 2,
    "embed_dim": 8,
    "num_heads": 2,
    "num_layers": 1,
    "vocab_size": 5,
    "max_length": 6,
    "block_size": 4,
    "num_classes": 3,
    "bottleneck": 2,
    "batch_size": 1,
    "num_kv_heads": 2,
    "capacity": 4,
    "head_dim": 4,
    "rank": 2,
    "p": 0.5,
    "data": np.ones(3),
    "behind": 2,
    "ahead": 1,
    "image_size": 4,
    "patch_size": 2,
}
MORE = {
    "SequenceClassifier": {"input_dim": 3},
    "LoRA": {"base": nn.Linear(4, 3)},
    "GatedFeedForward": {"activation": "gelu"},
}


def constructors():
    """(name, class, its arguments) of every public layer and model."""
    for name, cls in {**modules(), "KVCache": nn.KVCache, "Parameter": nn.Parameter}.items():
        if name == "Sequential" or cls.__init__ is object.__init__:
            continue
        yield (
            name,
            cls,
            lambda n=name, c=cls: (
                {
                    p.name: SIZES[p.name]
                    for p in inspect.signature(c).parameters.values()
                    if p.default is p.empty and p.name in SIZES
                }
                | MORE.get(n, {})
            ),
        )


def once_each(rows):
    return [pytest.param(*row, id=row[0]) for row in rows]


@pytest.mark.parametrize(("name", "function", "arguments"), once_each(operations()))
def test_operations(name, function, arguments):
    assert list(findings(lambda: function, arguments, named(function))) == []


@pytest.mark.parametrize(("name", "cls", "arguments"), once_each(constructors()))
def test_constructors(name, cls, arguments):
    assert list(findings(lambda: cls, arguments, named(cls))) == []


@pytest.mark.parametrize("name", MODULES)
def test_layers(name):
    build, inputs, options = MODULES[name][0]
    options = {key: value for key, value in options.items() if key != "samples"}
    module = built(build)
    # A layer that drops nothing has no use for a generator, and a stack of none for anything.
    forward = named(module.forward, leave_out=("rng",))
    arguments = lambda: {**inputs, **fresh(options)}  # noqa: E731
    assert list(findings(lambda: module.forward, arguments, forward)) == []
    y, ctx = module.forward(**arguments())
    backward = list(named(module.backward))
    given = {backward[0]: np.ones_like(y), "ctx": ctx}
    assert list(findings(lambda: module.backward, lambda: given, backward)) == []


# --------------------------------------------------------------------------------------- the others

WEIGHTS = np.full((2, 3, 3), 1 / 3)
HEADS = analysis.head_weights(nn.MultiHeadAttention(4, 2))
RIGHT = {
    "weights": WEIGHTS,
    "dweights": WEIGHTS,
    "dout": np.ones((1, 2, 3, 4)),
    "v": np.ones((1, 2, 3, 4)),
    "tokens": ["a", "b", "c"],
    "count": 2,
    "groups": [0, 1, 1],
    "lengths": [1],
    "ids": [0],
    "left": 1,
    "right": 1,
    "heads": HEADS,
    "first": HEADS,
    "second": HEADS,
    "kind": "q",
    "layer": nn.MultiHeadAttention(4, 2),
    "streams": np.ones((2, 3, 4), np.float32),
    "parts": np.ones((2, 3, 4)),
    "norm": nn.RMSNorm(4),
    "head": nn.Linear(4, 3),
}
# These run a model, which names its own arguments; their wrong calls are in
# tests/analysis/test_patching.py.
RUNS = ("ablation", "activation_patching", "attribution_patching", "path_patching")
RUNS += ("edge_attribution", "edge_names", "residual_stream", "stream_parts")
LAYERED = {"flow": [WEIGHTS], "rollout": [WEIGHTS]}


def functions(home, leave_out=()):
    for name in home.__all__:
        function = getattr(home, name)
        if inspect.isfunction(function) and name not in leave_out:
            yield name, function


@pytest.mark.parametrize(
    ("name", "function"),
    [
        *functions(analysis, leave_out=RUNS),
        *((n, getattr(masks, n)) for n in ("causal", "window", "padding", "documents")),
    ],
)
def test_maps_and_masks(name, function):
    needed = [
        p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty
    ]
    arguments = {n: RIGHT[n] for n in needed}
    if name in LAYERED:
        arguments["weights"] = LAYERED[name]
    assert list(findings(lambda: function, lambda: arguments, named(function))) == []


def tiny_gpt():
    return models.GPT(5, 4, embed_dim=4, num_heads=2, num_layers=1, rng=dice())


def tiny_pair():
    return models.EncoderDecoder(5, embed_dim=4, num_heads=2, rng=dice())


K = np.ones((1, 2, 1, 4), np.float32)
LOGITS = {"outputs": np.ones((2, 3)), "targets": np.array([0, 1])}
SERIES = {"outputs": np.ones((2, 3)), "targets": np.ones((2, 3))}
SOURCE = {"source": [1, 2], "max_new_tokens": 1, "start": 0}
LAYER = nn.Linear(4, 2)
LEARNED = {"parameters": LAYER.parameters(), "lr": 0.1}
# Of a hook, which any function may be, tests/models/test_writing.py has the wrong calls.
CHANGING = ("repetition_penalty", "stop", "tokenizer", "use_cache")
SAMPLING = ("temperature", "top_k", "top_p", "rng", *CHANGING)
BEAMS = ("beams", "length_penalty", *CHANGING)

METHODS = {
    "GPT.stream": (
        lambda: tiny_gpt().stream,
        {"prompts": [1, 2], "max_new_tokens": 1},
        ("prompts", *SAMPLING),
    ),
    "EncoderDecoder.stream": (lambda: tiny_pair().stream, SOURCE, ("source", "start", *SAMPLING)),
    "GPT.beam_search": (
        lambda: tiny_gpt().beam_search,
        {"prompts": [1, 2], "max_new_tokens": 1},
        ("prompts", *BEAMS),
    ),
    "EncoderDecoder.beam_search": (
        lambda: tiny_pair().beam_search,
        SOURCE,
        ("source", "start", *BEAMS),
    ),
    "GPT.new_caches": (
        lambda: tiny_gpt().new_caches,
        {"batch_size": 1},
        ("batch_size", "capacity", "forget"),
    ),
    "remember": (
        lambda: nn.MultiHeadAttention(8, 2).remember,
        {"key": np.ones((2, 3, 8), np.float32)},
        ("key", "value"),
    ),
    "weights": (lambda: nn.MultiHeadAttention(8, 2).weights, {}, ("ctx",)),
    "state": (lambda: nn.Linear(4, 2).load_state_dict, {}, ("state",)),
    "append": (lambda: nn.KVCache(1, 2, 4, 4).append, {"k": K, "v": K}, ("k", "v")),
    "truncate": (lambda: nn.KVCache(1, 2, 4, 4).truncate, {}, ("lengths",)),
    "select": (lambda: nn.KVCache(1, 2, 4, 4).select, {}, ("rows",)),
    "positions": (lambda: nn.KVCache(1, 2, 4, 4).positions, {}, ("count",)),
    "accumulate": (lambda: nn.Parameter(np.ones(3)).accumulate, {}, ("grad",)),
    "num_parameters": (lambda: nn.Linear(4, 2).num_parameters, {}, ("trainable",)),
    "alibi_slopes": (lambda: nn.alibi_slopes, {}, ("num_heads",)),
    "alibi_bias": (
        lambda: nn.alibi_bias,
        {"num_heads": 2, "q_positions": [0], "k_positions": [0], "dtype": float},
        ("num_heads", "q_positions", "k_positions", "dtype"),
    ),
    "CrossEntropy": (lambda: losses.CrossEntropy, {}, ("ignore_index", "label_smoothing")),
    "CrossEntropy.forward": (lambda: losses.CrossEntropy().forward, LOGITS, LOGITS),
    "CrossEntropy.metrics": (lambda: losses.CrossEntropy().metrics, LOGITS, LOGITS),
    "CrossEntropy.count": (lambda: losses.CrossEntropy().count, {}, ("targets",)),
    "MSE.forward": (lambda: losses.MSE().forward, SERIES, SERIES),
    "MSE.count": (lambda: losses.MSE().count, {}, ("targets",)),
    "SGD": (
        lambda: optim.SGD,
        LEARNED,
        ("parameters", "lr", "momentum", "weight_decay", "nesterov"),
    ),
    "AdamW": (lambda: optim.AdamW, LEARNED, ("parameters", "lr", "betas", "eps", "weight_decay")),
    "Trainer": (
        lambda: training.Trainer,
        {"model": LAYER, "optimizer": optim.SGD(LAYER.named_parameters(), lr=0.1)},
        # Whether a mask and a bias are taken is the model's; tests/test_training.py has both.
        list(named(training.Trainer, leave_out=("mask", "bias"))),
    ),
    "set_num_threads": (lambda: ma.set_num_threads, {}, ("n",)),
    "warmup": (lambda: ma.warmup, {"dtypes": []}, ("dtypes", "progress")),
    "gradcheck": (
        lambda: ma.gradcheck,
        {"f": F.relu_forward, "inputs": {"x": np.ones(3)}},
        ("f", "samples", "tolerance", "seed"),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    make, arguments, names = METHODS[name]
    assert list(findings(make, lambda: arguments, names)) == []


# --------------------------------------------------------------------------------- the check itself


@pytest.mark.parametrize(
    ("function", "finding"),
    [
        (lambda n: n, "is taken"),
        (lambda n: n.shape, "AttributeError"),
        (lambda n: int("x"), "ValueError: invalid literal"),
        (lambda n: F.softmax(None), "blames x"),
    ],
)
def test_a_call_that_says_too_little_is_found(function, finding):
    assert any(finding in found for found in findings(lambda: function, dict, ("n",)))
