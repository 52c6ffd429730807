"""The one table of all pairs and modules, and the checker that the table relies on.

Every public pair of ``miniattn.functional`` has rows in PAIRS and every module of ``miniattn.nn``
rows in MODULES: inputs to differentiate by, and the other arguments. ``test_completeness`` fails
when one is missing.
"""

import numpy as np
import pytest
from samples import begin, choose, dice, fresh, normal, off_zero, sees_some, shuffled

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, nn, scores
from miniattn.models import GPT, EncoderDecoder, ImageClassifier, SequenceClassifier, TextEncoder

begin(__name__)

# ------------------------------------------------------------------------------- pairs, by name


def qkv(B=2, H=4, G=2, T=3, S=5, D=4, Dv=3):
    return {"q": normal(B, H, T, D), "k": normal(B, G, S, D), "v": normal(B, G, S, Dv)}


def poisoned():
    """Inputs in which the last key and value of batch row 1 are NaN."""
    inputs = qkv()
    inputs["k"][1, :, -1] = np.nan
    inputs["v"][1, :, -1] = np.nan
    return inputs


def with_bias(*shape, **sizes):
    return {**qkv(**sizes), "bias": normal(*shape)}


@scores.function
def bent(s, b, h, i, j):
    """A score that depends on everything, and not in a straight line."""
    return s * (1 + 0.1 * h) + 0.3 * s * s / (1 + b + abs(i - j))


@bent.backward
def _(ds, s, b, h, i, j):
    return ds * ((1 + 0.1 * h) + 0.6 * s / (1 + b + abs(i - j)))


@scores.function
def tilted(s, b, h, i, j, table, most):
    """A score that its table bends, by place and by what it is."""
    return s * table[h, 0] + table[h, 1] * s * s / (most + i - j)


@tilted.backward
def _(ds, s, b, h, i, j, table, most, dtable):
    dtable[h, 0] += ds * s
    dtable[h, 1] += ds * s * s / (most + i - j)
    return ds * (table[h, 0] + 2 * table[h, 1] * s / (most + i - j))


SCORES = {"s": normal(1, 2, 3, 3)}
LONG = {"B": 1, "H": 2, "G": 1, "T": 67, "S": 131}

