"""The residual stream of a model: what starts it, what adds to it, what reads it at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miniattn import _checks
from miniattn._typing import Array
from miniattn.analysis._circuits import head_weights

if TYPE_CHECKING:
    from miniattn.nn import Module
    from miniattn.trace import Trace


class Sublayer(NamedTuple):
    """What adds to the residual stream: x = x + sublayer(norm(x))."""

    name: str
    """Path of the module, such as ``"blocks.layers.0.attn"``."""
    norm: str | None
    """Path of the normalisation that it reads the stream through; None for none."""


class ResidualStream(NamedTuple):
    """A model seen from its residual stream, by the names that a trace has."""

    start: str
    """Name of the value that the stream starts as: the embedding."""
    sublayers: tuple[Sublayer, ...]
    """In the order of computation."""
    norm: str | None
    """Path of the last normalisation; None for none."""
    head: str | None
    """Path of the output layer; None for a stack alone."""


class StreamParts(NamedTuple):
    """The residual stream as a sum of what was added to it."""

    names: tuple[str, ...]
    """``"start"``, the sublayers' paths, or with heads ``"path.heads[h]"`` and ``"path.bias"``."""
    values: Array
    """(P, B, T, E): their sum is what the last normalisation is given."""


def residual_stream(model: Module) -> ResidualStream:
    """Return the residual stream of a pre-norm model that has one `nn.TransformerEncoder`.

    Parameters
    ----------
    model : nn.Module
        `models.GPT`, `models.SequenceClassifier` or any with such a stack. For another, write the
        `ResidualStream` down by hand: it is a few names.

    Returns
    -------
    ResidualStream

    Raises
    ------
    TypeError
        If ``model`` is no module.
    ValueError
        If it has no stack or several, or its layers are post-norm: what such a layer hands on is
        no sum.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "The Residual
    Stream as a Communication Channel".

    Examples
    --------
    >>> from miniattn import analysis, models
    >>> stream = analysis.residual_stream(models.GPT(5, 8, embed_dim=8, num_layers=1, num_heads=2))
    >>> stream.start, stream.head
    ('blocks.input', 'head')
    >>> [name for name, norm in stream.sublayers]
    ['blocks.layers.0.attn', 'blocks.layers.0.ffn']
    """
    from miniattn.nn import Linear, TransformerEncoder

    modules = dict(_checks.having("model", model, "named_modules").named_modules())
    stacks = [path for path, part in modules.items() if isinstance(part, TransformerEncoder)]
    if len(stacks) != 1:
        raise ValueError(
            f"model: expected one nn.TransformerEncoder, got {len(stacks)}; "
            "write the ResidualStream of another model by hand"
        )
    (path,) = stacks
    stack: Any = modules[path]
    sublayers = []
    for i, layer in enumerate(stack.layers):
        if not layer.norm_first:
            raise ValueError(
                "model: expected pre-norm layers, whose sublayers add to one stream, "
                "got norm_first=False"
            )
        place = _below(path, f"layers.{i}")
        sublayers += [
            Sublayer(f"{place}.attn", f"{place}.norm1"),
            Sublayer(f"{place}.ffn", f"{place}.norm2"),
        ]
    head = "head" if path and isinstance(modules.get("head"), Linear) else None
    return ResidualStream(
        _below(path, "input"),
        tuple(sublayers),
        None if stack.norm is None else _below(path, "norm"),
        head,
    )


def stream_parts(
    t: Trace, model: Module, stream: ResidualStream | None = None, *, heads: bool = False
) -> StreamParts:
    """Return what each part of a model added to the residual stream in a traced call.

    Parameters
    ----------
    t : trace.Trace
        Of `trace.run`, with the start of the stream and the sublayers kept, and with ``heads``
        the attention layers' ``heads``.
    model : nn.Module
        The model that ran.
    stream : ResidualStream, optional
        `residual_stream(model)` by default.
    heads : bool
        Whether an attention layer is shared out to its heads, and the bias of its ``out_proj``.

    Returns
    -------
    StreamParts
        ``(names, values)``: the sum of ``values`` over the first axis is the stream at its end.

    Raises
    ------
    KeyError
        If a name was not kept.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, models, trace
    >>> model = models.GPT(5, 8, embed_dim=8, num_layers=2, num_heads=2)
    >>> logits, t = trace.run(model, np.array([[1, 2, 3]]))
    >>> parts = analysis.stream_parts(t, model, heads=True)
    >>> parts.names[:3], parts.values.shape
    (('start', 'blocks.layers.0.attn.heads[0]', 'blocks.layers.0.attn.heads[1]'), (7, 1, 3, 8))
    >>> added, rest = analysis.logit_attribution(parts.values, model.blocks.norm, model.head)
    >>> np.allclose(added.sum(axis=0) + rest, logits, atol=1e-6)
    True
    """
    from miniattn.trace import Trace

    t = _checks.instance("t", t, Trace)
    stream = residual_stream(model) if stream is None else stream
    modules = dict(_checks.having("model", model, "named_modules").named_modules())
    names, values = ["start"], [np.asarray(t[stream.start])]
    for name, _ in _checks.instance("stream", stream, ResidualStream).sublayers:
        part: Any = modules[name]
        if _checks.flag("heads", heads) and hasattr(part, "out_proj"):
            written = written_by_heads(part, t[f"{name}.heads"])
            names += [f"{name}.heads[{h}]" for h in range(len(written))]
            values += list(written)
            if part.out_proj.bias is not None:
                names.append(f"{name}.bias")
                values.append(np.broadcast_to(part.out_proj.bias.data, values[0].shape))
        else:
            names.append(name)
            values.append(np.asarray(t[name]))
    return StreamParts(tuple(names), np.stack(values))


def written_by_heads(part: Any, heads: Array) -> Array:
    """Return what each head of a layer adds to the stream, (H, B, T, E), its bias left out."""
    written: Array = np.einsum("bhtd,hde->hbte", heads, head_weights(part).o)
    return written


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
