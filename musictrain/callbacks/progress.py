"""PlainProgress: one line that says where the whole run stands.

    step 400/1,500  27 %  loss 1.104  val 1.032  21,500 tokens/s  1 min 20 s elapsed  3 min 41 s left

On a terminal the line is written over itself and kept after each validation; in a file, a pipe or a log there is a new one every few
seconds. When: a run is counted in steps (Lightning's bars count batches of an epoch). Cost: nothing between the lines, which read
values that were logged anyway.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from dataclasses import dataclass
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer

from musictrain.data.accumulation import steps_of_run


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        step: optimizer steps done.
        total: optimizer steps in all, infinite if there is no such limit.
        elapsed_seconds: since this process began to train.
        left_seconds: until the end, infinite if nobody can tell.
        values: what was logged last.
    """

    step: int
    total: float
    elapsed_seconds: float
    left_seconds: float
    values: dict[str, float]

    def line(self) -> str:
        """One line without colour; what is unknown is left out."""
        bounded = math.isfinite(self.total)
        parts = [f"step {self.step:,}/{int(self.total):,}" if bounded else f"step {self.step:,}"]
        parts += [f"{100 * self.step / max(self.total, 1):3.0f} %"] if bounded else []
        parts += [f"{label} {self.values[key]:.4g}" for key, label in (("train/loss", "loss"), ("val/loss", "val")) if key in self.values]
        parts += [f"{self.values['train/tokens_per_second']:,.0f} tokens/s"] if "train/tokens_per_second" in self.values else []
        parts += [f"{duration(self.elapsed_seconds)} elapsed"]
        parts += [f"{duration(self.left_seconds)} left"] if math.isfinite(self.left_seconds) else []
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time span in the two largest units that matter.

    >>> duration(7), duration(200), duration(7500), duration(200_000)
    ('7 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for unit, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small_name}"
    return f"{whole} s"


class PlainProgress(ProgressBar):
    """Prints a line every so often and one after each validation; only the first process does.

    Args:
        every_seconds: least time between two lines; None is 10 seconds, and half a second on a terminal.
        stream: where to, standard output if left out.

    Raises:
        ValueError: if ``every_seconds`` is negative.
    """

    def __init__(self, every_seconds: float | None = None, stream: TextIO | None = None) -> None:
        super().__init__()
        if every_seconds is not None and every_seconds < 0:
            raise ValueError(f"PlainProgress got every_seconds={every_seconds}; it needs 0 (every step) or more.")
        self.every_seconds = every_seconds
        self._stream = stream
        self._enabled = True
        self._began = self._printed = time.monotonic()
        self._first_step = 0
        self._kept_step = -1
        self._total = math.inf

    def enable(self) -> None:
        """Print."""
        self._enabled = True

    def disable(self) -> None:
        """Do not print: what Lightning tells every process but the first."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """What the training code prints stands between the lines."""
        if self._enabled:
            print(*args, **{"file": self._stream or sys.stdout, "flush": True, **kwargs})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time and the number of steps in all."""
        self._began = self._printed = time.monotonic()
        self._first_step = trainer.global_step
        total = steps_of_run(trainer)
        self._total = math.inf if total is None else float(total)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """A line if it is time for one."""
        every = self.every_seconds if self.every_seconds is not None else (0.5 if self._on_terminal else 10.0)
        if time.monotonic() - self._printed >= every:
            self._print_line(trainer, lasting=not self._on_terminal)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A line with the new score."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._print_line(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last line, unless a validation has just printed it."""
        if self._kept_step != trainer.global_step:
            self._print_line(trainer)

    @property
    def _on_terminal(self) -> bool:
        return (self._stream or sys.stdout).isatty()

    def _print_line(self, trainer: Trainer, lasting: bool = True) -> None:
        self._printed = time.monotonic()
        self._kept_step = trainer.global_step if lasting else self._kept_step
        line = self._progress(trainer).line()
        if self._on_terminal:
            # Back to the margin, and erase what an earlier, longer line left.
            line = "\r" + line[: shutil.get_terminal_size().columns - 1] + "\033[K"
        self.print(line, end="\n" if lasting else "")

    def _progress(self, trainer: Trainer) -> Progress:
        elapsed = time.monotonic() - self._began
        done = trainer.global_step - self._first_step
        by_steps = elapsed / done * (self._total - trainer.global_step) if done else math.inf
        left = min([by_steps, *_timers(trainer)])
        values = {key: float(value) for key, value in {**trainer.callback_metrics, **trainer.logged_metrics}.items()}
        return Progress(trainer.global_step, self._total, elapsed, left, values)


def _timers(trainer: Trainer) -> list[float]:
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return [seconds for seconds in left if seconds is not None]
