"""The batches of a trainer: made of examples, run through the model, forward and backward."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from miniattn._typing import Array
from miniattn.data import Batch, Dataset
from miniattn.optim import clip_grad_norm
from miniattn.optim._gradients import refuse_infinite

if TYPE_CHECKING:
    from miniattn.nn import Module
    from miniattn.training._trainer import Trainer

Collate: TypeAlias = Callable[[Sequence[tuple[Any, Any]]], Batch]


def made(trainer: Trainer, dataset: Dataset, part: Array) -> Batch:
    """Return what a model is given of some examples: of each, its own part of the sequence."""
    batch = trainer.collate([dataset[int(i)] for i in part])
    return batch if trainer._parallel is None else trainer._parallel.own_part(batch)


def gradient(trainer: Trainer, train: Dataset, step: Sequence[Array]) -> tuple[float, int]:
    """Give every parameter the gradient of a step; return the loss and the tokens.

    ``step`` has, for each batch, the numbers of its examples.
    """
    step_batches = [made(trainer, train, part) for part in step]
    counts = [trainer.loss.count(batch.targets) for batch in step_batches]
    loss = 0.0
    trainer.model.zero_grad()
    for batch, count in zip(step_batches, counts, strict=True):
        loss += forward_backward(trainer, batch, count / (sum(counts) or 1), trainer.rng)
        if not math.isfinite(loss):
            break
    return loss, sum(batch.num_tokens for batch in step_batches)


def forward_backward(
    trainer: Trainer,
    batch: Batch,
    share: float,
    rng: np.random.Generator,
    goes_on: Callable[[float], bool] = math.isfinite,
) -> float:
    """Add the gradient of a batch, weighted; return its weighted loss.

    There is no backward where ``goes_on`` says so of the loss: if it is not finite.
    """
    check_keywords(trainer, batch)
    keywords = {**trainer._options, **batch.keywords}
    outputs, ctx = trainer.model.forward(*batch.inputs, **keywords, rng=rng)
    loss, loss_ctx = trainer.loss.forward(outputs, batch.targets)
    if goes_on(loss):
        trainer.model.backward(trainer.loss.backward(share, loss_ctx), ctx)
    return share * loss


def moved(trainer: Trainer) -> dict[str, float]:
    """Move the parameters by their gradient, clipped; return the rate, and the norm if clipped."""
    factor = trainer.schedule(trainer.step)
    measured = {"lr": factor * trainer.optimizer.lr}
    try:
        # Here, although the optimiser refuses it too: by the model's names, and before the
        # gradient is clipped.
        refuse_infinite(dict(trainer.model.named_parameters()))
        if trainer.clip_norm is not None:
            measured["grad_norm"] = clip_grad_norm(trainer.model.parameters(), trainer.clip_norm)
        trainer.optimizer.step(factor)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} (in step {trainer.step})") from None
    return measured


def measure(trainer: Trainer, dataset: Dataset, part: Array) -> tuple[float, dict[str, float]]:
    """Return what the targets of some examples count, and the means over them."""
    batch = made(trainer, dataset, part)
    check_keywords(trainer, batch)
    outputs = trainer.model(*batch.inputs, **trainer._options, **batch.keywords)
    loss, _ = trainer.loss.forward(outputs, batch.targets)
    metrics = {"loss": loss, **trainer.loss.metrics(outputs, batch.targets)}
    return trainer.loss.count(batch.targets), metrics


def means(measured: Sequence[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Return the means over what `measure` returned of several batches, weighted by the targets."""
    sums: dict[str, float] = {}
    for count, of_batch in measured:
        for name, mean in of_batch.items():
            sums[name] = sums.get(name, 0.0) + count * mean
    total = sum(count for count, _ in measured) or 1
    return {name: value / total for name, value in sums.items()}


def options(model: Module, **given: object) -> dict[str, Any]:
    """Return the mask and the bias that there are; raise where a model takes none."""
    found = {name: x for name, x in given.items() if x is not None}
    for name, takes in _not_taken(model, found):
        raise TypeError(f"{name}: expected None, because {takes[0]} takes {takes[1]}")
    return found


def check_keywords(trainer: Trainer, batch: Batch) -> None:
    """Raise where ``collate`` tells the model what it does not take, such as lengths."""
    for name, takes in _not_taken(trainer.model, batch.keywords):
        raise TypeError(
            f"collate: expected keywords that {takes[0]} takes ({takes[1]}), got {name!r}; "
            "data.stack gives none, and partial(pad, lengths=(None,)) pads without"
        )


def _not_taken(model: Module, names: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield what a model's ``forward`` does not take, with what to call that, and what it takes."""
    taken = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    for name in names:
        if name not in taken:
            yield name, (f"{type(model).__name__}.forward", ", ".join(taken))


def check_valid(trainer: Trainer, name: str, valid: Dataset) -> None:
    """Raise now what the first evaluation, many steps from now, would raise."""
    check_dataset(name, valid)
    try:
        check_keywords(trainer, trainer.collate([valid[0]]))
    except (TypeError, ValueError, LookupError) as error:
        raise type(error)(f"{name}: expected one dataset of examples (x, y): {error}") from error


def by_name(valid: Dataset | Mapping[str, Dataset] | None) -> Mapping[str, Dataset]:
    """Return validation sets by name; one that was given alone has none."""
    if valid is None:
        return {}
    if not isinstance(valid, Mapping):
        return {"": valid}
    if wrong := [name for name in valid if not isinstance(name, str) or not name.isidentifier()]:
        raise ValueError(f"valid: expected names that are identifiers, got {wrong[0]!r}")
    return valid


def check_dataset(name: str, dataset: Any) -> None:
    """Raise unless it has examples to be had by number."""
    sequence = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sequence or isinstance(dataset, Mapping):
        kind = type(dataset).__name__
        raise TypeError(f"{name}: expected a sequence of examples (x, y), got a {kind}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
