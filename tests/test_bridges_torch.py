"""With the same state, our layers and models do what PyTorch's do: outputs, gradients, training."""

import copy

import numpy as np
import pytest

import miniattn.functional as F
from miniattn import bridges, masks, models, nn, optim

torch = pytest.importorskip("torch")

B, T, S, E, H = 2, 5, 7, 8, 2
LENGTHS = np.array([T, 3])
CAUSAL = torch.ones(T, T, dtype=torch.bool).triu(1)  # True = hidden, as PyTorch has it
PADDING = torch.arange(T) >= torch.tensor(LENGTHS)[:, None]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def agree(ours, theirs, inputs, options, their_options):
    """Load the state of ``theirs``, run both, and compare outputs and all gradients."""
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and norms start where they show nothing
            parameter.add_(0.3 * torch.randn_like(parameter))
    bridges.from_torch(ours, theirs.state_dict())
    assert_states_equal(ours, theirs.state_dict())

    tensors = [torch.tensor(x, requires_grad=x.dtype == np.float32) for x in inputs]
    expected = theirs(*tensors, **their_options)
    expected = expected[0] if isinstance(expected, tuple) else expected
    y, ctx = ours.forward(*inputs, **options)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-5, atol=1e-5)

    dy = torch.randn_like(expected)
    expected.backward(dy)
    grads = ours.backward(dy.numpy(), ctx)
    if grads is not None:
        grads = grads if isinstance(grads, tuple) else (grads,)
        given = [grad for grad in grads if grad is not None]  # no bias was given
        for grad, tensor in zip(given, tensors, strict=True):
            close(grad, tensor.grad)
    own = bridges.to_torch(gradients(ours))
    for name, parameter in theirs.named_parameters():
        close(own[name], parameter.grad)


def close(grad, expected):
    """Within 1e-4 of the gradient's size."""
    expected = expected.numpy()
    assert np.linalg.norm(grad - expected) <= 1e-4 * np.linalg.norm(expected)
    assert np.linalg.norm(expected) > 0


def gradients(module):
    """The module with its gradients in the place of its parameters, to be renamed like them."""
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.data = parameter.grad
    return module


def assert_states_equal(ours, state):
    own = bridges.to_torch(ours)
    assert list(own) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(own[name], tensor.numpy())


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


# -------------------------------------------------------------------------------------- attention


