"""Wrong calls of public functions: the error says which argument, what was expected, what came.

Each row: the call, TypeError (wrong kind) or ValueError (wrong shape or range), the start of the
message "argument: expected ..." and what it says has come.
"""

import inspect
import re

import numpy as np
import pytest

import miniattn as ma
import miniattn.functional as F
from miniattn import (
    bridges,
    checkpoint,
    losses,
    masks,
    models,
    nn,
    optim,
    plot,
    trace,
    training,
)
from miniattn.models import GPT, EncoderDecoder, SequenceClassifier


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def rng():
    return np.random.default_rng(0)


Q, K, V = ones(2, 4, 3, 8), ones(2, 2, 5, 8), ones(2, 2, 5, 6)
X, W = ones(3, 4), ones(2, 4)
IDS = np.array([0, 2])
ATTENTION = nn.MultiHeadAttention(8, 2, rng=rng())
LINEAR = nn.Linear(4, 2, rng=rng())
TINY = GPT(5, 4, embed_dim=8, num_heads=2, num_layers=1, rng=rng())


class Points(nn.Module):
    """A module that names what it is given x, and makes a call besides, forward or backward."""

    def forward(self, x):
        if self.call is trace.point:
            self.call(*self.args, x)
        return trace.point("x", x), None

    def backward(self, dy, ctx):
        return self.call(*self.args)

    @staticmethod
    def run(call, *args):
        model = Points()
        model.call, model.args = call, args
        trace.run(model, X)[1].gradients(X)


