"""Where a run stands, kept up to date from a Lightning Trainer: what ``status.json`` is written from."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning.pytorch import Trainer

from musictrain.data.accumulation import rule_of, steps_of_run
from musictrain.runs import RunFolder, atomic_write
from musictrain.runs.alerts import AlertWatch
from musictrain.runs.endings import Ending
from musictrain.runs.eta import Plan
from musictrain.runs.going_on import best_of
from musictrain.runs.heartbeat import Heartbeat
from musictrain.runs.rows import values_of
from musictrain.runs.secrets import hidden
from musictrain.runs.states import States
from musictrain.runs.status import Status, process_start, read_status
from musictrain.speed.eta_clock import EtaClock, plan_of, time_limit
from musictrain.speed.phases import listen, phase, stop_listening

RATES = ("speed/tokens_per_second", "train/tokens_per_second")


class RunStatus:
    """Keeps the status of one fit and has a heartbeat write it.

    Args:
        run: whose.
        trainer: who trains it.
        clock: what keeps the time of steps and pauses; its ``eta`` tells how long the run still takes.
        attempt: the number of this start.
        heartbeat_seconds: between two beats.
    """

    def __init__(self, run: RunFolder, trainer: Trainer, clock: EtaClock, attempt: int, heartbeat_seconds: float) -> None:
        self._run, self._trainer, self._clock = run, trainer, clock
        self._earlier = read_status(run.status)
        self.status = _first_status(run, self._earlier, attempt, trainer.world_size)
        self.trains = False
        self._candidate: dict[str, Any] = {}
        self._best_before: dict[str, Any] = {}  # of the steps before that of the best
        self._ending: Ending | None = None
        self._plan = Plan()
        self._states = States(self._changed)
        self._alerts = AlertWatch(self._on_alert)
        self._heartbeat = Heartbeat(run.status, self.now, heartbeat_seconds)
        self._undo: list[Callable[[], None]] = []

    def begin(self) -> None:
        """The run is starting: beat from now on, and hear alerts."""
        self._alerts.listen()
        self._heartbeat.start()

    def train(self, attempt: int, best: dict[str, Any], reason: str = "") -> None:
        """Training begins, on the thread that trains; ``reason`` is what has happened to the run that a person should know."""
        status, trainer = self.status, self._trainer
        status.step, status.epoch, status.total = trainer.global_step, trainer.current_epoch, steps_of_run(trainer)
        status.attempt, status.best, self.trains = attempt, best, True
        status.reason = hidden(reason)
        self._plan = plan_of_run(trainer)
        if self._earlier is not None and self._earlier.elapsed_seconds > self._clock.elapsed_seconds:
            # What was trained after the last save is lost, and took its time all the same.
            self._clock.load_state_dict({"elapsed_seconds": self._earlier.elapsed_seconds})
        self._clock.start(trainer.global_step)
        listen(self._clock)
        listen(self._states)
        self._undo = [lambda: stop_listening(self._clock), lambda: stop_listening(self._states), watch_saving(trainer)]
        self._states.drive("training")

    def batch_starts(self) -> None:
        """Whatever was done meanwhile is over."""
        self._states.drive("training")

    def batch_ends(self) -> None:
        """Keep count."""
        self.status.step, self.status.epoch = self._trainer.global_step, self._trainer.current_epoch
        self._clock.step(self.status.step)

    def validation_starts(self) -> None:
        """Training rests."""
        self._clock.enter("validation")
        self._states.drive("validating")

    def validation_ends(self) -> None:
        """Training goes on."""
        self._clock.leave("validation")
        self._states.drive("training")

    def take(self, row: dict[str, Any], metric: str | None, mode: str) -> None:
        """Note a logged row; what is still on a device is left out. A best value in it counts once its step is judged."""
        status, values = self.status, {key: float(value) for key, value in values_of(row).items() if isinstance(value, int | float)}
        status.values = {**status.values, **values}
        status.tokens_per_second = next((values[key] for key in RATES if key in values), status.tokens_per_second)
        if self.trains and metric in values:
            self._candidate = best_of([row], metric, mode, self._candidate or status.best)

    def judge(self, step: int, veto: str) -> dict[str, Any] | None:
        """Every rule has had its word on the rows of a step so far.

        Args:
            step: optimizer steps done.
            veto: why it is never to be called best, empty if it may be.

        Returns:
            ``metric``, ``value`` and ``step`` of the best, if it is another one now.
        """
        status, candidate, self._candidate = self.status, self._candidate, {}
        was = status.best
        if veto:
            status.best = self._best_before if was.get("step") == step else was
        elif candidate and candidate != was:
            self._best_before = was if was.get("step") != step else self._best_before
            status.best = candidate
        return status.best if status.best not in ({}, was) else None

    def now(self) -> Status:
        """What the heartbeat writes; its thread asks."""
        if (ending := self._ending) is not None:
            return replace(self.status, state=ending.state, reason=ending.reason, advice=ending.advice)
        status = replace(self.status, state=self._states.state)
        if not self.trains:
            return status
        status.elapsed_seconds = self._clock.elapsed_seconds
        with contextlib.suppress(Exception):  # an estimate in the middle of a change; the next beat has another
            plan = replace(self._plan, limit_seconds=time_limit(self._trainer))
            left = self._clock.eta.left(status.step, status.total, plan, self._clock.running()) if self._clock.eta is not None else None
            if left is not None:
                status.left_seconds, status.left_low, status.left_high = left.seconds, left.low, left.high
                status.ends_at = round(time.time() + left.seconds, 3)
        return status

    def turn_back(self, step: int, reason: str) -> None:
        """This fit is over and the run is not: it is about to go on from ``step``; ``close`` writes that down."""
        self.status.step, self.status.reason = step, hidden(reason)
        self._states.drive("starting")

    def end(self, ending: Ending) -> None:
        """The run has ended; ``close`` writes it down."""
        self._clock.stop()
        status = self.status
        status.step, status.epoch, status.ended = self._trainer.global_step, self._trainer.current_epoch, round(time.time(), 3)
        status.elapsed_seconds = max(status.elapsed_seconds, self._clock.elapsed_seconds)
        status.by_guard = ending.by_guard
        self._ending = Ending(*hidden([ending.state, ending.reason, ending.advice]))

    def put_back(self) -> None:
        """This fit never began to train: what the status said before holds on."""
        self._heartbeat.stop(last=False)
        with contextlib.suppress(OSError):
            if self._earlier is None:
                self._run.status.unlink(missing_ok=True)
            else:
                atomic_write(self._run.status, self._earlier.as_json())

    def close(self) -> None:
        """Write a last time, and give everything back."""
        while self._undo:
            self._undo.pop()()
        self._clock.stop()
        self._alerts.stop()
        self._heartbeat.stop()

    def _on_alert(self, told: dict[str, Any]) -> None:
        self.status.last_alert = hidden({"step": self.status.step, **told})
        self.status.num_alerts += 1
        self._changed()

    def _changed(self) -> None:
        self._heartbeat.beat()


def _first_status(run: RunFolder, before: Status | None, attempt: int, world_size: int) -> Status:
    now, pid = round(time.time(), 3), os.getpid()
    status = Status(run.name, attempt=attempt, first_started=now, attempt_started=now, world_size=world_size)
    status.pid, status.host, status.process_started = pid, socket.gethostname(), process_start(pid)
    if before is not None:
        status.first_started, status.elapsed_seconds, status.best = before.first_started, before.elapsed_seconds, before.best
        status.last_alert, status.num_alerts, status.step = before.last_alert, before.num_alerts, before.step
        status.attempt = max(attempt, before.attempt + 1)
    return status


def plan_of_run(trainer: Trainer) -> Plan:
    """The pauses that a Trainer whose loaders are there will make."""
    rule, batches = rule_of(trainer), trainer.num_training_batches
    per_epoch = rule.steps_of(int(batches), 1) if math.isfinite(batches) else None
    return plan_of(trainer, batches_per_step=rule.at(trainer.global_step), steps_per_epoch=per_epoch)


def watch_saving(trainer: Trainer) -> Callable[[], None]:
    """Let every save be known as one, unless somebody sees to that already; gives back how to undo it."""
    if "save_checkpoint" in vars(trainer):
        return lambda: None
    watched = phase("saving")(trainer.save_checkpoint)
    trainer.save_checkpoint = watched  # type: ignore[method-assign]

    def undo() -> None:
        if vars(trainer).get("save_checkpoint") is watched:
            del trainer.save_checkpoint

    return undo


def how_it_ended(trainer: Trainer, total: int | None) -> Ending:
    """How a fit ended that no error has ended: finished, or stopped by a rule, with the reason that a callback keeps.

    A callback that stops runs keeps why in ``stop_reason`` (and what to do in ``stop_advice``), or as Lightning's EarlyStopping does.
    """
    if not trainer.should_stop or (total is not None and trainer.global_step >= total):
        return Ending("finished")
    if (seconds := time_limit(trainer)) is not None and seconds <= 0:
        return Ending("stopped", "The time limit was reached.", "Go on with a longer --trainer.max_time.")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in ("stop_reason", "stopping_reason_message"):
            if isinstance(reason := getattr(callback, name, None), str) and reason:
                by_guard = bool(getattr(callback, "stopped_by_guard", False))
                return Ending("stopped", reason, str(getattr(callback, "stop_advice", "")), by_guard)
    return Ending("stopped", "A callback set trainer.should_stop and left no reason.")
