"""Induction heads: a two-layer model of attention alone learns to go on with what repeats.

A sequence of random tokens is repeated; its first round cannot be predicted, every later one can,
by a model that looks for the last place where the present token stood, and copies what followed.
Two attention layers learn that as a pair: a head in the first looks at the token before, a head in
the second then finds the token *after* the last occurrence: the induction head (Olsson et al.,
"In-context Learning and Induction Heads", 2022). The script trains the model, finds both heads by
their maps, and takes out one head after the other to see whether they are what does it.

    python examples/induction_heads.py
    python examples/induction_heads.py --quick    # 20 steps, to see that it runs
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from miniattn import analysis, masks, nn, optim, plot, trace
from miniattn.data import IGNORED, stack
from miniattn.training import Trainer

VOCAB, LENGTH = 32, 48
LAYERS, HEADS, WIDTH = 2, 4, 64


class AttentionOnlyContext(NamedTuple):
    """What `AttentionOnly.backward` needs: the contexts of its parts."""

    tokens: Any
    layers: tuple[Any, ...]
    norm: Any
    head: Any


class AttentionOnly(nn.Module):
    """Tokens, attention layers that add to the residual stream, logits; no feed-forward at all."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.tokens = nn.Embedding(VOCAB, WIDTH, std=1.0, rng=rng)
        self.layers = [
            nn.MultiHeadAttention(WIDTH, HEADS, bias=False, rotary=nn.Rotary(), rng=rng)
            for _ in range(LAYERS)
        ]
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False, rng=rng)

    def forward(
        self, ids: np.ndarray, *, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, AttentionOnlyContext]:
        """Return (logits, ctx): ids (B, T) to logits (B, T, V)."""
        x, tokens = self.tokens.forward(ids)
        contexts = []
        for layer in self.layers:
            h, ctx = layer.forward(x, mask=masks.causal())
            x = x + h
            contexts.append(ctx)
        x, norm = self.norm.forward(x)
        logits, head = self.head.forward(x)
        return logits, AttentionOnlyContext(tokens, tuple(contexts), norm, head)

    def backward(self, dlogits: np.ndarray, ctx: AttentionOnlyContext) -> None:
        """Add to the parameters' gradients: the forward, read upwards."""
        # logits = head(x)
        dx = self.head.backward(dlogits, ctx.head)
        # x = norm(x)
        dx = self.norm.backward(dx, ctx.norm)
        for layer, layer_ctx in zip(reversed(self.layers), reversed(ctx.layers), strict=True):
            # x = x + layer(x)
            dx = dx + layer.backward(dx, layer_ctx)
        # x = tokens(ids)
        self.tokens.backward(dx, ctx.tokens)


class Repeats:
    """Random tokens, repeated with a period of 8 to 24; what can't be known is not asked for."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, index])
        period = int(rng.integers(8, 25))
        # A token comes once in a period, so that its last occurrence says what comes next.
        tokens = np.resize(rng.permutation(VOCAB)[:period], LENGTH + 1)
        targets = tokens[1:].copy()
        targets[: period - 1] = IGNORED
        return tokens[:-1], targets


def accuracy(model: AttentionOnly, examples: Repeats) -> float:
    """Return how often the likeliest next token is the right one, where it can be known."""
    batch = stack([examples[i] for i in range(len(examples))])
    known = batch.targets != IGNORED
    return float((model(*batch.inputs).argmax(axis=-1) == batch.targets)[known].mean())


def scores(model: AttentionOnly, examples: Repeats) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each head (layers, heads) looks at two places.

    The token before, and what followed the present token when it came before: how much of a
    previous-token head, and how much of an induction head, it is.
    """
    (tokens,), _, _ = stack([examples[i] for i in range(len(examples))])
    _, maps = trace.run(model, tokens)
    layers = [maps[name] for name in maps.names]
    before = [analysis.previous_token_score(weights).mean(axis=0) for weights in layers]
    after = [analysis.induction_score(weights, tokens).mean(axis=0) for weights in layers]
    return np.stack(before), np.stack(after)


