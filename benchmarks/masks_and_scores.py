"""What masks and functions of scores cost beside attention without them: the ratios, one table.

    python benchmarks/masks_and_scores.py            # under 2 minutes on a quiet machine
    python benchmarks/masks_and_scores.py --quick    # short sequences, to see that it runs

Times are the best of several, forward and backward together, float32, D = 64, 4 heads.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import miniattn as ma
import miniattn.functional as F
from miniattn import masks, scores

HEADS, WIDTH = 4, 64


@scores.function
def table_by_pair(s, b, h, i, j, table, most):
    """A relative table, looked up for each pair."""
    return s + table[h, j - i + most]


@table_by_pair.backward
def _(ds, s, b, h, i, j, table, most, dtable):
    dtable[h, j - i + most] += ds
    return ds


@masks.where
def banded(b, h, i, j, width):
    """A causal window, as a function."""
    return i - width[0] <= j <= i


@masks.where
def by_head(b, h, i, j, width):
    """A window that the function says of each head."""
    return i - width[h] <= j <= i


def best(call: Callable[[], object], budget: float = 1.0) -> float:
    """Return the least seconds of a call, of as many as fit into a second, at least three."""
    call()
    took: list[float] = []
    while len(took) < 3 or (sum(took) < budget and len(took) < 200):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took)


def cost(length: int, **options: object) -> float:
    """Return seconds of attention forward and backward."""
    shape = 4, 1, HEADS, length, WIDTH
    q, k, v, dout = np.random.default_rng(0).standard_normal(shape).astype(np.float32)

    def step() -> None:
        _, ctx = F.attention_forward(q, k, v, **options)
        F.attention_backward(dout, ctx)

    return best(step)


def row(name: str, length: int, took: float, beside: float, limit: float) -> None:
    """Print a ratio, and what it should be at most."""
    ratio = took / beside
    print(
        f"{name:<34} {length:>6}  {1e3 * took:9.2f} ms  {ratio:5.2f}x  at most {limit}", flush=True
    )


def of_scores(lengths: list[int]) -> None:
    """Print what functions of scores cost, in the kernels that do them."""
    table = np.random.default_rng(1).standard_normal
    for length in lengths:
        relative = table((HEADS, 2 * length - 1)).astype(np.float32)
        given = {
            "ALiBi": scores.alibi(HEADS),
            "T5, 32 buckets": scores.t5_bias(table((32, HEADS)).astype(np.float32)),
            "relative table": scores.relative(relative, length - 1),
            "relative table, pair by pair": table_by_pair(relative, length - 1),
        }
        plain = cost(length)
        for name, score in given.items():
            row(name, length, cost(length, score=score), plain, 1.35)


def of_masks(length: int) -> None:
    """Print what masks cost beside the same by bounds, and beside none."""
    window = masks.window(128, 0)
    by_bounds, plain = cost(length, mask=window), cost(length)
    row("window by function", length, cost(length, mask=banded(np.array([128]))), by_bounds, 1.1)
    array = window.to_array(1, 1, length, length)[0, 0]
    row("window as an array", length, cost(length, mask=masks.as_mask(array)), by_bounds, 1.3)
    few = masks.as_mask(np.random.default_rng(2).random((length, length)) < 0.05)
    row("a random 5 %", length, cost(length, mask=few), plain, 1.0)
    for function in (banded, by_head):
        name = "lowering a function" + ", each head" * (function is by_head)
        print(f"{name:<34} {length:>6}  {1e3 * lowering(function, length):9.2f} ms  at most 30")


def lowering(function: Callable[..., masks.Mask], length: int) -> float:
    """Return seconds of making the tile map of a mask, each time of one that is new."""
    took = []
    for width in range(128, 134):
        mask = function(np.full(HEADS, width))
        start = time.perf_counter()
        masks.lower(mask, 1, HEADS, length, length)
        took.append(time.perf_counter() - start)
    return min(took[1:])  # the first compiles


def memory(length: int) -> None:
    """Print what a function mask of 5 % takes, forward and backward, above inputs and results."""
    code = """
import resource, sys
import numpy as np
import miniattn.functional as F
from miniattn import masks

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def run(T):
    few = masks.where(lambda b, h, i, j: (i // 64 - j // 64) % 20 == 0)()
    q, k, v, dout = np.ones((4, 1, 1, T, 64), np.float32)
    before = peak()
    out, ctx = F.attention_forward(q, k, v, mask=few)
    grads = F.attention_backward(dout, ctx)
    results = sum(x.nbytes for x in (out, grads.dq, grads.dk, grads.dv)) / 2**20
    return peak() - before - results

run(256)  # loads the kernels
print(run(int(sys.argv[1])))
"""
    took = subprocess.run(
        [sys.executable, "-c", code, str(length)], capture_output=True, text=True, check=True
    ).stdout
    print(f"{'a function of 5 %':<34} {length:>6}  {float(took):9.0f} MiB  at most 512")


def first_call() -> None:
    """Print how long a new function takes, and the same in a process that finds it on disk."""
    code = """
import time, sys
import numpy as np
import miniattn.functional as F
from miniattn import scores
x = np.ones((1, 1, 64, 64), np.float32)
F.attention(x, x, x)
number = float(sys.argv[1])
f = scores.function(lambda s, b, h, i, j: s * number)
start = time.perf_counter()
F.attention(x, x, x, score=f())
print(time.perf_counter() - start)
"""
    number = str(np.random.default_rng().random())
    for name in ("a new function", "the same, from disk"):
        took = subprocess.run(
            [sys.executable, "-c", code, number], capture_output=True, text=True, check=True
        ).stdout
        print(f"{name:<34} {'':>6}  {1e3 * float(took):9.2f} ms")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short sequences")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ma.set_num_threads(args.threads)
    of_scores([64, 128] if args.quick else [64, 512, 4096])
    of_masks(512 if args.quick else 4096)
    memory(2048 if args.quick else 65_536)
    first_call()


if __name__ == "__main__":
    main()
