"""Attention maps from bare arrays: what masks hide, what a bias pulls, what a head was built to do.

No training: queries and keys are made so that each head follows a rule that can be said in one
sentence, and the maps show it. Writes SVG figures.

    python examples/attention_maps.py
    python examples/attention_maps.py --quick    # the same; it takes a second anyway
"""

import argparse
from pathlib import Path

import numpy as np

import miniattn.functional as F
from miniattn import masks, nn, plot

TOKENS = ["the", "cat", "sat", "on", "the", "mat", "and", "the", "dog", "sat", "on", "the", "cat"]
HEADS = ["same word", "word before", "recent words", "everything"]


def heads(tokens: list[str], width: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return q, k (1, 4, T, D) and bias (1, 4, T, T) of four heads with a rule each."""
    T = len(tokens)
    rng = np.random.default_rng(0)
    vectors = dict.fromkeys(tokens)
    for word in vectors:  # random vectors of one length are nearly orthogonal
        vector = rng.standard_normal(width)
        vectors[word] = vector / np.linalg.norm(vector)
    words = np.stack([vectors[token] for token in tokens])
    places = np.eye(T, width)

    q, k = np.zeros((2, 1, 4, T, width))
    bias = np.zeros((1, 4, T, T))
    q[0, 0] = k[0, 0] = 6 * words  # a word's vector asks for itself
    q[0, 1, 1:], k[0, 1] = 8 * places[:-1], 8 * places  # place i asks for place i - 1
    distance = np.arange(T)[:, None] - np.arange(T)
    bias[0, 2] = -0.5 * np.abs(distance)  # ALiBi: the further, the less
    return q, k, bias


def main() -> None:
    """Draw the four heads, with and without masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity")
    parser.add_argument("--out", type=Path, default=Path("attention-maps"), help="folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    q, k, bias = heads(TOKENS)
    for name, mask in {
        "everything": None,
        "causal": masks.causal(),
        "sentences": masks.causal() & masks.documents([[0] * 6 + [1] * 7]),
        "window": masks.window(3, 0),
    }.items():
        weights = F.attention_weights(q, k, mask=mask, bias=bias)
        figure = plot.attention_heads(weights[0], TOKENS, TOKENS, mask=mask, titles=HEADS)
        figure.savefig(args.out / f"{name}.svg")
        print(f"{args.out}/{name}.svg")

    # And of a layer: the map of one call is made again from that call's context.
    layer = nn.MultiHeadAttention(32, 4, rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((1, len(TOKENS), 32), dtype=np.float32)
    _, ctx = layer.forward(x, mask=masks.causal())
    figure = plot.attention_heads(layer.weights(ctx)[0], TOKENS, TOKENS, mask=masks.causal())
    figure.savefig(args.out / "untrained-layer.svg")
    print(f"{args.out}/untrained-layer.svg: an untrained layer knows nothing yet")


if __name__ == "__main__":
    main()