PAIRS = {
    "softmax": [
        ({"x": normal(3, 5)}, {}),
        ({"x": normal(2, 4, 3)}, {"axis": 1, "temperature": 0.5}),
        ({"x": normal(4, 3)}, {"axis": 0, "mask": choose(4, 3)}),
        ({"x": normal(2, 3, 5)}, {"mask": sees_some(3, 5)}),
        ({"x": normal(67)}, {}),
    ],
    "log_softmax": [
        ({"x": normal(3, 5)}, {}),
        ({"x": normal(2, 4, 3)}, {"axis": 1, "temperature": 2.0}),
        ({"x": normal(2, 3, 5)}, {"mask": sees_some(3, 5)}),
        ({"x": normal(67)}, {}),
    ],
    "logsumexp": [
        ({"x": normal(3, 5)}, {}),
        ({"x": normal(2, 4, 3)}, {"axis": 1}),
        ({"x": normal(2, 3, 5)}, {"mask": sees_some(3, 5)}),
        ({"x": normal(67)}, {}),
    ],
    "sparsemax": [
        ({"x": normal(3, 5)}, {}),
        ({"x": normal(2, 4, 3)}, {"axis": 1, "temperature": 0.5}),
        ({"x": normal(4, 3)}, {"axis": 0, "mask": choose(4, 3)}),
        ({"x": normal(2, 3, 5)}, {"mask": sees_some(3, 5)}),
        # In even steps, the threshold half a step from the next: no difference crosses a kink.
        ({"x": shuffled(67) / 50}, {}),
    ],
    "entmax15": [
        ({"x": normal(3, 5)}, {}),
        ({"x": normal(2, 4, 3)}, {"axis": 1, "temperature": 0.5}),
        ({"x": normal(4, 3)}, {"axis": 0, "mask": choose(4, 3)}),
        ({"x": normal(2, 3, 5)}, {"mask": sees_some(3, 5)}),
        ({"x": 0.5 * normal(67)}, {}),
    ],
    "cross_entropy": [
        ({"logits": normal(4, 5)}, {"targets": np.array([0, 4, 2, 2])}),
        (
            {"logits": normal(2, 3, 4)},
            {"targets": np.array([[0, -1, 3], [-1, 1, 1]]), "ignore_index": -1},
        ),
        ({"logits": normal(3, 4)}, {"targets": np.array([0, -100, 3]), "label_smoothing": 0.2}),
        ({"logits": normal(67)}, {"targets": np.array(3), "label_smoothing": 0.1}),
        (
            {"logits": normal(2, 3)},
            {"targets": np.array([2, 0]), "class_weights": np.array([0.5, 2.0, 3.0])},
        ),
        (
            {"logits": normal(2, 3)},
            {
                "targets": np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]),
                "label_smoothing": 0.1,
                "class_weights": np.array([0.5, 2.0, 3.0]),
            },
        ),
    ],
    "linear_cross_entropy": [
        (
            {"x": normal(3, 4), "weight": normal(5, 4), "bias": normal(5)},
            {"targets": np.array([0, 4, 2])},
        ),
        (
            {"x": normal(2, 3, 4), "weight": normal(4, 4)},
            {"targets": np.array([[0, -1, 3], [-1, 1, 1]]), "ignore_index": -1},
        ),
        (
            {"x": normal(2, 3), "weight": normal(300, 3), "bias": normal(300)},
            {"targets": np.array([299, 7]), "label_smoothing": 0.2, "samples": 8},
        ),
        ({"x": normal(4), "weight": normal(3, 4)}, {"targets": np.array(2)}),
    ],
    "mse": [({"pred": normal(3, 4)}, {"target": normal(3, 4)})],
    "linear": [
        ({"x": normal(3, 4), "weight": normal(2, 4), "bias": normal(2)}, {}),
        ({"x": normal(2, 2, 4), "weight": normal(3, 4)}, {}),
        ({"x": normal(4), "weight": normal(3, 4), "bias": normal(3)}, {}),
    ],
    "embedding": [
        ({"ids": np.array([[0, 2, 2], [4, 0, 2]]), "weight": normal(5, 3)}, {}),
        ({"ids": np.array(1), "weight": normal(2, 3)}, {}),
    ],
    "dropout": [({"x": normal(4, 5)}, {"p": 0.4, "rng": dice})],
    "layer_norm": [
        ({"x": normal(3, 5), "weight": normal(5), "bias": normal(5)}, {}),
        ({"x": normal(2, 2, 5), "weight": normal(5)}, {"eps": 0.1}),
        ({"x": normal(67), "weight": normal(67), "bias": normal(67)}, {}),
    ],
    "batch_norm": [
        ({"x": normal(5, 3), "weight": normal(3), "bias": normal(3)}, {}),
        (
            {"x": normal(2, 4, 3), "weight": normal(3)},
            {"mask": np.arange(4) < np.array([[4], [2]]), "eps": 0.1},
        ),
        ({"x": normal(67, 1), "weight": normal(1), "bias": normal(1)}, {}),
    ],
    "rms_norm": [
        ({"x": normal(3, 5), "weight": normal(5)}, {}),
        ({"x": normal(2, 2, 5), "weight": normal(5)}, {"eps": 0.1}),
        ({"x": normal(67), "weight": normal(67)}, {}),
    ],
    "relu": [({"x": off_zero(3, 5)}, {})],
    "sigmoid": [({"x": 3 * normal(3, 5)}, {})],
    "tanh": [({"x": normal(3, 5)}, {})],
    "silu": [({"x": 3 * normal(3, 5)}, {})],
    "gelu": [
        ({"x": 2 * normal(3, 5)}, {}),
        ({"x": 2 * normal(3, 5)}, {"approximate": "tanh"}),
    ],
    "rotary": [
        ({"x": normal(2, 3, 4, 6)}, {"positions": np.arange(4)}),
        (
            {"x": normal(2, 1, 3, 4)},
            {"positions": np.array([[0, 5, 9], [3, 3, 1]]), "interleaved": True, "base": 100.0},
        ),
        ({"x": normal(2, 1, 3, 7)}, {"positions": np.arange(3), "dim": 4, "magnitude": 1.3}),
        (
            {"x": normal(3, 6)},
            {"positions": np.arange(3), "frequencies": [0.5, 2.0], "interleaved": True},
        ),
    ],
    "attention": [
        (qkv(), {}),
        (qkv(T=1, S=1, D=1, Dv=1), {}),
        (qkv(H=3, G=1), {"scale": 0.7}),
        (qkv(H=2, G=2), {"softcap": 1.5}),
        (qkv(), {"mask": masks.causal()}),
        (qkv(T=5, S=3), {"mask": masks.causal()}),
        (qkv(), {"mask": masks.causal([0, 2])}),
        (qkv(), {"mask": masks.window(1, 1)}),
        (qkv(), {"mask": masks.window(0, 0, sinks=1)}),
        (qkv(), {"mask": masks.padding([3, 0])}),
        (qkv(), {"mask": masks.documents([0, 1, 2], key_ids=[0, 0, 1, 1, 3])}),
        (qkv(), {"mask": masks.causal() & masks.padding([4, 2])}),
        (qkv(), {"mask": sees_some(2, 1, 3, 5)}),
        (qkv(), {"mask": sees_some(4, 3, 5)}),
        (poisoned(), {"mask": masks.padding([5, 4])}),
        (with_bias(5), {}),
        (with_bias(4, 1, 5), {"mask": masks.causal()}),
        (with_bias(2, 1, 3, 1), {"softcap": 2.0}),
        (with_bias(2, 4, 3, 5), {"mask": masks.padding([4, 0])}),
        (qkv(), {"dropout": 0.3, "rng": dice}),
        (
            with_bias(1, 4, 3, 5),
            {
                "mask": masks.causal() & masks.padding([5, 2]),
                "scale": 0.9,
                "softcap": 2.0,
                "dropout": 0.4,
                "rng": dice,
            },
        ),
        ({**qkv(), "sink": normal(4)}, {"mask": sees_some(4, 3, 5)}),
        ({**qkv(), "sink": normal(4)}, {"softcap": 2.0, "dropout": 0.3, "rng": dice}),
        (qkv(), {"score": scores.softcap(2.0).shifted(0), "mask": masks.causal()}),
        (with_bias(4, 1, 5), {"score": bent(), "mask": masks.window(2, 1), "softcap": 3.0}),
        (with_bias(4, 1, 5), {"normalizer": "sigmoid", "mask": masks.causal([0, 2])}),
        (poisoned(), {"normalizer": "sparsemax", "mask": masks.padding([5, 4])}),
        ({**qkv(S=7), "sink": normal(4)}, {"normalizer": "sparsemax", "mask": sees_some(4, 3, 7)}),
        (
            {**with_bias(4, 3, 5), "sink": normal(4)},
            {"normalizer": "entmax15", "softcap": 2.0, "dropout": 0.3, "rng": dice},
        ),
        # The softcap keeps what the function squares within the dtype.
        (qkv(), {"normalizer": "entmax15", "score": bent(), "softcap": 3.0}),
        ({"q": normal(3, 4), "k": normal(5, 4), "v": normal(5, 2)}, {}),
        ({"q": normal(4, 3, 4), "k": normal(2, 5, 4), "v": normal(2, 5, 2)}, {}),
        # Past the edges of the tiles, some entries of each.
        (qkv(**LONG), {"samples": 12}),
        (qkv(**LONG, D=17, Dv=33), {"mask": masks.causal(), "samples": 12}),
        (with_bias(1, 2, 1, 131, **LONG), {"mask": masks.window(40, 3), "samples": 12}),
        (qkv(**LONG), {"dropout": 0.2, "rng": dice, "samples": 12}),
    ],
    "merge_attention": [
        ({"outs": normal(3, 2, 4, 5), "lses": normal(3, 2, 4)}, {}),
        ({"outs": normal(1, 2, 3), "lses": normal(1, 2)}, {}),
    ],
}


