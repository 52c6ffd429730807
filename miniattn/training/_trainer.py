"""The training loop: batches, gradients, updates, evaluation.

The loop is `Trainer.fit`; one step of it is `Trainer._update`. Everything that decides how training
goes on (parameters, optimiser state, random generator, place in the data) is in
`Trainer.save`, so that a loaded trainer goes on bit for bit as the saved one would have.
"""

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from miniattn import _checks, checkpoint
from miniattn._disk import check_writable
from miniattn._typing import Array, MaskLike
from miniattn.checkpoint import Checkpoint
from miniattn.data import Dataset, pad, sorted_by_length
from miniattn.distributed import Comm
from miniattn.losses import CrossEntropy, Loss
from miniattn.nn import Module
from miniattn.optim import Optimizer, constant
from miniattn.optim._schedules import Schedule
from miniattn.training import _batches, _saving
from miniattn.training._augmented import Augment, Augmented
from miniattn.training._callbacks import Callback, PathLike
from miniattn.training._history import History
from miniattn.training._order import Order
from miniattn.training._parallel import parallel
from miniattn.training._progress import Bar, interrupt_stops


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
        collate: _batches.Collate = pad,
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
        self._options = _batches.options(self.model, mask=mask, bias=bias)
        self._parallel = parallel(self, comm, pieces)

        self.step = 0
        self.epoch = 0
        self.history = History()
        self.stopped = ""
        self._bar = Bar(disable=True)
        self._held: dict[str, None] | None = None  # where callbacks want to save, in their order
        self._order = Order()

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
        _batches.check_dataset("train", train)
        for name, every in (("evaluate_every", evaluate_every), ("save_every", save_every)):
            if every is not None:
                _checks.integer(name, every, least=1)
        apart = _batches.by_name(valid)
        for name, one in apart.items():
            _batches.check_valid(self, f"valid[{name!r}]" if name else "valid", one)
        if save_to is not None and self.is_main:
            check_writable("save_to", save_to)
        if self._parallel is not None:
            given = {"epochs": epochs, "steps": steps, "evaluate_every": evaluate_every}
            sizes = {"train": len(train), "valid": [len(one) for one in apart.values()]}
            self._parallel.begin(self, {**given, **sizes, "save_every": save_every})
        self._order.take_up(self, train)
        last_step = self._order.last_step(self, epochs, steps)
        self.stopped = ""

        shown = self.progress and self.is_main
        self._bar = Bar(total=last_step, initial=self.step, disable=not shown)
        with interrupt_stops(self), closing(self._bar):
            with _saving.held(self):
                self._call("on_start")
            while self.step < last_step and not self._is_stopped():
                step, epoch_ended = self._order.next_step(self)
                self._update(train, step)
                self.epoch += epoch_ended
                with _saving.held(self):
                    self._call("on_step")
                    if valid is not None and self._is_due(evaluate_every, epoch_ended):
                        self._evaluate_in_training(apart)
                    if epoch_ended:
                        self._call("on_epoch")
                if save_to is not None and self._is_due(save_every, epoch_ended):
                    self.save(save_to)
            with _saving.held(self):
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
            train = Augmented(train, self.augment, self._order.seed())
        if self._parallel is None:
            loss, tokens = _batches.gradient(self, train, step)
        else:
            loss, tokens = self._parallel.gradient(self, train, step)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"loss: expected a finite number, got {loss} in "
                f"step {self.step}; the model is as it was before"
            )

        measured = _batches.moved(self)
        self.step += 1
        self.history.add(self.step, {"loss": loss, **measured})
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
            dropout; nothing in the trainer changes. With ``comm``, every rank calls it and does its
            share of the batches.
        """
        _batches.check_dataset("dataset", dataset)
        if batch_size is None:
            batch_size = self.batch_size
        _checks.integer("batch_size", batch_size, least=1)
        order, _ = sorted_by_length(dataset)
        parts = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        if self._parallel is None:
            measured = [_batches.measure(self, dataset, part) for part in parts]
        else:
            measured = self._parallel.measured(self, dataset, parts)
        return _batches.means(measured)

    def _evaluate_in_training(self, valid: Mapping[str, Dataset]) -> None:
        self._call("before_evaluation")
        result: dict[str, float] = {}
        for name, one in valid.items():
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
        if words := _saving.load(self, path):
            warnings.warn(f"{path}: {words}", stacklevel=2)

    def _state(self) -> Checkpoint:
        return _saving.state_of(self)

    # -- small helpers -------------------------------------------------------------------------

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
