"""Time and bytes by ranks, for data and sequence parallel, and what a network would make of it.

Measures a step of nanoGPT's small model (batches dealt out) and attention round a ring, forward and
backward, on 1, 2 and 4 ranks of this machine; holds a model of it against that, and lets the model
say what 2 to 64 nodes would take with a network of the latency and the bandwidth given.

    python benchmarks/scaling.py                             # measure, compare, predict
    python benchmarks/scaling.py --latency 2e-6 --bandwidth 12.5e9
    python benchmarks/scaling.py --what memory --ranks 4     # 262,144 tokens: what each rank held

The model: what a rank computes takes what it takes on one rank, by the examples or the blocks that
it has, times ranks / cores where they share cores; and what it sends takes latency + bytes /
bandwidth for each message. Gradients: 2 (n - 1) / n of their bytes, after backward. A ring: keys
and values beside the computation of a block, so that a step takes the longer of the two.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HEADS, WIDTH = 4, 64  # of the ring


# --- One rank of a measurement -------------------------------------------------------------------


def timed(comm, work, rounds):
    """Return the median over rounds of the slowest rank's seconds, without the first round."""
    from miniattn.distributed._comm import gather

    seconds = []
    for _ in range(rounds + 1):
        gather(comm, None)
        start = time.perf_counter()
        work()
        seconds.append(max(gather(comm, time.perf_counter() - start)))
    return statistics.median(seconds[1:] or seconds)


def step_of_training(comm, args):
    """A step of nanoGPT's small model, the batch dealt out; and the bytes of its gradients."""
    from miniattn import models, optim
    from miniattn.data import Windows, stack
    from miniattn.training import Trainer

    model = models.GPT.preset("nanogpt-cpu", 65, rng=np.random.default_rng(0))
    windows = Windows(np.random.default_rng(1).integers(0, 65, 10**5), 64)
    optimizer = optim.AdamW(model.named_parameters(), lr=1e-3)
    trainer = Trainer(
        model,
        optimizer,
        rng=np.random.default_rng(2),
        batch_size=args.batch,
        collate=stack,
        progress=False,
        comm=comm if args.ranks > 1 else None,
    )

    def steps():
        trainer.fit(windows, steps=trainer.step + args.steps)

    seconds = timed(comm, steps, args.rounds) / args.steps
    return {"seconds": seconds, "bytes": sum(p.data.nbytes for p in model.parameters())}


def ring(comm, args, layout="striped"):
    """Causal attention round the ring, forward and backward."""
    import miniattn.functional as F
    from miniattn import distributed, masks

    shape = 1, args.heads, args.tokens // args.ranks, WIDTH
    rng = np.random.default_rng(comm.Get_rank())
    q, k, v, dout = (rng.standard_normal(shape, dtype=np.float32) for _ in range(4))
    forward, backward = distributed.ring_attention_forward, distributed.ring_attention_backward
    options = {"comm": comm, "layout": layout}
    if args.ranks == 1:
        forward, backward, options = F.attention_forward, F.attention_backward, {}

    def both():
        _, ctx = forward(q, k, v, mask=masks.causal(), **options)
        backward(dout, ctx)

    return {"seconds": timed(comm, both, args.rounds), "bytes": k.nbytes + v.nbytes}


def memory(comm, args):
    """What a rank holds at most, above what it held when the kernels were there."""
    from miniattn.distributed._comm import gather

    tokens, args.tokens, args.rounds = args.tokens, 256 * args.ranks, 0
    ring(comm, args)  # compiles, or reads what was compiled
    before = held()
    args.tokens = tokens
    found = ring(comm, args)
    share = 8 * args.heads * tokens // args.ranks * WIDTH * 4  # q k v out, and their gradients
    more = gather(comm, held() - before)
    return {"seconds": found["seconds"], "share": share, "more": max(more)}


def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_rank(args):
    """Be one rank, and let rank 0 print what was found."""
    from miniattn import distributed, runtime

    comm = distributed.world() if args.ranks > 1 else Alone()
    if args.threads:
        runtime.set_num_threads(args.threads)
    work = {"data": step_of_training, "ring": ring, "memory": memory}[args.rank]
    found = work(comm, args)
    if comm.Get_rank() == 0:
        print("FOUND", json.dumps(found))


class Alone:
    """A communicator of one rank, without MPI."""

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 1


# --- Measuring on this machine -------------------------------------------------------------------


