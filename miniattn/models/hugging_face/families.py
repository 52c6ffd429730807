"""One table a family: what its settings ask for, and which array goes where.

A rule says for one of their arrays which of our parameters it fills, and with which part of it.
``{i}`` is the number of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from miniattn import nn
from miniattn._typing import Array
from miniattn.models.gpt import GPT
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.text_encoder import TextEncoder

Part: TypeAlias = Callable[[Array], Array]
Rules: TypeAlias = Mapping[str, Mapping[str, Part]]
Build: TypeAlias = Callable[[Settings, np.dtype[Any]], tuple[nn.Module, Rules]]


class Family(NamedTuple):
    """What is known of a family of models."""

    name: str
    build: Build
    prefix: str = r"^model\."
    """What names of arrays may begin with."""
    without_use: str = r"(.*\.)?rotary_emb\.inv_freq$"
    """Arrays that are no parameters of the model, or of heads that are not built."""


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"}


def _whole(x: Array) -> Array:
    return x


def _turned(x: Array) -> Array:
    return x.T


def _one_more(x: Array) -> Array:
    """Return the gain of a norm that multiplies by 1 + weight."""
    return x + 1


def _named(table: Mapping[str, str], name: str, setting: str) -> Any:
    if name not in table:
        raise ValueError(f"config.json: expected {setting} among {sorted(table)}, got {name!r}")
    return table[name]


def _activation(settings: Settings, name: str, default: str) -> Any:
    return _named(ACTIVATIONS, settings.take(name, default=default), name)


def _pairs(
    names: Mapping[str, str], part: Part = _whole, ends: tuple[str, ...] = ("weight", "bias")
) -> dict[str, dict[str, Part]]:
    """Return the rules of layers whose arrays go over as they are."""
    return {
        f"{theirs}.{end}": {f"{ours}.{end}": part} for theirs, ours in names.items() for end in ends
    }


def _of_layers(rules: Rules, count: int) -> dict[str, dict[str, Part]]:
    """Return rules with ``{i}`` for each of ``count`` layers."""
    return {
        theirs.format(i=i): {ours.format(i=i): part for ours, part in places.items()}
        for theirs, places in rules.items()
        for i in range(count)
    }


# ------------------------------------------------------------------------------------ GPT-2, NeoX


def _third(of: int, axis: int, part: Part = _whole) -> Part:
    """Return what takes one of three equal parts, of q, k and v."""
    return lambda x: part(np.split(x, 3, axis=axis)[of])


def _gpt2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    settings.expect("scale_attn_weights", True)
    settings.expect("scale_attn_by_inverse_layer_idx", False)
    settings.expect("reorder_and_upcast_attn", False, True)
    settings.expect("add_cross_attention", False)
    settings.take("n_ctx", default=None)
    count = settings.take("n_layer")
    model = GPT(
        settings.take("vocab_size"),
        settings.take("n_positions"),
        embed_dim=settings.take("n_embd"),
        num_heads=settings.take("n_head"),
        num_layers=count,
        ffn_dim=settings.take("n_inner", default=None),
        activation=_named(
            ACTIVATIONS,
            settings.take("activation_function", default="gelu_new"),
            "activation_function",
        ),
        norm_eps=settings.take("layer_norm_epsilon", default=1e-5),
        bias=True,
        tied=settings.take("tie_word_embeddings", default=True),
        dtype=dtype,
    )
    at = "blocks.layers.{i}."
    qkv = [f"{at}attn.{x}_proj" for x in "qkv"]
    layer = {
        **_pairs({"h.{i}.ln_1": f"{at}norm1", "h.{i}.ln_2": f"{at}norm2"}),
        "h.{i}.attn.c_attn.weight": {
            f"{q}.weight": _third(j, 1, _turned) for j, q in enumerate(qkv)
        },
        "h.{i}.attn.c_attn.bias": {f"{q}.bias": _third(j, 0) for j, q in enumerate(qkv)},
    }
    linear = {
        "h.{i}.attn.c_proj": f"{at}attn.out_proj",
        "h.{i}.mlp.c_fc": f"{at}ffn.up",
        "h.{i}.mlp.c_proj": f"{at}ffn.down",
    }
    layer |= _pairs(linear, _turned, ("weight",)) | _pairs(linear, _whole, ("bias",))
    return model, {
        "wte.weight": {"tokens.weight": _whole},
        "wpe.weight": {"positions.weight": _whole},
        "lm_head.weight": {"head.weight": _whole},
        **_pairs({"ln_f": "blocks.norm"}),
        **_of_layers(layer, count),
    }


def _gpt_neox(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    settings.expect("is_decoder", False, True)
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width = settings.take("hidden_size")
    rotary = _rotary(settings, width // heads, share=0.25)
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings", default=2048),
        embed_dim=width,
        num_heads=heads,
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=_activation(settings, "hidden_act", "gelu"),
        positions=None,
        rotary=rotary,
        norm_eps=settings.take("layer_norm_eps", default=1e-5),
        bias=True,
        attn_bias=settings.take("attention_bias", default=True),
        parallel=settings.take("use_parallel_residual", default=True),
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
    )

    def of_heads(which: int) -> Part:  # rows are (H, 3, D)
        return lambda x: x.reshape(heads, 3, width // heads, *x.shape[1:])[:, which].reshape(
            width, *x.shape[1:]
        )

    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = _pairs(
        {
            f"{there}input_layernorm": f"{at}norm1",
            f"{there}post_attention_layernorm": f"{at}norm2",
            f"{there}attention.dense": f"{at}attn.out_proj",
            f"{there}mlp.dense_h_to_4h": f"{at}ffn.up",
            f"{there}mlp.dense_4h_to_h": f"{at}ffn.down",
        }
    )
    for end in ("weight", "bias"):
        layer[f"{there}attention.query_key_value.{end}"] = {
            f"{at}attn.{x}_proj.{end}": of_heads(j) for j, x in enumerate("qkv")
        }
    return model, {
        "embed_in.weight": {"tokens.weight": _whole},
        "embed_out.weight": {"head.weight": _whole},
        **_pairs({"final_layer_norm": "blocks.norm"}),
        **_of_layers(layer, count),
    }


# ------------------------------------------------------------------------------- Llama and its kin


def _rotary(
    settings: Settings, head_dim: int, *, share: float = 1.0, base: float = 10000.0
) -> nn.Rotary:
    """Return the rotary positions of a model, of either way of telling them."""
    told = settings.take("rope_parameters", default=None) or {}
    scaled = settings.take("rope_scaling", default=None) or {}
    scaled = {**told, **scaled}
    base = settings.take("rope_theta", "rotary_emb_base", default=scaled.pop("rope_theta", base))
    share = settings.take(
        "partial_rotary_factor",
        "rotary_pct",
        default=scaled.pop("partial_rotary_factor", share),
    )
    return _of_kind(scaled, int(head_dim * share), base, head_dim)


def _of_kind(scaled: dict[str, Any], dim: int, base: float, head_dim: int) -> nn.Rotary:
    """Return rotary positions of frequencies as ``scaled`` says; what it says is used up."""
    scaled = dict(scaled)
    kind = scaled.pop("rope_type", None) or scaled.pop("type", None) or "default"
    scaled.pop("type", None)
    magnitude = 1.0
    if kind == "default":
        frequencies = None
    elif kind == "linear":
        frequencies = nn.frequencies.linear(dim, factor=scaled.pop("factor"), base=base)
    elif kind == "llama3":
        frequencies = nn.frequencies.llama3(
            dim,
            base=base,
            factor=scaled.pop("factor"),
            original_length=scaled.pop("original_max_position_embeddings"),
            low_frequency_factor=scaled.pop("low_freq_factor"),
            high_frequency_factor=scaled.pop("high_freq_factor"),
        )
    elif kind == "yarn":
        factor = scaled.pop("factor")
        magnitude = scaled.pop("attention_factor", None) or nn.frequencies.yarn_magnitude(factor)
        frequencies = nn.frequencies.yarn(
            dim,
            base=base,
            factor=factor,
            original_length=scaled.pop("original_max_position_embeddings"),
            beta_fast=scaled.pop("beta_fast", None) or 32.0,
            beta_slow=scaled.pop("beta_slow", None) or 1.0,
            whole=scaled.pop("truncate", True),
        )
    else:
        raise ValueError(f"config.json: expected a known rope_type, got {kind!r}")
    if scaled:
        raise ValueError(f"config.json: expected known rope settings, got {sorted(scaled)}")
    partial = None if dim == head_dim else dim
    if frequencies is None:
        return nn.Rotary(base=base, dim=partial)
    return nn.Rotary(base=base, dim=partial, frequencies=frequencies, magnitude=magnitude)


def _llama_like(
    settings: Settings, dtype: np.dtype[Any], *, norm: Part = _whole, **options: Any
) -> tuple[GPT, dict[str, dict[str, Part]]]:
    """Return a model with RMSNorm, rotary positions and a gated feed-forward, and its rules."""
    settings.expect("pretraining_tp", 1)
    count, heads = settings.take("num_hidden_layers"), settings.take("num_attention_heads")
    width = settings.take("hidden_size")
    head_dim = settings.take("head_dim", default=None) or width // heads
    eps = settings.take("rms_norm_eps", default=1e-6)
    if "rotary" not in options and "by_layer" not in options:
        options["rotary"] = _rotary(settings, head_dim)
    if "qk_norm" in options:
        options["qk_norm_eps"] = eps
    model = GPT(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=width,
        num_heads=heads,
        num_kv_heads=settings.take("num_key_value_heads", default=None) or heads,
        head_dim=head_dim,
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=_named(
            GATED, settings.take("hidden_activation", "hidden_act", default="silu"), "hidden_act"
        ),
        positions=None,
        norm="rms",
        norm_eps=eps,
        tied=settings.take("tie_word_embeddings", default=False),
        dtype=dtype,
        **options,
    )
    sandwich = options.get("sandwich", False)
    inner = ".layers.0" if sandwich else ""
    at, there = "blocks.layers.{i}.", "layers.{i}."
    layer = _pairs(
        {
            **{f"{there}self_attn.{x}_proj": f"{at}attn.{x}_proj" for x in "qkv"},
            f"{there}self_attn.o_proj": f"{at}attn.out_proj{inner}",
            f"{there}mlp.gate_proj": f"{at}ffn.gate",
            f"{there}mlp.up_proj": f"{at}ffn.up",
            f"{there}mlp.down_proj": f"{at}ffn.down{inner}",
        }
    )
    before_ffn = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    norms = {
        f"{there}input_layernorm": f"{at}norm1",
        f"{there}{before_ffn}": f"{at}norm2",
        f"{there}self_attn.q_norm": f"{at}attn.q_norm",
        f"{there}self_attn.k_norm": f"{at}attn.k_norm",
    }
    if sandwich:
        norms |= {
            f"{there}post_attention_layernorm": f"{at}attn.out_proj.layers.1",
            f"{there}post_feedforward_layernorm": f"{at}ffn.down.layers.1",
        }
    layer |= _pairs(norms, norm, ("weight",))
    return model, {
        "embed_tokens.weight": {"tokens.weight": _whole},
        "lm_head.weight": {"head.weight": _whole},
        **_pairs({"norm": "blocks.norm"}, norm, ("weight",)),
        **_of_layers(layer, count),
    }


def _llama(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    return _llama_like(
        settings,
        dtype,
        attn_bias=settings.take("attention_bias", default=False),
        bias=settings.take("mlp_bias", default=False),
    )


def _window(width: int | None) -> tuple[int, int] | None:
    """Return the window of a query that sees ``width`` tokens, itself among them."""
    return None if width is None else (width - 1, 0)


def _mistral(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    return _llama_like(
        settings, dtype, window=_window(settings.take("sliding_window", default=None))
    )


def _without_windows(settings: Settings) -> None:
    settings.expect("use_sliding_window", False)
    settings.take("sliding_window", default=None)
    kinds = settings.take("layer_types", default=None) or []
    if set(kinds) - {"full_attention"}:
        raise ValueError(f"config.json: expected layer_types of full attention, got {kinds}")


def _qwen2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    _without_windows(settings)
    return _llama_like(settings, dtype, attn_bias=("q", "k", "v"))


def _qwen3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    _without_windows(settings)
    bias = settings.take("attention_bias", default=False)
    return _llama_like(settings, dtype, attn_bias=bias, qk_norm="head")


def _olmo2(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    bias = settings.take("attention_bias", default=False)
    model, rules = _llama_like(settings, dtype, attn_bias=bias, qk_norm="full", sandwich=True)
    for layer in model.blocks.layers:  # norms after the sublayers alone
        layer.norm1, layer.norm2 = nn.Identity(), nn.Identity()
    return model, rules


def _with_root_of_width(model: GPT) -> GPT:
    """Multiply token vectors by √E, as it is in the dtype of the model that was trained."""
    model.tokens.scale = float(np.float32(model.tokens.weight.shape[1]) ** 0.5)
    return model


def _gemma(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    settings.expect("use_bidirectional_attention", None, False)
    act = settings.take("hidden_activation", default=None)
    settings.take("hidden_act", default=None)
    settings.default("hidden_act", act or "gelu_pytorch_tanh")  # what the authors' code does
    bias = settings.take("attention_bias", default=False)
    settings.default("tie_word_embeddings", True)
    model, rules = _llama_like(settings, dtype, norm=_one_more, attn_bias=bias)
    return _with_root_of_width(model), rules


def _gemma3(settings: Settings, dtype: np.dtype[Any]) -> tuple[GPT, Rules]:
    settings.expect("use_bidirectional_attention", None, False)
    settings.expect("final_logit_softcapping", None)
    settings.expect("attn_logit_softcapping", None)
    bias = settings.take("attention_bias", default=False)
    settings.default("tie_word_embeddings", True)
    kinds = settings.take("layer_types")
    settings.take("sliding_window_pattern", "_sliding_window_pattern", default=None)
    window = _window(settings.take("sliding_window"))
    head_dim = settings.take("head_dim")
    settings.default("head_dim", head_dim)
    told = dict(settings.take("rope_parameters"))
    rotary = {
        kind: _of_kind(
            {k: v for k, v in rope.items() if k != "rope_theta"},
            head_dim,
            rope["rope_theta"],
            head_dim,
        )
        for kind, rope in told.items()
    }
    windows = {"sliding_attention": window, "full_attention": None}
    model, rules = _llama_like(
        settings,
        dtype,
        norm=_one_more,
        attn_bias=bias,
        qk_norm="head",
        sandwich=True,
        scale=settings.take("query_pre_attn_scalar") ** -0.5,
        by_layer=[{"window": windows[kind], "rotary": rotary[kind]} for kind in kinds],
    )
    return _with_root_of_width(model), rules


# ------------------------------------------------------------------------------- BERT and its kin


def _bert(
    settings: Settings, dtype: np.dtype[Any], *, skipped: int = 0
) -> tuple[TextEncoder, Rules]:
    """Return BERT; the first ``skipped`` positions of the table are used by no token."""
    settings.expect("is_decoder", False)
    settings.expect("add_cross_attention", False)
    settings.expect("position_embedding_type", "absolute")
    settings.expect("pruned_heads", {})
    settings.take("tie_word_embeddings", default=True)
    count = settings.take("num_hidden_layers")
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings") - skipped,
        num_types=settings.take("type_vocab_size"),
        embed_dim=settings.take("hidden_size"),
        num_heads=settings.take("num_attention_heads"),
        num_layers=count,
        ffn_dim=settings.take("intermediate_size"),
        activation=_activation(settings, "hidden_act", "gelu"),
        norm_eps=settings.take("layer_norm_eps", default=1e-12),
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "encoder.layer.{i}."
    layer = _pairs(
        {
            f"{there}attention.self.query": f"{at}attn.q_proj",
            f"{there}attention.self.key": f"{at}attn.k_proj",
            f"{there}attention.self.value": f"{at}attn.v_proj",
            f"{there}attention.output.dense": f"{at}attn.out_proj",
            f"{there}attention.output.LayerNorm": f"{at}norm1",
            f"{there}intermediate.dense": f"{at}ffn.up",
            f"{there}output.dense": f"{at}ffn.down",
            f"{there}output.LayerNorm": f"{at}norm2",
        }
    )
    return model, {
        "embeddings.word_embeddings.weight": {"tokens.weight": _whole},
        "embeddings.position_embeddings.weight": {"positions.weight": lambda x: x[skipped:]},
        "embeddings.token_type_embeddings.weight": {"types.weight": _whole},
        **_pairs({"embeddings.LayerNorm": "norm"}),
        **_of_layers(layer, count),
    }


def _roberta(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    return _bert(settings, dtype, skipped=settings.take("pad_token_id", default=1) + 1)


def _distilbert(settings: Settings, dtype: np.dtype[Any]) -> tuple[TextEncoder, Rules]:
    settings.take("tie_word_embeddings", default=True)
    count = settings.take("n_layers")
    model = TextEncoder(
        settings.take("vocab_size"),
        settings.take("max_position_embeddings"),
        embed_dim=settings.take("dim"),
        num_heads=settings.take("n_heads"),
        num_layers=count,
        ffn_dim=settings.take("hidden_dim"),
        activation=_activation(settings, "activation", "gelu"),
        norm_eps=1e-12,
        dtype=dtype,
    )
    at, there = "encoder.layers.{i}.", "transformer.layer.{i}."
    layer = _pairs(
        {
            **{f"{there}attention.{x}_lin": f"{at}attn.{x}_proj" for x in "qkv"},
            f"{there}attention.out_lin": f"{at}attn.out_proj",
            f"{there}sa_layer_norm": f"{at}norm1",
            f"{there}ffn.lin1": f"{at}ffn.up",
            f"{there}ffn.lin2": f"{at}ffn.down",
            f"{there}output_layer_norm": f"{at}norm2",
        }
    )
    return model, {
        "embeddings.word_embeddings.weight": {"tokens.weight": _whole},
        "embeddings.position_embeddings.weight": {"positions.weight": _whole},
        **_pairs({"embeddings.LayerNorm": "norm"}),
        **_of_layers(layer, count),
    }


_OTHER_HEADS = (
    r"(pooler|cls|lm_head|classifier|qa_outputs|pre_classifier|vocab_\w+)\."
    r"|embeddings\.position_ids$"
)
FAMILIES = {
    "bert": Family("BERT", _bert, r"^bert\.", _OTHER_HEADS),
    "distilbert": Family("DistilBERT", _distilbert, r"^distilbert\.", _OTHER_HEADS),
    "roberta": Family("RoBERTa", _roberta, r"^roberta\.", _OTHER_HEADS),
    "gpt2": Family("GPT-2", _gpt2, r"^transformer\.", r"h\.\d+\.attn\.(masked_)?bias$"),
    "llama": Family("Llama", _llama),
    "mistral": Family("Mistral", _mistral),
    "qwen2": Family("Qwen2", _qwen2),
    "qwen3": Family("Qwen3", _qwen3),
    "olmo2": Family("OLMo2", _olmo2),
    "gemma": Family("Gemma", _gemma),
    "gemma3_text": Family("Gemma 3", _gemma3),
    "gpt_neox": Family(
        "GPT-NeoX",
        _gpt_neox,
        r"^gpt_neox\.",
        r"layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
    ),
}
