"""ProgressLine: one line that says where the whole run stands. PlainProgress: the same without a terminal's arts.

    step 400/1,500   27 %  ━━━━━────────────  loss 1.104  val 1.032  21,500 tokens/s  1 min 20 s elapsed  3 min 41 s left (3 min 20 to
    4 min 10), ends 14:32

The time left is that of the run, not of an epoch: with validation, sampling and saving, and at once after a resume. On a terminal the line
is drawn over itself, and one is kept after each validation; in a notebook it changes in place; in a file, a pipe or a log there is a
new one every few seconds. When: a run is counted in steps (Lightning's bars count batches of an epoch). Cost: some microseconds a step;
twice a second what was logged is read, for which a GPU is waited for.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from musictrain.data.accumulation import rule_of, steps_of_run
from musictrain.runs.eta import Eta, Plan
from musictrain.runs.standing import Standing
from musictrain.speed.eta_clock import EtaClock, plan_of, time_limit
from musictrain.speed.live_line import Display, check_style, new_display
from musictrain.speed.phases import listen, phase, stop_listening

log = logging.getLogger(__name__)

STATES = {"step": "", "validation": "validating", "sampling": "sampling", "saving": "saving"}
VALUES_SECONDS = 0.5


class ProgressLine(ProgressBar):
    """Shows where the run stands; only the first process does.

    The time left comes from a callback that has an :class:`~musictrain.runs.eta.Eta` as its ``eta`` (RunRecorder), else from an own one,
    which is part of the checkpoints. Elapsed is the training time of all attempts, that callback's ``elapsed_seconds`` if it has any.

    Args:
        every_seconds: least time between two lines; None is 10 seconds, 1 in a notebook. A terminal draws four times a second.
        stream: where to, standard output if left out.
        style: ``live`` (a terminal's line), ``notebook``, ``plain``, or ``auto`` for what suits.

    Raises:
        ValueError: if ``every_seconds`` is negative or ``style`` unknown.
    """

    def __init__(self, every_seconds: float | None = None, stream: TextIO | None = None, style: str = "auto") -> None:
        super().__init__()
        if every_seconds is not None and every_seconds < 0:
            raise ValueError(f"{type(self).__name__} got every_seconds={every_seconds}; it needs 0 (every step) or more.")
        check_style(style, type(self).__name__)
        self.every_seconds, self.style = every_seconds, style
        self._stream = stream
        self._enabled = True
        self._clock = EtaClock(Eta())
        self._display: Display | None = None
        self._undo: list[Callable[[], None]] = []
        self._forget()

    def _forget(self) -> None:
        self._step, self._total = 0, None  # type: tuple[int, int | None]
        self._plan, self._told = Plan(), self._clock.eta
        self._elapsed_of: Any = self._clock
        self._values: dict[str, float] = {}
        self._drawn = self._read = self._limited = -math.inf
        self._kept_step, self._over = -1, False

    # What Lightning asks of a progress bar.

    @property
    def is_enabled(self) -> bool:
        """Whether it is shown; ``LightningModule.print`` asks."""
        return self._enabled

    def enable(self) -> None:
        """Show it."""
        self._enabled = True

    def disable(self) -> None:
        """Do not show it: what Lightning tells every process but the first."""
        self._enabled = False
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """What the training code prints stands above the line, or between the lines."""
        if self._enabled:
            display = self._display or new_display(lambda: None, self._stream, "plain")
            display.print(*args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """The time that has elapsed, and what the estimate rests on if that is this callback's own."""
        return self._clock.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; nothing happens with the state of another kind of progress bar."""
        if "elapsed_seconds" in state_dict:
            self._clock.load_state_dict(state_dict)

    # The hooks.

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time and the number of steps in all; after a resume say at once where the run stands."""
        self._let_go()
        self._forget()
        keeper = _keeper_of_time(trainer, self)
        self._told = (self._clock.eta or Eta()) if keeper is None else keeper.eta
        self._clock.eta = self._told if keeper is None else None
        self._elapsed_of = keeper if hasattr(keeper, "elapsed_seconds") else self._clock
        self._step, self._total = trainer.global_step, steps_of_run(trainer)
        self._plan = _plan(trainer)
        self._clock.start(trainer.global_step)
        listen(self._clock)
        self._undo = [lambda: stop_listening(self._clock), _watch_saving(trainer)]
        if self._enabled:
            self._look(trainer)
            self._open()
            if self._step:
                self._show(kept=True)
        self._drawn = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Keep the time; a line if it is time for one."""
        self._step = trainer.global_step
        self._clock.step(self._step)
        now = time.monotonic()
        if self._display is None:
            return
        due = now - self._drawn >= self._display.redraw_seconds
        if due or now - self._read >= VALUES_SECONDS:
            self._look(trainer)
        if due:
            self._show()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training rests."""
        if _counts(trainer):
            self._clock.enter("validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A line with the new score."""
        if _counts(trainer):
            self._clock.leave("validation")
            self._look(trainer)
            self._show(kept=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last line, unless a validation has just printed it; what follows, such as samples, is still shown where lines change."""
        self._step = trainer.global_step
        if self._kept_step != self._step:
            self._look(trainer)
            self._show(kept=True)
        self._over = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._let_go()

    # The line.

    def _standing(self) -> Standing | None:
        """What there is to show; the terminal's thread asks, so that nothing here touches the trainer."""
        kind, seconds = self._clock.running()
        if self._over and kind == "step":
            return None
        estimate = self._told.left(self._step, self._total, self._plan, (kind, seconds)) if self._told is not None else None
        if self._over and estimate is not None and not estimate.seconds:
            estimate = None  # what follows was never seen before
        return Standing(self._step, self._total, self._elapsed_of.elapsed_seconds, estimate, self._values, STATES[kind], time.time())

    def _look(self, trainer: Trainer) -> None:
        """Read what was logged and what a Timer leaves."""
        self._read = time.monotonic()
        self._plan = replace(self._plan, limit_seconds=time_limit(trainer))
        values: dict[str, float] = {}
        for key, value in {**trainer.callback_metrics, **trainer.logged_metrics}.items():
            with contextlib.suppress(TypeError, ValueError, RuntimeError):
                values[key] = float(value)
        self._values = values

    def _open(self) -> None:
        with self._whatever_happens():
            self._display = new_display(self._standing, self._stream, self.style, self.every_seconds)

    def _show(self, kept: bool = False) -> None:
        if self._display is None:
            return
        self._drawn = time.monotonic()
        self._kept_step = self._step if kept or self._display.redraws_stay else self._kept_step
        with self._whatever_happens():
            if kept:
                self._display.keep()
            else:
                self._display.redraw()

    @contextlib.contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        """A terminal that is gone, a pipe that nobody reads, or letters that it does not take: training goes on without the line."""
        try:
            yield
        except (OSError, ValueError) as error:
            log.warning("The progress line cannot be shown any more, and training goes on without it: %s", error)
            self._close()

    def _let_go(self) -> None:
        self._clock.stop()
        while self._undo:
            self._undo.pop()()
        self._close()

    def _close(self) -> None:
        display, self._display = self._display, None
        if display is not None:
            with contextlib.suppress(OSError, ValueError):
                display.close()


class PlainProgress(ProgressLine):
    """Prints a line every so often and one after each validation, wherever it is.

    Args:
        every_seconds: least time between two lines; None is 10 seconds, half a second on a terminal, where it is written over itself.
        stream: where to, standard output if left out.

    Raises:
        ValueError: if ``every_seconds`` is negative.
    """

    def __init__(self, every_seconds: float | None = None, stream: TextIO | None = None) -> None:
        super().__init__(every_seconds, stream, "plain")


def _counts(trainer: Trainer) -> bool:
    return not trainer.sanity_checking and trainer.state.fn == "fit"


def _keeper_of_time(trainer: Trainer, me: ProgressLine) -> Any:
    """The first other callback that has an Eta, None without."""
    others = (callback for callback in trainer.callbacks if callback is not me)  # type: ignore[attr-defined]
    return next((other for other in others if isinstance(getattr(other, "eta", None), Eta)), None)


def _plan(trainer: Trainer) -> Plan:
    rule, batches = rule_of(trainer), trainer.num_training_batches
    per_epoch = rule.steps_of(int(batches), 1) if math.isfinite(batches) else None
    return plan_of(trainer, batches_per_step=rule.at(trainer.global_step), steps_per_epoch=per_epoch)


def _watch_saving(trainer: Trainer) -> Callable[[], None]:
    """Let every save be known as one, unless somebody sees to that already; gives back how to undo it."""
    if "save_checkpoint" in vars(trainer):
        return lambda: None
    trainer.save_checkpoint = phase("saving")(trainer.save_checkpoint)  # type: ignore[method-assign]
    return lambda: vars(trainer).pop("save_checkpoint", None)
