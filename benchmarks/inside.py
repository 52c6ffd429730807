"""What a look inside costs: a run with nothing kept, one with a map kept, and patching every path.

    python benchmarks/inside.py            # under 2 minutes on a quiet machine
    python benchmarks/inside.py --quick    # few rounds, to see that it runs

Calls are timed in turn, in an order that is drawn, many rounds in one process. What is printed are
medians; that of a difference is the median of the differences within a round, as the machine may
change in between.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import miniattn as ma
import miniattn.functional as F
from miniattn import analysis, masks, models, runtime, trace

SIZES = ((2, 64, 64), (4, 128, 256), (6, 384, 256))
"""Layers, width, tokens."""


def seconds(calls: dict[str, Callable[[], object]], budget: float) -> dict[str, list[float]]:
    """Return what each call took in each round; the budget is the seconds of all rounds."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    order, rng = list(calls), np.random.default_rng(0)
    for call in calls.values():
        call()
    started = time.perf_counter()
    while len(took[order[0]]) < 5 or time.perf_counter() - started < budget:
        rng.shuffle(order)  # whoever comes after "all kept" finds other caches
        for name in order:
            start = time.perf_counter()
            calls[name]()
            took[name].append(time.perf_counter() - start)
    return took


def of_runs(layers: int, width: int, length: int, budget: float) -> None:
    """Print what runs of one model cost."""
    rng = np.random.default_rng(0)
    heads = width // 32
    options = {"embed_dim": width, "num_heads": heads, "num_layers": layers}
    model = models.GPT(65, length, rng=rng, **options)
    ids = rng.integers(0, 65, (1, length))
    place = f"blocks.layers.{layers - 1}.attn"
    causal = masks.causal()

    def one_map() -> object:
        _, t = trace.run(model, ids, keep=f"{place}.weights")
        return t[f"{place}.weights"]

    def by_hand() -> object:
        _, ctx = model.forward(ids)
        attention = trace.attention_contexts(ctx)[place].attention
        return F.attention_weights(attention.q, attention.k, mask=causal)

    beside = {
        "forward": lambda: model.forward(ids),
        "nothing": lambda: trace.run(model, ids, keep=()),
    }
    calls = {
        "nothing": beside["nothing"],
        "a map": one_map,
        "by hand": by_hand,
        "all": lambda: trace.run(model, ids),
    }
    pair, took = seconds(beside, budget), seconds(calls, budget)
    forward = statistics.median(pair["forward"])
    ratio = 1 + more(pair["nothing"], pair["forward"]) / forward
    a_map, by_hand, everything = (
        more(took[name], took["nothing"]) for name in ("a map", "by hand", "all")
    )
    print(
        f"{layers} x {width}, {length} tokens  {1e3 * forward:8.3f} ms  {ratio:7.3f}x"
        f"  {1e3 * a_map:8.3f} ms  {1e3 * by_hand:8.3f} ms  {1e3 * everything:8.3f} ms"
        f"  {len(pair['forward']):6} rounds",
        flush=True,
    )


def more(took: list[float], than: list[float]) -> float:
    """Return the median of what a round took more."""
    return statistics.median(a - b for a, b in zip(took, than, strict=True))


def of_paths(rounds: int) -> None:
    """Print how long a matrix of all paths takes: 2 layers, 8 heads, 64 tokens."""
    rng = np.random.default_rng(0)
    model = models.GPT(50, 64, embed_dim=64, num_heads=8, num_layers=2, rng=rng)
    ids, other = rng.integers(0, 50, (2, 1, 64))
    metric = analysis.LogitDifference([1], [2])
    took = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        edges = analysis.path_patching(model, ids, other, metric)
        took.append(time.perf_counter() - start)
    count = int(np.isfinite(edges.values).sum())
    low, middle, high = min(took[1:]), statistics.median(took[1:]), max(took[1:])
    print(
        f"path patching, 2 layers, 8 heads, 64 tokens: {count} edges in {middle:.2f} s"
        f" ({low:.2f} to {high:.2f}), at most 1"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ma.set_num_threads(args.threads)
    facts = runtime.config()
    del facts["compiled kernels"]
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    print(
        "model                  forward  nothing kept  a map, looked at  by hand         all kept"
    )
    for layers, width, length in SIZES:
        of_runs(layers, width, length, 0.2 if args.quick else 15.0)
    of_paths(1 if args.quick else 9)


if __name__ == "__main__":
    main()
