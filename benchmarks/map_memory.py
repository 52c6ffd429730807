"""Memory that a figure of a long causal map takes: ``python benchmarks/map_memory.py``.

From queries and keys to files: the map is pooled in the kernel and never exists as T x T. Printed
is the peak of the process beyond what it held with everything imported and the inputs made.
Kernels that have to be compiled count.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from miniattn import functional as F
from miniattn import masks, plot


def memory(name: str) -> int:
    """Return a line of /proc/self/status in bytes; getrusage would count the parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=65_536, help="tokens")
    parser.add_argument("--width", type=int, default=16, help="of a head")
    parser.add_argument("--bins", type=int, default=1024, help="of queries and of keys")
    parser.add_argument("--dpi", type=float, default=300)
    parser.add_argument("--kinds", nargs="+", default=["png", "svg", "pdf"], help="of files")
    args = parser.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("peak memory is read from /proc, which this system has not")

    rng = np.random.default_rng(0)
    shape = (args.length, args.width)
    q, k = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
    before, started = memory("VmRSS"), time.process_time()

    def report(what: str) -> None:
        peak = (memory("VmHWM") - before) / 2**20
        print(f"{what:5s} {peak:6.0f} MiB  {time.process_time() - started:5.1f} s of CPU so far")

    causal, extent = masks.causal(), (args.length, args.length)
    pooled = F.attention_map(q, k, mask=causal, bins=(args.bins, args.bins))
    report("map")
    figure = plot.attention_map(pooled, mask=causal, extent=extent, scale="log")
    with tempfile.TemporaryDirectory() as folder:
        for kind in args.kinds:
            figure.savefig(Path(folder) / f"map.{kind}", dpi=args.dpi)
            report(kind)


if __name__ == "__main__":
    main()