class SelfAttention(torch.nn.Module):
    """`nn.MultiheadAttention` called with one x (B, T, E), whatever its ``batch_first``."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x, **options):
        x = x if self.attn.batch_first else x.transpose(0, 1)
        y, _ = self.attn(x, x, x, need_weights=False, **options)
        return y if self.attn.batch_first else y.transpose(0, 1)


class Wrapped(nn.Module):
    """Our attention under the same name as in `SelfAttention`."""

    def __init__(self, attn):
        self.attn = attn

    def forward(self, x, **options):
        return self.attn.forward(x, **options)

    def backward(self, dy, ctx):
        return self.attn.backward(dy, ctx)


MASKS = {
    "full": (None, {}),
    "causal": (masks.causal(), {"attn_mask": CAUSAL}),
    "padding": (masks.padding(LENGTHS), {"key_padding_mask": PADDING}),
    "causal and padding": (
        masks.causal() & masks.padding(LENGTHS),
        {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "batch second"])
def test_self_attention(mask, bias, batch_first, rng):
    theirs = torch.nn.MultiheadAttention(E, H, bias=bias, batch_first=batch_first)
    ours = nn.MultiHeadAttention(E, H, bias=bias)
    mask, options = MASKS[mask]
    agree(Wrapped(ours), SelfAttention(theirs), [normal(rng, B, T, E)], {"mask": mask}, options)


@pytest.mark.parametrize("widths", [(E, E), (3, 5), (E, 5)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_cross_attention(widths, bias, rng):
    kdim, vdim = widths
    theirs = torch.nn.MultiheadAttention(E, H, kdim=kdim, vdim=vdim, bias=bias, batch_first=True)
    ours = nn.MultiHeadAttention(E, H, kdim=kdim, vdim=vdim, bias=bias)
    inputs = [normal(rng, B, T, E), normal(rng, B, S, kdim), normal(rng, B, S, vdim)]
    lengths = np.array([4, S])
    hidden = torch.arange(S) >= torch.tensor(lengths)[:, None]
    agree(ours, theirs, inputs, {"mask": masks.padding(lengths)}, {"key_padding_mask": hidden})


def test_added_key_and_value_biases_are_refused():
    theirs = torch.nn.MultiheadAttention(E, H, add_bias_kv=True)
    with pytest.raises(ValueError, match=r"unexpected: bias_v \(add_bias_kv has no counterpart"):
        bridges.from_torch(nn.MultiHeadAttention(E, H), theirs.state_dict())


# ------------------------------------------------------------------------------ layers and stacks


ORDERS = pytest.mark.parametrize("norm_first", [True, False], ids=["pre-norm", "post-norm"])
SETTINGS = pytest.mark.parametrize(
    ("activation", "eps", "bias"),
    [("relu", 1e-5, True), ("gelu", 1e-2, True), ("gelu", 1e-5, False)],
    ids=["relu", "gelu, large eps", "no bias"],
)


def their_layer(cls, *, norm_first, activation="relu", eps=1e-5, bias=True):
    return cls(E, H, 12, 0.0, activation, eps, batch_first=True, norm_first=norm_first, bias=bias)


@ORDERS
@SETTINGS
def test_encoder_layer(norm_first, activation, eps, bias, rng):
    theirs = their_layer(
        torch.nn.TransformerEncoderLayer,
        norm_first=norm_first, activation=activation, eps=eps, bias=bias,
    )  # fmt: skip
    ours = nn.TransformerEncoderLayer(
        E, H, ffn_dim=12, norm_first=norm_first, activation=activation, norm_eps=eps, bias=bias
    )
    mask, (causal, padding) = MASKS["causal and padding"][0], (CAUSAL, PADDING)
    options = {"src_mask": causal, "src_key_padding_mask": padding}
    agree(ours, theirs, [normal(rng, B, T, E)], {"mask": mask}, options)


@ORDERS
@SETTINGS
def test_decoder_layer(norm_first, activation, eps, bias, rng):
    theirs = their_layer(
        torch.nn.TransformerDecoderLayer,
        norm_first=norm_first, activation=activation, eps=eps, bias=bias,
    )  # fmt: skip
    ours = nn.TransformerDecoderLayer(
        E, H, ffn_dim=12, norm_first=norm_first, activation=activation, norm_eps=eps, bias=bias
    )
    inputs = [normal(rng, B, T, E), normal(rng, B, S, E)]
    agree(ours, theirs, inputs, {}, {"tgt_mask": CAUSAL})


@ORDERS
def test_encoder(norm_first, rng):
    layer = their_layer(torch.nn.TransformerEncoderLayer, norm_first=norm_first)
    norm = torch.nn.LayerNorm(E) if norm_first else None
    theirs = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    ours = nn.TransformerEncoder(2, E, H, ffn_dim=12, norm_first=norm_first, activation="relu")
    options = {"src_key_padding_mask": PADDING}
    agree(ours, theirs, [normal(rng, B, T, E)], {"mask": masks.padding(LENGTHS)}, options)


@pytest.mark.parametrize("norm_first", [True, False], ids=["without norm", "with norm"])
def test_encoder_with_the_other_last_norm(norm_first, rng):
    """PyTorch has a last norm where it is given one, before or after."""
    layer = their_layer(torch.nn.TransformerEncoderLayer, norm_first=norm_first)
    norm = None if norm_first else torch.nn.LayerNorm(E)
    theirs = torch.nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
    ours = nn.TransformerEncoder(2, E, H, ffn_dim=12, norm_first=norm_first, activation="relu")
    ours.norm = None if norm_first else nn.LayerNorm(E)
    agree(ours, theirs, [normal(rng, B, T, E)], {}, {})


@ORDERS
def test_decoder(norm_first, rng):
    layer = their_layer(torch.nn.TransformerDecoderLayer, norm_first=norm_first)
    norm = torch.nn.LayerNorm(E) if norm_first else None
    theirs = torch.nn.TransformerDecoder(layer, 2, norm)
    ours = nn.TransformerDecoder(2, E, H, ffn_dim=12, norm_first=norm_first, activation="relu")
    inputs = [normal(rng, B, T, E), normal(rng, B, S, E)]
    hidden = torch.arange(S) >= torch.tensor([[S], [4]])
    options = {"mask": masks.padding(LENGTHS), "memory_mask": masks.padding([S, 4])}
    agree(ours, theirs, inputs, options, {
        "tgt_mask": CAUSAL, "tgt_key_padding_mask": PADDING, "memory_key_padding_mask": hidden,
    })  # fmt: skip


# ---------------------------------------------------------------------------------------- nanoGPT


class Norm(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(E))
        self.bias = torch.nn.Parameter(torch.zeros(E)) if bias else None

    def forward(self, x):
        return torch.nn.functional.layer_norm(x, (E,), self.weight, self.bias)


class Attention(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.c_attn = torch.nn.Linear(E, 3 * E, bias)
        self.c_proj = torch.nn.Linear(E, E, bias)
        self.register_buffer("bias", torch.ones(1, 1, 16, 16).tril())

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (p.view(batch, length, H, -1).transpose(1, 2) for p in self.c_attn(x).split(E, 2))
        scores = q @ k.transpose(2, 3) / (E // H) ** 0.5
        scores = scores.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        return self.c_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


class Block(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = Norm(bias), Attention(bias), Norm(bias)
        names = ("c_fc", "gelu", "c_proj")
        parts = torch.nn.Linear(E, 4 * E, bias), torch.nn.GELU(), torch.nn.Linear(4 * E, E, bias)
        self.mlp = torch.nn.Sequential()
        for name, part in zip(names, parts, strict=True):
            self.mlp.add_module(name, part)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(torch.nn.Module):
    """A GPT whose state has the names of nanoGPT's, causal masks included."""

    def __init__(self, vocab, bias):
        super().__init__()
        parts = {
            "wte": torch.nn.Embedding(vocab, E),
            "wpe": torch.nn.Embedding(16, E),
            "h": torch.nn.ModuleList(Block(bias) for _ in range(2)),
            "ln_f": Norm(bias),
        }
        self.transformer = torch.nn.ModuleDict(parts)
        self.lm_head = torch.nn.Linear(E, vocab, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe.weight[: ids.shape[1]]
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))

    def state_dict(self, **options):
        """As without the buffers, which are looked at in a test of their own."""
        state = super().state_dict(**options)
        return {name: a for name, a in state.items() if not name.endswith(".attn.bias")}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_nanogpt(bias, rng):
    ours = models.GPT(11, 16, embed_dim=E, num_heads=H, num_layers=2, bias=bias)
    agree(ours, NanoGPT(11, bias), [rng.integers(0, 11, (B, 9))], {}, {})


