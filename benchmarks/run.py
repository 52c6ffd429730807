"""The same as ``python -m miniattn bench``, for a checkout: ``python benchmarks/run.py``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from miniattn import bench

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=bench.__doc__)
    bench.add_arguments(parser)
    sys.exit(bench.run(parser.parse_args()))
