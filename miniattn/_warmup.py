"""Compile everything ahead: each public operation once, on a tiny input."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks

__all__ = ["warmup"]


class Example(NamedTuple):
    """Arguments for ``F.<name>_forward``, or for ``F.<name>`` where there is no pair."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> None:
        """Call the operation, and its backward if it has one."""
        from miniattn import functional as F  # here: `import miniattn` imports no kernels

        forward = getattr(F, f"{self.name}_forward", None)
        if forward is None:
            getattr(F, self.name)(*self.args, **self.kwargs)
            return
        y, ctx = forward(*self.args, **self.kwargs)
        getattr(F, f"{self.name}_backward")(np.ones_like(y), ctx)


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
    Compiled kernels are kept in a folder of the user's and found again by later processes, until
    miniattn, Numba or the processor changes; `show_config` names the folder.
    """
    from tqdm import tqdm

    examples = [e for dtype in dtypes for e in _examples(_checks.float_dtype("dtypes", dtype))]
    with tqdm(examples, desc="Compiling", disable=not progress) as bar:
        for example in bar:
            bar.set_postfix_str(example.name)
            example.run()


def _examples(dtype: np.dtype[Any]) -> Iterator[Example]:
    """Yield the calls that between them launch every kernel that takes ``dtype``."""

    def example(name: str, *args: Any, **kwargs: Any) -> Example:
        return Example(name, args, kwargs)

    x = np.ones((2, 4), dtype)
    row = np.ones(4, dtype)
    targets = np.array([0, 1])
    for name in ("relu", "sigmoid", "tanh", "silu", "gelu"):
        yield example(name, x)
    yield example("gelu", x, approximate="tanh")
    for name in ("softmax", "log_softmax", "logsumexp"):
        yield example(name, x)
    yield example("cross_entropy", x, targets)
    yield example("mse", x, x)
    yield example("linear", x, x, np.ones(2, dtype))
    yield example("embedding", targets, x)
    yield example("dropout", x, 0.5, np.random.default_rng(0))
    yield example("layer_norm", x, row, row)
    yield example("rms_norm", x, row)
    for interleaved in (False, True):
        yield example("rotary", x, targets, interleaved=interleaved)
