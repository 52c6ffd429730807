"""The training loop: batches, gradients, updates, evaluation, history, checkpoints.

The loop is `Trainer.fit`; one step of it is `Trainer._update`. Everything that decides how training
goes on (parameters, optimiser state, random generator, place in the data) is in
`Trainer.save`, so that a loaded trainer goes on bit for bit as the saved one would have.
"""

import inspect
import json
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from miniattn import _checks, _lazy, checkpoint
from miniattn._disk import check_writable
from miniattn._typing import Array
from miniattn.checkpoint import Checkpoint, CheckpointError
from miniattn.data import Batch, Dataset, batches, pad, shuffled, sorted_by_length
from miniattn.losses import CrossEntropy, Loss
from miniattn.nn import Module
from miniattn.optim import Optimizer, Schedule, clip_grad_norm, constant, refuse_infinite

__all__ = ["Callback", "EarlyStopping", "History", "Series", "Trainer"]

__dir__ = _lazy.listed(__name__, __all__)

Collate: TypeAlias = Callable[[Sequence[tuple[Any, Any]]], Batch]
PathLike: TypeAlias = str | os.PathLike[str]

INTERRUPTED = "interrupted"
"""Why training stopped, after Ctrl-C."""


class Series(NamedTuple):
    """One measured quantity over the steps of training."""

    steps: Array
    """int64: after how many steps each value was measured."""
    values: Array
    """float64."""


class History:
    """What was measured in training, by name: each a `Series`.

    ``loss``, ``lr`` and (with clipping) ``grad_norm`` have a value for every step; ``valid_loss``,
    ``valid_accuracy`` and so on one for every evaluation.

    Examples
    --------
    >>> from miniattn.training import History
    >>> history = History()
    >>> history.add(1, {"loss": 2.5})
    >>> history.add(2, {"loss": 1.5, "valid_loss": 1.75})
    >>> history["loss"].values
    array([2.5, 1.5])
    >>> history.records()
    [{'step': 1, 'loss': 2.5}, {'step': 2, 'loss': 1.5, 'valid_loss': 1.75}]
    >>> history
    History(2 steps, loss 1.5, valid_loss 1.75)
    """

    def __init__(self) -> None:
        self._series: dict[str, tuple[list[int], list[float]]] = {}

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append values that were measured after ``step`` steps."""
        for name, value in values.items():
            steps, column = self._series.setdefault(name, ([], []))
            steps.append(step)
            column.append(float(value))

    def __getitem__(self, name: str) -> Series:
        if name not in self._series:
            raise KeyError(f"{name!r}: expected one of {list(self._series)}")
        steps, values = self._series[name]
        return Series(np.array(steps, np.int64), np.array(values, np.float64))

    def __contains__(self, name: object) -> bool:
        return name in self._series

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __repr__(self) -> str:
        last = max((steps[-1] for steps, _ in self._series.values()), default=0)
        values = (f", {name} {values[-1]:.4g}" for name, (_, values) in self._series.items())
        return f"History({last} steps{''.join(values)})"

    def records(self) -> list[dict[str, float]]:
        """Return one dict for each step at which something was measured, for ``plot.history``."""
        records: dict[int, dict[str, float]] = {}
        for name, (steps, values) in self._series.items():
            for step, value in zip(steps, values, strict=True):
                records.setdefault(step, {"step": step})[name] = value
        return [records[step] for step in sorted(records)]

    def state_dict(self) -> dict[str, Array]:
        """Return ``<name>.steps`` and ``<name>.values`` of every series."""
        return {
            f"{name}.{key}": array
            for name in self
            for key, array in zip(("steps", "values"), self[name], strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Replace all series by those of ``state``."""
        names = [key.removesuffix(".steps") for key in state if key.endswith(".steps")]
        series = {name: Series(state[f"{name}.steps"], state[f"{name}.values"]) for name in names}
        for name, (steps, values) in series.items():
            if steps.dtype.kind != "i" or steps.ndim != 1 or values.shape != steps.shape:
                raise ValueError(
                    f"{name}: expected steps (ints) and as many values, "
                    f"got {steps.shape} of {steps.dtype} and {values.shape}"
                )
        if left := state.keys() - {f"{name}.{key}" for name in names for key in Series._fields}:
            raise ValueError(f"state: expected steps and values by name, got also {sorted(left)}")
        self._series = {name: (s.steps.tolist(), s.values.tolist()) for name, s in series.items()}


