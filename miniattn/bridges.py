"""PyTorch bridges: read and write the states of PyTorch's layers and of nanoGPT, without PyTorch.

A state is what ``module.state_dict()`` of PyTorch returns: arrays by name. Tables say which of our
parameters each name holds; reading and writing are two short walks over the same tables.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from miniattn import _checks, _lazy, models, nn
from miniattn._typing import Array
from miniattn.nn._members import members

__all__ = ["Layout", "from_torch", "to_torch"]

__dir__ = _lazy.listed(__name__, __all__)

Layout: TypeAlias = Literal["pytorch", "nanogpt", "gpt2"]

# ------------------------------------------------------------------------------------- the tables


class _Packed(NamedTuple):
    """Parameters that share an array: their rows one after the other, or that transposed."""

    ours: tuple[str, ...]
    transposed: bool = False


# Their name to ours, both relative to the module: a part, a parameter, or several in one array.
# None is a buffer of theirs: an array that nobody learns. The order is that of their states.
_Rules: TypeAlias = Mapping[str, str | _Packed | None]
_Table: TypeAlias = Mapping[type[nn.Module], _Rules | Callable[[Any], _Rules]]

_WEIGHTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
_BIASES = ("q_proj.bias", "k_proj.bias", "v_proj.bias")


def _pytorch_attention(attn: nn.MultiHeadAttention) -> _Rules:
    """Return the rules of ``nn.MultiheadAttention``, which packs what is of one width."""
    if attn.embed_dim == attn.kdim == attn.vdim:
        weights: dict[str, str | _Packed] = {"in_proj_weight": _Packed(_WEIGHTS)}
    else:
        weights = {name.replace(".", "_"): name for name in _WEIGHTS}
    return {**weights, "in_proj_bias": _Packed(_BIASES), "out_proj": "out_proj"}


# A module that has no row keeps our names: Linear, LayerNorm, Embedding, the stacks of layers, and
# models of one's own whose attributes are named as those of their twin.
_PYTORCH: _Table = {
    nn.MultiHeadAttention: _pytorch_attention,
    nn.TransformerEncoderLayer: {
        "self_attn": "attn",
        "linear1": "ffn.up",
        "linear2": "ffn.down",
        "norm1": "norm1",
        "norm2": "norm2",
    },
    nn.TransformerDecoderLayer: {
        "self_attn": "self_attn",
        "multihead_attn": "cross_attn",
        "linear1": "ffn.up",
        "linear2": "ffn.down",
        "norm1": "norm1",
        "norm2": "norm2",
        "norm3": "norm3",
    },
    nn.Sequential: {"": "layers"},
}

_NANOGPT: _Table = {
    models.GPT: {
        "transformer.wte": "tokens",
        "transformer.wpe": "positions",
        "transformer.h": "blocks.layers",
        "transformer.ln_f": "blocks.norm",
        "lm_head.weight": "head.weight",
    },
    nn.TransformerEncoderLayer: {
        "ln_1": "norm1",
        "attn": "attn",
        "ln_2": "norm2",
        "mlp.c_fc": "ffn.up",
        "mlp.c_proj": "ffn.down",
    },
    nn.MultiHeadAttention: {
        "bias": None,  # the causal mask, in states of old
        "masked_bias": None,
        "c_attn.weight": _Packed(_WEIGHTS),
        "c_attn.bias": _Packed(_BIASES),
        "c_proj": "out_proj",
    },
}

# GPT-2 as OpenAI and Hugging Face keep it: the same names, linear maps as (in, out).
_GPT2: _Table = {
    **_NANOGPT,
    nn.MultiHeadAttention: {
        "bias": None,
        "masked_bias": None,
        "c_attn.weight": _Packed(_WEIGHTS, transposed=True),
        "c_attn.bias": _Packed(_BIASES),
        "c_proj": "out_proj",
    },
    nn.Linear: {"weight": _Packed(("weight",), transposed=True), "bias": "bias"},
}

_TABLES: Mapping[str, _Table] = {"pytorch": _PYTORCH, "nanogpt": _NANOGPT, "gpt2": _GPT2}

_NO_COUNTERPART = {
    "bias_k": "add_bias_kv has no counterpart in MultiHeadAttention",
    "bias_v": "add_bias_kv has no counterpart in MultiHeadAttention",
}

# ------------------------------------------------------------------------------- reading, writing


def from_torch(
    module: nn.Module,
    state: Mapping[str, Any],
    *,
    layout: Layout | None = None,
    prefix: str = "",
    cast: bool = False,
) -> None:
    """Copy a PyTorch state into the parameters of ``module``; all of it, or (on error) nothing.

    Parameters
    ----------
    module : Module
        Built beforehand with the settings of its PyTorch twin, which a state does not tell.
    state : mapping of str to tensor or array
        What ``state_dict()`` returned, or what was read from a file of it. Values are PyTorch
        tensors, on any device, or anything that NumPy takes for an array.
    layout : {"pytorch", "nanogpt", "gpt2"}, optional
        Whose names: those of PyTorch's own layers, of nanoGPT, or of GPT-2 as Hugging Face keeps
        it, with linear weights as (in, out). By default "nanogpt" for `models.GPT`, else
        "pytorch".
    prefix : str
        Read only the names that start so, e.g. ``"encoder."``, and leave the others.
    cast : bool
        Convert float16, bfloat16, float32 and float64 values to the module's dtype. Without it,
        another dtype than the module's is an error.

    Raises
    ------
    ValueError
        Where names are missing or unexpected, shapes or dtypes differ, or the two copies of a
        tied weight do. One message lists all of them, and nothing has been loaded.
    TypeError
        Where ``module`` has parameters that the layout has no name for.

    See Also
    --------
    to_torch

    Notes
    -----
    ``_orig_mod.``, which ``torch.compile`` puts into names, is left out of them. Of a tied weight
    one name is enough. The causal mask that old GPT states carry (``attn.bias``) is passed over.

    Examples
    --------
    >>> import numpy as np
    >>> from miniattn import bridges, nn
    >>> state = {  # of torch.nn.MultiheadAttention(4, 2)
    ...     "in_proj_weight": np.ones((12, 4), np.float32),
    ...     "in_proj_bias": np.arange(12, dtype=np.float32),
    ...     "out_proj.weight": np.ones((4, 4), np.float32),
    ...     "out_proj.bias": np.zeros(4, np.float32),
    ... }
    >>> attn = nn.MultiHeadAttention(4, 2)
    >>> bridges.from_torch(attn, state)
    >>> attn.k_proj.bias.data
    array([4., 5., 6., 7.], dtype=float32)
    """
    cast = _checks.flag("cast", cast)
    entries = _entries_of(module, layout)
    if not isinstance(state, Mapping):
        raise TypeError(f"state: expected a mapping (state_dict()), got a {type(state).__name__}")
    names = [name.replace("_orig_mod.", "") for name in state]
    found = {
        name.removeprefix(prefix): _tensor(value)
        for name, value in zip(names, state.values(), strict=True)
        if name.startswith(prefix)
    }
    wrong = [
        *(f"twice: {name}" for name, count in Counter(names).items() if count > 1),
        *_differences(entries, found, cast=cast),
    ]
    if wrong:
        raise ValueError(
            f"state: expected that of a {type(module).__name__}, got\n  " + "\n  ".join(wrong)
        )
    for entry in entries:
        if entry.parts and entry.name in found:
            entry.write(_array(found[entry.name]))


def to_torch(
    module: nn.Module, *, layout: Layout | None = None, prefix: str = ""
) -> dict[str, Array]:
    """Return copies of the parameters of ``module`` under PyTorch's names, in PyTorch's order.

    Parameters
    ----------
    module : Module
    layout : {"pytorch", "nanogpt", "gpt2"}, optional
        As in `from_torch`.
    prefix : str
        Put before every name.

    Returns
    -------
    dict of str to array
        For PyTorch: ``twin.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()})``.
        A tied weight is there under both of its names, as in PyTorch.

    Raises
    ------
    TypeError
        As `from_torch`.

    See Also
    --------
    from_torch

    Examples
    --------
    >>> from miniattn import bridges, nn
    >>> layer = nn.TransformerEncoderLayer(4, 2, bias=False)
    >>> for name, array in bridges.to_torch(layer).items():
    ...     print(name, array.shape)
    self_attn.in_proj_weight (12, 4)
    self_attn.out_proj.weight (4, 4)
    linear1.weight (16, 4)
    linear2.weight (4, 16)
    norm1.weight (4,)
    norm2.weight (4,)
    """
    entries = _entries_of(module, layout)
    return {prefix + entry.name: entry.read() for entry in entries if entry.parts}


# ------------------------------------------------------------------------------ walking the tables


class _Entry(NamedTuple):
    """An array of a state: its name, and the parameters whose rows it holds."""

    name: str
    parts: tuple[nn.Parameter, ...]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        rows = sum(part.shape[0] for part in self.parts)
        shape = (rows, *self.parts[0].shape[1:])
        return shape[::-1] if self.transposed else shape

    def read(self) -> Array:
        stacked = np.concatenate([part.data for part in self.parts])
        return np.ascontiguousarray(stacked.T) if self.transposed else stacked

    def write(self, array: Array) -> None:
        rows = array.T if self.transposed else array
        ends = np.cumsum([part.shape[0] for part in self.parts])
        for part, own in zip(self.parts, np.split(rows, ends[:-1]), strict=True):
            part.data[...] = own


def _entries_of(module: nn.Module, layout: Layout | None) -> list[_Entry]:
    """Return what a state of ``module`` holds; every parameter is in it, or TypeError."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a Module of miniattn, got a {type(module).__name__}")
    if layout is None:
        layout = "nanogpt" if isinstance(module, models.GPT) else "pytorch"
    table = _TABLES[_checks.choice("layout", layout, get_args(Layout))]
    entries = list(_entries(module, "", table))
    placed = {id(part) for entry in entries for part in entry.parts}
    left = [name for name, part in module.named_parameters() if id(part) not in placed]
    if left:
        raise TypeError(
            f"module: expected parameters that the layout {layout!r} has names for, "
            f"got also {', '.join(left)}"
        )
    return entries