@pytest.mark.parametrize(
    ("name", "inputs", "options"),
    [
        pytest.param(name, inputs, options, id=f"{name}-{i}")
        for name, rows in PAIRS.items()
        for i, (inputs, options) in enumerate(rows)
    ],
)
def test_pair(name, inputs, options):
    ma.gradcheck(getattr(F, f"{name}_forward"), inputs, **fresh(options))


# ----------------------------------------------------------------------------- modules, by class


def double():
    """Options of a module in float64 with weights that do not depend on what was built before."""
    return {"dtype": np.float64, "rng": dice()}


def heads(**options):
    return lambda: nn.MultiHeadAttention(8, 4, **double(), **options)


def other(attention, **options):
    """Attention of width 8 in 4 heads with another middle."""
    options = {"head_dim": 4, **options}
    return lambda: attention(8, 4, **double(), **options)


def encoder_layer(**options):
    return lambda: nn.TransformerEncoderLayer(4, 2, ffn_dim=6, **double(), **options)


def decoder_layer(**options):
    return lambda: nn.TransformerDecoderLayer(4, 2, ffn_dim=6, **double(), **options)


def frozen(build, *names):
    """The module that ``build`` makes with the parameters of these parts frozen."""

    def build_frozen():
        module = build()
        for name, parameter in module.named_parameters():
            parameter.trainable = not name.startswith(names)
        assert not all(parameter.trainable for parameter in module.parameters())
        return module

    return build_frozen


X = {"x": normal(2, 3, 4)}
MEMORY = {"x": normal(2, 3, 4), "memory": normal(2, 5, 4)}
TOKENS = {"ids": np.array([[1, 0, 4, 2], [3, 3, 1, 0]])}
SOURCE = {"source": np.array([[1, 0, 4], [2, 3, 0]]), "target": np.array([[0, 2, 1, 1]] * 2)}
CROSS = {"query": normal(2, 3, 8), "key": normal(2, 5, 6), "value": normal(2, 5, 7)}
CROSS_8 = {"query": normal(2, 3, 8), "key": normal(2, 5, 8)}
QUERY = {"query": normal(2, 3, 8)}
FEW = {"samples": 6}  # of each array
RAGGED = masks.causal() & masks.padding([3, 1])