class Callback:
    """Something to do during training: override any of these.

    A callback may look at everything in the trainer, write above the progress bar with
    ``trainer.write(text)``, end training with ``trainer.stop(reason)`` and ``trainer.save(path)``.
    One that remembers something returns it from ``state_dict``; it is then part of every
    checkpoint, under its ``key()``.

    Examples
    --------
    >>> from miniattn.training import Callback
    >>> class Print(Callback):
    ...     def on_evaluation(self, trainer, result):
    ...         trainer.write(f"step {trainer.step}: {result['loss']:.3f}")
    """

    def on_start(self, trainer: "Trainer") -> None:
        """Do something at the start of every `Trainer.fit`; to stop it makes no step."""

    def on_step(self, trainer: "Trainer") -> None:
        """Do something after every update."""

    def on_evaluation(self, trainer: "Trainer", result: Mapping[str, float]) -> None:
        """Do something after every evaluation within training."""

    def on_epoch(self, trainer: "Trainer") -> None:
        """Do something after every pass over the training data."""

    def on_end(self, trainer: "Trainer") -> None:
        """Do something at the end of every `Trainer.fit`, before it saves for the last time."""

    def key(self) -> str:
        """Return the name of its state in checkpoints; that of its class by default."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Array]:
        """Return what must survive a resume."""
        return {}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state_dict`` returned."""


