"""Encoder and decoder layers and stacks: gradients, PyTorch, caches, traces."""

import numpy as np
import pytest

from miniattn import gradcheck, masks, nn, trace

F64 = {"dtype": np.float64}
B, T, S, E, H = 2, 4, 3, 8, 2
SMALL = {"ffn_dim": 6, **F64}


def shaken(module, rng):
    for parameter in module.parameters():
        parameter.data += 0.2 * rng.standard_normal(parameter.shape)
    return module


OPTIONS = {
    "pre-norm": {},
    "post-norm": {"norm_first": False},
    "relu without bias": {"activation": "relu", "bias": False},
    "llama": {
        "activation": "swiglu",
        "norm": "rms",
        "bias": False,
        "num_kv_heads": 1,
        "rotary": nn.Rotary(),
    },
    "dropout": {"dropout": 0.2, "attn_dropout": 0.3, "ffn_dropout": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_encoder_layer_gradients(name, rng):
    layer = shaken(nn.TransformerEncoderLayer(E, H, rng=rng, **SMALL, **OPTIONS[name]), rng)
    inputs = {"x": rng.standard_normal((B, T, E))}
    options = {"mask": masks.padding([T, 2]), "rng": np.random.default_rng(2)}
    assert gradcheck(layer, inputs, samples=12, **options).passed


@pytest.mark.parametrize("name", OPTIONS)
def test_decoder_layer_gradients(name, rng):
    layer = shaken(nn.TransformerDecoderLayer(E, H, rng=rng, **SMALL, **OPTIONS[name]), rng)
    inputs = {"x": rng.standard_normal((B, T, E)), "memory": rng.standard_normal((B, S, E))}
    options = {"memory_mask": masks.padding([S, 1]), "rng": np.random.default_rng(2)}
    assert gradcheck(layer, inputs, samples=12, **options).passed


@pytest.mark.parametrize("norm_first", [True, False])
def test_stack_gradients(norm_first, rng):
    options = {**SMALL, "norm_first": norm_first, "rng": rng}
    encoder = shaken(nn.TransformerEncoder(2, E, H, **options), rng)
    x, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, 5))
    inputs = {"x": x, "bias": rng.standard_normal((H, T, T))}
    assert gradcheck(encoder, inputs, samples=6, mask=masks.causal()).passed
    decoder = shaken(nn.TransformerDecoder(2, E, H, memory_dim=5, **options), rng)
    assert gradcheck(decoder, {"x": x, "memory": memory}, samples=6).passed


def test_a_part_in_two_places_gathers_both_gradients(rng):
    """Layer sharing as in ALBERT: one layer, applied twice."""
    layer = shaken(nn.TransformerEncoderLayer(E, H, rng=rng, **SMALL), rng)
    stack = nn.Sequential(layer, layer)
    assert stack.num_parameters() == layer.num_parameters()
    assert gradcheck(stack, {"x": rng.standard_normal((B, T, E))}, samples=6).passed


def test_the_contexts_of_two_forwards_do_not_mix(rng):
    decoder = shaken(nn.TransformerDecoder(1, E, H, dropout=0.1, rng=rng, **SMALL), rng)
    x, memory = rng.standard_normal((2, B, T, E)), rng.standard_normal((2, B, S, E))
    alone = []
    for i in range(2):
        y, ctx = decoder.forward(x[i], memory[i], rng=np.random.default_rng(i))
        alone.append((y, *decoder.backward(y, ctx)))
    gradients = [p.grad.copy() for p in decoder.parameters()]
    decoder.zero_grad()
    both = [decoder.forward(x[i], memory[i], rng=np.random.default_rng(i)) for i in range(2)]
    for (y, ctx), wanted in zip(both, alone, strict=True):
        for got, want in zip((y, *decoder.backward(y, ctx)), wanted, strict=True):
            np.testing.assert_array_equal(got, want)
    for p, wanted in zip(decoder.parameters(), gradients, strict=True):
        np.testing.assert_array_equal(p.grad, wanted)


