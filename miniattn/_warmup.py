"""Compile everything ahead: each public operation once, on a tiny input."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks
from miniattn._typing import Array

__all__ = ["warmup"]

Call = tuple[str, Callable[[], object]]


def warmup(*, dtypes: Sequence[DTypeLike] = ("float32",), progress: bool = True) -> None:
    """Compile every kernel now instead of at its first use, and keep it on disk.

    Parameters
    ----------
    dtypes : sequence of dtype
        Of float32 and float64, those to compile for.
    progress : bool
        Whether to show a progress bar.

    Raises
    ------
    TypeError
        If another dtype is asked for.

    Notes
    -----
    As many processes as cores compile, and a line on stderr says how many kernels and how long.
    Compiled kernels are kept in a folder of the user's and found again by later processes, until
    miniattn, Numba or the processor changes; `show_config` names the folder.
    """
    from tqdm import tqdm

    progress = _checks.flag("progress", progress)
    dtypes = _checks.sequence("dtypes", dtypes, "dtypes")
    names = [_checks.float_dtype("dtypes", dtype).name for dtype in dtypes]
    ahead(f"{__name__}:rehearse", " ".join(names))
    calls = [call for name in names for call in _calls(np.dtype(name))]
    with tqdm(calls, desc="Compiling", disable=not progress) as bar:
        for name, call in bar:
            bar.set_postfix_str(name)
            call()


def ahead(rehearsal: str, argument: str = "") -> None:
    """Compile what a rehearsal asks for on all cores; see `compile_ahead`."""
    from miniattn.kernels.compile.ahead import compile_ahead  # and Numba with it

    compile_ahead(rehearsal, argument)


def rehearse(names: str) -> None:
    """Make the calls for the dtypes of these names."""
    for name in names.split():
        for _, call in _calls(np.dtype(name)):
            with contextlib.suppress(Exception):  # of one; the others are made
                call()


def _calls(dtype: np.dtype[Any]) -> Iterator[Call]:
    """Yield calls, by name, that between them launch every kernel that takes ``dtype``."""
    x = np.ones((2, 4), dtype)
    row = np.ones(4, dtype)
    numbers = np.array([0, 1])
    for name in ("relu", "sigmoid", "tanh", "silu", "gelu"):
        yield _pair(name, x)
    yield _pair("gelu", x, approximate="tanh")
    for name in ("softmax", "log_softmax", "logsumexp"):
        yield _pair(name, x)
        yield _pair(name, x, axis=0)
    for name in ("sparsemax", "entmax15"):
        yield _pair(name, x)
    yield _pair("cross_entropy", x, numbers)
    yield _pair("mse", x, x)
    yield _pair("linear", x, x, np.ones(2, dtype))
    yield _pair("embedding", numbers, x)
    yield _pair("dropout", x, 0.5, np.random.default_rng(0))
    yield _pair("layer_norm", x, row, row)
    yield _pair("rms_norm", x, row)
    yield _pair("rotary", x, numbers)
    yield _pair("attention", x, x, x)  # few queries have their own kernels
    # In two blocks, whose gradients are added up; too large for the matrix unit, whatever was said
    # of it, so that what takes its place is compiled.
    many = np.full((80, 4), 2.0**41, dtype)
    yield _pair("attention", many, many, many, bias=np.zeros((80, 80), dtype))
    long = np.ones((128, 64), dtype)  # enough for the matrix unit, where there is one
    yield _pair("attention", long, long, long)
    yield "attention_weights", partial(_call, "attention_weights", x, x)
    yield "attention_map", partial(_call, "attention_map", x, x, bins=(1, 1))
    yield "add", partial(_add, row)
    yield "multiply", partial(_multiply, row)
    yield "decoding", partial(_decode, dtype)
    yield "adam", partial(_adam_step, row)
    yield "flow", partial(_flow, np.ones((1, 1, 1), dtype))


def _pair(name: str, *args: Any, **kwargs: Any) -> Call:
    """Return the call of an operation's forward and backward."""

    def call() -> None:
        y, ctx = _call(f"{name}_forward", *args, **kwargs)
        _call(f"{name}_backward", np.ones_like(y), ctx)

    return name, call


def _call(name: str, *args: Any, **kwargs: Any) -> Any:
    from miniattn import functional  # here, because `import miniattn` imports no kernels

    return getattr(functional, name)(*args, **kwargs)


def _add(x: Array) -> None:
    from miniattn.functional._elementwise import add

    add(x, x)


def _multiply(x: Array) -> None:
    from miniattn.functional._elementwise import multiply

    multiply(x, x)


def _decode(dtype: np.dtype[Any]) -> None:
    from miniattn import models

    model = models.GPT(2, 4, embed_dim=4, num_heads=1, num_layers=1, dtype=dtype)
    model.generate([1], 2, temperature=0)


def _adam_step(data: Array) -> None:
    from miniattn import nn, optim

    parameter = nn.Parameter(data)
    parameter.accumulate(data)
    optim.clip_grad_norm([parameter], 0.5)
    optim.Adam([parameter]).step()


def _flow(weights: Array) -> None:
    from miniattn import analysis

    analysis.flow([weights])
