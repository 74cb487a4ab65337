"""What RunRecorder says of where a run stands, while it goes on and when it has ended."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from musictrain.callbacks import RunLogger, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.runs import RunFolder, read_records
from musictrain.runs.alerts import alert
from musictrain.runs.eta import Eta
from musictrain.runs.rows import is_marker
from musictrain.runs.status import Status, process_start, read_status
from musictrain.speed import phase
from tests.callbacks.test_run_recorder import QUIET, Logging, Tokens, only_run, told, trainer_with

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SECONDS = 120.0
ENDS = ("started", "resumed", "best", "finished", "stopped", "failed", "interrupted")


def final(run: RunFolder) -> Status:
    status = read_status(run.status)
    assert status is not None
    return status


class Looking(Callback):
    """Notes what status.json says while things are done; waits for it to say so."""

    def __init__(self) -> None:
        self.seen: list[Status] = []

    def look(self, trainer: Trainer, state: str) -> None:
        deadline = time.monotonic() + SECONDS
        while (now := read_status(Path(str(trainer.log_dir)) / "status.json")) is None or now.state != state:
            assert time.monotonic() < deadline, now
            time.sleep(0.01)
        self.seen.append(now)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            self.look(trainer, "training")
            with phase("sampling"):
                self.look(trainer, "sampling")
            trainer.save_checkpoint(Path(str(trainer.log_dir)) / "a.ckpt")

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.look(trainer, "saving")

    def on_validation_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self.look(trainer, "validating")

    def on_fit_end(self, trainer: Trainer, *args: Any) -> None:
        self.look(trainer, "training")


def test_the_status_says_what_is_being_done(tmp_path: Path) -> None:
    looking = Looking()
    trainer_with(tmp_path, RunRecorder(heartbeat_seconds=0.05), looking, log_every_n_steps=1).fit(Logging())
    run = only_run(tmp_path)
    assert {status.state for status in looking.seen} == {"training", "sampling", "saving", "validating"}
    assert {(status.name, status.pid, status.total, status.attempt) for status in looking.seen} == {(run.name, os.getpid(), 4, 1)}
    last = final(run)
    assert (last.state, last.step, last.reason, last.left_seconds) == ("finished", 4, "", None)
    assert last.best == {"metric": "val/loss", "value": 0.5, "step": 4}
    assert last.values["val/loss"] == 0.5
    assert last.ended is not None
    assert 0 < last.elapsed_seconds <= last.ended - last.first_started + 1


def test_the_time_left_is_told_and_its_knowledge_survives_a_resume(tmp_path: Path) -> None:
    class Left(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step in (10, 12):
                deadline = time.monotonic() + SECONDS
                while (now := final(RunFolder(Path(str(trainer.log_dir))))).left_seconds is None:
                    assert time.monotonic() < deadline, now
                    time.sleep(0.01)
                seen.append(now)

    seen: list[Status] = []
    recorder = RunRecorder(heartbeat_seconds=0.02)
    trainer = trainer_with(tmp_path, recorder, Left(), max_steps=12)
    trainer.fit(Logging())
    assert isinstance(recorder.eta, Eta)
    (first,) = seen
    assert 0 <= first.left_low <= first.left_seconds <= first.left_high  # type: ignore[operator]
    assert first.ends_at == pytest.approx(first.updated + first.left_seconds, abs=2)  # type: ignore[operator]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    elapsed = final(only_run(tmp_path)).elapsed_seconds
    again = RunRecorder(heartbeat_seconds=0.02)
    trainer_with(tmp_path, again, Left(), max_steps=14, logger=RunLogger(folder=only_run(tmp_path).path)).fit(
        Logging(), ckpt_path=tmp_path / "a.ckpt"
    )
    assert seen[-1].step == 12  # before a step of this process was done
    assert (final(only_run(tmp_path)).attempt, final(only_run(tmp_path)).step) == (2, 14)
    assert final(only_run(tmp_path)).elapsed_seconds > elapsed


@pytest.mark.parametrize(("mode", "values", "best"), [("min", [3, 1, 2], 1), ("max", [3, float("inf"), 4], 4), ("min", ["nan", 2, 2], 2)])
def test_the_best_is_told_when_it_gets_better(tmp_path: Path, mode: str, values: list[Any], best: float) -> None:
    class Scoring(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("score", float(values[self.global_step // 2 - 1]))

    trainer_with(tmp_path, RunRecorder(monitor="score", mode=mode), max_steps=6).fit(Scoring())
    events = [event for event in told(only_run(tmp_path)) if event["event"] == "best"]
    assert final(only_run(tmp_path)).best == {key: events[-1][key] for key in ("metric", "value", "step")}
    assert final(only_run(tmp_path)).best["value"] == best
    told_values = [event["value"] for event in events]
    assert told_values == sorted(set(told_values), reverse=mode == "min")


def test_a_metric_that_was_never_logged_is_asked_about(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder(monitor="val/los")).fit(Logging())
    assert final(only_run(tmp_path)).best == {}
    text = only_run(tmp_path).log.read_text()
    assert "RunRecorder watches 'val/los' for the best value, and this run never logged it. Did you mean" in text
    assert "val/loss" in text


def test_the_last_alert_and_their_number_are_told(tmp_path: Path) -> None:
    class Alarming(Logging):
        def on_train_batch_end(self, *args: Any) -> None:
            alert(logging.getLogger("somebody.else"), f"Batch {self.global_step} is odd.", kind="odd", advice="Look at it.")

    trainer_with(tmp_path, RunRecorder()).fit(Alarming())
    status = final(only_run(tmp_path))
    assert status.num_alerts == 4
    assert {key: status.last_alert[key] for key in ("kind", "message", "advice", "step")} == {
        "kind": "odd",
        "message": "Batch 4 is odd.",
        "advice": "Look at it.",
        "step": 4,
    }
    assert not logging.getLogger().handlers or all(type(each).__name__ != "AlertWatch" for each in logging.getLogger().handlers)


# How it ends.


class Ending(Logging):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def on_train_batch_end(self, *args: Any) -> None:
        if self.global_step == 3:
            raise self.error


@pytest.mark.parametrize(
    ("error", "raised", "state", "reason"),
    [
        (RuntimeError("no more"), RuntimeError, "failed", "RuntimeError: no more"),
        (KeyboardInterrupt(), SystemExit, "interrupted", "Ctrl-C"),
    ],
)
def test_an_end_before_its_time_has_a_reason_and_an_advice(
    tmp_path: Path, error: BaseException, raised: type[BaseException], state: str, reason: str
) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(raised):
            trainer_with(tmp_path, RunRecorder()).fit(Ending(error))
    finally:
        signal.signal(signal.SIGINT, before)
    status, event = final(only_run(tmp_path)), told(only_run(tmp_path))[-1]
    assert (status.state, status.reason, status.step) == (event["event"], event["reason"], event["step"]) == (state, reason, 3)
    assert f"musictrain resume {only_run(tmp_path).name}" in status.advice
    assert status.advice == event["advice"]


def test_a_rule_that_stops_a_run_is_named(tmp_path: Path) -> None:
    stopping = EarlyStopping("val/loss", patience=1, check_finite=False, min_delta=10.0)
    trainer_with(tmp_path, RunRecorder(), stopping, max_steps=20).fit(Logging())
    status = final(only_run(tmp_path))
    assert (status.state, status.step < 20) == ("stopped", True)
    assert "val/loss" in status.reason
    assert told(only_run(tmp_path))[-1]["event"] == "stopped"


def test_a_rule_of_somebody_else_can_say_why_and_what_to_do(tmp_path: Path) -> None:
    class Rule(Callback):
        stop_reason, stop_advice = "", "Listen to the samples."

        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                self.stop_reason, trainer.should_stop = "It sounds good enough.", True

    trainer_with(tmp_path, RunRecorder(), Rule(), max_steps=20).fit(Logging())
    status = final(only_run(tmp_path))
    assert (status.state, status.reason, status.advice) == ("stopped", "It sounds good enough.", "Listen to the samples.")


def test_a_fit_that_cannot_end_well_is_not_called_finished(tmp_path: Path) -> None:
    class LastWord(Callback):
        def on_fit_end(self, *args: Any) -> None:
            raise RuntimeError("the end could not be stored")

    with pytest.raises(RuntimeError, match="could not be stored"):
        trainer_with(tmp_path, RunRecorder(), LastWord()).fit(Logging())
    assert final(only_run(tmp_path)).state == "failed"
    assert [event["event"] for event in told(only_run(tmp_path))] == ["started", "best", "failed"]


# Several fits, and folders that are taken.


def test_a_second_fit_of_one_trainer_is_another_attempt_of_the_same_run(tmp_path: Path) -> None:
    saving = VersionedCheckpoint(every_n_train_steps=1)
    trainer = trainer_with(tmp_path, RunRecorder(), saving, enable_checkpointing=True)
    model = Logging()
    trainer.fit(model)
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(model)
    run = only_run(tmp_path)
    assert [(row["attempt"], row["from_step"]) for row in read_records(run.metrics) if is_marker(row)] == [(1, 0), (2, 4)]
    assert [event["event"] for event in told(run) if event["event"] in ENDS] == ["started", "best", "finished", "resumed", "finished"]
    parents = {version.step: version.seal.parent for version in list_versions(run.checkpoints) if version.seal is not None}
    assert parents[5] == next(version.name for version in list_versions(run.checkpoints) if version.step == 4)
    assert (final(run).step, final(run).attempt, final(run).state) == (6, 2, "finished")


def test_a_refused_resume_leaves_the_status_as_it_was(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder()).fit(Logging(), datamodule=Tokens())
    run = only_run(tmp_path)
    before, metrics = final(run), run.metrics.read_bytes()

    class Refusing(BoringDataModule):
        def setup(self, stage: str) -> None:
            super().setup(stage)

    class Refuse(Callback):
        def setup(self, *args: Any, **kwargs: Any) -> None:
            raise ValueError("this does not fit")

    with pytest.raises(ValueError, match="does not fit"):
        trainer_with(tmp_path, RunRecorder(), Refuse(), logger=RunLogger(folder=run.path)).fit(Logging(), datamodule=Refusing())
    assert final(run) == before
    assert run.metrics.read_bytes() == metrics
    assert [(event["event"], event.get("reason")) for event in told(run)][-1] == ("refused", "ValueError: this does not fit")


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "taken")
    run.path.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        living = Status("taken", state="training", pid=other.pid, host=os.uname().nodename, process_started=process_start(other.pid))
        run.status.write_text(living.as_json())
        with pytest.raises(ValueError, match=rf"Process {other.pid} on .* is training in .*taken \(step 0, training\)"):
            trainer_with(tmp_path, RunRecorder(), logger=RunLogger(folder=run.path)).fit(Logging())
        other.kill()
    assert [path.name for path in run.path.iterdir()] == ["status.json"]
    trainer_with(tmp_path, RunRecorder(), logger=RunLogger(folder=run.path)).fit(Logging())
    assert final(run).state == "finished"


def test_data_that_cannot_be_read_leaves_no_empty_run(tmp_path: Path) -> None:
    class Unreadable(BoringDataModule):
        def setup(self, stage: str) -> None:
            raise OSError("no such corpus")

    with pytest.raises(OSError, match="no such corpus"):
        trainer_with(tmp_path, RunRecorder()).fit(Logging(), datamodule=Unreadable())
    assert not (tmp_path / "runs").exists() or list((tmp_path / "runs").iterdir()) == []


def test_wrong_use_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode='lower'; it needs 'min' or 'max'"):
        RunRecorder(mode="lower")
    with pytest.raises(ValueError, match="heartbeat_seconds=0; it needs a positive number"):
        RunRecorder(heartbeat_seconds=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file', which is a file; it needs the folder of a run"):
        RunLogger(folder=tmp_path / "file")


# The rows.


def test_values_that_bear_the_names_of_a_rows_own_are_kept_apart(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, "x")
    logger.log_metrics({"time": 1.0, "attempt": 2.0, "loss": 3.0}, step=5)
    logger.finalize("success")
    (row,) = read_records(RunFolder(Path(str(logger.save_dir))).metrics)
    assert {key: row[key] for key in row if key != "time"} == {
        "step": 5,
        "epoch": None,
        "logged/time": 1.0,
        "logged/attempt": 2.0,
        "loss": 3.0,
    }


def test_tensors_are_logged_as_they_were(tmp_path: Path) -> None:
    logger, loss = RunLogger(tmp_path, "x"), torch.tensor(1.0, requires_grad=True)
    logger.log_metrics({"loss": loss}, step=1)
    with torch.no_grad():
        loss.fill_(2.0)
    logger.finalize("success")
    assert [row["loss"] for row in read_records(RunFolder(Path(str(logger.save_dir))).metrics)] == [1.0]


def test_a_full_disk_under_the_records_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("musictrain.runs.records.Records.append", full)
    monkeypatch.setattr("musictrain.runs.writer.RecordWriter.flush", lambda *args, **kwargs: False)
    trainer = Trainer(max_steps=2, logger=RunLogger(tmp_path, "x"), callbacks=[RunRecorder()], **QUIET)
    trainer.fit(Logging())
    assert trainer.global_step == 2
