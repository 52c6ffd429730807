"""What was added to a model, in a file of its own: LoRA and bottleneck adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miniattn import _checks, checkpoint, nn
from miniattn._typing import Array
from miniattn.checkpoint import CheckpointError, PathLike
from miniattn.nn._adapter import putting
from miniattn.nn._init import undrawn

KEY = "adapters"


def save_adapters(path: PathLike, model: nn.Module) -> None:
    """Write the `nn.LoRA` and `nn.Adapter` parts of a model, and nothing else of it.

    Parameters
    ----------
    path : path
        A safetensors file, which is replaced if it exists.
    model : Module
        With parts that `nn.add_lora` or `nn.add_adapters` added.

    Raises
    ------
    ValueError
        If the model has none.

    See Also
    --------
    load_adapters

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from miniattn import models, nn
    >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, rng=np.random.default_rng(0))
    >>> base = model.state_dict()
    >>> for wrapper in nn.add_lora(model, rank=2):
    ...     wrapper.up.weight.data += 0.1  # as if it had been trained
    >>> twin = models.GPT(9, 8, embed_dim=8, num_heads=2)
    >>> twin.load_state_dict(base)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     models.save_adapters(f"{folder}/lora.safetensors", model)
    ...     added = models.load_adapters(f"{folder}/lora.safetensors", twin)
    >>> ids = np.array([[1, 2, 3]])
    >>> bool((twin(ids) == model(ids)).all()), len(added)
    (True, 8)
    """
    arrays: dict[str, Array] = {}
    parts: dict[str, Any] = {}
    for place, part in _added(_checks.instance("model", model, nn.Module)):
        parts[place] = _said(part)
        for name, parameter in _own(part):
            arrays[f"{place}.{name}"] = parameter.data
    if not parts:
        kind = type(model).__name__
        raise ValueError(f"model: expected a model with LoRA or adapters, got a {kind} without")
    checkpoint.save(path, arrays, metadata={KEY: parts})


def load_adapters(path: PathLike, model: nn.Module) -> list[nn.LoRA | nn.Adapter]:
    """Put the parts of a file of `save_adapters` into a model; all of them, or nothing.

    The model is frozen, as `nn.add_lora` does. Where it has such a part already, the new one takes
    its place: so one model serves several tasks.

    Parameters
    ----------
    path : path
    model : Module
        Of the same architecture as the one that was saved, with or without added parts.

    Returns
    -------
    list of LoRA and Adapter
        The parts, which can be trained on.

    Raises
    ------
    CheckpointError
        If the file is damaged or has no adapters, or the model has no `Linear` of the same size at
        one of their places.
    """
    _checks.instance("model", model, nn.Module)
    arrays, metadata = checkpoint.load(path)
    parts = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(parts, dict):
        raise CheckpointError(f"{path}: expected a file of save_adapters, got another")
    there = {place: (whole, linear) for place, whole, linear in _linears(model)}
    if missing := [place for place in parts if place not in there]:
        raise CheckpointError(
            f"{path}: expected a model with Linear layers {missing}, got none of that name in the "
            f"{type(model).__name__}"
        )
    try:
        with putting(model) as replaced, undrawn():
            added = []
            for place, said in parts.items():
                whole, linear = there[place]
                new, part = _made(said, linear)
                prefix = f"{place}."
                own = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
                _fill(part, own)
                replaced[id(whole)] = new
                added.append(part)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return added


def _added(model: nn.Module) -> Iterator[tuple[str, nn.LoRA | nn.Adapter]]:
    """Yield the added parts, each with the place of the layer that it was added to."""
    for path, module in model.named_modules():
        if isinstance(module, nn.LoRA):
            yield path, module
        elif isinstance(module, nn.Adapter):
            yield path.removesuffix(".layers.1"), module


def _linears(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Linear]]:
    """Yield where layers are, what is there (the layer, or what was put around it), and them."""
    inside: set[int] = set()
    for path, module in model.named_modules():
        found: nn.Module | None = None
        if isinstance(module, nn.LoRA):
            found = module.base
        elif isinstance(module, nn.Sequential) and isinstance(module.layers[-1], nn.Adapter):
            found = module.layers[0]
        elif isinstance(module, nn.Linear) and id(module) not in inside:
            found = module
        if isinstance(found, nn.Linear):
            inside |= {id(part) for part in module.modules()}
            yield path, module, found


def _own(part: nn.LoRA | nn.Adapter) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that were added, by name."""
    for name, layer in (("down", part.down), ("up", part.up)):
        yield from layer.named_parameters(name)


def _said(part: nn.LoRA | nn.Adapter) -> dict[str, Any]:
    """Return what a part was built with."""
    if isinstance(part, nn.LoRA):
        lora = {"rank": part.rank, "alpha": part.alpha, "dropout": part.dropout.p}
        return {"kind": "LoRA", **lora}
    made = vars(part)["_made_with"]
    return {"kind": "Adapter", **{name: made[name] for name in ("bottleneck", "activation")}}


def _made(said: Mapping[str, Any], linear: nn.Linear) -> tuple[nn.Module, nn.LoRA | nn.Adapter]:
    """Return what takes the place of a layer, and the part in it that was added."""
    options = {name: value for name, value in said.items() if name != "kind"}
    if said["kind"] == "LoRA":
        lora = nn.LoRA(linear, **options)
        return lora, lora
    width = linear.weight.shape[0]
    adapter = nn.Adapter(width, dtype=linear.weight.dtype, **options)
    return nn.Sequential(linear, adapter), adapter


def _fill(part: nn.LoRA | nn.Adapter, arrays: Mapping[str, Array]) -> None:
    """Take over the parameters of a part."""
    for name, parameter in _own(part):
        array = arrays[name]
        if array.shape != parameter.shape:
            raise ValueError(f"{name}: expected shape {parameter.shape}, got {array.shape}")
        parameter.data[...] = array
