"""Tokens a second that a GPT writes, with a cache of keys and values and without.

The model has the shape of nanoGPT's character model: 6 layers, 6 heads, width 384, a block of 256
tokens. It writes from 1 token to 256; both ways draw the same tokens.

    python benchmarks/decode.py
"""

import argparse
import itertools
import statistics
import time

import numpy as np


def seconds(model, length, *, use_cache):
    """Return the seconds that each token took, and the tokens."""
    rng = np.random.default_rng(0)
    times, tokens = [time.perf_counter()], []
    for ids in model.stream([1], length - 1, use_cache=use_cache, rng=rng):
        tokens.append(int(ids[0]))
        times.append(time.perf_counter())
    return [stop - start for start, stop in itertools.pairwise(times)], tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="nanogpt-char")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()

    from miniattn import models, runtime

    facts = runtime.config()
    del facts["compiled kernels"]
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    rng = np.random.default_rng(0)
    model = models.GPT.preset(args.preset, 65, block_size=args.length, rng=rng)
    found = {True: [], False: []}
    for _ in range(args.rounds + 1):
        for use_cache in found:
            found[use_cache].append(seconds(model, args.length, use_cache=use_cache))
    tokens = [line for rounds in found.values() for _, line in rounds]
    assert all(line == tokens[0] for line in tokens), "both ways draw the same tokens"
    for words, part in (
        (f"1 to {args.length}", slice(None)),
        (f"the last 16 of {args.length}", slice(-16, None)),
    ):
        # The first round compiles kernels.
        rate = {
            use_cache: 1 / statistics.median(statistics.fmean(t[part]) for t, _ in rounds[1:])
            for use_cache, rounds in found.items()
        }
        print(
            f"tokens {words}: {rate[True]:.0f} a second with a cache, {rate[False]:.0f} without, "
            f"{rate[True] / rate[False]:.1f} times"
        )


if __name__ == "__main__":
    main()
