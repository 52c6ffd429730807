"""What is in a trainer's file, and how a trainer takes it over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from miniattn import _checks, checkpoint
from miniattn._typing import Array
from miniattn.checkpoint import Checkpoint, CheckpointError, HasState
from miniattn.training._callbacks import Callback, PathLike

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


def state_of(trainer: Trainer) -> Checkpoint:
    """Return all that decides how training goes on."""
    callbacks = _by_key(trainer)
    arrays = {
        f"{part}.{name}": array
        for part, owner in _parts(trainer, callbacks).items()
        for name, array in owner.state_dict().items()
    }
    metadata = {
        "step": trainer.step,
        "epoch": trainer.epoch,
        "at": trainer._order.at,
        "examples": len(trainer._order.examples),
        "drawn_from": trainer._order.drawn_from,
        "rng": rng_state(trainer.rng),
        "callbacks": {key: bool(c.state_dict()) for key, c in callbacks.items()},
    }
    return Checkpoint(arrays, {"trainer": metadata})


def load(trainer: Trainer, path: PathLike) -> str:
    """Give a trainer what is in a file, all or (on any error) nothing; return `differences`."""
    loaded, before = checkpoint.read(path, verify=True, dtype=None), state_of(trainer)
    try:
        if loaded.architecture is not None:
            trainer.model.check_architecture(loaded.architecture)
        restore(trainer, loaded.arrays, loaded.metadata)
    except BaseException as error:  # MemoryError and Ctrl-C too
        restore(trainer, before.arrays, before.metadata)
        if isinstance(error, ValueError | TypeError | KeyError | OverflowError):
            raise CheckpointError(f"{path}: {error}") from error
        raise
    return differences(trainer, loaded.arrays, loaded.metadata["trainer"])


@contextmanager
def held(trainer: Trainer) -> Iterator[None]:
    """Put off what callbacks save until all of them have been called."""
    trainer._held = {}
    try:
        yield
        paths = list(trainer._held)
    finally:
        trainer._held = None
    for path in paths:
        trainer.save(path)


def restore(trainer: Trainer, arrays: dict[str, Array], metadata: Any) -> None:
    """Give a trainer what `state_of` returned; an error leaves it half done."""
    if not isinstance(metadata, dict) or "trainer" not in metadata:
        raise ValueError("expected a file saved by a Trainer")
    state = _checked_state(metadata["trainer"], trainer.rng)
    own = _by_key(trainer, numbered="callbacks" not in state)
    there = _saved_callbacks(arrays, state)
    parts = _parts(trainer, {key: own[key] for key in own if key in there})
    known = (*(f"{part}." for part in parts), "callbacks.")
    if unexpected := [name for name in arrays if not name.startswith(known)]:
        raise ValueError(f"expected the parts {list(parts)}, got also {unexpected}")
    for part, owner in parts.items():
        try:
            owner.load_state_dict(Checkpoint(arrays, None).part(part))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{part}: {error}") from error
    trainer.rng.bit_generator.state = state["rng"]
    trainer.step, trainer.epoch, trainer._order.at = state["step"], state["epoch"], state["at"]
    trainer._order.examples = np.zeros(state["examples"], np.int64)  # `fit` draws it again
    trainer._order.drawn_from = state["drawn_from"]


def differences(trainer: Trainer, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> str:
    """Return, in words, which callback's state is left over or missing; "" for nobody's."""
    own = _by_key(trainer, numbered="callbacks" not in state)
    saved = _saved_callbacks(arrays, state)
    left = [key for key, remembers in saved.items() if remembers and key not in own]
    new = [key for key, callback in own.items() if key not in saved and callback.state_dict()]
    words = [
        *([f"what {', '.join(left)} remembered is left out"] if left else []),
        *([f"{', '.join(new)} was not there, and stays as it is"] if new else []),
    ]
    there = f"callbacks: saved with {', '.join(saved) or 'none'}"
    here = f"the trainer has {', '.join(own) or 'none'}"
    return f"{there}, {here}: {'; '.join(words)}" if words else ""


def _parts(trainer: Trainer, callbacks: Mapping[str, Callback]) -> dict[str, HasState]:
    return {
        "model": trainer.model,
        "optimizer": trainer.optimizer,
        "history": trainer.history,
        **{f"callbacks.{key}": callback for key, callback in callbacks.items()},
    }


def _by_key(trainer: Trainer, *, numbered: bool = False) -> dict[str, Callback]:
    """Return the callbacks by their keys, by their numbers where a file has no keys."""
    found: dict[str, Callback] = {}
    for i, callback in enumerate(trainer.callbacks):
        key = str(i) if numbered else callback.key()
        again = sum(name.partition("#")[0] == key for name in found)
        found[f"{key}#{again + 1}" if again else key] = callback
    return found


def _checked_state(state: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Return the metadata of a trainer, all of which makes sense; else TypeError or ValueError."""
    if not isinstance(state, dict):
        raise TypeError(f"trainer: expected its state by name, got a {type(state).__name__}")
    if missing := {"step", "epoch", "at", "examples", "rng", "drawn_from"} - state.keys():
        raise ValueError(f"trainer: expected its state by name, missing: {sorted(missing)}")
    for name in ("step", "epoch", "at", "examples"):
        _checks.integer(name, state[name], least=0)
    if state["at"] > state["examples"]:
        raise ValueError(f"at: expected at most {state['examples']} examples, got {state['at']}")
    if not isinstance(state.get("callbacks", {}), dict):
        raise TypeError("callbacks: expected their keys, got something else")
    for name in ("rng", "drawn_from"):
        if name == "rng" or state[name] is not None:
            try:
                generator_in(state[name], rng)
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                raise ValueError(f"{name}: expected a state of {rng}, got {error}") from error
    return state


def _saved_callbacks(arrays: Mapping[str, Array], state: Mapping[str, Any]) -> dict[str, bool]:
    """Return the keys of the callbacks in a file, and whether each remembers something."""
    if "callbacks" in state:
        return dict(state["callbacks"])
    numbers = (name.split(".")[1] for name in arrays if name.startswith("callbacks."))
    return dict.fromkeys(numbers, True)  # an older file


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the generator's state as JSON; some kinds hold arrays."""
    text = json.dumps(rng.bit_generator.state, default=lambda array: array.tolist())
    state: dict[str, Any] = json.loads(text)
    return state


def generator_in(state: dict[str, Any], like: np.random.Generator) -> np.random.Generator:
    rng = np.random.Generator(type(like.bit_generator)())
    rng.bit_generator.state = state
    return rng
