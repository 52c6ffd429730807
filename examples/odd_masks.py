"""Five odd masks: each trained on a toy task, with its map and what it costs beside no mask.

Tokens carry a number and perhaps a mark. Each is to say the mean of the marked numbers that it may
see, so that the right answer is another one under each mask: a prefix language model, the
Longformer's window and global tokens, a dilated window, a tree, and what is near on a grid. One
layer of attention learns to look at marks alone, on short sequences, and is then asked for 4,096
tokens.

    python examples/odd_masks.py            # 2 minutes on one busy core
    python examples/odd_masks.py --quick    # a few steps, to see that it runs
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import miniattn.functional as F
from miniattn import masks, nn, optim

MARKED = 0.3  # of all tokens


def prefix(length: int) -> masks.Mask:
    """A first quarter that sees itself, and a text after it."""
    return masks.as_mask(np.arange(length) < length // 4) | masks.causal()


def longformer(length: int) -> masks.Mask:
    """A window, and two tokens that see all and that all see."""
    return masks.window(8, 8) | masks.globals([0, length // 2])


def dilated(length: int) -> masks.Mask:
    """Every fourth of the last 64 tokens."""
    return masks.window(64, 0) & masks.dilated(4)


def tree(length: int) -> masks.Mask:
    """The way to the root of a binary tree."""
    return masks.tree((np.arange(length) + 1) // 2 - 1)


def grid(length: int) -> masks.Mask:
    """At most two places away, down and across."""
    side = int(length**0.5)
    return masks.neighbourhood((side, length // side), 2)


MASKS: dict[str, Callable[[int], masks.Mask]] = {
    "prefix": prefix,
    "longformer": longformer,
    "dilated": dilated,
    "tree": tree,
    "grid": grid,
}


class Mean(nn.Module):
    """Tokens (B, T, 2) to one number each, by one layer of attention."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.embed = nn.Linear(2, 16, rng=rng)
        self.attn = nn.MultiHeadAttention(16, 2, rng=rng)
        self.head = nn.Linear(16, 1, rng=rng)

    def forward(self, x, *, mask=None, rng=None):
        """Return (y, ctx), y (B, T, 1)."""
        x, embed = self.embed.forward(x)
        x, attn = self.attn.forward(x, mask=mask)
        y, head = self.head.forward(x)
        return y, (embed, attn, head)

    def backward(self, dy, ctx):
        """Return dx (B, T, 2)."""
        embed, attn, head = ctx
        # y = head(attn(embed(x)))
        return self.embed.backward(self.attn.backward(self.head.backward(dy, head), attn), embed)


def task(
    mask: masks.Mask, batch: int, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens (B, T, 2), the means that are asked for (B, T, 1), and where there is one."""
    values = rng.standard_normal((batch, length))
    marks = rng.random((batch, length)) < MARKED
    seen = mask.to_array(1, 1, length, length)[0, 0].astype(np.float64)
    count = marks @ seen.T
    means = (values * marks) @ seen.T / np.maximum(count, 1)
    tokens = np.stack([values, marks], axis=-1).astype(np.float32)
    return tokens, means[..., None].astype(np.float32), (count > 0)[..., None]


def learn(make: Callable[[int], masks.Mask], steps: int, length: int, seed: int) -> Mean:
    """Return a model that was trained under a mask."""
    rng = np.random.default_rng(seed)
    model, mask = Mean(rng), make(length)
    adam = optim.AdamW(model.named_parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        tokens, wanted, asked = task(mask, 8, length, rng)
        y, ctx = model.forward(tokens, mask=mask)
        model.zero_grad()
        model.backward(np.where(asked, 2 * (y - wanted) / y.size, 0).astype(np.float32), ctx)
        adam.step()
    return model


def explained(model: Mean, make: Callable[[int], masks.Mask], length: int) -> float:
    """Return which part of the answers' variance the model explains, at a length of its own."""
    mask = make(length)
    tokens, wanted, asked = task(mask, 1, length, np.random.default_rng(1))
    errors = (model(tokens, mask=mask) - wanted)[asked]
    return float(1 - np.mean(errors**2) / np.var(wanted[asked]))


def cost(mask: masks.Mask | None, length: int) -> float:
    """Return seconds of attention forward and backward, 4 heads of 64: the best of three."""
    q, k, v, dout = np.random.default_rng(0).standard_normal((4, 1, 4, length, 64)).astype("f4")
    took = []
    for _ in range(4):  # the first looks at the mask, once
        start = time.perf_counter()
        _, ctx = F.attention_forward(q, k, v, mask=mask)
        F.attention_backward(dout, ctx)
        took.append(time.perf_counter() - start)
    return min(took[1:])


def main() -> None:
    """Train under each mask, test, draw mask, map and cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="updates")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("odd_masks"), help="folder")
    args = parser.parse_args()
    steps, length, long = (5, 64, 256) if args.quick else (args.steps, 144, 4096)
    args.out.mkdir(parents=True, exist_ok=True)
    whole = cost(None, long)
    figure, axes = plt.subplots(
        3, len(MASKS), figsize=(15, 8.4), layout="constrained", height_ratios=(4, 4, 1)
    )
    for column, (name, make) in zip(axes.T, MASKS.items(), strict=True):
        model = learn(make, steps, length, seed=0)
        share, took = explained(model, make, long), cost(make(long), long)
        print(
            f"{name}: {share:.1%} of the variance at T = {long:,}; "
            f"attention {1000 * took:.0f} ms, without a mask {1000 * whole:.0f} ms"
        )
        small = make(64)
        column[0].imshow(small.to_array(1, 1, 64, 64)[0, 0], cmap="Greys", vmin=0, vmax=1.4)
        column[0].set(title=name, xlabel="key", ylabel="query")
        tokens = task(small, 1, 64, np.random.default_rng(2))[0]
        _, (_, attn, _) = model.forward(tokens, mask=small)
        weights = model.attn.weights(attn)[0].mean(axis=0)
        column[1].imshow(weights / weights.max(axis=1, keepdims=True), cmap="Blues")
        column[1].set(title=f"learned: {share:.0%} explained", xlabel="key", ylabel="query")
        column[2].barh(["no mask", name], [1000 * whole, 1000 * took], color=["0.7", "tab:blue"])
        column[2].set(xlabel=f"ms, T = {long:,}")
    figure.savefig(args.out / "odd_masks.png", dpi=110)
    print(f"figure: {args.out / 'odd_masks.png'}")


if __name__ == "__main__":
    main()
