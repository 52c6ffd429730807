"""torch.compile's side of the benchmark: whole models, by Inductor. Needs a C++ compiler."""

from collections.abc import Callable
from typing import Any

import torch
import torch_gpt
from data import MODELS, Arrays, Case

VERSION = torch.__version__


def build(case: Case, inputs: Arrays, threads: int) -> Callable[[], Any] | None:
    """Return a call of the operation, or None where this library has none."""
    if case["op"] not in MODELS:
        return None
    torch.set_num_threads(threads)
    return torch_gpt.build(case, inputs, compiled=True)