def _entries(node: object, name: str, table: _Table) -> Iterator[_Entry]:
    """Yield the entries of a parameter, of a module by its rules, or of what holds modules."""
    for item_name, item in members(node):
        yield from _entries(item, _join(name, item_name), table)
    if isinstance(node, nn.Parameter):
        yield _Entry(name, (node,))
    elif isinstance(node, nn.Module):
        for theirs, ours in _rules(node, table).items():
            if ours is None:
                yield _Entry(_join(name, theirs), ())
            elif isinstance(ours, str):
                yield from _entries(_follow(node, ours), _join(name, theirs), table)
            else:
                parts = tuple(_follow(node, part) for part in ours.ours)
                if None not in parts:  # as biases are without bias
                    yield _Entry(_join(name, theirs), parts, ours.transposed)


def _rules(module: nn.Module, table: _Table) -> _Rules:
    for cls in type(module).__mro__:
        if cls in table:
            rules = table[cls]
            return rules(module) if callable(rules) else rules
    return {name: name for name in vars(module)}


def _follow(node: Any, path: str) -> Any:
    """Return the part at ``path``, or None: what is then left out, `_entries_of` finds."""
    return functools.reduce(lambda part, name: getattr(part, name, None), path.split("."), node)


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


# -------------------------------------------------------------------------------------- the values


