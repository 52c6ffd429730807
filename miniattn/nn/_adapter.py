"""Teaching a frozen model something new with few parameters: bottleneck adapters, and LoRA."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

import miniattn.functional as F
from miniattn import _checks
from miniattn._context import context
from miniattn._typing import Array
from miniattn.nn import _init
from miniattn.nn._activation import Activation, activation_layer
from miniattn.nn._container import Sequential
from miniattn.nn._dropout import Dropout
from miniattn.nn._linear import Linear
from miniattn.nn._module import Module, replace_parts, walk
from miniattn.nn._parameter import Parameter


@context
class AdapterContext(NamedTuple):
    """What `Adapter.backward` needs: the contexts of its parts."""

    down: F.LinearContext
    activation: Any
    up: F.LinearContext


class Adapter(Module):
    """A bottleneck beside the identity: y = x + up(activation(down(x))).

    Parameters
    ----------
    embed_dim : int
        Width E of x and y.
    bottleneck : int
        Width in between.
    activation : {"gelu", "gelu_tanh", "relu", "silu", "sigmoid", "tanh"}
    rng : numpy.random.Generator, optional
        Draws ``down``; None is a fresh unseeded one.
    dtype : float32 or float64

    Notes
    -----
    ``up`` starts at 0, so that the adapter starts as the identity [1]_. `add_adapters` puts
    adapters into a model.

    References
    ----------
    .. [1] Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> x = np.ones((2, 8), np.float32)
    >>> bool((nn.Adapter(8, 2)(x) == x).all())
    True
    """

    def __init__(
        self,
        embed_dim: int,
        bottleneck: int,
        *,
        activation: Activation = "gelu",
        rng: np.random.Generator | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        _checks.sizes(embed_dim=embed_dim, bottleneck=bottleneck)
        self.down = Linear(embed_dim, bottleneck, rng=rng, dtype=dtype)
        self.activation = activation_layer(activation)
        self.up = Linear(bottleneck, embed_dim, rng=rng, dtype=dtype)
        self.up.weight.data[...] = 0.0

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, AdapterContext]:
        """Return (y, ctx), both x and y (..., E)."""
        h, down = self.down.forward(x)
        h, activation = self.activation.forward(h)
        h, up = self.up.forward(h)
        return x + h, AdapterContext(down, activation, up)

    def backward(self, dy: Array, ctx: AdapterContext) -> Array:
        """Return dx (..., E)."""
        ctx = _checks.context(ctx, AdapterContext)
        # y = x + h; h = up(h)
        dh = self.up.backward(dy, ctx.up)
        # h = activation(h)
        dh = self.activation.backward(dh, ctx.activation)
        # h = down(x)
        return dy + self.down.backward(dh, ctx.down)


@context
class LoRAContext(NamedTuple):
    """What `LoRA.backward` needs: the contexts of its parts."""

    base: F.LinearContext
    dropout: F.DropoutContext | None
    down: F.LinearContext
    up: F.LinearContext


class LoRA(Module):
    """A frozen linear map with a trained update of low rank: y = base(x) + α/r · up(down(x)).

    Parameters
    ----------
    base : Linear
        The map to adapt; it is frozen.
    rank : int
        r, the width between ``down`` and ``up``.
    alpha : float, optional
        α, the size of the update; r by default.
    dropout : float
        On the input of ``down``, where ``rng`` is given to ``forward``.
    rng : numpy.random.Generator, optional
        Draws ``down``; None is a fresh unseeded one.

    Notes
    -----
    ``up`` starts at 0 and ``down`` Glorot-uniform, so that y starts as base(x) [1]_. `add_lora`
    puts the wrapper around the projections of a model, `merge` takes it off again.

    References
    ----------
    .. [1] Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> layer = nn.LoRA(nn.Linear(8, 8), rank=2)
    >>> layer
    LoRA(rank=2, alpha=2)            104 parameters (72 frozen)
      base: Linear(8 -> 8)            72 frozen
      dropout: Dropout(p=0)
      down: Linear(8 -> 2, no bias)   16
      up: Linear(2 -> 8, no bias)     16
    """

    _live = ("rank", "alpha")

    def __init__(
        self,
        base: Linear,
        rank: int,
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        if not isinstance(base, Linear):
            raise TypeError(f"base: expected a Linear, got {type(base).__name__}")
        out_features, in_features = base.weight.shape
        self.rank = _checks.integer("rank", rank, least=1)
        self.alpha = float(rank) if alpha is None else _checks.positive("alpha", alpha)
        dtype = base.weight.dtype
        self.base = base
        self.dropout = Dropout(_checks.probability("dropout", dropout))
        self.down = Linear(in_features, rank, bias=False, rng=rng, dtype=dtype)
        self.up = Linear(rank, out_features, bias=False, rng=rng, dtype=dtype)
        self.up.weight.data[...] = 0.0
        base.freeze()  # last: arguments that are refused leave it as it was

    def forward(
        self, x: Array, *, rng: np.random.Generator | None = None
    ) -> tuple[Array, LoRAContext]:
        """Return (y, ctx): x (..., in_features) to y (..., out_features)."""
        y, base = self.base.forward(x)
        h, dropout = self.dropout.drop(x, rng)
        h, down = self.down.forward(h)
        h, up = self.up.forward(h)
        y += self.alpha / self.rank * h
        return y, LoRAContext(base, dropout, down, up)

    def backward(self, dy: Array, ctx: LoRAContext) -> Array:
        """Return dx (..., in_features)."""
        ctx = _checks.context(ctx, LoRAContext)
        dy = _checks.float_array("dy", dy)
        # y = base(x) + alpha / rank · h; h = up(h)
        dh = self.up.backward(self.alpha / self.rank * dy, ctx.up)
        # h = down(h)
        dh = self.down.backward(dh, ctx.down)
        # h = dropout(x)
        dh = self.dropout.undrop(dh, ctx.dropout)
        return self.base.backward(dy, ctx.base) + dh

    def merge(self) -> Linear:
        """Return a new frozen `Linear` that does the same; the wrapper stays as it is.

        Its weight is a parameter of its own: that of ``base`` may be tied to another layer, as
        an output layer is to its token table, which the update is not meant for.
        """
        merged = copy.copy(self.base)
        update = self.up.weight.data @ self.down.weight.data
        weight = self.base.weight.data + self.alpha / self.rank * update
        merged.weight = Parameter(weight.astype(self.base.weight.dtype), trainable=False)
        return merged

    def describe(self) -> str:
        """Return e.g. ``"rank=2, alpha=4"``."""
        return f"rank={self.rank}, alpha={self.alpha:g}"


def add_adapters(
    model: Module,
    bottleneck: int,
    *,
    activation: Activation = "gelu",
    rng: np.random.Generator | None = None,
) -> list[Adapter]:
    """Freeze ``model`` and put a trainable `Adapter` after every sublayer's last projection.

    That is after ``out_proj`` of each attention and ``down`` of each feed-forward, before the
    residual sum: Houlsby et al., 2019, figure 2. Returns the adapters.

    Examples
    --------
    >>> from miniattn import nn
    >>> model = nn.TransformerEncoder(2, 16, 4)
    >>> before = model.num_parameters()
    >>> adapters = nn.add_adapters(model, 2)
    >>> len(adapters), model.num_parameters(trainable=False) == before
    (4, True)
    """
    rng = _init.generator(rng)
    adapters = []

    def wrap(linear: Linear) -> Module:
        adapter = Adapter(
            linear.weight.shape[0],
            bottleneck,
            activation=activation,
            rng=rng,
            dtype=linear.weight.dtype,
        )
        adapters.append(adapter)
        return Sequential(linear, adapter)

    _adapt(model, _places(model, ("out_proj", "down"), every=False), wrap)
    return adapters


def add_lora(
    model: Module,
    rank: int,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Collection[str] = ("q_proj", "v_proj"),
    rng: np.random.Generator | None = None,
) -> list[LoRA]:
    """Freeze ``model`` and put `LoRA` around every `Linear` whose name is among ``targets``.

    Queries and values are what the paper adapts (Hu et al., 2022, section 5.1). Returns the
    wrappers; on any error the model is as it was.

    Parameters
    ----------
    model : Module
    rank, alpha, dropout, rng
        As in `LoRA`.
    targets : str or collection of str
        Names, as in ``named_modules()``, or ends of them: ``"q_proj"`` is that of every attention,
        ``"layers.0.attn.q_proj"`` one of them. A layer that sits in several places has one wrapper.

    Raises
    ------
    ValueError
        Where a target names no `Linear` of the model; the message says which there are.

    Examples
    --------
    >>> from miniattn import nn
    >>> model = nn.TransformerEncoder(2, 16, 4)
    >>> wrappers = nn.add_lora(model, rank=2)
    >>> len(wrappers), model.num_parameters(trainable=True)
    (4, 256)
    """
    rng = _init.generator(rng)
    wrappers = []

    def wrap(linear: Linear) -> Module:
        wrapper = LoRA(linear, rank, alpha=alpha, dropout=dropout, rng=rng)
        wrappers.append(wrapper)
        return wrapper

    _adapt(model, _places(model, targets, every=True), wrap)
    return wrappers


def merge_lora(model: Module) -> None:
    """Replace every `LoRA` in ``model`` by a `Linear` that does the same, still frozen.

    A merged layer has a weight of its own. Where the weight was tied to another one, as an output
    layer's to the token table, the two are different parameters from then on.

    Raises
    ------
    TypeError
        If ``model`` is itself a `LoRA`; its ``merge`` returns the layer.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import nn
    >>> model = nn.TransformerEncoder(2, 16, 4)
    >>> x = np.random.default_rng(0).standard_normal((1, 3, 16), dtype=np.float32)
    >>> for wrapper in nn.add_lora(model, rank=2):
    ...     wrapper.up.weight.data += 0.1
    >>> y = model(x)
    >>> nn.merge_lora(model)
    >>> bool(np.allclose(model(x), y, atol=1e-5)), model.modules()[4]
    (True, Linear(16 -> 16))
    """
    if isinstance(_checks.instance("model", model, Module), LoRA):
        raise TypeError("model: expected a model with LoRA in it, got a LoRA; see LoRA.merge")
    replace_parts(model, {id(m): m.merge() for m in model.modules() if isinstance(m, LoRA)})


def _adapt(model: Module, linears: list[Linear], wrap: Callable[[Linear], Module]) -> None:
    """Freeze ``model`` and put ``wrap(linear)`` in the place of each of ``linears``, or nothing."""
    with putting(model) as replaced:
        for linear in linears:
            replaced[id(linear)] = wrap(linear)


@contextlib.contextmanager
def putting(model: Module) -> Iterator[dict[int, Module]]:
    """Freeze ``model`` and put what is gathered in the places of these parts; or do nothing."""
    before = [(p, p.trainable, p.grad) for p in model.parameters()]
    replaced: dict[int, Module] = {}
    try:
        yield replaced
    except BaseException:
        for parameter, trainable, grad in before:
            parameter.trainable, parameter.grad = trainable, grad
        raise
    model.freeze()
    replace_parts(model, replaced)


def _places(model: Module, targets: str | Collection[str], *, every: bool) -> list[Linear]:
    """Return every Linear that one of ``targets`` names; those of adapters are left alone.

    Each target must name one; without ``every``, one of them must.
    """
    _checks.instance("model", model, Module)
    names = [targets] if isinstance(targets, str) else list(targets)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"targets: expected names of layers (str), got {targets!r}")
    added = {
        id(part)
        for module in model.modules()
        if isinstance(module, Adapter | LoRA)
        for part in module.modules()
    }
    linears = [
        (path, node)
        for path, node in walk(model, "")
        if path and isinstance(node, Linear) and id(node) not in added
    ]
    found = {
        name: [node for path, node in linears if f".{path}".endswith(f".{name}")] for name in names
    }
    missing = [name for name in names if not found[name]]
    if not names or len(missing) == len(names) or (missing and every):
        there = list(dict.fromkeys(path.rpartition(".")[2] for path, _ in linears))
        argument, kind = "targets" if every else "model", type(model).__name__
        raise ValueError(
            f"{argument}: expected Linear layers named {tuple(names)} in the {kind}, "
            f"got none named {tuple(missing)}; it has {there or 'none'}"
        )
    return list({id(node): node for nodes in found.values() for node in nodes}.values())
