"""Building a model from what its checkpoint says of it."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from miniattn import _checks, checkpoint, nn
from miniattn.checkpoint import CheckpointError, PathLike
from miniattn.nn import _config, _init
from miniattn.nn._module import replace_parts, walk
from miniattn.scores import Score
from miniattn.scores._ready import READY

Known = Mapping[str, Callable[..., Any]]


def load(
    path: PathLike,
    *,
    classes: Collection[Callable[..., Any]] = (),
    dtype: DTypeLike | None = None,
    verify: bool = True,
) -> nn.Module:
    """Build the model that a checkpoint was saved from, and load its parameters.

    Or that of a folder in the Hugging Face layout, without any library but this one.

    Parameters
    ----------
    path : path
        Written by `checkpoint.save` of a model, or by a `Trainer`. Or a folder with a
        ``config.json`` and ``model.safetensors`` or its shards: of BERT, DistilBERT, RoBERTa (and
        MiniLM, which is one of these), ModernBERT, CLIP (its text tower), ViT, DeiT, GPT-2, OPT,
        GPT-NeoX (Pythia), GPT-J, Phi, BLOOM, Llama (and SmolLM), SmolLM3, Mistral, Qwen2, Qwen3,
        OLMo2, T5, mT5, Whisper, Gemma, Gemma 2 or Gemma 3 (text). Floats of 16 bits are read as
        float32.
    classes : collection of classes and functions, optional
        Those of your own that the model is made of. A file names them and never holds code.
    dtype : float32 or float64, optional
        Make it a model of this dtype; as it was saved by default.
    verify : bool, default True
        As in `checkpoint.load`.

    Returns
    -------
    Module
        A `TextEncoder`, an `ImageClassifier`, an `EncoderDecoder` or a `GPT` for a folder; else of
        the class that was saved. What was changed after it was built is there too: LoRA and
        adapters, other parts in the place of those it was built with, ties, frozen parameters.

    Raises
    ------
    CheckpointError
        If a folder is of another family, has a setting that is not known, or arrays that are not
        those of its settings. If the file is damaged, does not say what the model was built with,
        or names a class that is neither the package's nor in ``classes``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from miniattn import checkpoint, models, nn
    >>> model = models.GPT(9, 8, embed_dim=8, num_heads=2, num_layers=1, positions="rotary")
    >>> wrappers = nn.add_lora(model, rank=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint.save(f"{folder}/gpt.safetensors", model)
    ...     twin = models.load(f"{folder}/gpt.safetensors")
    >>> ids = np.array([[1, 2, 3]])
    >>> bool((twin(ids) == model(ids)).all()), twin.num_parameters(trainable=True)
    (True, 64)
    """
    if not isinstance(classes, Collection):
        raise TypeError(f"classes: expected a collection of classes, got {_checks.shown(classes)}")
    cast = None if dtype is None else _checks.float_dtype("dtype", dtype)
    folder = _checks.path("path", path)
    if (folder / "config.json").is_file():
        from miniattn.models.hugging_face import load_folder  # families: seldom asked for

        return load_folder(folder, cast or np.dtype(np.float32))
    file = checkpoint.read(path, verify=verify, dtype=cast)
    if file.architecture is None:
        raise CheckpointError(
            f"{path}: expected a file saved from a model, got one that does not say what it was "
            "built with; build the model and use checkpoint.load(path, into=model)"
        )
    by_trainer = isinstance(file.metadata, dict) and "trainer" in file.metadata
    loaded = checkpoint.Checkpoint(file.arrays, file.metadata)
    arrays = loaded.part("model") if by_trainer else loaded.arrays
    try:
        with _init.undrawn():
            model = _built(_config.checked(file.architecture), _known(classes), cast)
        model.load_state_dict(arrays)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model


def _known(classes: Collection[Callable[..., Any]]) -> Known:
    """Return what a file may name: the modules of nn and models, and ``classes``."""
    from miniattn import models

    ours: list[Any] = [
        getattr(package, name) for package in (nn, models) for name in package.__all__
    ]
    layers: list[Any] = [
        cls for cls in ours if isinstance(cls, type) and issubclass(cls, nn.Module)
    ]
    own = {_config.function_name(c): c for c in (*classes, *READY)}
    return {_config.class_name(cls): cls for cls in (*layers, *classes)} | own


def _built(saved: Mapping[str, Any], known: Known, dtype: np.dtype[Any] | None) -> nn.Module:
    """Build the model from the arguments of its class; then mend what was changed after that."""

    def make(entry: Mapping[str, Any]) -> nn.Module:
        return _made(entry["class"], entry["arguments"], known, dtype)

    model = make(saved["modules"][""])
    for path, entry in saved["modules"].items():  # from the outside in
        found = _config.modules(walk(model, "")).get(path)
        if found is None:
            _put(model, path, make(entry))
        elif _config.class_name(type(found)) != entry["class"] or _config.different_arguments(
            found, entry["arguments"]
        ):
            replace_parts(model, {id(found): make(entry)})
    _tie(model, saved["tied"])
    for name, parameter in model.named_parameters():
        parameter.trainable = name not in saved["frozen"]
    model.check_architecture(saved)
    return model


def _made(
    name: str, arguments: Mapping[str, Any], known: Known, dtype: np.dtype[Any] | None
) -> nn.Module:
    """Call the class of this name with arguments as JSON says them."""
    if name not in known:
        raise ValueError(f"classes: expected {name}, which the model is made of, got it not")
    given = {key: _decoded(key, value, known, dtype) for key, value in arguments.items()}
    if dtype is not None and "dtype" in given:
        given["dtype"] = dtype
    cls: Any = known[name]
    parameters = _config.signature(cls).parameters
    if "rng" in parameters and parameters["rng"].default is inspect.Parameter.empty:
        given["rng"] = np.random.default_rng()  # what it draws is replaced
    positional: list[Any] = []
    several = inspect.Parameter.VAR_POSITIONAL
    if any(p.kind is several for p in parameters.values()):
        for key, parameter in parameters.items():
            if parameter.kind is several:
                positional += given.pop(key, ())
            elif parameter.kind < several and key in given:
                positional.append(given.pop(key))
    module: nn.Module = cls(*positional, **given)
    return module


def _decoded(name: str, value: Any, known: Known, dtype: np.dtype[Any] | None) -> Any:
    """Undo `_config.encoded`; lists come back as tuples."""
    if isinstance(value, list):
        return tuple(_decoded(name, item, known, dtype) for item in value)
    if not isinstance(value, dict):
        return value
    match value:
        case {"float": text}:
            return float(text)
        case {"generator": _}:
            return np.random.default_rng()
        case {"dict": items}:
            return {key: _decoded(name, item, known, dtype) for key, item in items.items()}
        case {"module": cls, "arguments": arguments}:
            return _made(cls, arguments, known, dtype)
        case {"function": function} if function in known:
            return known[function]
        case {"score": function, "tables": tables} if function in known:
            score: Score = known[function](*(_table(x, dtype) for x in tables))
            return score
    raise ValueError(f"{name}: expected an argument that a file can hold, got {value}")


def _table(said: Any, dtype: np.dtype[Any] | None) -> Any:
    """Return a table of a score: of floats one of zeros, for the state to fill."""
    match said:
        case {"dtype": kind, "shape": shape, "entries": entries}:
            return np.array(entries, kind).reshape(shape)
        case {"dtype": kind, "shape": shape}:
            return np.zeros(shape, kind if dtype is None else dtype)
    return said


def _put(model: nn.Module, path: str, part: nn.Module) -> None:
    """Make ``part`` an attribute, where nothing was."""
    above, _, name = path.rpartition(".")
    holders = _config.modules(walk(model, ""))
    if above not in holders:
        raise ValueError(f"{path}: expected a part there in what {type(model).__name__} builds")
    setattr(holders[above], name, part)


def _tie(model: nn.Module, tied: Mapping[str, str]) -> None:
    """Make parameters one that were one when they were saved, and two that were two."""
    places = {path: node for path, node in walk(model, "") if isinstance(node, nn.Parameter)}
    holders = _config.modules(walk(model, ""))
    met: set[int] = set()
    for path, parameter in places.items():
        above, _, name = path.rpartition(".")
        first = places.get(tied.get(path, ""), parameter)
        if path not in tied and id(parameter) in met:
            first = places[path] = nn.Parameter(parameter.data)
        if first is not parameter and above in holders:
            setattr(holders[above], name, first)
        met.add(id(first))
