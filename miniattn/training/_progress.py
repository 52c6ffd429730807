"""What the person at the keyboard sees of training, and may do: a bar, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from miniattn.training._callbacks import INTERRUPTED

if TYPE_CHECKING:
    from miniattn.training._trainer import Trainer


class Bar:
    """A progress bar with the loss and the speed, both as moving averages.

    Its clock starts after the first step: what that one compiles says nothing of the others, and
    seconds of it became hours of all steps.
    """

    KEPT = 0.95  # of the past, each step

    def __init__(self, **settings: Any) -> None:
        self.bar = tqdm(unit="step", dynamic_ncols=True, **settings)
        self.weight = self.loss = self.tokens = self.seconds = 0.0
        self.evaluation = ""
        self.steps = 0  # that it has seen

    def show_step(self, loss: float, tokens: int, seconds: float) -> None:
        self.weight = self.KEPT * self.weight + 1
        self.loss = self.KEPT * self.loss + loss
        if self.steps == 1:
            self.tokens = self.seconds = 0.0
        self.tokens = self.KEPT * self.tokens + tokens
        self.seconds = self.KEPT * self.seconds + seconds
        self._show()
        self.steps += 1
        if self.steps == 1 and not self.bar.disable:
            self._start_here()
        else:
            self.bar.update()

    def _start_here(self) -> None:
        """Count a step, and let the clock start after it."""
        bar = self.bar
        bar.n += 1
        bar.initial = bar.last_print_n = bar.n
        bar.start_t = bar.last_print_t = time.time()
        bar.refresh()

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
def interrupt_stops(trainer: Trainer) -> Iterator[None]:
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