@contextmanager
def without_head(model: AttentionOnly, layer: int, head: int) -> Iterator[None]:
    """Take a head out: it writes through its own columns of ``out_proj``, which become 0."""
    weight = model.layers[layer].out_proj.weight.data
    columns = np.s_[:, head * WIDTH // HEADS : (head + 1) * WIDTH // HEADS]
    kept = weight[columns].copy()
    weight[columns] = 0.0
    try:
        yield
    finally:
        weight[columns] = kept


def draw(
    model: AttentionOnly,
    examples: Repeats,
    found: dict[tuple[int, int], str],
    left: dict[tuple[int, int], float],
    whole: float,
) -> plot.Figure:
    """Return a figure: the found heads' maps, and the accuracy that is left without each head."""
    shown = examples[0][0][:32]
    labels = [chr(ord("A") + token) if token < 26 else str(token - 26) for token in shown]
    _, maps = trace.run(model, shown[None])
    fig = plot.Figure(figsize=(14, 4.8), layout="constrained")
    axes = fig.subplots(1, 3, width_ratios=[1, 1, 0.9])
    for ax, ((layer, head), name) in zip(axes, found.items(), strict=False):
        weights = maps[maps.names[layer]][0, head]
        plot.attention_map(
            weights, labels, ax=ax, mask=masks.causal(), title=f"layer {layer}, head {head}: {name}"
        )
    names = [f"{layer}.{head}" for layer, head in left]
    colours = ["tab:red" if place in found else "tab:blue" for place in left]
    axes[2].bar(names, [100 * value for value in left.values()], color=colours)
    axes[2].axhline(100 * whole, color="black", linestyle=":", label="all heads")
    axes[2].set(
        xlabel="layer.head that is taken out",
        ylabel="next token right, %",
        title="what is left without each head",
        ylim=(0, 105),
    )
    axes[2].legend(loc="lower right")
    return fig


def main() -> None:
    """Train, find the heads, take each out, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="updates")
    parser.add_argument("--quick", action="store_true", help="20 steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("induction-heads"), help="folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    steps = 20 if args.quick else args.steps

    rng = np.random.default_rng(0)
    model = AttentionOnly(rng)
    print(model)
    trainer = Trainer(
        model,
        optim.AdamW(model.named_parameters(), lr=2e-3),
        rng=rng,
        batch_size=32,
        collate=stack,
        clip_norm=1.0,
        schedule=optim.cosine(warmup=steps // 20, total=steps, floor=0.05),
    )
    history = trainer.fit(
        Repeats(32 * steps, seed=1),
        valid=Repeats(128, seed=2),
        steps=steps,
        evaluate_every=max(1, steps // 40),
    )

    test = Repeats(32 if args.quick else 500, seed=3)
    whole = accuracy(model, test)
    print(f"next token right where it can be known: {100 * whole:.1f} %")
    before, after = scores(model, test)
    previous = np.unravel_index(before.argmax(), before.shape)
    induction = np.unravel_index(after.argmax(), after.shape)
    print(
        f"previous-token head: {previous[0]}.{previous[1]}, {100 * before.max():.0f} % of it there"
    )
    print(f"induction head: {induction[0]}.{induction[1]}, {100 * after.max():.0f} % of it there")

    left = {}
    for layer, head in np.ndindex(LAYERS, HEADS):
        with without_head(model, layer, head):
            left[layer, head] = accuracy(model, test)
        print(
            f"without {layer}.{head}: {100 * left[layer, head]:5.1f} %   "
            f"(attention to the token before {before[layer, head]:.2f}, "
            f"after the last occurrence {after[layer, head]:.2f})"
        )
    found = {tuple(previous): "token before", tuple(induction): "induction"}
    draw(model, test, found, left, whole).savefig(args.out / "heads.png", dpi=150)
    plot.history(history).savefig(args.out / "training.png", dpi=150)
    print(f"figures: {args.out}/heads.png, {args.out}/training.png")


if __name__ == "__main__":
    main()
