"""What is measured, written where other programs read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniattn import _checks
from miniattn._disk import check_writable, replacing
from miniattn.training._callbacks import Callback, PathLike

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


class CSVLog(Callback):
    """Writes the history as a table: a row for each step, a column for each quantity.

    At every evaluation and at the end the file is written anew, whole or not at all; a resumed
    training has one file, with every step once.

    Parameters
    ----------
    path : path

    Examples
    --------
    >>> from miniattn.training import CSVLog
    >>> callbacks = [CSVLog("run.csv")]
    """

    def __init__(self, path: PathLike) -> None:
        self.path = _checks.path("path", path)

    def on_start(self, trainer: Trainer) -> None:
        """See that the file can be written, before the work begins."""
        if trainer.is_main:
            check_writable("path", self.path)

    def on_evaluation(self, trainer: Trainer, result: Mapping[str, float]) -> None:
        """Write what there is so far."""
        self.on_end(trainer)

    def on_end(self, trainer: Trainer) -> None:
        """Write all there is."""
        if not trainer.is_main:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["step", *trainer.history], lineterminator="\n")
        writer.writeheader()
        writer.writerows(trainer.history.records())
        with replacing(self.path) as file:
            file.write(text.getvalue().encode())


class TensorBoard(Callback):
    """Writes every quantity as a scalar that TensorBoard draws.

    Needs the library tensorboard: ``pip install "miniattn[tensorboard]"``; then
    ``tensorboard --logdir FOLDER`` shows it.

    Parameters
    ----------
    folder : path
        A folder for each run, beside those of others. A resumed training adds to it.

    Raises
    ------
    ModuleNotFoundError
        If the library is not installed.

    Examples
    --------
    >>> from miniattn.training import TensorBoard
    >>> callbacks = [TensorBoard("runs/first")]  # doctest: +SKIP
    """

    def __init__(self, folder: PathLike) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise ModuleNotFoundError(
                "TensorBoard: expected the library tensorboard, which is not installed; "
                'pip install "miniattn[tensorboard]"',
                name="tensorboard",
            ) from error
        self.folder = _checks.path("folder", folder)
        self._writer: Any = Writer
        self._open: Any = None
        self._written: dict[str, int] = {}  # the last step of each quantity that is in the file

    def on_start(self, trainer: Trainer) -> None:
        """Open a file; what was measured before is in an earlier one."""
        if trainer.is_main:
            self._open = self._writer(str(self.folder))
            self._written = {name: int(trainer.history[name].steps[-1]) for name in trainer.history}

    def on_evaluation(self, trainer: Trainer, result: Mapping[str, float]) -> None:
        """Write what came since the last time."""
        if self._open is None:
            return
        for name in trainer.history:
            series = trainer.history[name]
            new = series.steps > self._written.get(name, 0)
            for step, value in zip(series.steps[new], series.values[new], strict=True):
                self._open.add_scalar(name, value, int(step))
                self._written[name] = int(step)
        self._open.flush()

    def on_end(self, trainer: Trainer) -> None:
        """Write the rest, and close the file."""
        self.on_evaluation(trainer, {})
        if self._open is not None:
            self._open.close()
            self._open = None
