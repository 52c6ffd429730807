"""Every name's value and gradient is that of PyTorch, whose tensors retain theirs.

The twin computes what our models compute on their own parameters, and marks every tensor by our
name for it. What a module is given is a node of its own, so it is marked as a copy.
"""

import numpy as np
import pytest

from miniattn import masks, models, nn, trace

torch = pytest.importorskip("torch")
fn = torch.nn.functional

V, B, T, S, E = 11, 2, 6, 4, 8


class Twin:
    def __init__(self, model):
        self.seen = {}
        self.parameters = {
            id(p): torch.tensor(p.data, requires_grad=True) for p in model.parameters()
        }

    def mark(self, name, x):
        use = 1 + sum(n.split("#")[0] == name for n in self.seen)
        if x.is_floating_point():
            x = x.clone()
            x.retain_grad()
        self.seen[name if use == 1 else f"{name}#{use}"] = x
        return x

    def call(self, path, how, x, *rest):
        x = self.mark(f"{path}.input", x)
        return self.mark(path, how(x, *rest))

    def of(self, parameter):
        return None if parameter is None else self.parameters[id(parameter)]

    def linear(self, path, layer, x):
        def how(x):
            return fn.linear(x, self.of(layer.weight), self.of(layer.bias))

        return self.call(path, how, x)

    def embedding(self, path, layer, ids):
        scale = layer.scale if hasattr(layer, "scale") else 1.0
        return self.call(path, lambda ids: scale * fn.embedding(ids, self.of(layer.weight)), ids)

    def norm(self, path, layer, x):
        if layer is None:
            return x
        if isinstance(layer, nn.RMSNorm):

            def how(x):
                return fn.rms_norm(x, x.shape[-1:], self.of(layer.weight), layer.eps)
        else:
            w, b = self.of(layer.weight), self.of(layer.bias)

            def how(x):
                return fn.layer_norm(x, x.shape[-1:], w, b, layer.eps)

        return self.call(path, how, x)

    def rotary(self, path, layer, x):
        def turned(x):
            half = x.shape[-1] // 2
            rate = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
            angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * rate
            a, b = x[..., :half], x[..., half:]
            cos, sin = angle.cos(), angle.sin()
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        return x if layer is None else self.call(f"{path}.rotary", turned, x)

    def attention(self, path, layer, x, memory, mask):
        x = self.mark(f"{path}.input", x)
        if memory is None:
            memory = x
        else:
            memory = self.mark(f"{path}.input.key", memory)
        heads, kv_heads = layer.num_heads, layer.num_kv_heads
        q = self.linear(f"{path}.q_proj", layer.q_proj, x)
        k = self.linear(f"{path}.k_proj", layer.k_proj, memory)
        v = self.linear(f"{path}.v_proj", layer.v_proj, memory)
        q, k, v = (
            y.unflatten(-1, (n, -1)).transpose(1, 2)
            for y, n in ((q, heads), (k, kv_heads), (v, kv_heads))
        )
        k, q = self.rotary(path, layer.rotary, k), self.rotary(path, layer.rotary, q)
        q, k, v = (self.mark(f"{path}.{name}", y) for name, y in (("q", q), ("k", k), ("v", v)))
        k, v = (y.repeat_interleave(heads // kv_heads, 1) for y in (k, v))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        if layer.window is not None:
            mask = mask & masks.window(*layer.window, sinks=layer.sinks)
        if mask is not None:
            scores = scores.masked_fill(~torch.tensor(mask.to_array(*scores.shape)), -torch.inf)
        scores = self.mark(f"{path}.scores", scores)
        weights = self.mark(f"{path}.weights", scores.softmax(-1))
        out = self.mark(f"{path}.heads", weights @ v).transpose(1, 2).flatten(2)
        return self.mark(path, self.linear(f"{path}.out_proj", layer.out_proj, out))

    def ffn(self, path, layer, x):
        x = self.mark(f"{path}.input", x)
        act = f"{path}.activation"
        if isinstance(layer, nn.SwiGLU):
            gate = self.linear(f"{path}.gate", layer.gate, x)
            value = self.linear(f"{path}.up", layer.up, x)
            hidden = self.call(act, fn.silu, gate) * value
        else:
            hidden = self.call(act, fn.gelu, self.linear(f"{path}.up", layer.up, x))
        hidden = self.same(f"{path}.dropout", self.mark(f"{path}.hidden", hidden))
        return self.mark(path, self.linear(f"{path}.down", layer.down, hidden))

    def same(self, path, x):
        """Dropout that drops nothing."""
        return self.call(path, lambda x: x, x)

    def sublayer(self, path, number, layer, x, name, how):
        norm, norm_path = getattr(layer, f"norm{number}"), f"{path}.norm{number}"
        part = getattr(layer, name)
        if layer.norm_first:
            h = how(f"{path}.{name}", part, self.norm(norm_path, norm, x))
            return x + self.same(f"{path}.dropout", h)
        h = self.same(f"{path}.dropout", how(f"{path}.{name}", part, x))
        return self.norm(norm_path, norm, x + h)

    def encoder(self, path, stack, x, mask):
        x = self.mark(f"{path}.input", x)
        for i, layer in enumerate(stack.layers):
            at = f"{path}.layers.{i}"
            x = self.mark(f"{at}.input", x)

            def attend(p, part, h):
                return self.attention(p, part, h, None, mask)

            x = self.mark(f"{at}.middle", self.sublayer(at, 1, layer, x, "attn", attend))
            x = self.mark(at, self.sublayer(at, 2, layer, x, "ffn", self.ffn))
        return self.mark(path, self.norm(f"{path}.norm", stack.norm, x))

    def decoder(self, path, stack, x, memory, memory_mask):
        x, memory = self.mark(f"{path}.input", x), self.mark(f"{path}.input.memory", memory)
        for i, layer in enumerate(stack.layers):
            at = f"{path}.layers.{i}"
            x, known = self.mark(f"{at}.input", x), self.mark(f"{at}.input.memory", memory)

            def own(p, part, h):
                return self.attention(p, part, h, None, masks.causal())

            def cross(p, part, h, known=known):
                return self.attention(p, part, h, known, memory_mask)

            x = self.mark(f"{at}.middle", self.sublayer(at, 1, layer, x, "self_attn", own))
            x = self.mark(f"{at}.middle2", self.sublayer(at, 2, layer, x, "cross_attn", cross))
            x = self.mark(at, self.sublayer(at, 3, layer, x, "ffn", self.ffn))
        return self.mark(path, self.norm(f"{path}.norm", stack.norm, x))


def gpt(rng, dtype):
    model = models.GPT(
        V,
        T,
        embed_dim=E,
        num_heads=4,
        num_kv_heads=2,
        num_layers=2,
        positions="rotary",
        norm="rms",
        activation="swiglu",
        window=(2, 0),
        sinks=1,
        softcap=2.0,
        rng=rng,
        dtype=dtype,
    )
    ids = rng.integers(0, V, (B, T))

    def twin(t):
        x = t.embedding("tokens", model.tokens, t.mark("input", torch.tensor(ids)))
        x = t.encoder("blocks", model.blocks, t.same("dropout", x), masks.causal())
        return t.mark("output", t.linear("head", model.head, x))

    return model, (ids,), twin


def classifier(rng, dtype):
    options = {"input_dim": 3, "embed_dim": E, "num_heads": 2, "num_layers": 1, "rng": rng}
    model = models.SequenceClassifier(3, dtype=dtype, **options)
    x, lengths = rng.standard_normal((B, T, 3)).astype(dtype), np.array([T, 4])
    x[1, 4:] = 0

    def twin(t):
        given = t.mark("input", torch.tensor(x, requires_grad=True))
        t.mark("input.lengths", torch.tensor(lengths))
        h = t.same("dropout", t.linear("embed", model.embed, given))
        h = t.encoder("encoder", model.encoder, h, masks.padding(lengths))
        real = torch.tensor(np.arange(T) < lengths[:, None])[..., None]
        pooled = (h * real).sum(1) / torch.tensor(lengths)[:, None]
        return t.mark("output", t.linear("head", model.head, pooled.to(h.dtype)))

    return model, (x, lengths), twin


def encoder_decoder(rng, dtype):
    model = models.EncoderDecoder(
        V,
        embed_dim=E,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        positions="rotary",
        norm_first=False,
        rng=rng,
        dtype=dtype,
    )
    source, target = rng.integers(0, V, (B, S)), rng.integers(0, V, (B, T))
    lengths = np.array([S, 2])
    source[1, 2:] = 0

    def twin(t):
        given = t.mark("input", torch.tensor(source))
        read = t.mark("input.target", torch.tensor(target))
        t.mark("input.source_lengths", torch.tensor(lengths))
        hidden = masks.padding(lengths)
        x = t.same("dropout", t.embedding("source_tokens", model.source_tokens, given))
        memory = t.encoder("encoder", model.encoder, x, hidden)
        x = t.same("dropout", t.embedding("target_tokens", model.target_tokens, read))
        x = t.decoder("decoder", model.decoder, x, memory, hidden)
        return t.mark("output", t.linear("head", model.head, x))

    return model, (source, target, lengths), twin


@pytest.mark.parametrize(("dtype", "within"), [(np.float32, 1e-5), (np.float64, 1e-10)])
@pytest.mark.parametrize("make", [gpt, classifier, encoder_decoder])
def test_values_and_gradients_are_those_of_pytorch(make, dtype, within, rng):
    model, inputs, run = make(rng, dtype)
    for parameter in model.parameters():
        parameter.data += (0.3 * rng.standard_normal(parameter.shape)).astype(dtype)
    y, t = trace.run(model, *inputs)
    dy = rng.standard_normal(y.shape).astype(dtype)
    g = t.gradients(dy)
    twin = Twin(model)
    run(twin).backward(torch.tensor(dy))
    assert sorted(n for n in t.names if ".positions" not in n) == sorted(twin.seen)
    for name, x in twin.seen.items():
        near(t[name], x.detach().numpy(), within, name)
        if x.is_floating_point():
            near(g[name], x.grad.numpy(), within, f"gradient of {name}")
    # In float32 what adds up over tokens may cancel down to rounding.
    parameters = model.named_parameters() if dtype == np.float64 else ()
    for name, parameter in parameters:
        near(parameter.grad, twin.of(parameter).grad.numpy(), within, name)


def near(found, expected, within, name):
    """Each number within ``within`` of the largest one."""
    assert found.shape == expected.shape, name
    assert found.dtype == expected.dtype, name
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected), err_msg=name)
    found, expected = (np.where(np.isneginf(x), 0, x) for x in (found, expected))
    size = max(abs(expected).max(), 1e-3)  # a gradient that cancels to 0, as that of a key's bias
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * size, err_msg=name)
