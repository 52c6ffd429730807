"""One self-contained page on which attention and its gradients are worked through by hand."""

import html as _markup
import math
from os import PathLike
from typing import Any

import numpy as np

from miniattn import _checks
from miniattn._typing import Array, MaskLike
from miniattn.masks import as_mask
from miniattn.plot._page import Page, as_json, asset, filled, in_ascii, policy
from miniattn.plot._program import Program, head_backward, head_forward, head_pairs
from miniattn.trace import Gradients, Trace

SCRIPTS = ("backprop/lines.js", "backprop/start.js")
MOST = 8
"""Rows and columns of what is shown: toy size."""


def backprop(
    x: Array | Trace | None = None,
    weights: tuple[Array, Array, Array] | None = None,
    path: str | PathLike[str] | None = None,
    *,
    dout: Array | Gradients | None = None,
    mask: MaskLike = None,
    scale: float | None = None,
    batch: int = 0,
    title: str = "Backpropagation through attention",
) -> Page:
    """Make an interactive page of attention's numbers: values down, gradients up.

    Of one head, or of a traced stack of layers at toy size, with its norms, heads, residual sums
    and feed-forward layers.

    Click a number to see its formula with the numbers put in, and its slope by each of those that
    it is made of; step through the lines, forward and then backward; change a number of the input,
    of the weights or of dout, and see all of it change. The page works it all out itself; it is
    one file that needs nothing else.

    Parameters
    ----------
    x : float array (T, E), or trace.Trace, optional
        Rows of tokens; by default three of width 2. At most 8 x 8, as all that is shown. A trace
        is of a model with one `nn.TransformerEncoder`, pre-norm and plain (no rotary, caps, sinks,
        gates), with at most 32 hidden units; everything kept.
    weights : three float arrays (D, E), optional
        Wq, Wk and Wv, with q = x Wqᵀ; by default some, as of dout. None for a trace.
    path : path, optional
        Where to write the page.
    dout : float array (T, D), or trace.Gradients, optional
        The gradient that comes in; the loss is sum(dout · out). For a trace (T, E), by default
        that of the sum of the last token, or what ``t.gradients(dy)`` found.
    mask : masks.Mask or bool array (T, T), optional
        True = may attend. None for a trace, which brings its own.
    scale : float, optional
        1/sqrt(D) by default. None for a trace.
    batch : int
        The row of the batch, of a trace.
    title : str
        Title of the page.

    Returns
    -------
    Page
        Shown as it is by a notebook; ``.save(path)`` writes it.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit, are empty or larger than 8, or a number is not finite.

    Examples
    --------
    >>> from miniattn import masks, plot
    >>> page = plot.backprop(mask=masks.causal())
    >>> page.save("backprop.html")  # doctest: +SKIP

    Two layers of two heads, of a trace:

    >>> import numpy as np
    >>> from miniattn import nn, trace
    >>> model = nn.TransformerEncoder(2, 4, 2, ffn_dim=6)
    >>> y, t = trace.run(model, np.ones((1, 3, 4), np.float32), mask=masks.causal())
    >>> page = plot.backprop(t, dout=t.gradients(np.ones_like(y)))
    """
    if not isinstance(title, str):
        raise TypeError(f"title: expected a str, got {type(title).__name__}")
    if isinstance(x, Trace):
        for name, value in (("weights", weights), ("mask", mask), ("scale", scale)):
            if value is not None:
                raise ValueError(f"{name}: expected None for a trace, which brings its own")
        from miniattn.plot._backprop_stack import program_of  # modules, which need kernels

        data = program_of(x, dout, _checks.integer("batch", batch, least=0), MOST)
    else:
        if isinstance(dout, Gradients):
            raise TypeError("dout: expected a float array for one head, got a Gradients")
        data = _one_head(_given(x, weights, dout), mask, scale)
    page = Page(_page(data, title))
    if path is not None:
        page.save(path)
    return page


def _one_head(given: dict[str, Array], mask: MaskLike, scale: float | None) -> dict[str, Any]:
    """Return what the page is told of one head."""
    T, D = given["dout"].shape
    rule = as_mask(mask)
    number = 1.0 / math.sqrt(D) if scale is None else _checks.number("scale", scale)
    p = Program()
    p.given = given
    seen = np.ones((T, T), np.bool_) if rule is None else rule.to_array(1, 1, T, T)[0, 0]
    p.masks = {"seen": seen}
    head_forward(p, "x", "", number)
    p.product("dx", "dq Wq + dk Wk + dv Wv", *head_backward(p, "x", "dout", "", number))
    p.group("", [("x", "dx"), *head_pairs("", ("out", "dout"))])
    return p.data("out", "dscores")


def _given(
    x: Array | None, weights: tuple[Array, Array, Array] | None, dout: Array | None
) -> dict[str, Array]:
    """Return x, the three weights and dout, in float64, of shapes that fit."""
    rows = _matrix("x", [[1.0, 0.5], [-0.5, 1.0], [0.25, -1.0]] if x is None else x)
    E = rows.shape[1]
    names = "Wq", "Wk", "Wv"
    if weights is None:
        several: Any = [_wave(E, E, start) for start in (1, 4, 8)]
    else:
        several = _checks.sequence("weights", weights, "three arrays")
    if len(several) != 3:
        raise ValueError(f"weights: expected three arrays, Wq, Wk and Wv, got {len(several)}")
    maps = {n: _matrix(f"weights: {n}", w) for n, w in zip(names, several, strict=True)}
    D = len(maps["Wq"])
    for name, array in maps.items():
        if array.shape != (D, E):
            raise ValueError(f"weights: expected {name} of shape {(D, E)}, got {array.shape}")
    incoming = _wave(len(rows), D) if dout is None else _matrix("dout", dout)
    if incoming.shape != (len(rows), D):
        raise ValueError(f"dout: expected shape {(len(rows), D)}, got {incoming.shape}")
    return {"x": rows, **maps, "dout": incoming}


def _wave(rows: int, columns: int, start: int = 0) -> Array:
    """Return numbers of both signs that are no special ones, of one digit, to begin with."""
    numbers: Array = np.sin(2.0 * np.arange(start, start + rows * columns))
    return np.reshape(np.round(numbers, 1), (rows, columns))


def _matrix(name: str, value: Any) -> Array:
    array = _checks.any_array(name, value, "a float array")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a float array, got {array.dtype}")
    if array.ndim != 2 or not all(1 <= n <= MOST for n in array.shape):
        raise ValueError(f"{name}: expected shape (n, m), each from 1 to {MOST}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {array}")
    return array.astype(np.float64)


def _page(data: dict[str, Any], title: str) -> str:
    style, script = asset("backprop/page.css"), "".join(map(asset, SCRIPTS))
    return filled(
        asset("backprop/page.html"),
        title=in_ascii(_markup.escape(title)),
        policy=policy(style, script),
        style=style,
        script=script,
        data=as_json(data),
    )
