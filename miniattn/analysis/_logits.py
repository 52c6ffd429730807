"""From the residual stream to the logits: what each part of it says, and when it was known."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from miniattn import _checks
from miniattn._typing import Array

if TYPE_CHECKING:
    from miniattn.nn import LayerNorm, Linear, Module, RMSNorm


class LogitParts(NamedTuple):
    """Logits as a sum: ``parts.sum(axis=0) + rest``."""

    parts: Array
    """(P, ..., V) float64: what each part of the residual stream adds."""
    rest: Array
    """(V,) float64: what the biases of the normalisation and of the output layer add."""


def logit_lens(streams: Array, norm: Module | None, head: Module) -> Array:
    """Return what the model would say after each layer: head(norm(stream)).

    Parameters
    ----------
    streams : (L, ..., E) float array
        The residual stream after each layer (or before, and between sublayers).
    norm, head : nn.Module
        The model's last normalisation (or None) and its output layer.

    Returns
    -------
    (L, ..., V) array

    Raises
    ------
    TypeError, ValueError
        If ``streams`` is no float array of at least two axes, or a module is none.

    References
    ----------
    nostalgebraist, "interpreting GPT: the logit lens", 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> head = nn.Linear(8, 5, rng=np.random.default_rng(0))
    >>> streams = np.ones((3, 2, 4, 8), np.float32)            # 3 layers, B = 2, T = 4
    >>> analysis.logit_lens(streams, nn.RMSNorm(8), head).shape
    (3, 2, 4, 5)
    """
    streams = _stack("streams", streams, "L")
    if norm is not None:
        norm = _checks.having("norm", norm, "forward", "backward")
        streams = np.stack([norm(stream) for stream in streams])
    head = _checks.having("head", head, "forward", "backward")
    return np.stack([head(stream) for stream in streams])


def logit_attribution(
    parts: Array,
    norm: LayerNorm | RMSNorm | None,
    head: Linear,
    *,
    tokens: ArrayLike | None = None,
) -> LogitParts:
    """Share the logits out among the parts of the residual stream that they are read from.

    With x = Σ_p x_p, a normalisation is linear in x once its statistics are held:
    logits = Σ_p ((x_p − mean(x_p)) · rstd(x) · gain) Wᵀ + rest, where the mean is RMS norm's 0.

    Parameters
    ----------
    parts : (P, ..., E) float array
        Embedding and what each sublayer (or head) added; their sum is what ``norm`` is given.
    norm : nn.LayerNorm, nn.RMSNorm or None
        The last normalisation of the model.
    head : nn.Linear
        The output layer.
    tokens : ints (n,), optional
        The logits that are wanted; all V by default. A difference of two shows what decides
        between them.

    Returns
    -------
    LogitParts
        ``(parts, rest)``: (P, ..., V or n) and (V or n,), in float64.

    Raises
    ------
    TypeError, ValueError
        If ``parts`` is no float array (P, ..., E) of the modules' width, ``norm`` is of another
        kind, or a token is not in [0, V).

    Notes
    -----
    Held statistics are part of the definition: a part that changed would change rstd too. Only
    pre-norm models have such a sum; after the post-norm of each layer there is none.

    References
    ----------
    Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021, section "The Residual
    Stream"; Wang et al., "Interpretability in the Wild", 2022, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import analysis, nn
    >>> head, norm = nn.Linear(8, 5, rng=np.random.default_rng(0)), nn.LayerNorm(8)
    >>> parts = np.random.default_rng(1).standard_normal((3, 4, 8), dtype=np.float32)
    >>> added, rest = analysis.logit_attribution(parts, norm, head)
    >>> np.allclose(added.sum(axis=0) + rest, head(norm(parts.sum(axis=0))), atol=1e-5)
    True
    """
    parts = _stack("parts", parts, "P")
    weight = _checks.having("head", head, "backward").weight.data.astype(np.float64)  # (V, E)
    bias = head.bias
    if parts.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"parts: expected width E = {weight.shape[1]} as head has, got shape {parts.shape}"
        )
    rest = np.zeros(len(weight)) if bias is None else bias.data.astype(np.float64)
    x, shift = _normalised(parts.astype(np.float64), norm)
    rest = rest + weight @ shift
    if tokens is not None:
        chosen = _checks.int_array("tokens", tokens)
        if chosen.ndim != 1 or (chosen.size and not 0 <= chosen.min() <= chosen.max() < len(rest)):
            raise ValueError(f"tokens: expected ints (n,) in [0, {len(rest)}), got {chosen}")
        weight, rest = weight[chosen], rest[chosen]
    return LogitParts(x @ weight.T, rest)


def _stack(name: str, x: object, letter: str) -> Array:
    """Return vectors (..., E) that are stacked along a first axis of their own."""
    array = _checks.float_array(name, x)
    if array.ndim < 2:
        raise ValueError(f"{name}: expected shape ({letter}, ..., E), got {array.shape}")
    return array


def _normalised(parts: Array, norm: object) -> tuple[Array, Array]:
    """Return the parts as ``norm`` passes them on, its statistics held, and what it adds once."""
    from miniattn.nn import LayerNorm, RMSNorm

    if norm is None:
        return parts, np.zeros(parts.shape[-1])
    if isinstance(norm, LayerNorm):
        # y = (x − mean) / √(variance + eps) · weight + bias
        parts = parts - parts.mean(axis=-1, keepdims=True)
        shift = np.zeros(parts.shape[-1]) if norm.bias is None else norm.bias.data
    elif isinstance(norm, RMSNorm):
        # y = x / √(mean(x²) + eps) · weight
        shift = np.zeros(parts.shape[-1])
    else:
        raise TypeError(
            f"norm: expected nn.LayerNorm, nn.RMSNorm or None, got {_checks.brief(norm)}"
        )
    if norm.weight.size != parts.shape[-1]:
        raise ValueError(
            f"norm: expected width E = {parts.shape[-1]} as parts has, got {norm.weight.size}"
        )
    square = np.square(parts.sum(axis=0)).mean(axis=-1, keepdims=True)
    return parts / np.sqrt(square + norm.eps) * norm.weight.data, shift.astype(np.float64)
