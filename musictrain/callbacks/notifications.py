"""Notifications: word of a run to people who are not watching it, on the terminal, in a file and by mail.

What: start, finish, failure (also an interruption), alerts, and each new best value. When: a run takes longer than you sit beside it. Cost:
nothing between the events; mails are sent by a thread of their own, and a server that hangs, refuses or is gone costs one warning, and
``wait_seconds`` at the end of the run. Only the first process tells. Try your settings with ``musictrain notify --test``.
"""

from __future__ import annotations

import logging
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.checkpoints.trainer_state import veto_of
from musictrain.data.accumulation import steps_of_run
from musictrain.notifications.mail_settings import MailSettings
from musictrain.notifications.messages import EVENTS, Message, number_of
from musictrain.notifications.outbox import Outbox
from musictrain.runs import RunFolder
from musictrain.runs.alerts import alert_of
from musictrain.runs.endings import paused_after
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.log_lines import message_of, one_line, shortened
from musictrain.runs.rollbacks import RolledBack
from musictrain.runs.secrets import hidden, hide
from musictrain.runs.status import read_status
from musictrain.runs.writer import RecordWriter
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

FILE_NAME = "notifications.jsonl"
MOST_SHOWN = 2_000
# Lightning's launcher says so to its log, and a moment later ends this process too.
LOST_PROCESS = re.compile(r"Child process with PID \d+ terminated with code -?\d+")