# (build, inputs, other arguments of forward); gradcheck also moves every trainable parameter.
MODULES = {
    "Linear": [
        (lambda: nn.Linear(4, 3, **double()), X, {}),
        (lambda: nn.Linear(4, 3, bias=False, **double()), {"x": normal(5, 4)}, {}),
        (frozen(lambda: nn.Linear(4, 3, **double()), "weight"), X, {}),
    ],
    "Embedding": [
        (lambda: nn.Embedding(5, 3, **double()), TOKENS, {}),
        (lambda: nn.Embedding(5, 3, scale=2.0, **double()), TOKENS, {}),
    ],
    "LayerNorm": [
        (lambda: nn.LayerNorm(4, dtype=np.float64), X, {}),
        (lambda: nn.LayerNorm(4, bias=False, dtype=np.float64), X, {}),
        (frozen(lambda: nn.LayerNorm(4, dtype=np.float64), "bias"), X, {}),
    ],
    "BatchNorm": [
        (lambda: nn.BatchNorm(4, dtype=np.float64), X, {}),
        (lambda: nn.BatchNorm(4, bias=False, dtype=np.float64), X, {"lengths": [3, 1]}),
    ],
    "RMSNorm": [(lambda: nn.RMSNorm(4, dtype=np.float64), X, {})],
    "ReLU": [(nn.ReLU, {"x": off_zero(3, 4)}, {})],
    "QuickGELU": [(nn.QuickGELU, X, {})],
    "Identity": [(nn.Identity, X, {})],
    "Softcap": [(lambda: nn.Softcap(1.5), X, {})],
    "Sigmoid": [(nn.Sigmoid, X, {})],
    "Tanh": [(nn.Tanh, X, {})],
    "SiLU": [(nn.SiLU, X, {})],
    "GELU": [(nn.GELU, X, {}), (lambda: nn.GELU(approximate="tanh"), X, {})],
    "Dropout": [
        (lambda: nn.Dropout(0.4), X, {"rng": dice}),
        (lambda: nn.Dropout(0.4), X, {}),
        (lambda: nn.Dropout(0.0), X, {"rng": dice}),
    ],
    "Sequential": [
        (lambda: nn.Sequential(nn.Linear(4, 3, **double()), nn.Tanh(), nn.Dropout(0.3)), X, {}),
        (
            lambda: nn.Sequential(nn.Linear(4, 3, **double()), nn.Tanh(), nn.Dropout(0.3)),
            X,
            {"rng": dice},
        ),
    ],
    "FeedForward": [
        (lambda: nn.FeedForward(4, 6, **double()), X, {}),
        (lambda: nn.FeedForward(4, 6, dropout=0.3, bias=False, **double()), X, {"rng": dice}),
    ],
    "GatedFeedForward": [
        (lambda: nn.GatedFeedForward(4, 6, activation="gelu", bias=True, **double()), X, {}),
    ],
    "SwiGLU": [(lambda: nn.SwiGLU(4, 6, **double()), X, {})],
    "Rotary": [
        (nn.Rotary, {"x": normal(2, 2, 3, 4)}, {"positions": np.arange(3)}),
        (lambda: nn.Rotary(dim=2), {"x": normal(2, 2, 3, 5)}, {"positions": np.arange(3)}),
        (
            lambda: nn.Rotary(frequencies=nn.frequencies.linear(4, factor=2.0), magnitude=1.2),
            {"x": normal(2, 2, 3, 5)},
            {"positions": np.arange(3)},
        ),
    ],
    "SinusoidalPositions": [(lambda: nn.SinusoidalPositions(4), X, {})],
    "LearnedPositions": [
        (lambda: nn.LearnedPositions(5, 4, **double()), X, {}),
        (
            lambda: nn.LearnedPositions(5, 4, **double()),
            X,
            {"positions": np.array([[0, 1, 4], [2, 2, 0]])},
        ),
    ],
    "MultiHeadAttention": [
        (heads(), {"query": normal(2, 3, 8)}, {"mask": RAGGED}),
        (heads(num_kv_heads=2, bias=False), {"query": normal(2, 3, 8)}, {}),
        (heads(num_kv_heads=1), {"query": normal(2, 3, 8), "key": normal(2, 5, 8)}, {}),
        (heads(kdim=6, vdim=7, softcap=2.0), {**CROSS, "bias": normal(4, 1, 5)}, {}),
        (heads(), {"query": normal(2, 3, 8), "bias": normal(2, 1, 3, 3)}, {}),
        (heads(dropout=0.3), {"query": normal(2, 3, 8)}, {"rng": dice}),
        (heads(dropout=0.3), {"query": normal(2, 3, 8)}, {}),
        (heads(rotary=nn.Rotary(), num_kv_heads=2), {"query": normal(2, 3, 8)}, {"mask": RAGGED}),
        (heads(alibi=True, window=(1, 0), sinks=1), {"query": normal(2, 4, 8)}, {}),
        (heads(alibi=True), {"query": normal(1, 6, 8)}, {"positions": np.arange(6)[::-1]}),
        (
            heads(score=tilted(np.ones((4, 2)), 9.0), sink=True, softcap=2.0),
            {"query": normal(2, 5, 8)},
            {"mask": masks.padding([5, 2])},
        ),
        (frozen(heads(), "q_proj", "v_proj.bias"), {"query": normal(2, 3, 8)}, {}),
        (heads(head_dim=3, num_kv_heads=2, scale=0.4, bias=("q", "v")), CROSS_8, FEW),
        (heads(qk_norm="head", gate="head", rotary=nn.Rotary(dim=2), head_dim=4), QUERY, FEW),
        (heads(qk_norm="full", gate="full", num_kv_heads=2), QUERY, {"mask": RAGGED, **FEW}),
        (
            heads(value_residual=True, num_kv_heads=2),
            {**QUERY, "first_values": normal(2, 2, 3, 2)},
            FEW,
        ),
    ],
    "LearnedScore": [
        (lambda: nn.LearnedScore(tilted(np.full((2, 2), 0.5), 9.0)), SCORES, {}),
        (frozen(lambda: nn.LearnedScore(tilted(np.ones((2, 2)), 9.0)), "tables.table"), SCORES, {}),
    ],
    "ALiBi": [(lambda: nn.ALiBi(2, dtype=np.float64), SCORES, {})],
    "T5Bias": [
        (lambda: nn.T5Bias(2, buckets=6, max_distance=3, dtype=np.float64), SCORES, {}),
    ],
    "RelativeBias": [(lambda: nn.RelativeBias(2, 1, 2, dtype=np.float64), SCORES, {})],
    "DifferentialAttention": [
        (
            other(nn.DifferentialAttention, sink=True, score=tilted(np.ones((4, 2)), 9.0)),
            QUERY,
            FEW,
        ),
        (other(nn.DifferentialAttention), QUERY, {"mask": RAGGED, **FEW}),
        (
            other(nn.DifferentialAttention, lambda_init=0.3, num_kv_heads=2, rotary=nn.Rotary()),
            {**QUERY, "bias": normal(2, 1, 3, 3)},
            FEW,
        ),
        (
            frozen(other(nn.DifferentialAttention, dropout=0.3), "lambdas"),
            QUERY,
            {"rng": dice, **FEW},
        ),
    ],
    "TalkingHeadsAttention": [
        (other(nn.TalkingHeadsAttention), QUERY, {"mask": RAGGED, **FEW}),
        (
            other(nn.TalkingHeadsAttention, num_kv_heads=2, dropout=0.3, scale=0.5),
            {**QUERY, "bias": normal(4, 1, 3)},
            {"rng": dice, **FEW},
        ),
        (frozen(other(nn.TalkingHeadsAttention), "mix_scores"), CROSS_8, FEW),
    ],
    "MemoryAttention": [
        (other(nn.MemoryAttention, slots=3), QUERY, {"mask": RAGGED, **FEW}),
        (
            other(nn.MemoryAttention, slots=2, num_kv_heads=2, softcap=2.0),
            {**CROSS_8, "bias": normal(4, 1, 5)},
            FEW,
        ),
        (
            frozen(other(nn.MemoryAttention, slots=1, rotary=nn.Rotary()), "memory_keys"),
            QUERY,
            FEW,
        ),
    ],
    "TransformerEncoderLayer": [
        (encoder_layer(), X, {"mask": RAGGED}),
        (encoder_layer(norm_first=False, norm="rms"), X, {}),
        (encoder_layer(activation="swiglu", bias=False), X, {}),
        (encoder_layer(dropout=0.3), X, {"rng": dice}),
        (encoder_layer(norm_first=False, num_kv_heads=1), {**X, "bias": normal(2, 1, 3)}, {}),
        (frozen(encoder_layer(), "attn", "norm2"), X, {}),
        (encoder_layer(parallel=True, activation="geglu"), {**X, "bias": normal(3, 3)}, FEW),
        (encoder_layer(sandwich=True, norm="rms", activation="quick_gelu"), X, FEW),
        (encoder_layer(attention="memory", slots=2, attn_bias=("q",), head_dim=3), X, FEW),
    ],
    "TransformerDecoderLayer": [
        (decoder_layer(), MEMORY, {"memory_mask": masks.padding([5, 2])}),
        (decoder_layer(norm_first=False, dropout=0.3), MEMORY, {"rng": dice}),
        (
            decoder_layer(memory_dim=6, causal=False, activation="swiglu"),
            {"x": normal(2, 3, 4), "memory": normal(2, 2, 6)},
            {"mask": masks.padding([3, 2])},
        ),
    ],
    "TransformerEncoder": [
        (lambda: nn.TransformerEncoder(2, 4, 2, ffn_dim=6, **double()), X, {"mask": RAGGED}),
        (lambda: nn.TransformerEncoder(2, 4, 2, norm_first=False, **double()), X, {"samples": 12}),
        (lambda: nn.TransformerEncoder(0, 4, 2, **double()), X, {}),
        (
            lambda: nn.TransformerEncoder(
                3, 4, 2, value_residual=True, by_layer=[{}, {"window": (1, 0)}, {}], **double()
            ),
            {**X, "bias": normal(3, 3)},
            FEW,
        ),
    ],
    "TransformerDecoder": [
        (lambda: nn.TransformerDecoder(2, 4, 2, ffn_dim=6, **double()), MEMORY, {"samples": 12}),
        (
            lambda: nn.TransformerDecoder(1, 4, 2, norm_first=False, norm="rms", **double()),
            MEMORY,
            {"samples": 12, "memory_mask": masks.padding([0, 5])},
        ),
    ],
    "Adapter": [(lambda: nn.Adapter(4, 2, **double()), X, {})],
    "LoRA": [(lambda: nn.LoRA(nn.Linear(4, 3, **double()), 2, rng=dice()), X, {})],
    "SequenceClassifier": [
        (
            lambda: SequenceClassifier(3, vocab_size=5, embed_dim=4, num_heads=2, **double()),
            {"inputs": TOKENS["ids"]},
            {"lengths": [4, 2], "samples": 12},
        ),
        (
            lambda: SequenceClassifier(
                3, input_dim=3, embed_dim=4, num_heads=2, pooling="first", dropout=0.2, **double()
            ),
            {"inputs": normal(2, 5, 3)},
            {"lengths": [5, 1], "rng": dice, "samples": 12},
        ),
        (
            lambda: SequenceClassifier(
                3, input_dim=3, embed_dim=4, num_heads=2, sink=True, **double()
            ),
            {"inputs": normal(2, 4, 3), "bias": normal(2, 4, 4)},
            {"lengths": [4, 2], "samples": 12},
        ),
    ],
    "ImageClassifier": [
        (
            lambda: ImageClassifier(
                3, (4, 2), 2, channels=2, embed_dim=4, num_heads=2, num_layers=1, **double()
            ),
            {"images": normal(2, 2, 4, 2)},
            FEW,
        ),
        (
            lambda: ImageClassifier(
                3,
                2,
                (2, 1),
                embed_dim=4,
                num_heads=2,
                num_layers=1,
                distillation="head",
                dropout=0.2,
                **double(),
            ),
            {"images": normal(2, 3, 2, 2)},
            {"rng": dice, **FEW},
        ),
    ],
    "TextEncoder": [
        (
            lambda: TextEncoder(
                5, 6, num_types=2, embed_dim=4, num_heads=2, num_layers=1, **double()
            ),
            TOKENS,
            {"lengths": [4, 2], "types": np.array([[0, 1, 1, 0]] * 2), **FEW},
        ),
        (
            lambda: TextEncoder(
                5,
                6,
                embed_dim=4,
                num_heads=2,
                num_layers=1,
                positions=None,
                norm_first=True,
                embed_norm=False,
                causal=True,
                **double(),
            ),
            TOKENS,
            {"lengths": [4, 2], **FEW},
        ),
        (
            lambda: TextEncoder(5, 6, embed_dim=4, num_heads=2, num_layers=1, **double()),
            TOKENS,
            FEW,
        ),
    ],
    "GPT": [
        (
            lambda: GPT(
                5,
                4,
                embed_dim=4,
                num_heads=2,
                num_layers=1,
                tied=False,
                embed_norm=True,
                head_bias=True,
                final_softcap=0.05,
                **double(),
            ),
            TOKENS,
            {"samples": 12},
        ),
        (
            lambda: GPT(5, 4, embed_dim=4, num_heads=2, num_layers=2, **double()),
            TOKENS,
            {"samples": 12},
        ),
        (
            lambda: GPT(
                5,
                4,
                embed_dim=8,
                num_heads=4,
                num_kv_heads=2,
                num_layers=1,
                positions="rotary",
                norm="rms",
                activation="swiglu",
                dropout=0.2,
                tied=False,
                softcap=5.0,
                **double(),
            ),
            TOKENS,
            {"rng": dice, "samples": 12},
        ),
        (
            frozen(
                lambda: GPT(5, 4, embed_dim=4, num_heads=2, num_layers=2, **double()),
                "blocks.layers.0",
            ),
            TOKENS,
            {"samples": 12},
        ),
    ],
    "EncoderDecoder": [
        (
            lambda: EncoderDecoder(5, embed_dim=4, num_heads=2, **double()),
            SOURCE,
            {"source_lengths": [3, 1], "samples": 8},
        ),
        (
            lambda: EncoderDecoder(
                5,
                6,
                embed_dim=4,
                num_heads=2,
                tied=False,
                dropout=0.2,
                norm_first=False,
                **double(),
            ),
            SOURCE,
            {"rng": dice, "samples": 8},
        ),
        (
            lambda: EncoderDecoder(
                5,
                input_dim=3,
                embed_dim=4,
                num_heads=2,
                num_encoder_layers=1,
                num_decoder_layers=1,
                **double(),
            ),
            {"source": normal(2, 5, 3), "target": np.array([[1, 2], [3, 4]])},
            {"source_lengths": [5, 2], "samples": 8},
        ),
    ],
}


