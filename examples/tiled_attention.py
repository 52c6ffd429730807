"""Attention in tiles, forward and backward: what the kernels do, in NumPy, to be read before them.

Scores are never held but for a tile of QUERIES x KEYS. A query carries three things from tile to
tile: the greatest score so far (top), the sum of exp(score - top) so far (total) and the sum of
values so weighted (o). Where a tile raises the maximum, both sums are multiplied by decay (online
softmax). Backward, any weight is made again from top and log total. Names are those of
``miniattn/kernels``, which does the same 64 by 64, with the mask by its bounds, where NaN and
infinity cannot pass a mask, and in vector registers; its steps quote the lines of this file.

The rest of the script runs it beside `miniattn.functional`, and shows the walk of three queries:

    python examples/tiled_attention.py
    python examples/tiled_attention.py --quick    # fewer tokens
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import miniattn.functional as F
from miniattn import masks

QUERIES = 64  # of one piece of work
KEYS = 64  # of one tile


class Context(NamedTuple):
    """What backward needs: the inputs, out, and two numbers for each query."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    visible: np.ndarray
    scale: float
    out: np.ndarray
    base: np.ndarray
    log_sum: np.ndarray


def forward(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray, scale: float
) -> tuple[np.ndarray, Context]:
    """Return (out, ctx) for q (B, H, T, D), k (B, G, S, D), v (B, G, S, Dv)."""
    B, H, T, _ = q.shape
    group = H // k.shape[1]  # query heads that share a head of keys and values
    out, base, log_sum = np.zeros((B, H, T, v.shape[-1])), np.zeros((B, H, T)), np.zeros((B, H, T))
    for b, h, i0 in pieces(B, H, T):
        rows, g = (b, h, slice(i0, i0 + QUERIES)), h // group  # no other piece writes these rows
        out[rows], base[rows], log_sum[rows] = sum_over_keys(
            q[rows], k[b, g], v[b, g], visible[rows], scale
        )
    return out, Context(q, k, v, visible, scale, out, base, log_sum)


def pieces(B: int, H: int, T: int) -> Iterator[tuple[int, int, int]]:
    """Yield batch row, head and first query of each piece of work; kernels deal them to threads."""
    return itertools.product(range(B), range(H), range(0, T, QUERIES))


