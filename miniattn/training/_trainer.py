"""The training loop: batches, gradients, updates, evaluation.

The loop is `Trainer.fit`; one step of it is `Trainer._update`. Everything that decides how training
goes on (parameters, optimiser state, random generator, place in the data) is in
`Trainer.save`, so that a loaded trainer goes on bit for bit as the saved one would have.
"""

import inspect
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from miniattn import _checks, checkpoint
from miniattn._disk import check_writable
from miniattn._typing import Array, MaskLike
from miniattn.checkpoint import Checkpoint, CheckpointError
from miniattn.data import Batch, Dataset, pad, shuffled, sorted_by_length
from miniattn.distributed import Comm
from miniattn.losses import CrossEntropy, Loss
from miniattn.nn import Module
from miniattn.optim import Optimizer, clip_grad_norm, constant
from miniattn.optim._gradients import refuse_infinite
from miniattn.optim._schedules import Schedule
from miniattn.training import _saving
from miniattn.training._augmented import Augment, Augmented
from miniattn.training._callbacks import Callback, PathLike
from miniattn.training._history import History
from miniattn.training._parallel import Parallel, check_all_have, seed_of
from miniattn.training._progress import Bar, interrupt_stops

Collate: TypeAlias = Callable[[Sequence[tuple[Any, Any]]], Batch]


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
    augment : callable (x, rng) -> x, optional
        Changes an example of the training data before it is collated: returns another x. ``rng``
        follows from the epoch and the example alone, so that a resumed training, and one on any
        number of ranks, sees the same.
    mask, bias : optional
        Handed to the model with every batch, for models whose ``forward`` takes them, as
        `models.GPT` does. A mask has to fit batches of every length that there are.
    comm : Comm, optional
        Train together with other processes, each of which makes the same trainer and the same
        calls: ``MPI.COMM_WORLD`` of mpi4py, or what `distributed.simulate` gives. Each batch is
        shared among them; files and the progress bar are left to rank 0. A model that has a
        ``comm`` of its own shares each sequence among those ranks, and batches among the others.
    pieces : int, optional
        With ``comm``: into how many pieces each batch is cut, by default one for each rank. A power
        of two for each rank.

    Attributes
    ----------
    step, epoch : int
        How many steps and whole passes over the data were done.
    history : History
    stopped : str
        Why the last `fit` ended early; empty if it did not.

    Notes
    -----
    With ``comm``, every rank begins a `fit` with what rank 0 has, and has the same parameters after
    every step. A piece's gradient, its dropout and its place in the sum depend on the piece alone:
    with the same ``pieces``, 1, 2, 4 and 8 ranks give the same bits. Cut otherwise, as the default
    does for another number of ranks, sums are rounded otherwise and dropout draws other numbers.
    docs/distributed.md has more.

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
        augment: Augment | None = None,
        mask: MaskLike | Sequence[MaskLike] = None,
        bias: Array | None = None,
        comm: Comm | None = None,
        pieces: int | None = None,
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
        self.augment = None if augment is None else _checks.function("augment", augment)
        given = {"mask": mask, "bias": bias}
        self._options = {name: x for name, x in given.items() if x is not None}
        self._check_options()
        if comm is None and pieces is not None:
            raise ValueError(f"pieces: expected None without comm, got {pieces}")
        check_all_have(self.model, comm)
        self._parallel = None if comm is None else Parallel(self, comm, pieces)

        self.step = 0
        self.epoch = 0
        self.history = History()
        self.stopped = ""
        self._bar = Bar(disable=True)
        self._held: dict[str, None] | None = None  # where callbacks want to save, in their order
        # The present pass over the data. Its order is not saved but drawn again, from the state
        # that the generator had when it was drawn.
        self._order = np.empty(0, np.int64)
        self._at = 0
        self._drawn_from: dict[str, Any] | None = None
        self._lengths: Array | None = None

    def __repr__(self) -> str:
        names = f"{type(self.model).__name__}, {type(self.optimizer).__name__}"
        return f"Trainer({names}, step {self.step}, epoch {self.epoch}, {self.history!r})"

    def _repr_html_(self) -> str:
        from miniattn import _rich

        return _rich.of_trainer(self)

    # -- the loop ------------------------------------------------------------------------------

    def fit(
        self,
        train: Dataset,
        *,
        valid: Dataset | Mapping[str, Dataset] | None = None,
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
        valid : Dataset or dict of str to Dataset, optional
            Evaluated during training, into ``history["valid_..."]``. Of several by name, metrics
            are called ``"valid_<name>_..."``, and ``"<name>_loss"`` to callbacks.
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
        ValueError
            If ranks differ in an argument or a setting; it is named.

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
        for name, one in _by_name(valid).items():
            self._check_valid(f"valid[{name!r}]" if name else "valid", one)
        if save_to is not None and self.is_main:
            check_writable("save_to", save_to)
        if self._parallel is not None:
            given = {"epochs": epochs, "steps": steps, "evaluate_every": evaluate_every}
            sizes = {"train": len(train), "valid": [len(one) for one in _by_name(valid).values()]}
            self._parallel.begin(self, {**given, **sizes, "save_every": save_every})
        self._take_up(train)
        last_step = self._last_step(len(train), epochs, steps)
        self.stopped = ""

        with interrupt_stops(self), self._progress_bar(last_step):
            with self._saves_held():
                self._call("on_start")
            while self.step < last_step and not self._is_stopped():
                step, epoch_ended = self._next_examples()
                self._update(train, step)
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
        if self._parallel is not None:
            self._parallel.together()  # what rank 0 has saved, all may read
        return self.history

    def _update(self, train: Dataset, step: Sequence[Array]) -> None:
        """Make one step: the gradient of the mean over all targets that count, and an update."""
        started = time.perf_counter()
        if self.augment is not None:
            train = Augmented(train, self.augment, seed_of(self._drawn_from))
        if self._parallel is None:
            loss, tokens = self._gradient(train, step)
        else:
            loss, tokens = self._parallel.gradient(self, train, step)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss: expected a finite number, got {loss} in "
                f"step {self.step}; the model is as it was before"
            )

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
        self._bar.show_step(loss, tokens, time.perf_counter() - started)

    def _gradient(self, train: Dataset, step: Sequence[Array]) -> tuple[float, int]:
        """Give every parameter the gradient of a step; return the loss and the tokens.

        ``step`` has, for each batch, the numbers of its examples.
        """
        step_batches = [self._batch(train, part) for part in step]
        counts = [self.loss.count(batch.targets) for batch in step_batches]
        loss = 0.0
        self.model.zero_grad()
        for batch, count in zip(step_batches, counts, strict=True):
            loss += self._forward_backward(batch, count / (sum(counts) or 1), self.rng)
            if not math.isfinite(loss):
                break
        return loss, sum(batch.num_tokens for batch in step_batches)

    def _forward_backward(
        self,
        batch: Batch,
        share: float,
        rng: np.random.Generator,
        goes_on: Callable[[float], bool] = math.isfinite,
    ) -> float:
        """Add the gradient of a batch, weighted; return its weighted loss.

        There is no backward where ``goes_on`` says so of the loss: if it is not finite.
        """
        self._check_keywords(batch)
        keywords = {**self._options, **batch.keywords}
        outputs, ctx = self.model.forward(*batch.inputs, **keywords, rng=rng)
        loss, loss_ctx = self.loss.forward(outputs, batch.targets)
        if goes_on(loss):
            self.model.backward(self.loss.backward(share, loss_ctx), ctx)
        return share * loss

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
            dropout; nothing in the trainer changes. With ``comm``, every rank calls it and does its
            share of the batches.
        """
        _check_dataset("dataset", dataset)
        if batch_size is None:
            batch_size = self.batch_size
        _checks.integer("batch_size", batch_size, least=1)
        order, _ = sorted_by_length(dataset)
        parts = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        if self._parallel is None:
            measured = [self._measure(dataset, part) for part in parts]
        else:
            measured = self._parallel.measured(self, dataset, parts)
        sums: dict[str, float] = {}
        for count, means in measured:
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + count * mean
        total = sum(count for count, _ in measured) or 1
        return {name: value / total for name, value in sums.items()}

    def _measure(self, dataset: Dataset, part: Array) -> tuple[float, dict[str, float]]:
        """Return what the targets of some examples count, and the means over them."""
        batch = self._batch(dataset, part)
        self._check_keywords(batch)
        outputs = self.model(*batch.inputs, **self._options, **batch.keywords)
        loss, _ = self.loss.forward(outputs, batch.targets)
        means = {"loss": loss, **self.loss.metrics(outputs, batch.targets)}
        return self.loss.count(batch.targets), means

    def _evaluate_in_training(self, valid: Dataset | Mapping[str, Dataset]) -> None:
        self._call("before_evaluation")
        result: dict[str, float] = {}
        for name, one in _by_name(valid).items():
            measured = self.evaluate(one)
            result |= {f"{name}_{key}" if name else key: x for key, x in measured.items()}
        self.history.add(self.step, {f"valid_{name}": value for name, value in result.items()})
        self._bar.show_evaluation(result)
        self._call("on_evaluation", result)

    def stop(self, reason: str) -> None:
        """End `fit` after the present step; ``stopped`` then holds the reason.

        A later `fit` goes on, unless a callback stops it in ``on_start``.
        """
        self.stopped = reason

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and to the screen: rank 0, or the only one."""
        return self._parallel is None or self._parallel.rank == 0

    def write(self, text: str) -> None:
        """Print a line above the progress bar; of several ranks, rank 0 does."""
        if self.is_main:
            self._bar.write(text)

    # -- saving and going on -------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Save everything that decides how training goes on; see `checkpoint.save`.

        The file has the parts ``model``, ``optimizer``, ``history`` and ``callbacks``; its model is
        built by `models.load`. Called by a callback, it saves once all callbacks of the step were
        called, so that what each of them remembers belongs to the same step. Of several ranks, rank
        0 saves; the file goes on with any number of them.
        """
        if not self.is_main:
            return
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
            _saving.restore(self, loaded.arrays, loaded.metadata)
        except BaseException as error:  # MemoryError and Ctrl-C too
            _saving.restore(self, before.arrays, before.metadata)
            if isinstance(error, ValueError | TypeError | KeyError | OverflowError):
                raise CheckpointError(f"{path}: {error}") from error
            raise
        if words := _saving.differences(self, loaded.arrays, loaded.metadata["trainer"]):
            warnings.warn(f"{path}: {words}", stacklevel=2)

    def _state(self) -> Checkpoint:
        return _saving.state_of(self)

    # -- the order of the examples ---------------------------------------------------------------

    def _take_up(self, train: Dataset) -> None:
        """Go on within the epoch that was begun, or prepare for a new one."""
        self._lengths = sorted_by_length(train)[1] if self.pool else None
        if len(self._order) != len(train) or self._drawn_from is None:
            self._order = np.zeros(len(train), np.int64)
            self._at = len(train)
        else:
            self._order = self._draw_order(_saving.generator_in(self._drawn_from, self.rng))

    def _next_examples(self) -> tuple[list[Array], bool]:
        """Return which examples each batch of the next step has, and whether they end the epoch."""
        if self._at == len(self._order):
            self._drawn_from = _saving.rng_state(self.rng)
            self._order = self._draw_order(self.rng)
            self._at = 0
        taken = self._order[self._at :][: self.accumulate * self.batch_size]
        self._at += len(taken)
        parts = [taken[at : at + self.batch_size] for at in range(0, len(taken), self.batch_size)]
        return parts, self._at == len(self._order)

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

    def _check_valid(self, name: str, valid: Dataset) -> None:
        """Raise now what the first evaluation, many steps from now, would raise."""
        _check_dataset(name, valid)
        try:
            self._check_keywords(self.collate([valid[0]]))
        except (TypeError, ValueError, LookupError) as error:
            raise type(error)(
                f"{name}: expected one dataset of examples (x, y): {error}"
            ) from error

    def _check_options(self) -> None:
        """Raise where a mask or a bias is given for a model that takes none."""
        taken = inspect.signature(self.model.forward).parameters
        for name in self._options:
            if name not in taken and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
                raise TypeError(
                    f"{name}: expected None, because {type(self.model).__name__}.forward takes "
                    f"{', '.join(taken)}"
                )

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

    def _batch(self, dataset: Dataset, part: Array) -> Batch:
        """Return what a model is given of some examples: of each, its own part of the sequence."""
        batch = self.collate([dataset[int(i)] for i in part])
        return batch if self._parallel is None else self._parallel.own_part(batch)

    def _is_stopped(self) -> bool:
        """Return whether there is a reason to stop; where there is one on any rank, all do."""
        if self._parallel is not None:
            self.stopped = self._parallel.stopped(self.stopped)
        return bool(self.stopped)

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
        self._bar = Bar(
            total=last_step, initial=self.step, disable=not (self.progress and self.is_main)
        )
        try:
            yield
        finally:
            self._bar.close()


def _by_name(valid: Dataset | Mapping[str, Dataset] | None) -> Mapping[str, Dataset]:
    """Return validation sets by name; one that was given alone has none."""
    if valid is None:
        return {}
    if not isinstance(valid, Mapping):
        return {"": valid}
    if wrong := [name for name in valid if not isinstance(name, str) or not name.isidentifier()]:
        raise ValueError(f"valid: expected names that are identifiers, got {wrong[0]!r}")
    return valid


def _check_dataset(name: str, dataset: Any) -> None:
    sequence = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not sequence or isinstance(dataset, Mapping):
        kind = type(dataset).__name__
        raise TypeError(f"{name}: expected a sequence of examples (x, y), got a {kind}")
    if len(dataset) == 0:
        raise ValueError(f"{name}: expected at least one example, got none")