def built(build):
    """The module with every parameter moved off its initial value, which may be 0 or 1."""
    module = build()
    scatter = np.random.default_rng(3)
    for parameter in module.parameters():
        parameter.data += 0.3 * scatter.standard_normal(parameter.shape)
    return module


EVERY_MODULE = [
    pytest.param(build, inputs, options, id=f"{name}-{i}")
    for name, rows in MODULES.items()
    for i, (build, inputs, options) in enumerate(rows)
]


@pytest.mark.parametrize(("build", "inputs", "options"), EVERY_MODULE)
def test_module(build, inputs, options):
    module = built(build)
    # Some weights make a softmax so sharp that a longer step does not resolve it.
    report = ma.gradcheck(module, inputs, step=3e-4, **fresh(options))
    trainable = {name for name, p in module.named_parameters() if p.trainable and p.size}
    moved = {name for name, x in inputs.items() if x.dtype == np.float64}
    assert set(report.errors) == trainable | moved


@pytest.mark.parametrize(("build", "inputs", "options"), EVERY_MODULE)
def test_module_adds_to_the_gradients_it_finds(build, inputs, options):
    """Two backwards give twice the gradient of one; frozen parameters get none."""
    module = built(build)
    options = {k: v for k, v in fresh(options).items() if k != "samples"}
    y, ctx = module.forward(**inputs, **options)
    module.backward(np.ones_like(y), ctx)
    once = {name: p.grad.copy() for name, p in module.named_parameters() if p.trainable}
    module.backward(np.ones_like(y), ctx)
    for name, p in module.named_parameters():
        if p.trainable:
            np.testing.assert_allclose(p.grad, 2 * once[name], rtol=1e-12, atol=1e-14)
        else:
            assert p.grad is None


