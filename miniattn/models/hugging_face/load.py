"""Building a model of a folder, and filling it array by array."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from miniattn import nn
from miniattn.checkpoint import CheckpointError
from miniattn.models.hugging_face.families import FAMILIES
from miniattn.models.hugging_face.rules import Family, Rules
from miniattn.models.hugging_face.settings import Settings
from miniattn.models.hugging_face.weights import arrays_of
from miniattn.nn import _init


def load_folder(folder: Path, dtype: np.dtype[Any]) -> nn.Module:
    """Return the model of a folder in the Hugging Face layout."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        name = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: expected a config.json with a model_type, got {type(error).__name__}"
        ) from error
    if name not in FAMILIES:
        raise CheckpointError(
            f"{folder}: expected a model_type among {sorted(FAMILIES)}, got {name!r}"
        )
    family, settings = FAMILIES[name], Settings(config)
    try:
        with _init.undrawn():
            model, rules = family.build(settings, dtype)
        settings.finish()
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    _fill(model, rules, family, folder, dtype)
    return model


def _fill(
    model: nn.Module, rules: Rules, family: Family, folder: Path, dtype: np.dtype[Any]
) -> None:
    """Copy every array to where ``rules`` say; all of them, each once."""
    parameters = dict(model.named_parameters())
    wanted, unknown = set(parameters), []
    for full, array in arrays_of(folder, dtype):
        name = re.sub(family.prefix, "", full)
        if name not in rules:
            if not re.match(family.without_use, name):
                unknown.append(full)
            continue
        for ours, part in rules[name].items():
            if ours not in parameters:  # a weight that is tied here, and stored as well
                continue
            value = part(array)
            if value.shape != parameters[ours].shape:
                raise CheckpointError(
                    f"{folder}: expected {full} to give {ours} the shape "
                    f"{parameters[ours].shape}, got {value.shape}"
                )
            parameters[ours].data[...] = value
            wanted.discard(ours)
    if family.may_tie and "head.weight" in wanted:
        whole: Any = model
        whole.head.weight = whole.target_tokens.weight
        wanted.remove("head.weight")
    if unknown or wanted:
        raise CheckpointError(
            f"{folder}: expected the arrays of a {family.name}, "
            f"got none for {sorted(wanted)[:4]}, and no place for {sorted(unknown)[:4]}"
        )