def test_a_decoder_cannot_see_the_future(rng):
    layer = nn.TransformerDecoderLayer(E, H, rng=rng, **SMALL)
    x, memory = rng.standard_normal((1, T, E)), rng.standard_normal((1, S, E))
    changed = x.copy()
    changed[:, 2:] += 1
    np.testing.assert_array_equal(layer(x, memory)[:, :2], layer(changed, memory)[:, :2])
    free = nn.TransformerDecoderLayer(E, H, causal=False, rng=rng, **SMALL)
    assert not np.array_equal(free(x, memory)[:, :2], free(changed, memory)[:, :2])


@pytest.mark.parametrize("name", ["pre-norm", "post-norm", "llama"])
def test_decoding_with_caches_equals_one_forward(name, rng):
    options = {**SMALL, **OPTIONS[name], "rng": rng}
    encoder = shaken(nn.TransformerEncoder(2, E, H, **options), rng)
    decoder = shaken(nn.TransformerDecoder(2, E, H, **options), rng)
    x, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, E))
    wanted = decoder(encoder(x, mask=masks.causal()), memory)
    inner, outer, held = (
        encoder.new_caches(B, T),
        decoder.new_caches(B, T),
        decoder.remember(memory),
    )
    got = [decoder(encoder(x[:, i : i + 1], caches=inner), held, caches=outer) for i in range(T)]
    np.testing.assert_allclose(np.concatenate(got, axis=1), wanted, rtol=1e-10, atol=1e-12)


def _copy_attention(torch, theirs, ours):
    projections = [ours.q_proj, ours.k_proj, ours.v_proj]
    theirs.in_proj_weight.copy_(
        torch.from_numpy(np.concatenate([p.weight.data for p in projections]))
    )
    theirs.in_proj_bias.copy_(torch.from_numpy(np.concatenate([p.bias.data for p in projections])))
    _copy(torch, theirs.out_proj, ours.out_proj)