# ------------------------------------------------------------------------------ the checker itself


def cube_forward(x, w, *, power=3.0):
    return (x**power) @ w, (x, w, power)


def cube_backward(dy, ctx):
    x, w, power = ctx
    dp = np.outer(dy, w) if dy.ndim else dy * w
    return dp * power * x ** (power - 1), (x**power).T @ dy


CUBE = {"x": np.abs(normal(3, 4)) + 0.5, "w": normal(4)}


def wrong(change):
    """cube_backward with dx changed."""

    def backward(dy, ctx):
        dx, dw = cube_backward(dy, ctx)
        return change(dx.copy()), dw

    return backward


def poke(dx):
    dx[1, 2] *= 1 + 3e-6
    return dx


def test_right_backward_passes():
    report = ma.gradcheck(cube_forward, CUBE)
    assert report.passed
    assert report.error < 1e-9
    assert set(report.errors) == {"x", "w"}
    assert len(report.entries) == 12 + 4
    assert "gradcheck ok: 16 entries" in str(report)


@pytest.mark.parametrize(
    "change",
    [lambda dx: -dx, lambda dx: 0 * dx, lambda dx: dx / 3, lambda dx: dx.mean() + 0 * dx, poke],
    ids=["sign", "missing", "factor", "mean", "one entry by 3e-6"],
)
def test_wrong_backward_fails(change):
    with pytest.raises(ma.GradcheckError, match="cube_forward: the gradient is wrong"):
        ma.gradcheck(cube_forward, CUBE, backward=wrong(change))


def test_error_names_the_worst_entry():
    with pytest.raises(ma.GradcheckError) as caught:
        ma.gradcheck(cube_forward, CUBE, backward=wrong(poke))
    worst = caught.value.report.worst
    assert (worst.name, worst.index) == ("x", (1, 2))
    assert worst.analytic == pytest.approx(worst.numeric * (1 + 3e-6), rel=1e-8)
    assert 2e-6 < worst.error < 4e-6
    assert "x[1, 2]: backward gives" in str(caught.value)
    assert isinstance(caught.value, AssertionError)


def test_nan_in_a_gradient_fails():
    def nan_at(dx):
        dx[2, 3] = np.nan
        return dx

    with pytest.raises(ma.GradcheckError, match=r"x\[2, 3\]"):
        ma.gradcheck(cube_forward, CUBE, backward=wrong(nan_at))


def test_small_but_wrong_gradient_beside_a_large_one_fails():
    """1e-4 of the largest gradient, and wrong by 1e-2 of itself."""

    def forward(x):
        return x * np.array([1.0, 1e-4]), None

    ma.gradcheck(forward, np.ones(2), backward=lambda dy, _: dy * [1.0, 1e-4])
    with pytest.raises(ma.GradcheckError, match=r"x\[1\]"):
        ma.gradcheck(forward, np.ones(2), backward=lambda dy, _: dy * [1.0, 1.01e-4])


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda dy, ctx: cube_backward(dy, ctx)[0], "expected gradients of x, w, got 1"),
        (lambda dy, ctx: (*cube_backward(dy, ctx), dy), "expected gradients of x, w, got 3"),
        (
            lambda dy, ctx: (cube_backward(dy, ctx)[0].T, cube_backward(dy, ctx)[1]),
            r"expected a gradient of x of shape \(3, 4\), got \(4, 3\)",
        ),
    ],
    ids=["too few", "too many", "transposed"],
)
def test_wrong_number_or_shape_fails(backward, message):
    with pytest.raises(ma.GradcheckError, match=message):
        ma.gradcheck(cube_forward, CUBE, backward=backward)


def test_named_gradients_are_matched_by_name():
    """AttentionGrads is a NamedTuple: dq belongs to q whatever the order of the inputs."""
    inputs = qkv()
    ma.gradcheck(F.attention_forward, {name: inputs[name] for name in ("v", "q", "k")})


def test_samples_checks_that_many_entries_of_each():
    report = ma.gradcheck(cube_forward, CUBE, samples=3)
    assert [e.name for e in report.entries] == ["x"] * 3 + ["w"] * 3
    assert len({e.index for e in report.entries if e.name == "x"}) == 3
    other = ma.gradcheck(cube_forward, CUBE, samples=3, seed=1)
    assert {e.index for e in other.entries} != {e.index for e in report.entries}


def test_inputs_by_position_and_options_by_name():
    report = ma.gradcheck(cube_forward, (CUBE["x"], CUBE["w"]), power=2.0)
    assert set(report.errors) == {"x", "w"}


X, W = normal(3, 4), normal(4, 4)


def product_forward(x, w):
    return x @ w, (x, w)