class EarlyStopping(Callback):
    """End training when an evaluation metric has not improved for a while.

    A training that was ended here stays ended: a later `Trainer.fit`, of a loaded trainer too,
    makes no step unless ``patience`` is larger by then.

    Parameters
    ----------
    patience : int >= 1
        How many evaluations in a row without a new best end training.
    metric : str, default "loss"
        Which entry of the evaluation's result to watch.
    larger_is_better : bool, default False
        True for an accuracy.
    min_delta : float >= 0, default 0
        By how much a new best must be better.
    restore_best : bool, default False
        Give the model its best parameters when `Trainer.fit` ends, here or because all steps are
        done (not after Ctrl-C). A later fit goes on from the last parameters. Both are part of
        checkpoints.
    save_best_to : path, optional
        Where to save the model at every new best, by `checkpoint.save`, with the step and the
        metric as metadata. `models.load` reads it.

    Attributes
    ----------
    best : float
        The best value so far; inf or -inf at first.
    """

    def __init__(
        self,
        patience: int,
        *,
        metric: str = "loss",
        larger_is_better: bool = False,
        min_delta: float = 0.0,
        restore_best: bool = False,
        save_best_to: PathLike | None = None,
    ) -> None:
        self.patience = _checks.integer("patience", patience, least=1)
        self.metric = metric
        self.sign = -1.0 if _checks.flag("larger_is_better", larger_is_better) else 1.0
        self.min_delta = _checks.number("min_delta", min_delta)
        self.restore_best = _checks.flag("restore_best", restore_best)
        self.save_best_to = save_best_to
        self.best = self.sign * math.inf
        self.waited = 0
        self._best: dict[str, Array] = {}
        self._last: dict[str, Array] = {}  # what the model had before it was given its best

    def on_start(self, trainer: "Trainer") -> None:
        """Go on from the last parameters, or not at all where it was waited long enough."""
        if self.save_best_to is not None:
            check_writable("save_best_to", self.save_best_to)
        if self._last:
            trainer.model.load_state_dict(self._last)
            self._last = {}
        self._stop_if_waited(trainer)

    def on_evaluation(self, trainer: "Trainer", result: Mapping[str, float]) -> None:
        """Compare the metric with the best so far."""
        if self.metric not in result:
            raise ValueError(f"metric: expected one of {list(result)}, got {self.metric!r}")
        value = result[self.metric]
        if self.sign * value < self.sign * self.best - self.min_delta:
            self.best, self.waited = value, 0
            if self.restore_best:
                self._best = trainer.model.state_dict()
            if self.save_best_to is not None:
                about = {"step": trainer.step, self.metric: value}
                checkpoint.save(self.save_best_to, trainer.model, metadata=about)
            return
        self.waited += 1
        self._stop_if_waited(trainer)

    def on_end(self, trainer: "Trainer") -> None:
        """Give the model its best parameters, unless training was only interrupted."""
        if self._best and trainer.stopped != INTERRUPTED:
            self._last = trainer.model.state_dict()
            trainer.model.load_state_dict(self._best)

    def key(self) -> str:
        """Return what is watched as well: another metric has another best."""
        return f"EarlyStopping({'least' if self.sign > 0 else 'most'} {self.metric})"

    def state_dict(self) -> dict[str, Array]:
        """Return the best value, the best parameters, and how long it was waited for better."""
        state = {"best": np.array(self.best), "waited": np.array(self.waited)}
        state |= {f"parameters.{name}": array for name, array in self._best.items()}
        return state | {f"last.{name}": array for name, array in self._last.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take back what ``state_dict`` returned."""
        best, waited = float(state["best"]), int(state["waited"])
        entries = checkpoint.Checkpoint(dict(state), None)
        self.best, self.waited = best, waited
        self._best, self._last = entries.part("parameters"), entries.part("last")

    def _stop_if_waited(self, trainer: "Trainer") -> None:
        if self.waited >= self.patience:
            trainer.stop(f"no better {self.metric} than {self.best:.4g}")


class Trainer:
    """Trains a model on a sequence of examples.

    A step takes ``accumulate`` batches, adds up their gradients, each batch weighted by its
    targets that count, clips, and updates the parameters once. The model is called as
    ``model.forward(*batch.inputs, **batch.keywords, rng=rng)`` and
    ``model.backward(doutputs, ctx)``.

    Parameters
    ----------
    model : Module
    optimizer : Optimizer
        On the parameters of ``model``.
    loss : Loss, default ``CrossEntropy()``
        See `miniattn.losses`.
    rng : numpy.random.Generator, optional
        Draws the order of examples and dropout. None is a fresh unseeded one.
    batch_size : int, default 32
    collate : callable, default `data.pad`
        From a list of examples to a `data.Batch`; `data.stack` for models that take no lengths.
    pool : int, default 0
        Length bucketing, as in `data.shuffled`; 0 is off, 20 to 100 save most of the padding.
    accumulate : int, default 1
        Batches a step.
    clip_norm : float, optional
        Largest norm of the gradient.
    schedule : callable int -> float, optional
        Factor on the learning rate of step 0, 1, ...; see `optim.cosine`.
    callbacks : sequence of Callback
    progress : bool, default True
        Show a progress bar.

    Attributes
    ----------
    step, epoch : int
        How many steps and whole passes over the data were done.
    history : History
    stopped : str
        Why the last `fit` ended early; empty if it did not.

    Examples
    --------
    Which of two tokens is more frequent?

    >>> import numpy as np
    >>> from miniattn import models, optim
    >>> from miniattn.training import Trainer
    >>> rng = np.random.default_rng(0)
    >>> rows = [rng.integers(0, 2, size=rng.integers(3, 9)) for _ in range(256)]
    >>> examples = [(row, int(row.mean() > 0.5)) for row in rows]
    >>> model = models.SequenceClassifier(2, vocab_size=2, embed_dim=16, num_heads=2, rng=rng)
    >>> optimizer = optim.AdamW(model.named_parameters(), lr=1e-2)
    >>> trainer = Trainer(model, optimizer, rng=rng, progress=False)
    >>> history = trainer.fit(examples[:192], valid=examples[192:], epochs=8)
    >>> bool(history["valid_accuracy"].values[-1] > 0.9)
    True
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        *,
        loss: Loss | None = None,
        rng: np.random.Generator | None = None,
        batch_size: int = 32,
        collate: Collate = pad,
        pool: int = 0,
        accumulate: int = 1,
        clip_norm: float | None = None,
        schedule: Schedule | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        self.model = _checks.having("model", model, "forward", "backward")
        self.optimizer = _checks.having("optimizer", optimizer, "step")
        self.loss = _checks.having(
            "loss", CrossEntropy() if loss is None else loss, "forward", "backward"
        )
        self.rng = np.random.default_rng() if rng is None else _checks.generator("rng", rng)
        self.batch_size = _checks.integer("batch_size", batch_size, least=1)
        self.collate = _checks.function("collate", collate)
        self.pool = _checks.integer("pool", pool, least=0)
        self.accumulate = _checks.integer("accumulate", accumulate, least=1)
        self.clip_norm = None if clip_norm is None else _checks.positive("clip_norm", clip_norm)
        self.schedule = _checks.function("schedule", constant() if schedule is None else schedule)
        self.callbacks = tuple(_checks.sequence("callbacks", callbacks, "callbacks"))
        self.progress = _checks.flag("progress", progress)

        self.step = 0
        self.epoch = 0
        self.history = History()
        self.stopped = ""
        self._bar = _Bar(disable=True)
        self._held: dict[str, None] | None = None  # where callbacks want to save, in their order
        # The present pass over the data. Its order is not saved but drawn again, from the state
        # that the generator had when it was drawn.
        self._order = np.empty(0, np.int64)
        self._at = 0
        self._drawn_from: dict[str, Any] | None = None
        self._lengths: Array | None = None

    # -- the loop ------------------------------------------------------------------------------

    def fit(
        self,
        train: Dataset,
        *,
        valid: Dataset | None = None,
        epochs: int | None = None,
        steps: int | None = None,
        evaluate_every: int | None = None,
        save_to: PathLike | None = None,
        save_every: int | None = None,
    ) -> History:
        """Train until ``epochs`` passes or ``steps`` updates are done in total.

        "In total" counts what was done before: by an earlier `fit`, or before the checkpoint that
        was loaded. A training that was interrupted is therefore finished by the same call; one
        that `EarlyStopping` ended stays ended.

        Parameters
        ----------
        train : Dataset
            A sequence of examples (x, y); see `data.Dataset`.
        valid : Dataset, optional
            Evaluated during training, into ``history["valid_..."]``.
        epochs, steps : int
            Exactly one of them.
        save_to : path, optional
            Where to `save`, during training and at the end of it. The folder must exist.
        evaluate_every, save_every : int, optional
            In steps; by default at the end of each epoch.

        Returns
        -------
        History

        Raises
        ------
        FloatingPointError
            If the loss or a gradient is NaN or infinite; the update is then not made, and model
            and optimiser are as they were before.
        OSError
            If nothing can be saved to ``save_to``; no step was made.

        Notes
        -----
        Ctrl-C lets the step finish, saves if there is a path to save to, and returns; a second one
        raises KeyboardInterrupt at once.

        Going on in the middle of an epoch needs the same examples in the same order. If their
        number has changed, a new epoch begins.
        """
        _check_dataset("train", train)
        for name, every in (("evaluate_every", evaluate_every), ("save_every", save_every)):
            if every is not None:
                _checks.integer(name, every, least=1)
        if valid is not None:
            self._check_valid(valid)
        if save_to is not None:
            check_writable("save_to", save_to)
        self._take_up(train)
        last_step = self._last_step(len(train), epochs, steps)
        self.stopped = ""

        with _interrupt_stops(self), self._progress_bar(last_step):
            with self._saves_held():
                self._call("on_start")
            while self.step < last_step and not self.stopped:
                examples, epoch_ended = self._next_examples(train)
                self._update([self.collate(some) for some in examples])
                self.epoch += epoch_ended
                with self._saves_held():
                    self._call("on_step")
                    if valid is not None and self._is_due(evaluate_every, epoch_ended):
                        self._evaluate_in_training(valid)
                    if epoch_ended:
                        self._call("on_epoch")
                if save_to is not None and self._is_due(save_every, epoch_ended):
                    self.save(save_to)
            with self._saves_held():
                self._call("on_end")
        if save_to is not None:
            self.save(save_to)
        return self.history

    def _update(self, step_batches: Sequence[Batch]) -> None:
        """Make one step: the gradient of the mean over all targets that count, and an update."""
        started = time.perf_counter()
        counts = [self.loss.count(batch.targets) for batch in step_batches]
        loss = 0.0
        self.model.zero_grad()
        for batch, count in zip(step_batches, counts, strict=True):
            share = count / max(1, sum(counts))
            self._check_keywords(batch)
            outputs, ctx = self.model.forward(*batch.inputs, **batch.keywords, rng=self.rng)
            batch_loss, loss_ctx = self.loss.forward(outputs, batch.targets)
            if not math.isfinite(batch_loss):
                raise FloatingPointError(
                    f"loss: expected a finite number, got {batch_loss} in "
                    f"step {self.step}; the model is as it was before"
                )
            self.model.backward(self.loss.backward(share, loss_ctx), ctx)
            loss += share * batch_loss

        factor = self.schedule(self.step)
        measured = {"loss": loss, "lr": factor * self.optimizer.lr}
        try:
            # Here, although the optimiser refuses it too: by the model's names, and before the
            # gradient is clipped.
            refuse_infinite(dict(self.model.named_parameters()))
            if self.clip_norm is not None:
                measured["grad_norm"] = clip_grad_norm(self.model.parameters(), self.clip_norm)
            self.optimizer.step(factor)
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} (in step {self.step})") from None
        self.step += 1
        self.history.add(self.step, measured)
        tokens = sum(batch.num_tokens for batch in step_batches)
        self._bar.show_step(loss, tokens, time.perf_counter() - started)

    def evaluate(self, dataset: Dataset, *, batch_size: int | None = None) -> dict[str, float]:
        """Return the mean loss over a dataset, and the further metrics of the loss.

        Parameters
        ----------
        dataset : Dataset
        batch_size : int, optional
            That of the trainer by default. Examples of like length are put together.

        Returns
        -------
        dict
            ``{"loss": ..., "accuracy": ...}``, weighted by the targets that count. Without
            dropout; nothing in the trainer changes.
        """
        _check_dataset("dataset", dataset)
        if batch_size is None:
            batch_size = self.batch_size
        _checks.integer("batch_size", batch_size, least=1)
        order, _ = sorted_by_length(dataset)
        sums: dict[str, float] = {}
        total = 0
        for examples in batches(dataset, order, batch_size):
            batch = self.collate(examples)
            self._check_keywords(batch)
            outputs = self.model(*batch.inputs, **batch.keywords)
            loss, _ = self.loss.forward(outputs, batch.targets)
            means = {"loss": loss, **self.loss.metrics(outputs, batch.targets)}
            count = self.loss.count(batch.targets)
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + count * mean
            total += count
        return {name: value / max(1, total) for name, value in sums.items()}

    def _evaluate_in_training(self, valid: Dataset) -> None:
        result = self.evaluate(valid)
        self.history.add(self.step, {f"valid_{name}": value for name, value in result.items()})
        self._bar.show_evaluation(result)
        self._call("on_evaluation", result)

    def stop(self, reason: str) -> None:
        """End `fit` after the present step; ``stopped`` then holds the reason.

        A later `fit` goes on, unless a callback stops it in ``on_start``.
        """
        self.stopped = reason

    def write(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._bar.write(text)

    # -- saving and going on -------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Save everything that decides how training goes on; see `checkpoint.save`.

        The file has the parts ``model``, ``optimizer``, ``history`` and ``callbacks``; its model is
        built by `models.load`. Called by a callback, it saves once all callbacks of the step were
        called, so that what each of them remembers belongs to the same step.
        """
        if self._held is not None:
            check_writable("path", path)
            self._held[os.fspath(path)] = None
            return
        arrays, metadata = self._state()
        architecture = self.model.architecture()
        checkpoint.save(path, arrays, metadata=metadata, architecture=architecture)

    def load(self, path: PathLike) -> None:
        """Take over a state saved by `save`; all of it, or (on any error) nothing.

        A trainer made in the same way then goes on bit for bit as the saved one would have. A
        callback is found again by its ``key()``. Where a state is left over, or missing, a warning
        says so: the other callbacks, and the training, go on.

        Raises
        ------
        CheckpointError
            If the file is damaged or does not fit; the message lists what does not.
        """
        loaded, before = checkpoint.read(path, verify=True, dtype=None), self._state()
        try:
            if loaded.architecture is not None:
                self.model.check_architecture(loaded.architecture)
            self._restore(loaded.arrays, loaded.metadata)
        except BaseException as error:  # MemoryError and Ctrl-C too
            self._restore(*before)
            if isinstance(error, ValueError | TypeError | KeyError | OverflowError):
                raise CheckpointError(f"{path}: {error}") from error
            raise
        if words := self._callback_differences(loaded.arrays, loaded.metadata["trainer"]):
            warnings.warn(f"{path}: {words}", stacklevel=2)

    def _state(self) -> Checkpoint:
        callbacks = self._callbacks()
        arrays = {
            f"{part}.{name}": array
            for part, owner in self._parts(callbacks).items()
            for name, array in owner.state_dict().items()
        }
        metadata = {
            "step": self.step,
            "epoch": self.epoch,
            "at": self._at,
            "examples": len(self._order),
            "drawn_from": self._drawn_from,
            "rng": _rng_state(self.rng),
            "callbacks": {key: bool(c.state_dict()) for key, c in callbacks.items()},
        }
        return Checkpoint(arrays, {"trainer": metadata})

    def _restore(self, arrays: dict[str, Array], metadata: Any) -> None:
        if not isinstance(metadata, dict) or "trainer" not in metadata:
            raise ValueError("expected a file saved by a Trainer")
        state = _checked_state(metadata["trainer"], self.rng)
        own = self._callbacks(numbered="callbacks" not in state)
        there = _saved_callbacks(arrays, state)
        parts = self._parts({key: own[key] for key in own if key in there})
        known = (*(f"{part}." for part in parts), "callbacks.")
        if unexpected := [name for name in arrays if not name.startswith(known)]:
            raise ValueError(f"expected the parts {list(parts)}, got also {unexpected}")
        for part, owner in parts.items():
            try:
                owner.load_state_dict(Checkpoint(arrays, None).part(part))
            except (ValueError, KeyError) as error:
                raise ValueError(f"{part}: {error}") from error
        self.rng.bit_generator.state = state["rng"]
        self.step, self.epoch, self._at = state["step"], state["epoch"], state["at"]
        self._order = np.zeros(state["examples"], np.int64)  # `fit` draws it again
        self._drawn_from = state["drawn_from"]

    def _parts(self, callbacks: Mapping[str, Callback]) -> dict[str, checkpoint.HasState]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "history": self.history,
            **{f"callbacks.{key}": callback for key, callback in callbacks.items()},
        }

    def _callbacks(self, *, numbered: bool = False) -> dict[str, Callback]:
        """Return the callbacks by their keys, by their numbers where a file has no keys."""
        found: dict[str, Callback] = {}
        for i, callback in enumerate(self.callbacks):
            key = str(i) if numbered else callback.key()
            again = sum(name.partition("#")[0] == key for name in found)
            found[f"{key}#{again + 1}" if again else key] = callback
        return found

    def _callback_differences(self, arrays: Mapping[str, Array], state: Mapping[str, Any]) -> str:
        """Return, in words, whose state is left over and whose is missing; "" for nobody's."""
        own = self._callbacks(numbered="callbacks" not in state)
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

    # -- the order of the examples ---------------------------------------------------------------

    def _take_up(self, train: Dataset) -> None:
        """Go on within the epoch that was begun, or prepare for a new one."""
        self._lengths = sorted_by_length(train)[1] if self.pool else None
        if len(self._order) != len(train) or self._drawn_from is None:
            self._order = np.zeros(len(train), np.int64)
            self._at = len(train)
        else:
            self._order = self._draw_order(_generator_in(self._drawn_from, self.rng))

    def _next_examples(self, train: Dataset) -> tuple[list[list[tuple[Any, Any]]], bool]:
        """Return the examples of each batch of the next step, and whether they end the epoch."""
        if self._at == len(self._order):
            self._drawn_from = _rng_state(self.rng)
            self._order = self._draw_order(self.rng)
            self._at = 0
        taken = self._order[self._at :][: self.accumulate * self.batch_size]
        self._at += len(taken)
        return list(batches(train, taken, self.batch_size)), self._at == len(self._order)

    def _draw_order(self, rng: np.random.Generator) -> Array:
        return shuffled(
            len(self._order), self.batch_size, rng, lengths=self._lengths, pool=self.pool
        )

    def _last_step(self, size: int, epochs: int | None, steps: int | None) -> int:
        if (epochs is None) == (steps is None):
            raise ValueError(f"epochs, steps: expected exactly one, got {epochs} and {steps}")
        if steps is not None:
            return _checks.integer("steps", steps, least=0)
        left = _checks.integer("epochs", epochs, least=0) - self.epoch
        a_step = self.accumulate * self.batch_size
        steps_left_in_epoch = -(-(size - self._at % size) // a_step)
        return self.step + (
            steps_left_in_epoch + (left - 1) * -(-size // a_step) if left > 0 else 0
        )

    # -- small helpers -------------------------------------------------------------------------

    def _check_valid(self, valid: Dataset) -> None:
        """Raise now what the first evaluation, many steps from now, would raise."""
        _check_dataset("valid", valid)
        try:
            self._check_keywords(self.collate([valid[0]]))
        except (TypeError, ValueError, LookupError) as error:
            raise type(error)(f"valid: expected one dataset of examples (x, y): {error}") from error

    def _check_keywords(self, batch: Batch) -> None:
        """Raise where ``collate`` tells the model what it does not take, such as lengths."""
        taken = inspect.signature(self.model.forward).parameters
        for name in batch.keywords:
            if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                raise TypeError(
                    f"collate: expected keywords that {type(self.model).__name__}.forward takes "
                    f"({', '.join(taken)}), got {name!r}; data.stack gives none, and "
                    "partial(pad, lengths=(None,)) pads without"
                )

    def _is_due(self, every: int | None, epoch_ended: bool) -> bool:
        return epoch_ended if every is None else self.step % every == 0

    def _call(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *arguments)

    @contextmanager
    def _saves_held(self) -> Iterator[None]:
        """Put off what callbacks save until all of them have been called."""
        self._held = {}
        try:
            yield
            paths = list(self._held)
        finally:
            self._held = None
        for path in paths:
            self.save(path)

    @contextmanager
    def _progress_bar(self, last_step: int) -> Iterator[None]:
        self._bar = _Bar(total=last_step, initial=self.step, disable=not self.progress)
        try:
            yield
        finally:
            self._bar.close()


class _Bar:
    """A progress bar with the loss and the speed, both as moving averages."""

    KEPT = 0.95  # of the past, each step: the first, which may compile kernels, soon fades

    def __init__(self, **settings: Any) -> None:
        self.bar = tqdm(unit="step", dynamic_ncols=True, **settings)
        self.weight = self.loss = self.tokens = self.seconds = 0.0
        self.evaluation = ""

    def show_step(self, loss: float, tokens: int, seconds: float) -> None:
        self.weight = self.KEPT * self.weight + 1
        self.loss = self.KEPT * self.loss + loss
        self.tokens = self.KEPT * self.tokens + tokens
        self.seconds = self.KEPT * self.seconds + seconds
        self._show()
        self.bar.update()

    def show_evaluation(self, result: Mapping[str, float]) -> None:
        self.evaluation = "".join(f", valid {name} {value:.4g}" for name, value in result.items())
        self._show()

    def _show(self) -> None:
        if not self.bar.disable:
            loss, speed = self.loss / self.weight, self.tokens / self.seconds
            self.bar.set_postfix_str(
                f"loss {loss:.4g}, {speed:,.0f} tokens/s{self.evaluation}", refresh=False
            )

    def write(self, text: str) -> None:
        self.bar.write(text)

    def close(self) -> None:
        self.bar.close()


@contextmanager
def _interrupt_stops(trainer: Trainer) -> Iterator[None]:
    """Let the first Ctrl-C stop the trainer after its step; a second one acts as ever."""
    main = threading.current_thread() is threading.main_thread()
    # Only the main thread may handle signals. What is ignored stays so, as in the background of a
    # shell; and a handler that is not Python's, of a program around it, could not be put back.
    if not main or signal.getsignal(signal.SIGINT) in (None, signal.SIG_IGN):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stop(INTERRUPTED)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _check_dataset(name: str, dataset: Any) -> None:
    sequence = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sequence or isinstance(dataset, Mapping):
        kind = type(dataset).__name__
        raise TypeError(f"{name}: expected a sequence of examples (x, y), got a {kind}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")


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
                _generator_in(state[name], rng)
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                raise ValueError(f"{name}: expected a state of {rng}, got {error}") from error
    return state


def _saved_callbacks(arrays: Mapping[str, Array], state: Mapping[str, Any]) -> dict[str, bool]:
    """Return the keys of the callbacks in a file, and whether each remembers something."""
    if "callbacks" in state:
        return dict(state["callbacks"])
    numbers = (name.split(".")[1] for name in arrays if name.startswith("callbacks."))
    return dict.fromkeys(numbers, True)  # an older file


def _rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return the generator's state as JSON; some kinds hold arrays."""
    text = json.dumps(rng.bit_generator.state, default=lambda array: array.tolist())
    state: dict[str, Any] = json.loads(text)
    return state


def _generator_in(state: dict[str, Any], like: np.random.Generator) -> np.random.Generator:
    rng = np.random.Generator(type(like.bit_generator)())
    rng.bit_generator.state = state
    return rng
