"""Module and Parameter: finding, naming, tying, freezing, saving, showing."""

import collections
import copy
import dataclasses
import functools
import gc
import itertools
import re
import types
import weakref

import numpy as np
import pytest

from miniattn import GradcheckError, gradcheck, nn
from miniattn.models import GPT, EncoderDecoder


class Leaf(nn.Module):
    def __init__(self, size, dtype=np.float64):
        self.weight = nn.Parameter(np.arange(float(size)).astype(dtype))

    def forward(self, x, *, rng=None):
        return x * self.weight.data, x

    def backward(self, dy, ctx):
        self.weight.accumulate((dy * ctx).sum(axis=0))
        return dy * self.weight.data

    def describe(self):
        return str(self.weight.size)


class Tree(nn.Module):
    """Parts in attributes, lists and tuples, set in an order that is not the alphabet's."""

    def __init__(self):
        self.zeta = Leaf(2)
        self.scale = nn.Parameter(np.ones(()))
        self.layers = [Leaf(3), (Leaf(1), nn.Parameter(np.ones(4)))]
        self.alpha = Leaf(5)
        self.note = "not a part"


NAMES = ["zeta.weight", "scale", "layers.0.weight", "layers.1.0.weight", "layers.1.1"]


def test_parameters_are_named_by_path_in_the_order_of_definition():
    tree = Tree()
    names = [name for name, _ in tree.named_parameters()]
    assert names == [*NAMES, "alpha.weight"]
    assert tree.num_parameters() == 2 + 1 + 3 + 1 + 4 + 5
    assert [p.size for p in tree.parameters()] == [2, 1, 3, 1, 4, 5]
    paths = [path for path, _ in tree.named_modules()]
    assert paths == ["", "zeta", "layers.0", "layers.1.0", "alpha"]
    assert tree.modules()[0] is tree


def test_parts_in_dicts_are_parts():
    tree = Tree()
    tree.by_name = {
        "b": Leaf(2),
        "a": [{7: (Leaf(4),)}],
        "note": "none",
        "own": nn.Parameter(np.ones(1)),
    }
    names = [name for name, _ in tree.named_parameters()]
    assert names[-3:] == ["by_name.b.weight", "by_name.a.0.7.0.weight", "by_name.own"]
    state = tree.state_dict()
    tree.by_name["b"].weight.data += 1
    tree.load_state_dict(state)
    np.testing.assert_array_equal(tree.by_name["b"].weight.data, [0, 1])
    tree.freeze()
    assert not tree.by_name["own"].trainable
    assert "  by_name.a.0.7.0: Leaf(4)" in repr(tree)


def test_gradcheck_looks_at_parts_in_dicts():
    class Wrong(nn.Module):
        def __init__(self):
            self.parts = {"leaf": Leaf(3)}

        def forward(self, x, *, rng=None):
            return self.parts["leaf"].forward(x)

        def backward(self, dy, ctx):
            return dy * self.parts["leaf"].weight.data  # the gradient of the weight is left out

    with pytest.raises(GradcheckError, match=r"worst: parts\.leaf\.weight"):
        gradcheck(Wrong(), {"x": np.ones((2, 3))})


def shadow():
    leaf = Leaf(2)
    return lambda x: leaf(x)


@dataclasses.dataclass
class Box:
    content: object


HIDDEN = {
    "set": lambda: {Leaf(2)},
    "frozenset": lambda: frozenset([nn.Parameter(np.ones(2))]),
    "deque": lambda: collections.deque([Leaf(2)]),
    "values of a dict": lambda: {"a": Leaf(2)}.values(),
    "read-only dict": lambda: types.MappingProxyType({"a": Leaf(2)}),
    "object array": lambda: np.array([Leaf(2), None], dtype=object),
    "namespace": lambda: types.SimpleNamespace(layer=Leaf(2)),
    "dataclass": lambda: Box([Leaf(2)]),
    "box in a list": lambda: [Leaf(1), {"a": Box((Leaf(2),))}],
    "partial": lambda: functools.partial(Leaf(2).forward, rng=None),
    "method": lambda: Leaf(2).forward,
    "closure": shadow,
}
ONCE = {
    "generator": lambda: (Leaf(i) for i in range(1, 3)),
    "map": lambda: map(Leaf, [1, 2]),
    "zip": lambda: zip([Leaf(1)], [Leaf(2)], strict=True),
}