WRONG = {
    # attention: kinds
    "q int": (lambda: F.attention(Q.astype(int), K, V), TypeError, "q", "int64"),
    "q float16": (lambda: F.attention(Q.astype(np.float16), K, V), TypeError, "q", "float16"),
    "q list of str": (lambda: F.attention([["a"]], K, V), TypeError, "q", "str"),
    "q ragged": (lambda: F.attention([[1.0], [1.0, 2.0]], K, V), TypeError, "q", "ragged"),
    "q None": (lambda: F.attention(None, K, V), TypeError, "q", "object"),
    "k float64": (lambda: F.attention(Q, K.astype(float), V), TypeError, "k", "float64"),
    "v big-endian": (lambda: F.attention(Q, K, V.astype(">f4")), TypeError, "v", "byte-swapped"),
    "mask int": (
        lambda: F.attention(Q, K, V, mask=np.ones((3, 5), int)),
        TypeError,
        "mask",
        "int64",
    ),
    "mask str": (lambda: F.attention(Q, K, V, mask="causal"), TypeError, "mask", "'causal'"),
    "mask uncalled": (lambda: F.attention(Q, K, V, mask=masks.causal), TypeError, "mask", "causal"),
    "bias int": (
        lambda: F.attention(Q, K, V, bias=np.ones((3, 5), int)),
        TypeError,
        "bias",
        "int64",
    ),
    "bias float64": (
        lambda: F.attention(Q, K, V, bias=ones(3, 5, dtype=float)),
        TypeError,
        "bias",
        "float64",
    ),
    "scale str": (lambda: F.attention(Q, K, V, scale="1"), TypeError, "scale", "'1'"),
    "rng seed": (lambda: F.attention(Q, K, V, dropout=0.1, rng=0), TypeError, "rng", "0 (int)"),
    "rng missing": (lambda: F.attention(Q, K, V, dropout=0.1), TypeError, "rng", "None"),
    # attention: shapes and ranges
    "q one axis": (lambda: F.attention(Q[0, 0, 0], K, V), ValueError, "q", "(8,)"),
    "q five axes": (
        lambda: F.attention(Q[None], K[None], V[None]),
        ValueError,
        "q",
        "(1, 2, 4, 3, 8)",
    ),
    "k fewer axes": (lambda: F.attention(Q, K[0], V[0]), ValueError, "k", "(2, 5, 8)"),
    "k batch": (lambda: F.attention(Q, ones(3, 2, 5, 8), V), ValueError, "k", "(3, 2, 5, 8)"),
    "k width": (lambda: F.attention(Q, ones(2, 2, 5, 7), V), ValueError, "k", "(2, 2, 5, 7)"),
    "k heads": (
        lambda: F.attention(Q, ones(2, 3, 5, 8), ones(2, 3, 5, 6)),
        ValueError,
        "k",
        "G = 3",
    ),
    "v length": (lambda: F.attention(Q, K, ones(2, 2, 4, 6)), ValueError, "v", "(2, 2, 4, 6)"),
    "v heads": (lambda: F.attention(Q, K, ones(2, 4, 5, 6)), ValueError, "v", "(2, 4, 5, 6)"),
    "mask shape": (lambda: F.attention(Q, K, V, mask=ones(3, 4) > 0), ValueError, "mask", "(3, 4)"),
    "mask of keys": (
        lambda: F.attention(Q, K, V, mask=ones(2, 5) > 0),
        ValueError,
        "mask",
        "(2, 5)",
    ),
    "bias shape": (lambda: F.attention(Q, K, V, bias=ones(5, 3)), ValueError, "bias", "(5, 3)"),
    "bias too large": (
        lambda: F.attention(Q, K, V, bias=ones(2, 2, 4, 3, 5)),
        ValueError,
        "bias",
        "(2, 2, 4, 3, 5)",
    ),
    "scale NaN": (lambda: F.attention(Q, K, V, scale=np.nan), ValueError, "scale", "nan"),
    "normalizer": (
        lambda: F.attention(Q, K, V, normalizer="relu"),
        ValueError,
        "normalizer",
        "'relu'",
    ),
    "normalizer int": (
        lambda: F.attention_weights(Q, K, normalizer=1),
        TypeError,
        "normalizer",
        "1",
    ),
    "a sink under sigmoid": (
        lambda: F.attention(Q, K, V, normalizer="sigmoid", sink=ones(Q.shape[1])),
        ValueError,
        "sink",
        "sigmoid",
    ),
    "dlse under sparsemax": (
        lambda: F.attention_backward(
            *F.attention_forward(Q, K, V, normalizer="sparsemax"), dlse=ones(1)
        ),
        ValueError,
        "dlse",
        "sparsemax",
    ),
    "merging under entmax15": (
        lambda: F.merge_attention(
            *zip(F.attention_forward(Q, K, V, normalizer="entmax15"), strict=True)
        ),
        ValueError,
        "lses[0]",
        "entmax15",
    ),
    "softcap 0": (lambda: F.attention(Q, K, V, softcap=0.0), ValueError, "softcap", "0.0"),
    "dropout 1": (
        lambda: F.attention(Q, K, V, dropout=1.0, rng=rng()),
        ValueError,
        "dropout",
        "1.0",
    ),
    "dropout -0.1": (
        lambda: F.attention(Q, K, V, dropout=-0.1, rng=rng()),
        ValueError,
        "dropout",
        "-0.1",
    ),
    "dout shape": (
        lambda: F.attention_backward(Q, F.attention_forward(Q, K, V)[1]),
        ValueError,
        "dout",
        "(2, 4, 3, 8)",
    ),
    "dout dtype": (
        lambda: F.attention_backward(
            ones(2, 4, 3, 6, dtype=float), F.attention_forward(Q, K, V)[1]
        ),
        TypeError,
        "dout",
        "float64",
    ),
    "weights k": (lambda: F.attention_weights(Q, K[..., :7]), ValueError, "k", "(2, 2, 5, 7)"),
    "map bins": (lambda: F.attention_map(Q, K, bins=(0, 4)), ValueError, "bins", "0"),
    "map bins float": (lambda: F.attention_map(Q, K, bins=(2.0, 4)), TypeError, "bins", "2.0"),
    "map one bin": (lambda: F.attention_map(Q, K, bins=8), TypeError, "bins", "8"),
    "merge nothing": (lambda: F.merge_attention([], []), ValueError, "outs, lses", "0 and 0"),
    "merge lse": (
        lambda: F.merge_attention([Q], [ones(2, 4, 2)]),
        ValueError,
        "lses[0]",
        "(2, 4, 2)",
    ),
    "merge dtype": (
        lambda: F.merge_attention([Q], [ones(2, 4, 3, dtype=float)]),
        TypeError,
        "lses[0]",
        "float64",
    ),
    "sdpa heads without enable_gqa": (
        lambda: F.scaled_dot_product_attention(Q, K, V),
        ValueError,
        "query, key, value",
        "(2, 2, 5, 8)",
    ),
    "sdpa width": (
        lambda: F.scaled_dot_product_attention(Q, ones(2, 4, 5, 7), ones(2, 4, 5, 7)),
        ValueError,
        "key",
        "(2, 4, 5, 7)",
    ),
    "sdpa mask int": (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ones((3, 3), int)),
        TypeError,
        "attn_mask",
        "int64",
    ),
    "sdpa dropout": (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, dropout_p=2.0, rng=rng()),
        ValueError,
        "dropout_p",
        "2.0",
    ),
    "rng unused": (lambda: F.attention(Q, K, V, rng=0), TypeError, "rng", "0 (int)"),
    "is_causal": (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, is_causal="no"),
        TypeError,
        "is_causal",
        "'no'",
    ),
    "enable_gqa": (
        lambda: F.scaled_dot_product_attention(Q, K, V, enable_gqa=1),
        TypeError,
        "enable_gqa",
        "1",
    ),
    "return_weights": (
        lambda: F.attention(Q, K, V, return_weights=None),
        TypeError,
        "return_weights",
        "None",
    ),
    "merge int": (lambda: F.merge_attention(outs=5, lses=[]), TypeError, "outs", "5"),
    "merge of a string": (lambda: F.merge_attention([Q], "lse"), TypeError, "lses", "'lse'"),
    "masked query": (
        lambda: F.attention(np.ma.masked_array(Q, Q > 0), K, V),
        TypeError,
        "q",
        "a masked array (2, 4, 3, 8); fill it with q.filled(...)",
    ),
    "masked mask": (
        lambda: F.attention(Q, K, V, mask=np.ma.masked_array(ones(3, 5) > 0)),
        TypeError,
        "mask",
        "masked array",
    ),
    "masked scores": (
        lambda: F.softmax(np.ma.masked_array(X, X > 0)),
        TypeError,
        "x",
        "masked array",
    ),
    "masked ids": (
        lambda: F.embedding(np.ma.masked_array(IDS, [True, False]), W),
        TypeError,
        "ids",
        "masked array",
    ),
    "masked attn_mask": (
        lambda: F.scaled_dot_product_attention(Q, Q, Q, np.ma.masked_array(ones(3, 3))),
        TypeError,
        "attn_mask",
        "masked array",
    ),
    # masks
    "causal offset float": (lambda: masks.causal(1.5), TypeError, "offset", "float64"),
    "causal offset rows": (
        lambda: F.attention(Q, K, V, mask=masks.causal([0, 1, 2])),
        ValueError,
        "offset",
        "3",
    ),
    "window negative": (lambda: masks.window(-1, 0), ValueError, "left", "-1"),
    "window float": (lambda: masks.window(1, 2.0), TypeError, "right", "2.0"),
    "padding bool": (lambda: masks.padding(np.array([True])), TypeError, "lengths", "bool"),
    "padding negative": (lambda: masks.padding([3, -1]), ValueError, "lengths", "-1"),
    "padding too long": (
        lambda: F.attention(Q, K, V, mask=masks.padding([6, 1])),
        ValueError,
        "lengths",
        "6",
    ),
    "padding rows": (
        lambda: F.attention(Q, K, V, mask=masks.padding([1, 2, 3])),
        ValueError,
        "lengths",
        "3",
    ),
    "dilated by nothing": (lambda: masks.dilated(0), ValueError, "step", "0"),
    "globals before the first": (lambda: masks.globals([-1]), ValueError, "tokens", "-1"),
    "heads of a number": (lambda: masks.heads(masks.causal(), 3), TypeError, "masks[1]", "3"),
    "neighbourhood on no grid": (
        lambda: masks.neighbourhood((3, 0), 1),
        ValueError,
        "shape",
        "0",
    ),
    "prefix of half a token": (lambda: masks.prefix([1.5]), TypeError, "lengths", "float64"),
    "tree beyond its nodes": (lambda: masks.tree([0, 5]), ValueError, "parents", "5"),
    "where of a number": (lambda: masks.where(3), TypeError, "where", "3"),
    "MaskFunction of a number": (lambda: masks.MaskFunction(3), TypeError, "where", "3"),
    "sparsemax axis": (lambda: F.sparsemax(X, axis=2), ValueError, "axis", "2"),
    "entmax15 temperature": (
        lambda: F.entmax15(X, temperature=0.0),
        ValueError,
        "temperature",
        "0.0",
    ),
    "documents float": (lambda: masks.documents([0.0]), TypeError, "ids", "float64"),
    "documents length": (
        lambda: F.attention(Q, K, V, mask=masks.documents([0, 1], [0] * 5)),
        ValueError,
        "ids",
        "(2,)",
    ),
    "mask & int array": (lambda: masks.causal() & np.ones((3, 3), int), TypeError, "mask", "int64"),
    "no mask": (lambda: masks.as_mask(1), TypeError, "mask", "1"),
    "lowered": (lambda: masks.lower(masks.padding([6]), 1, 1, 3, 5), ValueError, "lengths", "6"),
    # softmax family and losses
    "softmax scalar": (lambda: F.softmax(np.float32(1.0)), ValueError, "x", "()"),
    "softmax axis": (lambda: F.softmax(X, axis=2), ValueError, "axis", "2"),
    "softmax axis float": (lambda: F.softmax(X, axis=1.0), TypeError, "axis", "1.0"),
    "softmax temperature": (
        lambda: F.softmax(X, temperature=0.0),
        ValueError,
        "temperature",
        "0.0",
    ),
    "softmax mask": (lambda: F.softmax(X, mask=ones(4, 3) > 0), ValueError, "mask", "(4, 3)"),
    "softmax mask float": (lambda: F.softmax(X, mask=ones(3, 4)), TypeError, "mask", "float32"),
    "softmax backward": (
        lambda: F.softmax_backward(W, F.softmax_forward(X)[1]),
        ValueError,
        "dy",
        "(2, 4)",
    ),
    "log_softmax int": (lambda: F.log_softmax(np.arange(3)), TypeError, "x", "int64"),
    "logsumexp axis": (lambda: F.logsumexp(X, axis=-3), ValueError, "axis", "-3"),
    "cross_entropy float targets": (
        lambda: F.cross_entropy(X, ones(3)),
        TypeError,
        "targets",
        "float32",
    ),
    "cross_entropy shape": (lambda: F.cross_entropy(X, IDS), ValueError, "targets", "(2,)"),
    "cross_entropy class": (
        lambda: F.cross_entropy(X, np.array([0, 4, 1])),
        ValueError,
        "targets",
        "4",
    ),
    "cross_entropy smoothing": (
        lambda: F.cross_entropy(W, IDS, label_smoothing=1.5),
        ValueError,
        "label_smoothing",
        "1.5",
    ),
    "cross_entropy dloss": (
        lambda: F.cross_entropy_backward("1", F.cross_entropy_forward(W, IDS)[1]),
        TypeError,
        "dloss",
        "'1'",
    ),
    "linear_cross_entropy shape": (
        lambda: F.linear_cross_entropy(X, W, IDS),
        ValueError,
        "targets",
        "(2,)",
    ),
    "linear_cross_entropy width": (
        lambda: F.linear_cross_entropy(X, ones(5, 7), np.zeros(3, int)),
        ValueError,
        "weight",
        "(5, 7)",
    ),
    "linear_cross_entropy class": (
        lambda: F.linear_cross_entropy(X, W, np.array([0, 2, 1])),
        ValueError,
        "targets",
        "got 2 at index (1,)",
    ),
    "linear_cross_entropy probabilities": (
        lambda: F.linear_cross_entropy(X, W, ones(3, 2)),
        TypeError,
        "targets",
        "float32",
    ),
    "linear_cross_entropy dloss": (
        lambda: F.linear_cross_entropy_backward(
            "1", F.linear_cross_entropy_forward(X, W, np.zeros(3, int))[1]
        ),
        TypeError,
        "dloss",
        "'1'",
    ),
    "linear_cross_entropy needs": (
        lambda: F.linear_cross_entropy_backward(
            1.0, F.linear_cross_entropy_forward(X, W, np.zeros(3, int))[1], needs=("targets",)
        ),
        ValueError,
        "needs",
        "targets",
    ),
    "ignore_index": (
        lambda: F.cross_entropy(W, IDS, ignore_index=10**30),
        ValueError,
        "ignore_index",
        "an int that fits int64",
    ),
    "temperature beyond floats": (
        lambda: F.softmax(X, temperature=10**400),
        ValueError,
        "temperature",
        "1000",
    ),
    "dloss of thousands of digits": (
        lambda: F.mse_backward(10**5000, F.mse_forward(X, X)[1]),
        ValueError,
        "dloss",
        "a number of 16610 bits",
    ),
    "mse shape": (lambda: F.mse(X, W), ValueError, "target", "(2, 4)"),
    "mse dtype": (lambda: F.mse(X, X.astype(float)), TypeError, "target", "float64"),
    # layers
    "linear width": (lambda: F.linear(X, ones(2, 3)), ValueError, "weight", "(2, 3)"),
    "linear bias": (lambda: F.linear(X, W, ones(3)), ValueError, "bias", "(3,)"),
    "linear scalar": (lambda: F.linear(np.float32(1), W), ValueError, "x", "()"),
    "linear backward": (
        lambda: F.linear_backward(X, F.linear_forward(X, W)[1]),
        ValueError,
        "dy",
        "(3, 4)",
    ),
    "linear needs": (
        lambda: F.linear_backward(ones(3, 2), F.linear_forward(X, W)[1], needs=("wieght",)),
        ValueError,
        "needs",
        "'wieght'",
    ),
    "attention needs": (
        lambda: F.attention_backward(Q, F.attention_forward(Q, K, V)[1], needs=("q", "key")),
        ValueError,
        "needs",
        "'key'",
    ),
    "needs of one name": (
        lambda: F.linear_backward(ones(3, 2), F.linear_forward(X, W)[1], needs="x"),
        TypeError,
        "needs",
        "'x' (str)",
    ),
    "norm needs": (
        lambda: F.rms_norm_backward(X, F.rms_norm_forward(X, ones(4))[1], needs=("bias",)),
        ValueError,
        "needs",
        "'bias'",
    ),
    "needs of bools": (
        lambda: F.layer_norm_backward(
            X, F.layer_norm_forward(X, ones(4))[1], needs=(True, False, True)
        ),
        TypeError,
        "needs",
        "True (bool)",
    ),
    "ctx and dy exchanged": (
        lambda: F.relu_backward(F.relu_forward(X)[1], X),
        TypeError,
        "ctx",
        "an array, float32 (3, 4)",
    ),
    "rotary interleaved": (
        lambda: F.rotary(Q, np.arange(3), interleaved="no"),
        TypeError,
        "interleaved",
        "'no'",
    ),
    "embedding float ids": (lambda: F.embedding(ones(2), W), TypeError, "ids", "float32"),
    "embedding range": (lambda: F.embedding(IDS, W), ValueError, "ids", "2"),
    "embedding negative": (lambda: F.embedding(np.array([-1]), W), ValueError, "ids", "-1"),
    "embedding table": (lambda: F.embedding(IDS, ones(4)), ValueError, "weight", "(4,)"),
    "dropout p": (lambda: F.dropout(X, 1.0, rng()), ValueError, "p", "1.0"),
    "dropout rng": (lambda: F.dropout(X, 0.5, np.random), TypeError, "rng", "module"),
    "layer_norm weight": (lambda: F.layer_norm(X, ones(3)), ValueError, "weight", "(3,)"),
    "layer_norm eps": (lambda: F.layer_norm(X, ones(4), eps=-1.0), ValueError, "eps", "-1.0"),
    "batch_norm mask": (
        lambda: F.batch_norm(X, ones(4), mask=np.ones(4, bool)),
        ValueError,
        "mask",
        "(4,)",
    ),
    "batch_norm weight": (lambda: F.batch_norm(X, ones(3)), ValueError, "weight", "(3,)"),
    "lengths of a batch norm": (
        lambda: nn.BatchNorm(4).forward(X, lengths=[9, 1]),
        ValueError,
        "x",
        "(3, 4)",
    ),
    "momentum": (lambda: nn.BatchNorm(4, momentum=2.0), ValueError, "momentum", "2.0"),
    "statistics": (lambda: nn.Statistics([1]), TypeError, "data", "int64"),
    "rms_norm weight": (
        lambda: F.rms_norm(X, ones(4, dtype=float)),
        TypeError,
        "weight",
        "float64",
    ),
    "relu bool": (lambda: F.relu(X > 0), TypeError, "x", "bool"),
    "gelu approximate": (
        lambda: F.gelu(X, approximate="exact"),
        ValueError,
        "approximate",
        "'exact'",
    ),
    "gelu approximate bool": (
        lambda: F.gelu(X, approximate=True),
        TypeError,
        "approximate",
        "True",
    ),
    "rotary odd": (lambda: F.rotary(ones(2, 3), np.arange(2)), ValueError, "x", "(2, 3)"),
    "rotary positions": (lambda: F.rotary(Q, np.arange(4)), ValueError, "positions", "(4,)"),
    "rotary dim": (lambda: F.rotary(Q, np.arange(3), dim=3), ValueError, "dim", "3"),
    "rotary frequencies": (
        lambda: F.rotary(Q, np.arange(3), frequencies=["fast"]),
        TypeError,
        "frequencies",
        "<U4",
    ),
    "rotary magnitude": (
        lambda: F.rotary(Q, np.arange(3), magnitude=-1.0),
        ValueError,
        "magnitude",
        "-1.0",
    ),
    "rotary float positions": (lambda: F.rotary(Q, ones(3)), TypeError, "positions", "float32"),
    "rotary base": (lambda: F.rotary(Q, np.arange(3), base=0.0), ValueError, "base", "0.0"),
    "sigmoid int": (lambda: F.sigmoid(np.arange(3)), TypeError, "x", "int64"),
    "tanh float16": (lambda: F.tanh(X.astype(np.float16)), TypeError, "x", "float16"),
    "silu bool": (lambda: F.silu(X > 0), TypeError, "x", "bool"),
    # modules
    "heads": (lambda: nn.MultiHeadAttention(10, 3), ValueError, "num_heads", "3"),
    "kv heads": (
        lambda: nn.MultiHeadAttention(8, 4, num_kv_heads=3),
        ValueError,
        "num_kv_heads",
        "3",
    ),
    "heads 0": (lambda: nn.MultiHeadAttention(8, 0), ValueError, "num_heads", "0"),
    "module seed": (lambda: nn.Linear(4, 2, rng=0), TypeError, "rng", "0 (int)"),
    "module width": (lambda: nn.Linear(0, 2), ValueError, "in_features", "0"),
    "module dtype": (lambda: nn.Linear(4, 2, dtype=np.float16), TypeError, "dtype", "float16"),
    "query width": (lambda: ATTENTION(ones(2, 3, 7)), ValueError, "query", "(2, 3, 7)"),
    "query axes": (lambda: ATTENTION(ones(3, 8)), ValueError, "query", "(3, 8)"),
    "key batch": (lambda: ATTENTION(ones(2, 3, 8), ones(1, 3, 8)), ValueError, "key", "(1, 3, 8)"),
    "rng in a call": (lambda: ATTENTION(ones(2, 3, 8), rng=rng()), TypeError, "rng", "one"),
    "parameter int": (lambda: nn.Parameter(np.arange(3)), TypeError, "data", "int64"),
    "state": (lambda: LINEAR.load_state_dict({"weight": W}), ValueError, "state", "missing: bias"),
    "sequential": (lambda: nn.Sequential(np.tanh), TypeError, "layers[0]", "tanh"),
    "decoding without a window": (
        lambda: nn.MultiHeadAttention(8, 2, sinks=1),
        ValueError,
        "sinks",
        "1",
    ),
    "bias flag": (lambda: nn.Linear(4, 2, bias="no"), TypeError, "bias", "'no'"),
    "linear float64": (
        lambda: LINEAR(X.astype(float)),
        TypeError,
        "x",
        "dtype float32 like the layer's parameters, got float64",
    ),
    "norm float64": (lambda: nn.LayerNorm(4)(X.astype(float)), TypeError, "x", "float64"),
    "rms float64": (lambda: nn.RMSNorm(4)(X.astype(float)), TypeError, "x", "float64"),
    "positions float64": (
        lambda: nn.LearnedPositions(5, 4)(ones(1, 3, 4, dtype=float)),
        TypeError,
        "x",
        "float64",
    ),
    "query float64": (
        lambda: ATTENTION(ones(2, 3, 8, dtype=float)),
        TypeError,
        "query",
        "float64",
    ),
    "key float64": (
        lambda: ATTENTION(ones(2, 3, 8), ones(2, 3, 8, dtype=float)),
        TypeError,
        "key",
        "float64",
    ),
    "layer float64": (
        lambda: nn.TransformerEncoderLayer(8, 2)(ones(2, 3, 8, dtype=float)),
        TypeError,
        "x",
        "float64",
    ),
    "post-norm float64": (
        lambda: nn.TransformerEncoderLayer(8, 2, norm_first=False)(ones(2, 3, 8, dtype=float)),
        TypeError,
        "x",
        "float64",
    ),
    "memory float64": (
        lambda: nn.TransformerDecoderLayer(8, 2)(ones(2, 3, 8), ones(2, 3, 8, dtype=float)),
        TypeError,
        "memory",
        "float64",
    ),
    "memory None": (
        lambda: nn.TransformerDecoderLayer(8, 2)(ones(2, 3, 8), None),
        TypeError,
        "memory",
        "None",
    ),
    "memory mask": (
        lambda: nn.TransformerDecoderLayer(8, 2)(ones(2, 3, 8), ones(2, 3, 8), memory_mask=ones(3)),
        TypeError,
        "memory_mask",
        "float32",
    ),
    "window int": (lambda: nn.MultiHeadAttention(8, 2, window=3), TypeError, "window", "3"),
    "window of one": (
        lambda: nn.TransformerEncoder(1, 8, 2, window=(3,)),
        ValueError,
        "window",
        "(3,)",
    ),
    "window of floats": (lambda: GPT(5, 4, window=(1.5, 0)), TypeError, "window", "1.5"),
    "rotary flag": (lambda: nn.MultiHeadAttention(8, 2, rotary=True), TypeError, "rotary", "True"),
    "rotary class": (
        lambda: nn.TransformerEncoder(1, 8, 2, rotary=nn.Rotary),
        TypeError,
        "rotary",
        "Rotary",
    ),
    "rotary of odd heads": (
        lambda: nn.MultiHeadAttention(6, 2, rotary=nn.Rotary()),
        ValueError,
        "rotary",
        "3",
    ),
    "cache of other heads": (
        lambda: ATTENTION(ones(2, 3, 8), cache=nn.KVCache(2, 4, 5, 2)),
        ValueError,
        "cache",
        "(2, 4, 2)",
    ),
    "cache list": (
        lambda: nn.TransformerEncoderLayer(8, 2)(ones(2, 3, 8), cache=[]),
        TypeError,
        "cache",
        "[]",
    ),
    "caches too few": (
        lambda: nn.TransformerEncoder(2, 8, 2)(ones(2, 3, 8), caches=[nn.KVCache(2, 2, 5, 4)]),
        ValueError,
        "caches",
        "1",
    ),
    "positions of floats": (
        lambda: ATTENTION(ones(2, 3, 8), positions=ones(3)),
        TypeError,
        "positions",
        "float32",
    ),
    "biases of attention": (
        lambda: nn.MultiHeadAttention(8, 2, bias=("q", "o")),
        ValueError,
        "bias",
        "'o'",
    ),
    "head width": (lambda: nn.MultiHeadAttention(8, 2, head_dim=0), ValueError, "head_dim", "0"),
    "norm of q and k": (
        lambda: nn.MultiHeadAttention(8, 2, qk_norm="rms"),
        ValueError,
        "qk_norm",
        "'rms'",
    ),
    "gate": (lambda: nn.MultiHeadAttention(8, 2, gate=True), TypeError, "gate", "True"),
    "first values of a layer that mixes none": (
        lambda: ATTENTION(ones(2, 3, 8), first_values=ones(2, 2, 3, 4)),
        ValueError,
        "first_values",
        "array",
    ),
    "share of the second map": (
        lambda: nn.DifferentialAttention(8, 2, lambda_init=2.0),
        ValueError,
        "lambda_init",
        "2.0",
    ),
    "talking heads with a normalizer": (
        lambda: nn.TalkingHeadsAttention(8, 2, normalizer="sparsemax"),
        ValueError,
        "normalizer",
        "'sparsemax'",
    ),
    "a memory with a normalizer": (
        lambda: nn.MemoryAttention(8, 2, normalizer="sigmoid"),
        ValueError,
        "normalizer",
        "'sigmoid'",
    ),
    "a layer's sink under sigmoid": (
        lambda: nn.MultiHeadAttention(8, 2, normalizer="sigmoid", sink=True),
        ValueError,
        "sink",
        "True",
    ),
    "a layer's normalizer": (
        lambda: nn.MultiHeadAttention(8, 2, normalizer="relu"),
        ValueError,
        "normalizer",
        "'relu'",
    ),
    "talking heads with a softcap": (
        lambda: nn.TalkingHeadsAttention(8, 2, softcap=3.0),
        ValueError,
        "softcap",
        "3.0",
    ),
    "patches that do not fill the image": (
        lambda: models.ImageClassifier(3, (4, 6), 3, embed_dim=4, num_heads=2),
        ValueError,
        "patch_size",
        "(3, 3)",
    ),
    "images of another size": (
        lambda: models.ImageClassifier(3, 4, 2, embed_dim=4, num_heads=2)(
            np.zeros((1, 3, 4, 6), np.float32)
        ),
        ValueError,
        "images",
        "(1, 3, 4, 6)",
    ),
    "types of a model without": (
        lambda: models.TextEncoder(5, 4, embed_dim=4, num_heads=2, num_layers=1)(
            np.zeros((1, 2), int), types=np.zeros((1, 2), int)
        ),
        ValueError,
        "types",
        "array",
    ),
    "rotary beside other positions": (
        lambda: models.GPT(5, 4, rotary=nn.Rotary()),
        ValueError,
        "rotary",
        "'learned'",
    ),
    "parallel after the norm": (
        lambda: nn.TransformerEncoderLayer(8, 2, parallel=True, norm_first=False),
        ValueError,
        "parallel",
        "True",
    ),
    "attention by name": (
        lambda: nn.TransformerEncoderLayer(8, 2, attention="linear"),
        ValueError,
        "attention",
        "'linear'",
    ),
    "options by layer": (
        lambda: nn.TransformerEncoder(2, 8, 2, by_layer=[{}]),
        ValueError,
        "by_layer",
        "1",
    ),
    "gated activation": (
        lambda: nn.GatedFeedForward(8, activation="swiglu"),
        ValueError,
        "activation",
        "'swiglu'",
    ),
    "quick gelu": (lambda: nn.QuickGELU()([1]), TypeError, "x", "int64"),
    "score of a module": (lambda: nn.LearnedScore(len), TypeError, "score", "len"),
    "ALiBi's heads": (lambda: nn.ALiBi(0), ValueError, "num_heads", "0"),
    "T5's buckets": (lambda: nn.T5Bias(2, buckets=1), ValueError, "buckets", "1"),
    "relative bias behind": (lambda: nn.RelativeBias(2, -1, 0), ValueError, "behind", "-1"),
    "softcap": (lambda: nn.Softcap(0.0), ValueError, "cap", "0.0"),
    "identity": (lambda: nn.Identity()([1]), TypeError, "x", "int64"),
    "memory of nothing": (
        lambda: nn.MemoryAttention(8, 2, slots=0),
        ValueError,
        "slots",
        "0",
    ),
    "rotary wider than heads": (
        lambda: nn.MultiHeadAttention(8, 2, rotary=nn.Rotary(dim=6)),
        ValueError,
        "rotary",
        "6",
    ),
    "factor of frequencies": (
        lambda: nn.frequencies.linear(4, factor=0.5),
        ValueError,
        "factor",
        "0.5",
    ),
    "dim of frequencies": (lambda: nn.frequencies.plain(5), ValueError, "dim", "5"),
    "interleaved": (lambda: nn.Rotary(interleaved="no"), TypeError, "interleaved", "'no'"),
    "trainable": (lambda: nn.Parameter(X, trainable=1), TypeError, "trainable", "1"),
    "dropout without a generator": (
        lambda: nn.Dropout(0.0).forward(X, rng=3),
        TypeError,
        "rng",
        "3",
    ),
    "hidden width": (lambda: nn.FeedForward(8, 0), ValueError, "ffn_dim", "0"),
    "width of a gate": (lambda: nn.SwiGLU("8"), TypeError, "embed_dim", "'8'"),
    "bottleneck": (lambda: nn.Adapter(8, 0), ValueError, "bottleneck", "0"),
    "dropout of a layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, dropout=None),
        TypeError,
        "dropout",
        "None",
    ),
    "dropout of hidden units": (
        lambda: nn.TransformerDecoderLayer(8, 2, ffn_dropout=1.0),
        ValueError,
        "ffn_dropout",
        "1.0",
    ),
    "width of a memory": (
        lambda: nn.TransformerDecoderLayer(8, 2, memory_dim=0),
        ValueError,
        "memory_dim",
        "0",
    ),
    "activation of a layer": (
        lambda: nn.TransformerEncoder(1, 8, 2, activation="swish"),
        ValueError,
        "activation",
        "'swish'",
    ),
    "context as an array": (
        lambda: F.relu(F.relu_forward(X)[1]),
        TypeError,
        "x",
        "a ReluContext",
    ),
    "contexts of another stack": (
        lambda: nn.TransformerEncoder(1, 8, 2).backward(
            ones(1, 3, 8), nn.TransformerEncoder(2, 8, 2).forward(ones(1, 3, 8))[1]
        ),
        ValueError,
        "ctx",
        "2",
    ),
    "gelu layer": (lambda: nn.GELU(approximate="fast"), ValueError, "approximate", "'fast'"),
    "table width": (lambda: nn.Embedding(5, 0), ValueError, "embed_dim", "0"),
    "sinusoids": (lambda: nn.SinusoidalPositions(0), ValueError, "embed_dim", "0"),
    "no decoder layers": (lambda: nn.TransformerDecoder(0.5, 4, 2), TypeError, "num_layers", "0.5"),
    "LoRA of an array": (lambda: nn.LoRA(X, 2), TypeError, "base", "array"),
    "LoRA rank": (lambda: nn.LoRA(LINEAR, 0), ValueError, "rank", "0"),
    "LoRA in an array": (lambda: nn.add_lora(X, 2), TypeError, "model", "array"),
    "adapters of an array": (lambda: models.save_adapters("x", X), TypeError, "model", "array"),
    "adapters into an array": (lambda: models.load_adapters("x", X), TypeError, "model", "array"),
    "adapters in an array": (lambda: nn.add_adapters(X, 2), TypeError, "model", "array"),
    "merge an array": (lambda: nn.merge_lora(X), TypeError, "model", "array"),
    "slopes": (lambda: nn.alibi_slopes(0), ValueError, "num_heads", "0"),
    "slopes of a bias": (lambda: nn.alibi_bias(0, IDS, IDS, float), ValueError, "num_heads", "0"),
    # models, training, tools
    "classes": (
        lambda: SequenceClassifier(0, input_dim=2),
        ValueError,
        "num_classes",
        "0",
    ),
    "dlogits": (
        lambda: TINY.backward(ones(1, 3, 4), TINY.forward(np.zeros((1, 3), int))[1]),
        ValueError,
        "dlogits",
        "(1, 3, 4)",
    ),
    "caches of a model": (
        lambda: TINY(np.zeros((1, 3), int), caches="on"),
        TypeError,
        "caches",
        "'on'",
    ),
    "series without an axis of features": (
        lambda: SequenceClassifier(3, input_dim=1)(ones(2, 7)),
        ValueError,
        "inputs",
        "(2, 7)",
    ),
    "inputs of a classifier": (
        lambda: SequenceClassifier(3, input_dim=4)(ones(2, 7, 4, dtype=float)),
        TypeError,
        "inputs",
        "float64",
    ),
    "tied": (lambda: GPT(5, 4, tied="no"), TypeError, "tied", "'no'"),
    "lengths of sources": (
        lambda: EncoderDecoder(5, embed_dim=8, num_heads=2)(
            np.zeros((1, 3), int), np.zeros((1, 3), int), [4]
        ),
        ValueError,
        "source_lengths",
        "[4]",
    ),
    "classifier input": (
        lambda: SequenceClassifier(3),
        ValueError,
        "vocab_size, input_dim",
        "None and None",
    ),
    "gpt ids": (
        lambda: GPT(5, 4, embed_dim=8, num_heads=2, num_layers=1)(np.zeros((1, 5), int)),
        ValueError,
        "ids",
        "5",
    ),
    "no parameters": (lambda: optim.SGD([], lr=0.1), ValueError, "parameters", "none"),
    "learning rate": (lambda: optim.Adam([nn.Parameter(X)], lr=-1.0), ValueError, "lr", "-1.0"),
    "not parameters": (lambda: optim.Adam([X]), TypeError, "parameters", "array"),
    "weight decay": (
        lambda: optim.AdamW([nn.Parameter(X)], weight_decay=-1.0),
        ValueError,
        "weight_decay",
        "-1.0",
    ),
    "norm": (
        lambda: optim.clip_grad_norm([nn.Parameter(X)], -1.0),
        ValueError,
        "max_norm",
        "-1.0",
    ),
    "constant": (lambda: optim.constant(-1), ValueError, "warmup", "-1"),
    "cosine": (lambda: optim.cosine(warmup=5, total=2), ValueError, "total", "2"),
    "trace of a function": (lambda: trace.run(np.tanh, X), TypeError, "model", "tanh"),
    "keep of numbers": (lambda: trace.run(LINEAR, X, keep=[1]), TypeError, "keep", "1 (int)"),
    "keep misspelt": (
        lambda: trace.run(LINEAR, X, keep=["outptu"]),
        ValueError,
        "keep",
        "'outptu'; like it: 'output'",
    ),
    "edits in a list": (lambda: trace.run(LINEAR, X, edits=[trace.zero]), TypeError, "edits", "["),
    "edit of what is not there": (
        lambda: trace.run(LINEAR, X, edits={"heads": trace.zero}),
        ValueError,
        "edits",
        "'heads'",
    ),
    "edit that is a class": (
        lambda: trace.run(LINEAR, X, edits={"input": trace.scale}),
        TypeError,
        "edits[input]",
        "scale",
    ),
    "edit by an array of float64": (
        lambda: trace.run(LINEAR, X, edits={"input": ones(3, 4, dtype=float)}),
        TypeError,
        "edits[input]",
        "float64",
    ),
    "edit by an array that doesn't fit": (
        lambda: trace.run(LINEAR, X, edits={"input": trace.add(ones(3))}),
        ValueError,
        "edits[input]",
        "(3,)",
    ),
    "edit of another shape": (
        lambda: trace.run(LINEAR, X, edits={"input": nn.Linear(4, 2)}),
        ValueError,
        "edits[input]",
        "(3, 2)",
    ),
    "edited a function": (lambda: trace.edited(np.tanh, {}), TypeError, "model", "tanh"),
    "scale by text": (lambda: trace.scale("2"), TypeError, "a", "'2'"),
    "add None": (lambda: trace.add(None), TypeError, "v", "None"),
    "at without an edit": (lambda: trace.at[0](None), TypeError, "edit", "None"),
    "point with a dot": (lambda: Points.run(trace.point, "a.b"), ValueError, "name", "'a.b'"),
    "gradient of another shape": (
        lambda: Points.run(trace.point_backward, "x", X[0]),
        ValueError,
        "dx",
        "(4,)",
    ),
    "nesterov": (
        lambda: optim.SGD([nn.Parameter(X)], lr=0.1, momentum=0.9, nesterov="no"),
        TypeError,
        "nesterov",
        "'no'",
    ),
    "larger_is_better": (
        lambda: training.EarlyStopping(2, larger_is_better=1),
        TypeError,
        "larger_is_better",
        "1",
    ),
    "betas": (
        lambda: optim.Adam([nn.Parameter(X)], betas=0.9),
        TypeError,
        "betas",
        "0.9",
    ),
    "decay": (
        lambda: optim.AdamW([nn.Parameter(X)], decay=0.1),
        TypeError,
        "decay",
        "0.1",
    ),
    "largest norm": (
        lambda: optim.clip_grad_norm([nn.Parameter(X)], X),
        TypeError,
        "max_norm",
        "an array, float32 (3, 4)",
    ),
    "model of a trainer": (
        lambda: training.Trainer(GPT, optim.SGD(LINEAR.named_parameters(), lr=0.1)),
        TypeError,
        "model",
        "GPT",
    ),
    "optimizer of a trainer": (
        lambda: training.Trainer(LINEAR, "adam"),
        TypeError,
        "optimizer",
        "'adam'",
    ),
    "schedule of a trainer": (
        lambda: training.Trainer(
            LINEAR, optim.SGD(LINEAR.named_parameters(), lr=0.1), schedule="cosine"
        ),
        TypeError,
        "schedule",
        "'cosine'",
    ),
    "callbacks of a trainer": (
        lambda: training.Trainer(
            LINEAR,
            optim.SGD(LINEAR.named_parameters(), lr=0.1),
            callbacks=training.EarlyStopping(2),
        ),
        TypeError,
        "callbacks",
        "EarlyStopping",
    ),
    "string labels": (
        lambda: losses.CrossEntropy().forward(X, np.array(["a", "b", "c"])),
        TypeError,
        "targets",
        "str",
    ),
    "string targets": (
        lambda: losses.MSE().count(np.array(["a", "b"])),
        TypeError,
        "targets",
        "str",
    ),
    "restore_best": (
        lambda: training.EarlyStopping(2, restore_best="yes"),
        TypeError,
        "restore_best",
        "'yes'",
    ),
    "progress": (
        lambda: training.Trainer(LINEAR, optim.SGD(LINEAR.named_parameters(), lr=0.1), progress=0),
        TypeError,
        "progress",
        "0",
    ),
    "cast": (lambda: bridges.from_torch(LINEAR, {}, cast="no"), TypeError, "cast", "'no'"),
    "verify": (lambda: checkpoint.load("x", verify="no"), TypeError, "verify", "'no'"),
    "path of a checkpoint": (lambda: checkpoint.load(3), TypeError, "path", "3"),
    "path of a model": (lambda: models.load(None), TypeError, "path", "None"),
    "classes of a model": (lambda: models.load("x", classes=GPT), TypeError, "classes", "GPT"),
    "what is saved": (lambda: checkpoint.save("x", X), TypeError, "state", "an array, float32"),
    "masked weights": (
        lambda: checkpoint.save("x", {"x": np.ma.masked_array(X)}),
        TypeError,
        "x",
        "masked array",
    ),
    "colour bar": (lambda: plot.attention_map(W, colorbar=None), TypeError, "colorbar", "None"),
    "colour bar of an image": (
        lambda: plot.attention_on_image(W, colorbar="right"),
        TypeError,
        "colorbar",
        "'right'",
    ),
    "threads 0": (lambda: ma.set_num_threads(0), ValueError, "n", "0"),
    "threads float": (lambda: ma.set_num_threads(1.0), TypeError, "n", "1.0"),
    "warm-up": (lambda: ma.warmup(dtypes=["float16"]), TypeError, "dtypes", "'float16'"),
    "threads in a block": (lambda: ma.threads(0).__enter__(), ValueError, "n", "0"),
    "gradcheck float32": (
        lambda: ma.gradcheck(F.relu_forward, {"x": X}),
        TypeError,
        "x",
        "float32",
    ),
    "gradcheck backward": (
        lambda: ma.gradcheck(F.relu_forward, {"x": ones(3, dtype=float)}, backward="relu_backward"),
        TypeError,
        "backward",
        "'relu_backward'",
    ),
    "gradcheck of a class": (lambda: ma.gradcheck(nn.ReLU, X), TypeError, "f", "ReLU"),
    "gradcheck of nothing": (lambda: ma.gradcheck(np.tanh, X), TypeError, "f", "tanh"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_call(case):
    call, error, argument, came = WRONG[case]
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    message = str(caught.value)
    pattern = r"([\w, \[\]]+): (expected .+?)[,;:] (?:.*\b)?got\s(.+)"
    form = re.fullmatch(pattern, message, re.DOTALL)
    assert form, message
    assert form[1] == argument, message
    assert came in form[3] or came in message.split("expected", 1)[1], message


# What takes whatever it is given, or nothing.
TAKE_ANYTHING = {
    *("get_num_threads", "show_config", "only_matrices", "attention_contexts"),
    *("Module", "Optimizer", "Trace", "Edit", "Gradients", "SelfAttention", "CrossAttention"),
}


def public():
    """Names of all that can be called wrongly: operations, and classes that take arguments."""
    for home in (F, masks, nn, models, optim, trace, ma):
        for name in home.__all__:
            thing = getattr(home, name)
            built = inspect.isclass(thing) and not issubclass(thing, tuple | dict | Exception)
            if inspect.isfunction(thing) or (built and thing.__init__ is not object.__init__):
                yield re.sub("_(forward|backward)$", "", name)


@pytest.mark.parametrize("name", sorted({*public()} - TAKE_ANYTHING))
def test_everything_is_called_wrongly(name):
    """The table is not of what came to mind: there is a row of every public function and class."""
    called = {name for call, *_ in WRONG.values() for name in call.__code__.co_names}
    assert {name, f"{name}_forward", f"{name}_backward"} & called
