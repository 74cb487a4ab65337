"""RunRecorder: what a run writes down about itself while it trains.

    Trainer(logger=RunLogger("runs", "chorales"), callbacks=[RunRecorder()])

Files in the run folder, which is Lightning's ``trainer.log_dir``: ``metrics.jsonl`` (every logged value), ``status.json`` (where it stands,
every few seconds), ``events.jsonl`` (started, resumed, best, finished, stopped, failed, interrupted, paused), ``train.log`` (messages,
warnings, tracebacks), ``env.json``, and, where they are known, ``config.yaml``, ``tokenizer.json`` and the data report. A step that a
callback has vetoed, as MusicalEarlyStopping does, is in none of them the best one.

When: always. Cost: some microseconds a step and a row; threads write. Only the first process does.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.checkpoints.trainer_state import veto_of
from musictrain.loggers.row_to_come import row_to_come
from musictrain.loggers.run_description import check_same_data, environment_of, save_data_description
from musictrain.loggers.run_logger import RunLogger
from musictrain.loggers.run_status import RunStatus, how_it_ended
from musictrain.runs import RunFolder, atomic_write
from musictrain.runs.endings import Ending, ending_of
from musictrain.runs.eta import Eta
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.going_on import BETTER, as_text, from_text, going_on
from musictrain.runs.records import plain, read_records
from musictrain.runs.rollbacks import FILE_NAME, RolledBack, read_rollbacks
from musictrain.runs.secrets import hidden
from musictrain.runs.status import HEARTBEAT_SECONDS, is_gone, read_status
from musictrain.runs.train_log import TrainLog
from musictrain.runs.writer import RecordWriter
from musictrain.speed.eta_clock import EtaClock
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

LAST_ROWS_SECONDS = 2.0


class RunRecorder(Callback):
    """Writes down what ran, on what, where it stands and how it ended. In a Trainer without a RunLogger it brings one.

    A resumed run goes on in the same files as a new attempt: rows of steps that are done again no longer count, and rows that a kill kept
    from the file come from the checkpoint. ``eta`` is what the time left is estimated by; it survives a resume.

    Args:
        config: the fully resolved configuration as YAML, written to ``config.yaml``.
        train_log: a log that has been listening since before the run had a folder; by default one that starts with the fit.
        monitor: the metric that ``best`` is about; None for none.
        mode: whether the ``min`` or the ``max`` of it is best.
        heartbeat_seconds: how often ``status.json`` is written.

    Raises:
        ValueError: for an unknown ``mode`` or a heartbeat that is not positive; at the start of a fit, if the tokenizer or the corpus is
            not the one of the run in this folder, or another process is training there.
    """

    def __init__(
        self,
        config: str | None = None,
        train_log: TrainLog | None = None,
        monitor: str | None = BEST_METRIC,
        mode: str = "min",
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        if mode not in BETTER:
            raise ValueError(f"RunRecorder got mode={mode!r}; it needs 'min' or 'max': which values of {monitor!r} are better.")
        if not heartbeat_seconds > 0:
            raise ValueError(f"RunRecorder got heartbeat_seconds={heartbeat_seconds}; it needs a positive number of seconds.")
        self.config, self.monitor, self.mode, self.heartbeat_seconds = config, monitor, mode, heartbeat_seconds
        self.eta = Eta()
        self._own_log = train_log is None
        self._train_log = train_log or TrainLog()
        self._clock = EtaClock(self.eta)
        self._carried: list[dict[str, Any]] = []
        self._forget()

    def take_over(self, other: RunRecorder) -> None:
        """Write down what another one, who knows more of this run, would have written: its configuration, and its log."""
        self.config = other.config if self.config is None else self.config
        if self._own_log:
            self._own_log, self._train_log = other._own_log, other._train_log

    def _forget(self) -> None:
        self._trainer: Trainer | None = None
        self._logger: RunLogger | None = None
        self._status: RunStatus | None = None
        self._events: RecordWriter | None = None
        self._opened = self._goes_on = self._trains = False
        self._environment: dict[str, Any] = {}
        self._ending: Ending | None = None
        self._unjudged = False
        self._noted_veto = -1, ""

    @property
    def elapsed_seconds(self) -> float:
        """Of training, over all attempts."""
        return self._clock.elapsed_seconds

    # Before the first step.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything that is known before the first step."""
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._close()
        self._forget()
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # a collective call: every process makes it
        self._opened = True
        self._train_log.at(step=lambda: trainer.global_step, rank=trainer.global_rank)
        if trainer.is_global_zero:
            check_nobody_trains(RunFolder(folder))
            self._open(RunFolder(folder), trainer)
        else:
            self._train_log.open_rank(folder, trainer.global_rank)
        self._trainer = trainer
        if self._own_log:
            self._train_log.listen()
        if self._logger is not None:
            self._describe(RunFolder(folder), trainer)

    def _open(self, run: RunFolder, trainer: Trainer) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        self._goes_on = run.environment.is_file()
        self._train_log.open(run.log, events=run.events)
        self._events = RecordWriter(run.events)
        self._status = RunStatus(run, trainer, self._clock, 1 + num_attempts(run), self.heartbeat_seconds)
        self._status.begin()
        self._logger = run_logger_of(trainer, run)
        self._logger.follow(trainer, self._on_row)
        settle_loggers(trainer, run)

    def _describe(self, run: RunFolder, trainer: Trainer) -> None:
        self._environment = environment_of(trainer)
        if self._goes_on:
            check_same_data(run, self._environment["fingerprints"])
        else:
            atomic_write(run.environment, json.dumps(plain(self._environment), indent=2) + "\n")
            save_data_description(run, trainer.datamodule)  # type: ignore[attr-defined]
            self._event("started")
        if self.config is not None:
            atomic_write(run.config, self.config)
        log.info("Run %s", run.path)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An attempt begins: put the records right up to here, and say so."""
        self._trains = self._trainer is not None
        if self._logger is None or self._status is None:
            return
        self._logger.flush()
        metrics = RunFolder(Path(str(self._logger.save_dir))).metrics
        found = going_on(metrics, trainer.global_step, self._carried, self.monitor, self.mode)
        self._carried = []
        attempt = max(self._status.status.attempt, found.attempt + 1)
        self._logger.begin_attempt(attempt, trainer.global_step, found.missing)
        self._status.train(attempt, found.best, why_not_straight(metrics.parent))
        if self._goes_on:
            settle_loggers(trainer, RunFolder(metrics.parent), trainer.global_step)
            self._event("resumed", attempt=attempt, from_step=trainer.global_step, environment=self._environment)

    # Between the steps.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Whatever was done meanwhile is over."""
        if self._trains and self._status is not None:
            self._status.batch_starts()
            self._judge()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Keep count."""
        if self._trains and self._status is not None:
            self._status.batch_ends()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training rests."""
        if self._trains and self._status is not None and not trainer.sanity_checking:
            self._status.validation_starts()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on."""
        if self._trains and self._status is not None and not trainer.sanity_checking:
            self._unjudged = True
            self._status.validation_ends()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step is judged."""
        self._judge()

    def _on_row(self, row: dict[str, Any]) -> None:
        self._unjudged = True
        if self._status is not None:
            self._status.take(row, self.monitor, self.mode)

    def _judge(self) -> None:
        """Say what is best now, and what never will be: values are logged before the rules of stopping have their word on them."""
        if not self._unjudged or not self._trains or self._trainer is None or self._logger is None or self._status is None:
            return
        self._unjudged, step, why = False, self._trainer.global_step, veto_of(self._trainer)
        if self._veto_is_new(step, why):
            self._noted_veto = step, why
            self._logger.log_veto(why)
        if (best := self._status.judge(step, why)) is not None:
            self._event("best", **best)

    def _veto_is_new(self, step: int, why: str) -> bool:
        return why != (self._noted_veto[1] if self._noted_veto[0] == step else "")

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """Rows that a kill could take now and the one that is about to be logged, the time that has elapsed, and what ``eta`` knows."""
        # A collective call: every process makes it.
        values = row_to_come(self._trainer) if self._trains and self._trainer is not None else {}
        rows = [] if self._logger is None else [*self._logger.unsecured_rows(), *([self._logger.row_of(values)] if values else [])]
        return {"rows": as_text([*rows, *self._veto_to_come()]), **self._clock.state_dict()}

    def _veto_to_come(self) -> list[dict[str, Any]]:
        """A version that is saved before ``_judge`` must know of the veto that it carries itself."""
        if self._logger is None or self._trainer is None or not self._trains:
            return []
        why = veto_of(self._trainer)
        return [self._logger.veto_row(why)] if self._veto_is_new(self._trainer.global_step, why) else []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; nothing happens with the state of an older version."""
        if "elapsed_seconds" in state_dict:
            self._clock.load_state_dict(state_dict)
        self._carried = from_text(state_dict.get("rows", ""))

    # The end.

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note whether it is finished, or which rule stopped it before."""
        if self._status is not None:
            self._ending = how_it_ended(trainer, self._status.status.total)
            self._check_monitor(list(self._status.status.values))

    def _check_monitor(self, logged: list[str]) -> None:
        if logged and self.monitor is not None and self.monitor not in (BEST_METRIC, *logged):
            hint = did_you_mean(self.monitor, logged) or f"It logged {', '.join(sorted(logged))}."
            log.warning("RunRecorder watches %r for the best value, and this run never logged it. %s", self.monitor, hint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write down how it ended and give the files back, after every other callback has had its last word."""
        if self._ending is not None:
            self._end(self._ending)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note what went wrong; the traceback goes to the log."""
        if self._opened and isinstance(exception, RolledBack) and self._trains:
            self._turn_back(exception)
        elif self._opened:
            ending = ending_of(exception, self._status.status.name if self._status is not None else "")
            self._log(ending, exception)
            self._end(ending)
        self._close()

    def _log(self, ending: Ending, exception: BaseException) -> None:
        if ending.state == "paused":
            log.info("The run rests. %s", ending.reason)
        elif ending.state == "failed":
            log.error("The run was ended by an error.", exc_info=exception)
        elif self._status is not None:
            log.error("The run was interrupted.")

    def _turn_back(self, exception: RolledBack) -> None:
        """The run goes on, from an earlier version: it has not ended."""
        log.info("%s", exception.rollback.sentence())
        if self._status is not None:
            self._status.turn_back(exception.rollback.to, exception.rollback.sentence())

    def _end(self, ending: Ending) -> None:
        if self._status is None:
            return
        if self._goes_on and not self._trains:
            if ending.state != "finished":  # there was something to do
                self._event("refused", reason=ending.reason)
            self._status.put_back()
            return
        self._judge()
        self._status.end(ending)
        status = self._status.status
        told = {"reason": ending.reason, "advice": ending.advice} if ending.state != "finished" else {}
        self._event(ending.state, step=status.step, epoch=status.epoch, **told)
        # The status that says that it is over, written at the close, is the word for others to read the rest.
        for written in (self._logger, self._events):
            if written is not None:
                written.flush(LAST_ROWS_SECONDS)

    def _event(self, event: str, **details: Any) -> None:
        if self._events is not None:
            self._events.append({"time": round(time.time(), 3), "event": event, **hidden(details)}, vital=True)

    def _close(self) -> None:
        # The trainer and its rows stay known: after an error others may still save a version.
        status, self._status, events, self._events = self._status, None, self._events, None
        if status is not None:
            status.close()
        if events is not None:
            events.close()
        if self._own_log and self._opened:
            self._train_log.stop()
        self._opened = False


def run_logger_of(trainer: Trainer, run: RunFolder) -> RunLogger:
    """The trainer's RunLogger; one is added if it has none."""
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            return logger
    trainer.loggers = [*trainer.loggers, added := RunLogger(folder=run.path)]
    return added


def check_nobody_trains(run: RunFolder) -> None:
    """Refuse a folder in which another process of this machine is training.

    Raises:
        ValueError: if its status says so, and the process is there.
    """
    status = read_status(run.status)
    if status is None or status.pid == os.getpid() or not status.is_active() or is_gone(status, time.time()):
        return
    raise ValueError(
        f"Process {status.pid} on {status.host} is training in {run.path} (step {status.step:,}, {status.state}). "
        "Wait for its end or stop it, or train in another folder."
    )


def num_attempts(run: RunFolder) -> int:
    """How often this run was started."""
    return sum(event.get("event") in ("started", "resumed") for event in read_records(run.events))


def why_not_straight(folder: Path) -> str:
    """What a run has to say of its last going back, empty if it never has."""
    settled = [rollback for rollback in read_rollbacks(folder / FILE_NAME) if rollback.settled]
    times = f" ({len(settled)} times in all)" if len(settled) > 1 else ""
    return f"{settled[-1].sentence()}{times}" if settled else ""


def settle_loggers(trainer: Trainer, run: RunFolder, resumed_from: int | None = None) -> None:
    """Tell loggers that keep their files in the run folder, such as :class:`musictrain.loggers.TensorBoard`, which one it is."""
    for logger in trainer.loggers:
        if callable(settle := getattr(logger, "settle", None)):
            settle(run.path, resumed_from)