@pytest.mark.parametrize("kind", [*HIDDEN, *ONCE])
def test_a_part_that_would_not_be_found_is_refused_when_it_is_set(kind):
    tree = Tree()
    before = dict(vars(tree))
    with pytest.raises(
        TypeError, match=r"^parts.*: expected parts as attributes, or in lists"
    ) as e:
        tree.parts = (HIDDEN | ONCE)[kind]()
    assert kind not in ONCE or kind in str(e.value)
    assert vars(tree) == before


def test_what_is_found_elsewhere_or_is_no_part_may_be_set():
    tree = Tree()
    tree.own = functools.partial(tree.zeta.forward, rng=None)
    tree.both = [tree.alpha, {tree.alpha}]
    tree.call = tree.describe
    tree.plain = [{1, 2}, Box("x"), np.array([None]), deque_of_texts(), lambda: 1]
    assert tree.num_parameters() == 2 + 1 + 3 + 1 + 4 + 5


def deque_of_texts():
    return collections.deque(["a"])


@pytest.mark.parametrize("key", ["a.b", 1.5, ("a", "b"), None])
def test_keys_of_parts_give_clear_names(key):
    with pytest.raises(ValueError, match=r"parts.0: expected keys that name parts .*, got"):
        Tree().parts = [{key: Leaf(2)}]
    Tree().parts = [{key: "no part"}]


def test_keys_of_parts_differ_as_names():
    with pytest.raises(ValueError, match="parts: expected keys that name parts"):
        Tree().parts = {1: Leaf(2), "1": Leaf(2)}


def test_a_module_cannot_hold_itself():
    tree = Tree()
    box = nn.Sequential(Leaf(2), tree)
    for value in (tree, [tree], {"a": box}):
        with pytest.raises(ValueError, match="parts: expected parts, got what holds this Tree"):
            tree.parts = value


def test_a_part_on_the_class_is_refused():
    with pytest.raises(TypeError, match=r"layer: expected parts as attributes of a Shared, set in"):

        class Shared(nn.Module):
            layer = Leaf(2)


def test_a_replaced_part_keeps_its_place():
    tree = Tree()
    tree.zeta = Leaf(7)
    assert next(tree.named_parameters())[1].size == 7


def test_tied_parameters_count_once_and_add_up_their_gradients():
    tree = Tree()
    tree.alpha.weight = tree.layers[0].weight
    assert tree.num_parameters() == 2 + 1 + 3 + 1 + 4
    assert "alpha.weight" not in tree.state_dict()
    x = np.ones((2, 3))
    for layer in (tree.layers[0], tree.alpha):
        y, ctx = layer.forward(x)
        layer.backward(np.ones_like(y), ctx)
    np.testing.assert_array_equal(tree.alpha.weight.grad, np.full(3, 4.0))


def test_ties_survive_a_deep_copy():
    tree = Tree()
    tree.alpha.weight = tree.zeta.weight
    twin = copy.deepcopy(tree)
    assert twin.alpha.weight is twin.zeta.weight
    assert twin.zeta.weight is not tree.zeta.weight


def test_a_parameter_owns_its_data():
    source = np.ones((3, 2)).T
    parameter = nn.Parameter(source)
    parameter.data += 1
    assert source.max() == 1
    assert parameter.data.flags.c_contiguous
    assert parameter.grad is None
    assert repr(parameter) == "Parameter(2 x 3, float64)"


def test_numpy_sees_the_data_of_a_parameter():
    parameter = nn.Parameter(np.arange(3.0))
    assert np.asarray(parameter) is parameter.data
    assert np.shares_memory(np.asarray(parameter), parameter.data)
    assert not np.shares_memory(np.array(parameter), parameter.data)
    single = np.asarray(parameter, dtype=np.float32)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, [0, 1, 2])
    np.testing.assert_array_equal(np.ones(3) + parameter, [1, 2, 3])


def summary(module):
    """The indentation and the number of parameters of every line of a module's repr."""
    for line in repr(module).splitlines():
        size = re.search(r"\)  +([\d,]+)(?: |$)", line)
        indent = len(line) - len(line.lstrip())
        yield indent // 2, int(size[1].replace(",", "")) if size else 0


@pytest.mark.parametrize(
    "build",
    [
        Tree,
        lambda: GPT(65, 16, embed_dim=32, num_layers=2, rng=np.random.default_rng(0)),
        lambda: EncoderDecoder(9, embed_dim=8, num_heads=2, rng=np.random.default_rng(0)),
        lambda: nn.LoRA(nn.Linear(4, 3), 2),
    ],
)
def test_the_sizes_of_the_parts_add_up(build):
    module = build()
    lines = list(summary(module))
    assert lines[0] == (0, module.num_parameters())
    for i, (depth, size) in enumerate(lines):
        below = list(itertools.takewhile(lambda line, d=depth: line[0] > d, lines[i + 1 :]))
        if below:
            assert sum(part for d, part in below if d == depth + 1) == size


