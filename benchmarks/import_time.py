"""How long `import miniattn` takes next to `import numba`: ``python benchmarks/import_time.py``.

Each is timed in fresh interpreters, in turn, so that both see the same machine; the medians count.
"""

import argparse
import statistics
import subprocess
import sys

TIME = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
MODULES = ("numba", "miniattn", "miniattn.nn")


def seconds(module: str) -> float:
    command = [sys.executable, "-c", TIME.format(module)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    for module in MODULES:
        seconds(module)  # bytecode and file caches
    samples = {module: [] for module in MODULES}
    for _ in range(repeats):
        for module in MODULES:
            samples[module].append(seconds(module))
    numba = statistics.median(samples["numba"])
    for module in MODULES:
        median = statistics.median(samples[module])
        print(f"import {module:12s} {median * 1e3:6.1f} ms   {median / numba:.2f} of numba")


if __name__ == "__main__":
    main()