def _copy(torch, theirs, ours):
    theirs.weight.copy_(torch.from_numpy(ours.weight.data))
    theirs.bias.copy_(torch.from_numpy(ours.bias.data))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_layers_equal_torch(norm_first, activation, rng):
    torch = pytest.importorskip("torch")
    shared = {"norm_first": norm_first, "activation": activation}
    encoder = shaken(nn.TransformerEncoderLayer(E, H, rng=rng, **SMALL, **shared), rng)
    decoder = shaken(nn.TransformerDecoderLayer(E, H, rng=rng, **SMALL, **shared), rng)
    theirs = {"dropout": 0.0, "batch_first": True, "dtype": torch.float64, **shared}
    encoder_torch = torch.nn.TransformerEncoderLayer(E, H, 6, **theirs)
    decoder_torch = torch.nn.TransformerDecoderLayer(E, H, 6, **theirs)
    with torch.no_grad():
        _copy_attention(torch, encoder_torch.self_attn, encoder.attn)
        _copy_attention(torch, decoder_torch.self_attn, decoder.self_attn)
        _copy_attention(torch, decoder_torch.multihead_attn, decoder.cross_attn)
        for layer, ours in ((encoder_torch, encoder), (decoder_torch, decoder)):
            _copy(torch, layer.linear1, ours.ffn.up)
            _copy(torch, layer.linear2, ours.ffn.down)
            _copy(torch, layer.norm1, ours.norm1)
            _copy(torch, layer.norm2, ours.norm2)
        _copy(torch, decoder_torch.norm3, decoder.norm3)
    x, source, dy = rng.standard_normal((3, B, T, E))
    x_torch, source_torch = (torch.tensor(a, requires_grad=True) for a in (x, source))
    hidden = torch.from_numpy(np.arange(T) >= np.array([T, 2])[:, None])
    y_torch = decoder_torch(
        x_torch,
        encoder_torch(source_torch, src_key_padding_mask=hidden),
        tgt_mask=torch.from_numpy(~np.tri(T, dtype=bool)),
        memory_key_padding_mask=hidden,
    )
    y_torch.backward(torch.from_numpy(dy))

    mask = masks.padding([T, 2])
    memory, encoder_ctx = encoder.forward(source, mask=mask)
    y, decoder_ctx = decoder.forward(x, memory, memory_mask=mask)
    dx, dmemory = decoder.backward(dy, decoder_ctx)
    dsource = encoder.backward(dmemory, encoder_ctx)
    np.testing.assert_allclose(y, y_torch.detach().numpy(), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(dx, x_torch.grad.numpy(), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(dsource, source_torch.grad.numpy(), rtol=1e-8, atol=1e-11)
    for ours, p in (
        (encoder.ffn.up.weight, encoder_torch.linear1.weight),
        (encoder.attn.out_proj.bias, encoder_torch.self_attn.out_proj.bias),
        (decoder.norm2.weight, decoder_torch.norm2.weight),
        (decoder.cross_attn.out_proj.weight, decoder_torch.multihead_attn.out_proj.weight),
    ):
        np.testing.assert_allclose(ours.grad, p.grad.numpy(), rtol=1e-8, atol=1e-11)


def test_attention_is_found_by_path_in_the_context(rng):
    decoder = nn.TransformerDecoder(2, E, H, rng=rng, **SMALL)
    x, memory = rng.standard_normal((B, T, E)), rng.standard_normal((B, S, E))
    y, ctx = decoder.forward(x, memory)
    contexts = trace.attention_contexts(ctx)
    names = [f"layers.{i}.{kind}" for i in range(2) for kind in ("self_attn", "cross_attn")]
    assert list(contexts) == names
    assert contexts["layers.1.cross_attn"] is ctx.layers[1].cross_attn
    # The same paths lead to the modules.
    modules = dict(decoder.named_modules())
    assert all(isinstance(modules[name], nn.MultiHeadAttention) for name in names)
    out, maps = trace.run(decoder, x, memory, tokens=list("abcd"), key_tokens=list("xyz"))
    np.testing.assert_array_equal(out, y)
    assert list(maps.weights) == names
    assert maps.tokens == list("abcd")
    assert maps.key_tokens == list("xyz")
    assert maps["layers.0.cross_attn.weights"].shape == (B, H, T, S)
    assert not np.triu(maps["layers.0.self_attn.weights"], 1).any()
    assert repr(maps).startswith("Trace\n  input ")


def test_repr_shows_the_settings():
    layer = nn.TransformerEncoderLayer(8, 4, num_kv_heads=2, window=(3, 0), sinks=1, dropout=0.1)
    lines = repr(layer).splitlines()
    assert lines[0].split("  ")[0] == "TransformerEncoderLayer(pre-norm)"
    assert lines[2].split("  ")[1] == (
        "attn: MultiHeadAttention(8, heads=4, kv_heads=2, dropout=0.1, window=(3, 0), sinks=1)"
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.TransformerEncoderLayer(8, 3), ValueError, "num_heads"),
        (lambda: nn.TransformerEncoderLayer(8, 2, norm="batch"), ValueError, "norm: expected one"),
        (lambda: nn.TransformerDecoderLayer(8, 2, norm_eps=0.0), ValueError, "norm_eps: expected"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="x"), ValueError, "activation"),
        (lambda: nn.TransformerEncoderLayer(8, 2, heads=3), TypeError, "heads"),
        (lambda: nn.TransformerEncoder(-1, 8, 2), ValueError, "num_layers"),
        (lambda: nn.TransformerDecoder(0, 8, 2), ValueError, "num_layers"),
    ],
)
def test_wrong_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(("norm", "usual"), [("layer", 1e-5), ("rms", 1e-6)])
@pytest.mark.parametrize("stack", [nn.TransformerEncoder, nn.TransformerDecoder])
def test_norm_eps_reaches_every_norm(stack, norm, usual):
    for given, wanted in ((None, usual), (1e-3, 1e-3)):
        modules = stack(2, 8, 2, norm=norm, norm_eps=given).modules()
        eps = [m.eps for m in modules if isinstance(m, nn.LayerNorm | nn.RMSNorm)]
        assert len(eps) == (5 if stack is nn.TransformerEncoder else 7)
        assert set(eps) == {wanted}