def _differences(entries: list[_Entry], found: Mapping[str, Any], *, cast: bool) -> Iterator[str]:
    """Yield, in words, all that keeps ``found`` from being a state of these entries."""
    known = {entry.name: entry for entry in entries}
    first: dict[tuple[int, ...], _Entry] = {}  # by parameters: tied weights have two names
    for entry in entries:
        if entry.name in found:
            first.setdefault(_ids(entry), entry)
    for entry in entries:
        if not entry.parts or (entry.name not in found and _ids(entry) in first):
            continue
        dtype = entry.parts[0].dtype.name
        expected = f"{entry.shape} {dtype}"
        if entry.name not in found:
            yield f"missing: {entry.name} {expected}"
            continue
        value, twin = found[entry.name], first[_ids(entry)]
        allowed = {dtype, "float16", "bfloat16", "float32", "float64"} if cast else {dtype}
        if (tuple(value.shape), _dtype(value) in allowed) != (entry.shape, True):
            got = f"{tuple(value.shape)} {_dtype(value)}"
            yield f"misshapen: {entry.name} expected {expected}, got {got}"
        elif twin is not entry and not np.array_equal(
            _array(value), _array(found[twin.name]), equal_nan=True
        ):
            yield f"untied: {entry.name} differs from {twin.name}, which is one weight here"
    for name in found:
        if name not in known:
            why = _NO_COUNTERPART.get(name.rpartition(".")[2])
            yield f"unexpected: {name}" + (f" ({why})" if why else "")


def _ids(entry: _Entry) -> tuple[int, ...]:
    return tuple(id(part) for part in entry.parts)


def _tensor(value: Any) -> Any:
    """Return a PyTorch tensor without its gradient, on the CPU; anything else as an array."""
    return value.detach().cpu() if hasattr(value, "detach") else np.asarray(value)


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _array(value: Any) -> Array:
    # NumPy has no bfloat16; float32 holds every value of it.
    exact = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(exact)
