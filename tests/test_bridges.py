"""PyTorch states read and written without PyTorch: names, packing, and what is refused."""

import numpy as np
import pytest

from miniattn import bridges, models, nn

E, H = 8, 2


def random_like(state, rng):
    """A state of the same names and shapes with other numbers."""
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in state.items()}


def tied(state):
    return {**state, "lm_head.weight": state["transformer.wte.weight"]}


def gpt(**options):
    return models.GPT(11, 6, embed_dim=E, num_heads=H, num_layers=2, **options)


def names_of(module, **options):
    return list(bridges.to_torch(module, **options))


def own_numbers(module):
    return {name: a.tobytes() for name, a in module.state_dict().items()}


MODULES = {
    "linear": lambda: nn.Linear(3, 5),
    "embedding": lambda: nn.Embedding(4, 3),
    "rms_norm": lambda: nn.RMSNorm(3),
    "attention": lambda: nn.MultiHeadAttention(E, H),
    "attention without bias": lambda: nn.MultiHeadAttention(E, H, bias=False),
    "attention of three widths": lambda: nn.MultiHeadAttention(E, H, kdim=3, vdim=5),
    "encoder layer": lambda: nn.TransformerEncoderLayer(E, H, ffn_dim=5),
    "encoder": lambda: nn.TransformerEncoder(2, E, H, ffn_dim=5),
    "post-norm encoder": lambda: nn.TransformerEncoder(2, E, H, norm_first=False),
    "decoder layer": lambda: nn.TransformerDecoderLayer(E, H, memory_dim=3),
    "decoder": lambda: nn.TransformerDecoder(2, E, H, bias=False),
    "sequential": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)),
    "float64": lambda: nn.MultiHeadAttention(E, H, dtype=np.float64),
}


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_what_is_read_is_written_again_bit_by_bit(make, rng):
    module = make()
    state = random_like(bridges.to_torch(module), rng)
    bridges.from_torch(module, state)
    again = bridges.to_torch(module)
    assert list(again) == list(state)
    for name, array in state.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)
    assert sum(a.size for a in state.values()) == module.num_parameters()


@pytest.mark.parametrize("layout", ["nanogpt", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"positions": "rotary"}], ids=str)
def test_gpt_is_read_and_written_again_bit_by_bit(layout, options, rng):
    model = gpt(**options)
    state = random_like(bridges.to_torch(model, layout=layout), rng)
    state["transformer.wte.weight"][0, 0] = np.nan  # tied all the same
    state = tied(state)
    bridges.from_torch(model, state, layout=layout)
    again = bridges.to_torch(model, layout=layout)
    assert list(again) == list(state)
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array)
    assert model.head.weight is model.tokens.weight


def test_names_are_those_of_pytorch():
    assert names_of(nn.MultiHeadAttention(E, H, kdim=3)) == [
        "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias",
        "out_proj.weight", "out_proj.bias",
    ]  # fmt: skip
    assert names_of(nn.MultiHeadAttention(E, H, bias=False)) == [
        "in_proj_weight",
        "out_proj.weight",
    ]
    decoder = names_of(nn.TransformerDecoder(1, E, H, bias=False))
    assert decoder == [
        "layers.0.self_attn.in_proj_weight", "layers.0.self_attn.out_proj.weight",
        "layers.0.multihead_attn.in_proj_weight", "layers.0.multihead_attn.out_proj.weight",
        "layers.0.linear1.weight", "layers.0.linear2.weight",
        "layers.0.norm1.weight", "layers.0.norm2.weight", "layers.0.norm3.weight", "norm.weight",
    ]  # fmt: skip


def test_names_are_those_of_nanogpt():
    model = models.GPT(11, 6, embed_dim=E, num_heads=H, num_layers=1)
    block = [
        "ln_1.weight", "attn.c_attn.weight", "attn.c_proj.weight",
        "ln_2.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    ]  # fmt: skip
    assert names_of(model) == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
        *(f"transformer.h.0.{name}" for name in block),
        "transformer.ln_f.weight",
        "lm_head.weight",
    ]


def test_queries_keys_and_values_are_packed_in_this_order():
    attn = nn.MultiHeadAttention(E, H)
    bridges.from_torch(
        attn,
        {
            "in_proj_weight": np.repeat(np.float32([1, 2, 3]), E)[:, None] * np.ones(E, np.float32),
            "in_proj_bias": np.arange(3 * E, dtype=np.float32),
            "out_proj.weight": np.eye(E, dtype=np.float32),
            "out_proj.bias": np.zeros(E, np.float32),
        },
    )
    for i, part in enumerate((attn.q_proj, attn.k_proj, attn.v_proj)):
        assert (part.weight.data == i + 1).all()
        np.testing.assert_array_equal(part.bias.data, np.arange(i * E, (i + 1) * E))