@pytest.mark.parametrize(
    ("dx", "dw", "kind", "words"),
    [
        (lambda dy, x, w: -dy @ w.T, None, "sign", "dx: the sign"),
        (lambda dy, x, w: dy @ w.T / 3, None, "mean", "the number 3, the length of an axis"),
        (lambda dy, x, w: 0 * x, None, "zero", "0 everywhere"),
        (None, lambda dy, x, w: dy.T @ x, "transposed", "dw: axes 0 and 1 are swapped"),
        (lambda dy, x, w: dy @ w.T + x, None, "term", "differs by +`ctx[0]`"),
        (lambda dy, x, w: dy @ w.T * x, None, "factor", "`ctx[0]` is there once too often"),
        (lambda dy, x, w: dy @ w.T + dy.sum(1)[:, None], None, "term", "one number for each row"),
        (None, lambda dy, x, w: -2 * dy.T @ x, "transposed", "swapped; and the sign is the other"),
        (lambda dy, x, w: np.roll(dy @ w.T, 1, 0), None, "offset", "axis 0 is off by one"),
        (lambda dy, x, w: np.where(x > 0, dy @ w.T, 0.0), None, "mask", "some entries are 0"),
    ],
)
def test_the_likely_cause_is_told(dx, dw, kind, words):
    def backward(dy, ctx):
        x, w = ctx
        return (dx or (lambda dy, x, w: dy @ w.T))(dy, x, w), (dw or (lambda dy, x, w: x.T @ dy))(
            dy, x, w
        )

    report = ma.gradcheck(product_forward, (X, W), backward=backward, raises=False)
    assert report.cause.kind == kind
    assert words in str(report)


def test_options_of_the_call_are_thought_of_and_nonsense_is_not_explained():
    def forward(x, *, scale):
        return scale * x**3, x

    report = ma.gradcheck(forward, X, scale=0.3, backward=lambda dy, x: 3 * dy * x**2, raises=False)
    assert report.cause.text == "dx: the factor `scale` is missing"
    report = ma.gradcheck(
        forward, X, scale=0.3, backward=lambda dy, x: np.cos(dy) * np.exp(x), raises=False
    )
    assert report.verdict == "failed"
    assert report.cause is None
    assert ma.gradcheck(forward, X, scale=0.3, backward=lambda dy, x: 0.9 * dy * x**2).cause is None


def test_a_factor_is_seen_in_a_sample():
    report = ma.gradcheck(
        cube_forward, CUBE, backward=wrong(lambda dx: dx / 3), samples=4, raises=False
    )
    assert report.cause.text.startswith("dx: the factor `ctx[2]` is missing")


class Halved(nn.FeedForward):
    def backward(self, dy, ctx):
        return 0.5 * super().backward(dy, ctx)


class Unjoined(nn.TransformerEncoderLayer):
    """Forgets the straight path of its second half."""

    def backward(self, dy, ctx):
        return super().backward(dy, ctx) - dy


def encoder(change):
    made = nn.TransformerEncoder(2, 4, 2, ffn_dim=6, rng=dice(), dtype=np.float64)
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (
            lambda made: setattr(made.layers[1].ffn, "__class__", Halved),
            "layers.1.ffn",
            "what comes back through `up` is there 0.5 times, not once",
        ),
        (
            lambda made: setattr(made.layers[0], "__class__", Unjoined),
            "layers.0",
            "is subtracted from it",
        ),
    ],
    ids=["a part", "what joins the parts"],
)
def test_the_first_wrong_module_is_named(change, path, words):
    module = encoder(change)
    report = ma.gradcheck(module, normal(1, 3, 4), samples=1, raises=False)
    assert report.first_wrong.path == path
    assert f"first wrong module, from the output on: {path}\n" in str(report)
    assert words in str(report.cause)
    alone = [check for check in report.modules if check.verdict == "failed"]
    assert [check.path for check in alone] == [path]
    held = {check.path for check in report.modules if check.verdict == "holds a wrong part"}
    assert held == ({"", "layers.1"} if path == "layers.1.ffn" else {""})
    assert report.modules[0].path == "norm"
    assert all("forward" not in vars(part) for part in module.modules())  # nothing is left behind


def test_a_whole_without_parts_is_wrong_itself():
    report = ma.gradcheck(Scale("sign"), normal(4, 3), raises=False)
    assert [(check.path, check.name) for check in report.modules] == [("", "dfactor")]
    assert "largest error of each: x" in str(report)


def test_inputs_are_left_alone():
    before = {name: x.copy() for name, x in CUBE.items()}
    ma.gradcheck(cube_forward, CUBE)
    for name, x in CUBE.items():
        np.testing.assert_array_equal(x, before[name])


def test_generator_is_left_alone_and_repeated():
    generator = dice()
    state = generator.bit_generator.state
    ma.gradcheck(F.dropout_forward, normal(4, 5), p=0.5, rng=generator)
    assert generator.bit_generator.state == state


def test_infinite_outputs_carry_no_gradient():
    def forward(x):
        return np.where([True, False, True], x, -np.inf), None

    ma.gradcheck(forward, normal(3), backward=lambda dy, _: np.where([1, 0, 1], dy, 0.0))


def test_entries_that_are_not_finite_are_passed_over():
    def forward(x):
        return x[:2] * 2, None

    x = np.array([1.0, 2.0, np.nan])
    report = ma.gradcheck(forward, x, backward=lambda dy, _: np.array([*(2 * dy), 0.0]))
    assert [e.index for e in report.entries] == [(0,), (1,)]


@pytest.mark.parametrize(
    ("f", "inputs", "options", "error", "message"),
    [
        (cube_forward, {**CUBE, "x": CUBE["x"].astype(np.float32)}, {}, TypeError, "x: expected"),
        (lambda x: (x, x), normal(2), {}, TypeError, "f: expected a function X_forward"),
        (F.softmax, normal(2), {}, TypeError, "f: expected a function X_forward"),
        (cube_forward, {"x": np.ones((2, 0)), "w": np.ones(0)}, {}, ValueError, "inputs: "),
        (F.embedding_forward, {"ids": np.array([0])}, {"weight": normal(2, 2)}, None, "expected"),
    ],
    ids=["float32", "no name", "no pair", "empty", "not among the inputs"],
)
def test_wrong_calls(f, inputs, options, error, message):
    with pytest.raises(error or ma.GradcheckError, match=message):
        ma.gradcheck(f, inputs, **options)


