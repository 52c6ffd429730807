"""Five odd masks: each trained on a toy task, with its map and what it costs beside no mask.

Tokens carry a number and perhaps a mark. Each is to say the mean of the marked numbers that it may
see, so that the right answer is another one under each mask: a prefix language model, the
Longformer's window and global tokens, a dilated window, a tree, and what is near on a grid. One
layer of attention learns to look at marks alone, from sequences that grow from 64 tokens to 4,096,
so that every update is of 4,096 tokens. Below each mask: the map that was learned, which of the
64 x 64 tiles at full length are hidden (white, no work), partial or full, and the time.

    python examples/odd_masks.py            # half a minute; 3 on a busy machine
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
    """Return tokens (B, T, 2), the means that are asked for (B, T, 1), and of how many they are.

    Attention whose scores are all equal takes the mean of what is seen, and its log-sum-exp is the
    logarithm of how many that are: the answers take no T x T array either.
    """
    values = rng.standard_normal((batch, length))
    marks = rng.random((batch, length)) < MARKED
    equal = np.zeros((batch, 1, length, 1))
    carried = np.stack([values * marks, marks], axis=-1)[:, None]
    out, ctx = F.attention_forward(equal, equal, carried, mask=mask)
    total, share = np.moveaxis(out[:, 0], -1, 0)
    means = total / np.where(share > 0, share, 1)
    counts = np.rint(share * np.exp(ctx.lse[:, 0]))  # 0 where nothing marked is seen
    tokens = np.stack([values, marks], axis=-1).astype(np.float32)
    return tokens, means[..., None].astype(np.float32), counts[..., None].astype(np.float32)


def learn(make: Callable[[int], masks.Mask], steps: int, length: int, seed: int) -> Mean:
    """Return a model that was trained under a mask, at the last at ``length`` tokens."""
    rng = np.random.default_rng(seed)
    model = Mean(rng)
    lengths = [length // 64, length // 16, length // 4, length]
    grown = [make(n) for n in lengths]
    schedule = optim.cosine(warmup=0, total=steps)
    adam = optim.AdamW(model.named_parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        stage = len(lengths) * step // steps
        mask, size = grown[stage], lengths[stage]
        tokens, means, counts = task(mask, length // size, size, rng)
        y, ctx = model.forward(tokens, mask=mask)
        # loss = mean of n (y - mean of n)²: a mean of n numbers varies by 1 / n
        dy = 2 * counts * (y - means) / y.size
        model.zero_grad()
        model.backward(dy, ctx)
        adam.step(schedule(step))
    return model


def explained(model: Mean, make: Callable[[int], masks.Mask], length: int) -> float:
    """Return which part of the answers' variance the model explains, on tokens never seen."""
    mask = make(length)
    tokens, means, counts = task(mask, 1, length, np.random.default_rng(1))
    errors = (model(tokens, mask=mask) - means)[counts > 0]
    return float(1 - np.mean(errors**2) / np.var(means[counts > 0]))


def tiles(mask: masks.Mask, length: int) -> np.ndarray:
    """Return of each tile of 64 x 64 whether it is hidden (0), partial (1) or full (2)."""
    seen = mask.to_array(1, 1, length, length)[0, 0]
    count = length // 64
    shares = seen.reshape(count, 64, count, 64).mean(axis=(1, 3))
    return np.ceil(shares).astype(int) + (shares == 1)


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


def draw(column: np.ndarray, name: str, model: Mean, length: int) -> None:
    """Draw a mask and what was learned at 64 tokens, and its tiles at full length."""
    make = MASKS[name]
    small = make(64)
    mask_axes, map_axes, tile_axes = column
    mask_axes.imshow(small.to_array(1, 1, 64, 64)[0, 0], cmap="Greys", vmin=0, vmax=1.4)
    mask_axes.set(title=name, xlabel="key", ylabel="query")
    tokens = task(small, 1, 64, np.random.default_rng(2))[0]
    _, (_, attn, _) = model.forward(tokens, mask=small)
    weights = model.attn.weights(attn)[0].mean(axis=0)
    map_axes.imshow(weights / weights.max(axis=1, keepdims=True), cmap="Blues")
    map_axes.set(title="learned", xlabel="key", ylabel="query")
    kinds = tiles(make(length), length)
    tile_axes.imshow(kinds, cmap="Greys", vmin=0, vmax=2.8)
    worked = np.mean(kinds > 0)
    tile_axes.set(title=f"{worked:.0%} of the tiles", xlabel="tile of keys", ylabel="of queries")


def main() -> None:
    """Train under each mask, test, draw mask, map, tiles and cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="updates")
    parser.add_argument("--length", type=int, default=4096, help="tokens, a multiple of 64")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("odd_masks"), help="folder")
    args = parser.parse_args()
    steps, length = (8, 256) if args.quick else (args.steps, args.length)
    args.out.mkdir(parents=True, exist_ok=True)
    whole = cost(None, length)
    figure, axes = plt.subplots(
        4, len(MASKS), figsize=(15, 11.6), layout="constrained", height_ratios=(4, 4, 4, 1)
    )
    for column, (name, make) in zip(axes.T, MASKS.items(), strict=True):
        start = time.perf_counter()
        model = learn(make, steps, length, seed=0)
        trained = time.perf_counter() - start
        share, took = explained(model, make, length), cost(make(length), length)
        print(
            f"{name}: trained in {trained:.0f} s, {share:.1%} of the variance at T = {length:,}; "
            f"attention {1000 * took:.0f} ms, without a mask {1000 * whole:.0f} ms"
        )
        draw(column[:3], name, model, length)
        column[3].barh(["no mask", name], [1000 * whole, 1000 * took], color=["0.7", "tab:blue"])
        column[3].set(title=f"{share:.1%} explained", xlabel=f"ms, T = {length:,}")
    figure.savefig(args.out / "odd_masks.png", dpi=110)
    print(f"figure: {args.out / 'odd_masks.png'}")


if __name__ == "__main__":
    main()