class Notifications(Callback):
    """Tells people what happens.

    Args:
        mail: how mail is sent; None for no mail.
        file: where each message is added as a line of JSON: a path, or True for ``notifications.jsonl`` in the run folder.
        console: whether each message is a line on the terminal.
        events: which ones are told: start, finish, failure, alert, best.
        metric: whose new best values are told.
        mode: whether the best value of ``metric`` is the lowest (``min``) or the highest (``max``).
        wait_seconds: how long the end of the run may wait for the last mail.

    Raises:
        ValueError: if nothing would be told, an event or a mode is unknown, or ``wait_seconds`` is negative.
    """

    def __init__(
        self,
        mail: MailSettings | None = None,
        file: bool | str | Path = False,
        console: bool = True,
        events: Sequence[Literal["start", "finish", "failure", "alert", "best"]] = EVENTS,  # type: ignore[assignment]
        metric: str = BEST_METRIC,
        mode: Literal["min", "max"] = "min",
        wait_seconds: float = 15.0,
    ) -> None:
        self.events = [events] if isinstance(events, str) else list(events)
        check(self.events, mode, wait_seconds, anywhere=mail is not None or bool(file) or console)
        self.mail, self.file, self.console = mail, file, console
        self.metric, self.mode, self.wait_seconds = metric, mode, wait_seconds
        self._best: float | None = None
        self._candidate: float | None = None
        self._trainer: Trainer | None = None
        self._run: RunFolder | None = None
        self._total: int | None = None
        self._outbox: Outbox | None = None
        self._lines: RecordWriter | None = None
        self._ears = Ears(self)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, so that a resume does not tell of an older one again."""
        return {"best": self._best if self._candidate is None or self._is_vetoed() else self._candidate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._best = state_dict.get("best")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the ways by which messages go."""
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._open(trainer, RunFolder(Path(folder)))

    def _open(self, trainer: Trainer, run: RunFolder) -> None:
        self._trainer, self._run = trainer, run
        if self.file:
            path = run.path / FILE_NAME if self.file is True else Path(self.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = RecordWriter(path)
        if self.mail is not None:
            if problem := self.mail.problem():
                log.warning("No mail will be sent: %s", problem)
            else:
                self._outbox = Outbox(self.mail)
        self._ears.listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that it begins, or goes on."""
        self._total = steps_of_run(trainer) if self._run is not None else None
        begins = "started" if trainer.global_step == 0 else f"went on after step {trainer.global_step:,}"
        self.tell("start", f"Training {begins}.", machine=socket.gethostname(), processes=trainer.world_size)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a new best value; it is told once every callback has had its word on it."""
        value = number_of(trainer.callback_metrics.get(self.metric)) if self._run is not None and not trainer.sanity_checking else None
        if value is None or value != value:
            return
        if self._best is None or (value < self._best if self.mode == "min" else value > self._best):
            self._candidate = value

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Tell of a new best value."""
        self._tell_best()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of a last one."""
        self._tell_best()

    def _tell_best(self) -> None:
        value, self._candidate = self._candidate, None
        if value is None or self._is_vetoed():
            return
        before, self._best = self._best, value
        was = f" (before: {before:.5g})" if before is not None else ""
        self.tell("best", f"New best {self.metric}: {value:.5g}{was}.", metric=self.metric, value=value)

    def _is_vetoed(self) -> bool:
        return self._trainer is not None and bool(veto_of(self._trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that it is done."""
        early = self._total is not None and trainer.global_step < self._total
        of = f" of {self._total:,}" if early and self._total is not None else ""
        best = {f"best {self.metric}": self._best} if self._best is not None else {}
        self.tell("finish", f"Training {'stopped' if early else 'finished'} after {trainer.global_step:,}{of} steps.", **best)
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell why it ended, and wait for that to be sent: nothing of the training is left to be held up."""
        if isinstance(exception, RolledBack) or paused_after(exception) is not None:
            self.close()  # it goes on, and what was wrong was told; or it was asked to rest
            return
        self._tell_failure(exception, trainer.global_step)

    def on_end_between_fits(self, trainer: Trainer, run: RunFolder, error: BaseException) -> None:
        """Tell the same of a run that has gone back and could not be fitted again."""
        if self._run is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            status = read_status(run.status)
            self._open(trainer, run)
            self._tell_failure(error, status.step if status is not None else trainer.global_step)

    def _tell_failure(self, error: BaseException, step: int) -> None:
        how = "was interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        self.tell("failure", f"Training {how} after {step:,} steps: {reason}", step=step)
        self.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hear no more."""
        self.close()

    def tell(self, event: str, what: str, **details: Any) -> None:
        """Send word by every way, unless nobody asked for this event; never waits and never fails."""
        if self._run is None or self._trainer is None or event not in self.events:
            return
        logged = {**self._trainer.callback_metrics, **self._trainer.logged_metrics}
        values = {key: value.detach().clone() if isinstance(value, torch.Tensor) else value for key, value in logged.items()}
        step = int(details.pop("step", None) or self._trainer.global_step)
        message = Message(event, self._run, what, step, self._total, values, hidden(details))
        if self._lines is not None:
            self._lines.append(message.as_record())
        if self._outbox is not None:
            self._outbox.put(message)
        if self.console and not (event == "alert" and alerts_are_shown()):
            show(
                f"{event}: {one_line(shortened(what, MOST_SHOWN))}"
                + (f" {one_line(hide(str(details['advice'])))}" if details.get("advice") else "")
            )

    def close(self) -> None:
        """Send what waits, within ``wait_seconds``."""
        self._ears.stop()
        self._run = None
        outbox, self._outbox = self._outbox, None
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.close(self.wait_seconds)
        if outbox is not None:
            outbox.close(self.wait_seconds)


class Ears(logging.Handler):
    """Hears alerts, and what Lightning says when a process of the run has died."""

    def __init__(self, notifications: Notifications) -> None:
        super().__init__(logging.INFO)
        self._notifications = notifications
        self._loggers = [logging.getLogger(), logging.getLogger("lightning.fabric")]

    def listen(self) -> None:
        """Hear from now on."""
        for logger in self._loggers:
            logger.addHandler(self)

    def stop(self) -> None:
        """Hear no more."""
        for logger in self._loggers:
            logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of it, if it is worth telling."""
        if (told := alert_of(record)) is not None:
            details = {key: value for key, value in told.items() if key not in ("message", "event", "what")}
            self._notifications.tell("alert", str(told.get("message", "")), **details)
        elif record.name.startswith("lightning.fabric") and LOST_PROCESS.search(message := message_of(record)):
            self._notifications.tell("failure", f"Training failed: {message.partition('. ')[0]}, and with it all others end.")
            self._notifications.close()


def check(events: Sequence[str], mode: str, wait_seconds: float, *, anywhere: bool) -> None:
    """Refuse what would tell nobody anything.

    Raises:
        ValueError: saying what is wrong.
    """
    for event in events:
        if event not in EVENTS:
            raise ValueError(f"Notifications got events={event!r}; it knows {', '.join(EVENTS)}. {did_you_mean(event, EVENTS)}".rstrip())
    if not events or not anywhere:
        raise ValueError("Notifications would tell nobody anything: name some in `events`, and give it `mail`, `file` or `console`.")
    if mode not in ("min", "max"):
        raise ValueError(f"Notifications got mode={mode!r}; it knows min and max.")
    if wait_seconds < 0:
        raise ValueError(f"Notifications got wait_seconds={wait_seconds}; it needs 0 or more.")


def alerts_are_shown() -> bool:
    """Whether somebody else puts alerts on the terminal, as the command line does."""
    return any(getattr(handler, "shows_alerts", False) for handler in logging.getLogger().handlers)


def show(line: str) -> None:
    """A line on the terminal, above the progress line if one is drawn."""
    live_line = sys.modules.get("musictrain.speed.live_line")
    console = live_line.live_console() if live_line is not None else None
    try:
        if console is not None:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            print(("\r\033[K" if sys.stdout.isatty() else "") + line, flush=True)
    except (OSError, ValueError):
        log.debug("The terminal took no notification.", exc_info=True)