def sum_over_keys(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return out, base and log_sum of a piece's queries, after one walk over the tiles of keys."""
    top, total, o = np.full(len(q), -np.inf), np.zeros(len(q)), np.zeros((len(q), v.shape[1]))
    base = np.zeros(len(q))
    for j0 in range(0, len(k), KEYS):
        tile = slice(j0, j0 + KEYS)
        if not visible[:, tile].any():
            continue  # HIDDEN
        s = scores(q, k[tile], visible[:, tile], scale)
        old, top = top, np.maximum(top, s.max(axis=1))
        base = np.where(top == -np.inf, 0.0, top)  # nothing seen so far: -inf - (-inf) would be NaN
        decay = np.exp(old - base)
        weight = np.exp(s - base[:, None])
        total = decay * total + weight.sum(axis=1)
        o = decay[:, None] * o + weight @ v[tile]
    seen = top != -np.inf
    share = np.divide(1.0, total, where=seen, out=np.zeros_like(total))
    log_sum = np.log(total, where=seen, out=np.full_like(total, np.inf))  # nothing is a part of it
    return share[:, None] * o, base, log_sum


def scores(q: np.ndarray, k: np.ndarray, visible: np.ndarray, scale: float) -> np.ndarray:
    """Return the scores of a tile, -inf where a query may not see a key."""
    return np.where(visible, scale * (q @ k.T), -np.inf)


def backward(dout: np.ndarray, ctx: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return dq, dk and dv: five products for each tile."""
    q, k, v, visible, scale, out, base, log_sum = ctx
    B, H, T, _ = q.shape
    group = H // k.shape[1]
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for b, h, i0 in pieces(B, H, T):
        rows = b, h, slice(i0, i0 + QUERIES)
        delta = (dout[rows] * out[rows]).sum(axis=1)  # = sum_j weight_j dweight_j
        for j0 in range(0, k.shape[2], KEYS):
            tile = b, h // group, slice(j0, j0 + KEYS)
            seen = visible[rows][:, tile[2]]
            if not seen.any():
                continue  # HIDDEN
            # weight = exp(s - top) / total
            s = scores(q[rows], k[tile], seen, scale)
            weight = np.exp((s - base[rows][:, None]) - log_sum[rows][:, None])
            # out = weight @ v
            dweight = dout[rows] @ v[tile].T
            dv[tile] += weight.T @ dout[rows]
            # the softmax: what pulls all weights of a row alike moves none of them
            ds = weight * (dweight - delta[:, None])
            # s = scale * q @ k.T
            dq[rows] += scale * (ds @ k[tile])
            dk[tile] += scale * (ds.T @ q[rows])
    return dq, dk, dv


# --- To see it work ------------------------------------------------------------------------------


def walk(ctx: Context, i: int) -> list[tuple[int, float, float, np.ndarray]]:
    """Return keys seen, top, total and out of query ``i`` of the first head, tile by tile."""
    q, k, v, visible = (x[0, 0] for x in ctx[:4])
    steps = []
    for n in range(KEYS, len(k) + KEYS, KEYS):
        out, base, log_sum = sum_over_keys(
            q[i : i + 1], k[:n], v[:n], visible[i : i + 1, :n], ctx.scale
        )
        if log_sum[0] < np.inf:
            steps.append((min(n, len(k)), base[0], np.exp(log_sum[0]), out[0]))
    return steps


def draw(ctx: Context, queries: Sequence[int]) -> Figure:
    """Draw which tiles there are, and what three queries carry from tile to tile."""
    visible = ctx.visible[0, 0]
    T, S = visible.shape
    starts = range(0, T, QUERIES), range(0, S, KEYS)
    tiles = [[visible[i : i + QUERIES, j : j + KEYS] for j in starts[1]] for i in starts[0]]
    kinds = np.array([[int(tile.any()) + int(tile.all()) for tile in row] for row in tiles])

    figure = Figure((11, 4.5), layout="constrained")
    picture, upper, lower = figure.subplot_mosaic([["tiles", "top"], ["tiles", "out"]]).values()
    picture.imshow(
        kinds, "Greys", vmax=4, extent=(0, len(kinds[0]) * KEYS, len(kinds) * QUERIES, 0)
    )
    for i, j in np.ndindex(kinds.shape):
        word = ("hidden", "partial", "full")[kinds[i, j]]
        place = (j + 0.5) * KEYS, (i + 0.5) * QUERIES
        picture.annotate(word, place, ha="center", va="center", fontsize=7)
    picture.set(title="tiles of scores", xlabel="keys", ylabel="queries")
    for i in queries:
        seen, top, _, out = map(np.array, zip(*walk(ctx, i), strict=True))
        colour = upper.step(seen, top, where="post", label=f"query {i}")[0].get_color()
        lower.semilogy(seen, np.linalg.norm(out - ctx.out[0, 0, i], axis=1), ".-", color=colour)
        picture.axhline(i, color=colour)
    upper.set(title="the greatest score so far", ylabel="top")
    upper.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lower.set(title="how far the output is from the last one", xlabel="keys seen")
    return figure


def main() -> None:
    """Compare with `miniattn.functional`, print one walk, draw three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tokens")
    parser.add_argument("--out", type=Path, default=Path("tiled-attention"), help="folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(0)
    B, H, G, T, D = 1, 4, 2, 150 if args.quick else 500, 16
    q, dout = rng.standard_normal((2, B, H, T, D))
    k, v = rng.standard_normal((2, B, G, T, D))
    mask = masks.causal() & masks.window(3 * T // 5, None)
    out, ctx = forward(q, k, v, mask.to_array(B, H, T, T), 1 / np.sqrt(D))
    theirs, their_ctx = F.attention_forward(q, k, v, mask=mask)
    ours = out, *backward(dout, ctx)
    theirs = theirs, *F.attention_backward(dout, their_ctx)[:3]
    print("largest difference from miniattn.functional:")
    for name, a, b in zip(("out", "dq", "dk", "dv"), ours, theirs, strict=True):
        print(f"  {name:3}  {np.abs(a - b).max():.1e}")

    print(f"\nquery {T - 1}, tile by tile:\n  keys    top   total   |out - the last out|")
    for n, top, total, so_far in walk(ctx, T - 1):
        print(f"  {n:4}  {top:5.2f}  {total:6.2f}   {np.linalg.norm(so_far - out[0, 0, -1]):.1e}")
    draw(ctx, (T // 6, T // 2, T - 1)).savefig(args.out / "tiles.png", dpi=150)
    print(f"\nfigure: tiles.png in {args.out}")


if __name__ == "__main__":
    main()