def test_gpt2_keeps_linear_maps_transposed_and_tables_not():
    model = gpt(bias=True)
    linear, conv = (bridges.to_torch(model, layout=layout) for layout in ("nanogpt", "gpt2"))
    assert list(linear) == list(conv)
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    for name, array in linear.items():
        expected = array.T if name.endswith(transposed) else array
        np.testing.assert_array_equal(conv[name], expected)
        assert conv[name].flags.c_contiguous


def test_what_is_written_shares_no_memory():
    module = nn.Linear(3, 2)
    before = own_numbers(module)
    for array in bridges.to_torch(module).values():
        array[...] = 7.0
    assert own_numbers(module) == before


def test_strides_and_lists_are_read(rng):
    module = nn.Linear(3, 2, dtype=np.float64)
    weight = rng.standard_normal((6, 4))[::-2, 1:].T[::-1].T[:2]
    bridges.from_torch(module, {"weight": weight, "bias": [1.0, 2.0]})
    np.testing.assert_array_equal(module.weight.data, weight)
    np.testing.assert_array_equal(module.bias.data, [1, 2])


# ------------------------------------------------------------------------------------------ names


def test_prefix_selects_and_is_put_back(rng):
    layer = nn.TransformerEncoderLayer(E, H)
    state = random_like(bridges.to_torch(layer, prefix="encoder."), rng)
    assert all(name.startswith("encoder.") for name in state)
    bridges.from_torch(layer, {**state, "head.weight": np.ones(3)}, prefix="encoder.")
    for name, array in bridges.to_torch(layer, prefix="encoder.").items():
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("compiled", ["_orig_mod.", "transformer._orig_mod."])
def test_names_of_compiled_models_are_read(compiled, rng):
    model = gpt()
    state = tied(random_like(bridges.to_torch(model), rng))
    place = compiled.removesuffix("_orig_mod.")
    renamed = {
        compiled + name.removeprefix(place) if name.startswith(place) else name: array
        for name, array in state.items()
    }
    bridges.from_torch(model, renamed)
    assert any("_orig_mod" in name for name in renamed)
    np.testing.assert_array_equal(model.tokens.weight.data, state["transformer.wte.weight"])


def test_causal_masks_in_old_states_are_passed_over(rng):
    model = gpt(bias=True)
    state = tied(random_like(bridges.to_torch(model), rng))
    buffers = {f"transformer.h.{i}.attn.bias": np.tri(6)[None, None] for i in range(2)}
    bridges.from_torch(model, {**state, **buffers, "transformer.h.0.attn.masked_bias": -1e4})
    attn = model.blocks.layers[1].attn
    np.testing.assert_array_equal(
        attn.k_proj.bias.data, state["transformer.h.1.attn.c_attn.bias"][E : 2 * E]
    )
    assert list(bridges.to_torch(model)) == list(state)


def test_one_name_of_a_tied_weight_is_enough(rng):
    state = tied(random_like(bridges.to_torch(gpt()), rng))
    for left_out in ("lm_head.weight", "transformer.wte.weight"):
        model = gpt()
        bridges.from_torch(model, {n: a for n, a in state.items() if n != left_out})
        np.testing.assert_array_equal(model.head.weight.data, state["lm_head.weight"])
    with pytest.raises(ValueError, match=r"missing: lm_head.weight \(11, 8\) float32"):
        bridges.from_torch(
            gpt(tied=False), {n: a for n, a in state.items() if n != "lm_head.weight"}
        )


def test_a_model_of_ones_own_keeps_its_names(rng):
    class Twin(nn.Module):
        def __init__(self):
            self.embed = nn.Embedding(5, E)
            self.blocks = [nn.TransformerEncoderLayer(E, H) for _ in range(2)]
            self.head = nn.Linear(E, 3)

    state = random_like(bridges.to_torch(Twin()), rng)
    assert {"embed.weight", "blocks.1.self_attn.in_proj_bias", "head.bias"} < set(state)
    twin = Twin()
    bridges.from_torch(twin, state)
    np.testing.assert_array_equal(twin.blocks[1].ffn.up.bias.data, state["blocks.1.linear1.bias"])


# ----------------------------------------------------------------------------------------- dtypes


class Tensor:
    """What a PyTorch tensor with a gradient lets one do: detach it, or raise."""

    def __init__(self, array, dtype, *, detached=False):
        self.array, self.dtype, self.shape = array, f"torch.{dtype}", array.shape
        self.detached = detached

    def detach(self):
        return Tensor(self.array, self.dtype.removeprefix("torch."), detached=True)

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.array.astype(np.float32), "float32", detached=self.detached)

    def __array__(self, dtype=None, copy=None):
        if not self.detached or self.dtype == "torch.bfloat16":
            raise TypeError("can't be converted to numpy")
        return self.array