def measured(args, what, ranks, **settings):
    """Run a measurement on so many ranks, and return what rank 0 found."""
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    settings = {
        "batch": args.batch,
        "tokens": args.tokens,
        "heads": args.heads,
        "rounds": args.rounds,
        "steps": args.steps,
        "threads": 0,
    } | settings
    options = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, __file__, f"--rank={what}", f"--ranks={ranks}", *options]
    if ranks > 1:
        command = [beside or "mpiexec", "-n", str(ranks), *command]
    done = subprocess.run(command, capture_output=True, text=True)
    line = next((x for x in done.stdout.splitlines() if x.startswith("FOUND ")), None)
    if line is None:
        raise SystemExit(done.stderr or done.stdout)
    return json.loads(line.removeprefix("FOUND "))


def network(latency, bandwidth):
    """Return the seconds of messages of so many bytes in all."""
    return lambda messages, size: messages * latency + size / bandwidth


def loopback():
    """Return latency and bandwidth between two ranks of this machine, as the launcher tells."""
    done = subprocess.run(
        [sys.executable, "-m", "miniattn.distributed", "-n", "2"], capture_output=True, text=True
    )
    words = done.stdout.splitlines()[-1].split()
    return float(words[-4]) * 1e-6, float(words[-2]) * 1e9


# --- The model -----------------------------------------------------------------------------------


def of_training(compute, n, size, net, sharing=1.0):
    """Return the seconds of a step on n ranks; ``compute(n)`` is what one of them computes."""
    return sharing * compute(n) + (net(2 * (n - 1), 2 * (n - 1) / n * size) if n > 1 else 0.0)


def of_ring(whole, n, size, net, sharing=1.0):
    """Return the seconds of a ring: each of n steps computes 1 / n of a rank's share of the whole.

    Forward sends keys and values, n - 1 times; backward those, and n times their gradients.
    """
    forward, backward = whole * 2 / 7, whole * 5 / 7  # two products and five
    there = max(sharing * forward / n / n, net(2, size)) * (n - 1) + sharing * forward / n / n
    back = max(sharing * backward / n / n, net(4, 2 * size)) * n
    return there + back if n > 1 else whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=["all", "data", "ring", "memory"], default="all")
    parser.add_argument("--latency", type=float, default=2e-6, help="seconds, of the network")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes a second")
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--heads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--ranks", type=int, default=4, help="at most, on this machine")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rank", choices=["data", "ring", "memory"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    long = "memory" in (args.what, args.rank)
    args.tokens = args.tokens or (262144 if long else 16384)
    args.heads = args.heads or (1 if long else HEADS)
    if args.rank:
        measure_rank(args)
    elif args.what == "memory":
        found = measured(args, "memory", args.ranks)
        share, more = (found[name] / 2**20 for name in ("share", "more"))
        print(
            f"{args.tokens:,} tokens over {args.ranks} ranks, forward and backward: "
            f"{found['seconds']:.0f} s; a rank's share is {share:.0f} MiB, it took {more:.0f} MiB"
        )
    else:
        compare(args)


def compare(args):
    """Print what was measured beside what the model says, and what it says of a network."""
    cores = len(os.sched_getaffinity(0))
    here, there = network(*loopback()), network(args.latency, args.bandwidth)
    counts = [n for n in (1, 2, 4) if n <= args.ranks]
    for what in ("data", "ring") if args.what == "all" else (args.what,):
        found = {n: measured(args, what, n) for n in counts}
        print(
            f"\n{what}: {cores} cores; one process with {cores} threads {found[1]['seconds']:.4f} s"
        )
        one = measured(args, what, 1, threads=1)
        if what == "data":
            half = measured(args, what, 1, threads=1, batch=args.batch // 2)
            slope = 2 * (one["seconds"] - half["seconds"])  # of a whole batch
            fixed = max(0.0, one["seconds"] - slope)

            def says(n, net, sharing=1.0):
                return of_training(lambda n: fixed + slope / n, n, one["bytes"], net, sharing)  # noqa: B023
        else:

            def says(n, net, sharing=1.0):
                return of_ring(one["seconds"], n, one["bytes"] / n, net, sharing)  # noqa: B023

        print("ranks  measured    model   of one process")
        for n in counts[1:]:
            model = says(n, here, max(1.0, n / cores))
            seconds = found[n]["seconds"]
            ratio = found[1]["seconds"] / seconds
            print(f"{n:5}  {seconds:8.4f} {model:8.4f}   {ratio:.2f}x")
        print(f"nodes of one core, {args.latency:g} s, {args.bandwidth:g} bytes a second")
        for n in (1, 2, 4, 8, 16, 32, 64):
            seconds = says(n, there)
            print(f"{n:5}  {seconds:8.4f} s, {says(1, there) / seconds:5.1f}x")


if __name__ == "__main__":
    main()