def test_a_compiled_nanogpt_with_buffers():
    theirs = NanoGPT(11, bias=False)
    state = torch.nn.Module.state_dict(torch.nn.ModuleDict({"_orig_mod": theirs}))
    assert "_orig_mod.transformer.h.1.attn.bias" in state
    ours = models.GPT(11, 16, embed_dim=E, num_heads=H, num_layers=2)
    bridges.from_torch(ours, state)
    assert_states_equal(ours, theirs.state_dict())


def test_loss_curve_of_a_gpt_is_that_of_pytorch(rng):
    theirs = NanoGPT(11, bias=True)
    model = models.GPT(11, 16, embed_dim=E, num_heads=H, num_layers=2, bias=True)
    bridges.from_torch(model, theirs.state_dict())
    schedule = optim.cosine(warmup=5, total=50, floor=0.1)
    optimizer = optim.AdamW(model.named_parameters(), lr=1e-2, weight_decay=0.1)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)

    losses, expected = [], []
    for step in range(50):
        start, stride = rng.integers(0, 11, (2, 8, 1))
        ids = (start + stride * np.arange(17)) % 11
        x, y = ids[:, :-1], ids[:, 1:]

        model.zero_grad()
        logits, ctx = model.forward(x)
        loss, loss_ctx = F.cross_entropy_forward(logits, y)
        model.backward(F.cross_entropy_backward(1.0, loss_ctx), ctx)
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.lr = 1e-2 * schedule(step)
        optimizer.step()
        losses.append(float(loss))

        logits = theirs(torch.tensor(x)).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y).flatten())
        reference.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.param_groups[0]["lr"] = 1e-2 * schedule(step)
        reference.step()
        expected.append(loss.item())
    assert expected[-1] < expected[0] - 0.5
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------ what tensors allow


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tensors_of_other_dtypes(dtype):
    theirs = torch.nn.Linear(3, 2).to(getattr(torch, dtype))
    ours = nn.Linear(3, 2)
    with pytest.raises(
        ValueError, match=rf"weight expected \(2, 3\) float32, got \(2, 3\) {dtype}"
    ):
        bridges.from_torch(ours, theirs.state_dict())
    bridges.from_torch(ours, theirs.state_dict(), cast=True)
    np.testing.assert_array_equal(ours.weight.data, theirs.weight.detach().float().numpy())


def test_parameters_that_need_gradients_are_read():
    theirs = torch.nn.Linear(3, 2)
    ours = nn.Linear(3, 2)
    bridges.from_torch(ours, dict(theirs.named_parameters()))
    np.testing.assert_array_equal(ours.weight.data, theirs.weight.detach().numpy())


def test_what_is_written_loads_into_pytorch():
    ours = nn.TransformerDecoder(2, E, H, ffn_dim=12)
    theirs = torch.nn.TransformerDecoder(
        their_layer(torch.nn.TransformerDecoderLayer, norm_first=True), 2, torch.nn.LayerNorm(E)
    )
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in bridges.to_torch(ours).items()})
    assert_states_equal(ours, theirs.state_dict())