def test_tensors_are_read_without_importing_torch(python, rng):
    module = nn.Linear(3, 2)
    weight = rng.standard_normal((2, 3), dtype=np.float32)
    bias = np.zeros(2, np.float32)
    bridges.from_torch(
        module, {"weight": Tensor(weight, "float32"), "bias": Tensor(bias, "float32")}
    )
    np.testing.assert_array_equal(module.weight.data, weight)
    assert python("import sys; import miniattn.bridges; print('torch' in sys.modules)") == "False\n"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_converted_only_on_demand(dtype):
    module = nn.LayerNorm(2, bias=False)
    value = np.array([0.5, -1.25], "float32" if dtype == "bfloat16" else dtype)
    state = {"weight": Tensor(value, dtype)}
    with pytest.raises(ValueError, match=rf"weight expected \(2,\) float32, got \(2,\) {dtype}$"):
        bridges.from_torch(module, state)
    np.testing.assert_array_equal(module.weight.data, [1, 1])
    bridges.from_torch(module, state, cast=True)
    np.testing.assert_array_equal(module.weight.data, [0.5, -1.25])
    assert module.weight.dtype == np.float32


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", ">f4", "object"])
def test_what_is_no_float_is_refused(dtype, cast):
    with pytest.raises(ValueError, match="misshapen: weight"):
        bridges.from_torch(nn.LayerNorm(2, bias=False), {"weight": np.ones(2, dtype)}, cast=cast)


# ----------------------------------------------------------------------------------------- errors


def test_one_error_lists_all_that_is_wrong_and_nothing_is_loaded(rng):
    encoder = nn.TransformerEncoder(2, E, H)
    before = own_numbers(encoder)
    state = random_like(bridges.to_torch(encoder), rng)
    del state["layers.0.linear1.bias"]
    state["layers.1.norm2.weight"] = np.ones(E + 1, np.float32)
    state["layers.1.self_attn.in_proj_weight"] = state["layers.1.self_attn.in_proj_weight"].T
    state["norm.bias"] = state["norm.bias"].astype(np.float16)
    state["layers.2.norm1.weight"] = np.ones(E, np.float32)
    state["_orig_mod.norm.weight"] = state["norm.weight"]
    with pytest.raises(ValueError) as error:
        bridges.from_torch(encoder, state)
    assert str(error.value).splitlines() == [
        "state: expected that of a TransformerEncoder, got",
        "  twice: norm.weight",
        "  missing: layers.0.linear1.bias (32,) float32",
        "  misshapen: layers.1.self_attn.in_proj_weight expected (24, 8) float32, "
        "got (8, 24) float32",
        "  misshapen: layers.1.norm2.weight expected (8,) float32, got (9,) float32",
        "  misshapen: norm.bias expected (8,) float32, got (8,) float16",
        "  unexpected: layers.2.norm1.weight",
    ]
    assert own_numbers(encoder) == before


def test_added_key_and_value_biases_are_refused_with_the_reason(rng):
    attn = nn.MultiHeadAttention(E, H)
    state = random_like(bridges.to_torch(attn), rng)
    extra = np.zeros((1, 1, E), np.float32)
    with pytest.raises(ValueError, match=r"unexpected: bias_k \(add_bias_kv has no counterpart"):
        bridges.from_torch(attn, {**state, "bias_k": extra, "bias_v": extra})


def test_a_tied_model_refuses_two_different_weights(rng):
    model = gpt()
    before = own_numbers(model)
    state = random_like(bridges.to_torch(model), rng)
    with pytest.raises(ValueError, match=r"untied: lm_head.weight differs from transformer.wte"):
        bridges.from_torch(model, state)
    assert own_numbers(model) == before
    bridges.from_torch(gpt(tied=False), state)


def test_packed_and_separate_weights_are_not_mistaken_for_each_other():
    packed, separate = nn.MultiHeadAttention(E, H), nn.MultiHeadAttention(E, H, vdim=3)
    with pytest.raises(ValueError, match=r"missing: in_proj_weight[^$]*unexpected: q_proj_weight"):
        bridges.from_torch(packed, bridges.to_torch(separate))


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (lambda: nn.TransformerEncoderLayer(E, H, activation="swiglu"), r"ffn\.gate\.weight"),
        (lambda: with_lora(nn.TransformerEncoder(1, E, H)), r"layers\.0\.attn\.q_proj\.base"),
    ],
    ids=["swiglu", "lora"],
)
def test_parameters_without_a_name_are_refused(module, left):
    module = module()
    with pytest.raises(TypeError, match=left):
        bridges.to_torch(module)
    with pytest.raises(TypeError, match=left):
        bridges.from_torch(module, {})


def with_lora(model):
    nn.add_lora(model, rank=2)
    return model


def test_wrong_arguments_are_refused():
    layer = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"module: expected a Module of miniattn, got a dict"):
        bridges.from_torch({}, layer)
    with pytest.raises(TypeError, match=r"state: expected a mapping .* got a Linear"):
        bridges.from_torch(layer, layer)
    with pytest.raises(ValueError, match="layout: expected one of"):
        bridges.to_torch(layer, layout="jax")