ONES = {"weight": np.ones(4), "bias": np.ones(4)}


@pytest.mark.parametrize(
    ("f", "inputs"),
    [
        (F.layer_norm_forward, {"x": np.ones((2, 4)), **ONES}),
        (F.layer_norm_forward, {"x": np.full((2, 4), 1e6), **ONES}),
        (F.rms_norm_forward, {"x": np.zeros((2, 4)), "weight": np.ones(4)}),
        (F.log_softmax_forward, {"x": np.full((2, 5), 1e6)}),
        (F.log_softmax_forward, {"x": 1e6 + np.arange(5.0)}),
        (F.softmax_forward, {"x": np.full(5, 1e6)}),
        (F.logsumexp_forward, {"x": np.full(5, 1e6)}),
        (F.relu_forward, {"x": np.array([0.0, 1e-4, -3e-4])}),
    ],
)
def test_right_backward_is_not_blamed_where_differences_tell_nothing(f, inputs):
    """Steep within a step, flat but for a bend within a step, a kink: x is undecided."""
    report = ma.gradcheck(f, inputs, raises=False)
    assert report.verdict == "undecided"
    assert not report.passed
    assert {entry.name for entry in report.undecided} == {"x"}
    assert "UNDECIDED" in str(report)
    assert f"at {len(report.undecided)} of the entries differences tell nothing" in str(report)
    with pytest.raises(
        ma.GradcheckError, match="undecided, differences tell nothing here"
    ) as found:
        ma.gradcheck(f, inputs)
    assert "wrong" not in str(found.value).lower()
    assert found.value.report.undecided == report.undecided


def test_a_smaller_step_decides_where_the_function_is_steep():
    module = nn.LayerNorm(4, dtype=np.float64)
    assert ma.gradcheck(module, np.ones((2, 4)), raises=False).verdict == "undecided"
    assert ma.gradcheck(module, np.ones((2, 4)), step=1e-5).passed
    x = np.full((2, 5), 1e6)
    assert ma.gradcheck(F.log_softmax_forward, x, step=1e-8, tolerance=1e-5).passed


@pytest.mark.parametrize("change", [lambda dx: -dx, lambda dx: 1.5 * dx, lambda dx: np.nan * dx])
def test_wrong_backward_fails_where_differences_nearly_tell_something(change):
    def backward(dy, ctx):
        return change(F.layer_norm_backward(dy, ctx)[0])

    with pytest.raises(ma.GradcheckError, match="the gradient is wrong") as found:
        ma.gradcheck(
            F.layer_norm_forward, {"x": np.ones((2, 4))}, weight=np.ones(4), backward=backward
        )
    assert not found.value.report.undecided


def test_one_wrong_entry_fails_beside_undecided_ones():
    def backward(dy, ctx):
        return np.where([1, 1, 1, 0], F.relu_backward(dy, ctx), 0.5 * dy)

    x = np.array([0.0, 1e-4, -3e-4, 1.0])
    report = ma.gradcheck(F.relu_forward, x, backward=backward, raises=False)
    assert report.verdict == "failed"
    assert report.worst.index == (3,)
    assert len(report.undecided) == 3
    with pytest.raises(ma.GradcheckError, match="the gradient is wrong"):
        ma.gradcheck(F.relu_forward, x, backward=backward)


@pytest.mark.parametrize("value", [1e-12, 1e-3, 1.0])
def test_a_gradient_of_what_does_not_act_fails(value):
    """Slopes that are nothing but rounding do tell that a slope is 0."""

    def forward(x):
        return 1e3 * np.sin(x[:1]) + 0 * x, x

    def backward(dy, x):
        return np.array([1e3 * np.cos(x[0]) * dy.sum(), 1e3 * value, 0])

    report = ma.gradcheck(forward, np.array([0.3, 0.2, 0.1]), backward=backward, raises=False)
    assert report.verdict == ("failed" if value > 1e-9 else "passed")


def test_forward_that_is_not_deterministic_is_refused():
    stream = np.random.default_rng(0)
    with pytest.raises(ValueError, match="f: expected"):
        ma.gradcheck(lambda x: (x * stream.random(), None), normal(3), backward=lambda dy, _: dy)


class Scale(nn.Module):
    """y = x * factor + shift, with a backward that can be broken."""

    def __init__(self, broken=""):
        self.factor = nn.Parameter(normal(3))
        self.shift = nn.Parameter(normal(3))
        self.broken = broken

    def forward(self, x):
        return x * self.factor.data + self.shift.data, x

    def backward(self, dy, x):
        if self.broken != "missing":
            self.shift.accumulate(dy.sum(0))
        self.factor.accumulate((dy * (np.abs(x) if self.broken == "sign" else x)).sum(0))
        return dy * self.factor.data


def test_module_checks_inputs_and_parameters():
    report = ma.gradcheck(Scale(), normal(4, 3))
    assert set(report.errors) == {"x", "factor", "shift"}
    assert len(report.entries) == 12 + 3 + 3


@pytest.mark.parametrize(("broken", "name"), [("missing", "shift"), ("sign", "factor")])
def test_module_with_a_wrong_parameter_gradient_fails(broken, name):
    with pytest.raises(ma.GradcheckError, match=f"Scale: the gradient is wrong\n.*\n.*{name}"):
        ma.gradcheck(Scale(broken), normal(4, 3))


def test_frozen_parameters_are_not_checked():
    layer = Scale("missing")
    layer.shift.trainable = False
    assert set(ma.gradcheck(layer, normal(4, 3)).errors) == {"x", "factor"}


def test_module_is_left_as_it_was():
    layer = Scale()
    layer.factor.grad = np.arange(3.0)
    before = layer.factor.data.copy()
    ma.gradcheck(layer, normal(4, 3))
    np.testing.assert_array_equal(layer.factor.data, before)
    np.testing.assert_array_equal(layer.factor.grad, np.arange(3.0))
    assert layer.shift.grad is None