@pytest.mark.parametrize("data", [np.arange(3), np.ones(3, np.float16), "text", [True]])
def test_a_parameter_is_float32_or_float64(data):
    with pytest.raises(TypeError, match="data: expected"):
        nn.Parameter(data)


def test_gradients_accumulate_until_zero_grad():
    parameter = nn.Parameter(np.zeros(2, np.float32))
    parameter.accumulate(np.ones(2, np.float32))
    parameter.accumulate(np.full(2, 2, np.float32))
    np.testing.assert_array_equal(parameter.grad, [3, 3])
    assert parameter.grad.dtype == np.float32
    parameter.zero_grad()
    assert parameter.grad is None
    with pytest.raises(ValueError, match=r"grad: expected shape \(2,\), got \(3,\)"):
        parameter.accumulate(np.ones(3, np.float32))


def test_frozen_parameters_take_no_gradient():
    tree = Tree()
    tree.zeta.weight.accumulate(np.ones(2))
    assert tree.freeze() is tree
    assert tree.num_parameters(trainable=True) == 0
    assert tree.zeta.weight.grad is None
    tree.zeta.weight.accumulate(np.ones(2))
    assert tree.zeta.weight.grad is None
    tree.zeta.unfreeze()
    assert tree.num_parameters(trainable=True) == 2
    assert tree.num_parameters(trainable=False) == 14
    assert tree.num_parameters() == 16


def test_state_dict_is_a_copy_that_loads_back():
    tree = Tree()
    state = tree.state_dict()
    for parameter in tree.parameters():
        parameter.data += 1
    assert state["scale"] == 1
    places = [p.data for p in tree.parameters()]
    tree.load_state_dict(state)
    for (name, p), place in zip(tree.named_parameters(), places, strict=True):
        assert p.data is place  # optimizers and ties hold on to the array
        np.testing.assert_array_equal(p.data, state[name])


def test_a_wrong_state_is_refused_whole_with_every_reason():
    tree = Tree()
    before = tree.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    del state["scale"], state["alpha.weight"]
    state["layers.0.weight"] = np.ones(7)
    state["layers.1.1"] = np.ones(4, np.float32)
    state["extra"] = np.ones(1)
    with pytest.raises(ValueError, match="state: expected exactly the 6 parameters of Tree") as e:
        tree.load_state_dict(state)
    for reason in (
        "missing: scale () float64",
        "missing: alpha.weight (5,) float64",
        "unexpected: extra",
        "misshapen: layers.0.weight expected (3,) float64, got (7,) float64",
        "misshapen: layers.1.1 expected (4,) float64, got (4,) float32",
    ):
        assert reason in str(e.value)
    for name, array in tree.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_repr_is_a_tree_with_sizes():
    tree = Tree()
    tree.alpha.weight = tree.layers[0].weight
    tree.zeta.freeze()
    assert repr(tree).splitlines() == [
        "Tree()                      11 parameters (2 frozen)",
        "  zeta: Leaf(2)              2 frozen",
        "  scale: Parameter(scalar)   1",
        "  layers.0: Leaf(3)          3",
        "  layers.1.0: Leaf(1)        1",
        "  layers.1.1: Parameter(4)   4",
        "  alpha: Leaf(3)               (weight is layers.0.weight)",
    ]
    tree.more = [tree.zeta, tree.zeta.weight]
    assert repr(tree).splitlines()[-2:] == [
        "  more.0: Leaf(2)              (weight is zeta.weight)",
        "  more.1: Parameter(2)         (is zeta.weight)",
    ]
    assert repr(Leaf(2)) == "Leaf(2)"


def test_an_inference_call_keeps_nothing_and_refuses_dropout():
    layer = Leaf(3)
    x = np.ones((2, 3))
    before = dict(vars(layer))
    y = layer(x)
    assert vars(layer) == before
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None
    assert y.shape == (2, 3)
    with pytest.raises(TypeError, match="rng: expected none in an inference call"):
        layer(y, rng=np.random.default_rng(0))


def test_a_module_without_a_forward_says_so():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no forward"):
        Empty().forward()
    with pytest.raises(NotImplementedError, match="Empty has no backward"):
        Empty().backward(None, None)
