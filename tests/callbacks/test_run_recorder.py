"""A run writes itself down, in any Trainer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import CSVLogger

from musictrain.callbacks import RunLogger, RunRecorder
from musictrain.data.tokenizers import VoiceGrid, load_tokenizer
from musictrain.runs import RunFolder, read_records, read_rows
from musictrain.runs.rows import is_marker, values_of
from musictrain.runs.status import read_status
from musictrain.runs.train_log import TrainLog

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 2,
    "limit_val_batches": 1,
}


class Logging(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        result = super().training_step(batch, batch_idx)
        self.log("train/loss", result["loss"])
        return result

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", torch.tensor(float("nan") if self.global_step < 4 else 0.5))


class Tokens(BoringDataModule):
    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer or VoiceGrid()


def trainer_with(tmp_path: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings = {"max_steps": 4, "val_check_interval": 2, "logger": RunLogger(tmp_path / "runs", "boring"), **QUIET, **options}
    return Trainer(default_root_dir=tmp_path, callbacks=list(callbacks), **settings)


def only_run(tmp_path: Path) -> RunFolder:
    (folder,) = (tmp_path / "runs").iterdir()
    return RunFolder(folder)


def told(run: RunFolder) -> list[dict[str, Any]]:
    """The events without those of the log."""
    return [event for event in read_records(run.events) if event["event"] != "log"]


def test_rows_count_the_steps_done_and_hold_every_logged_value(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder()).fit(Logging())
    rows = read_rows(only_run(tmp_path).metrics)
    assert [(row["step"], sorted(values_of(row))) for row in rows] == [
        (2, ["train/loss"]),
        (2, ["val/loss"]),
        (4, ["train/loss"]),
        (4, ["val/loss"]),
    ]
    assert rows[1]["val/loss"] == "NaN"
    assert only_run(tmp_path).best() == (0.5, 4)
    assert all(row["epoch"] == 0 for row in rows)


def test_events_tell_how_it_went(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder()).fit(Logging())
    events = told(only_run(tmp_path))
    assert [(event["event"], event.get("step")) for event in events] == [("started", None), ("best", 4), ("finished", 4)]


def test_the_environment_says_what_ran_on_what(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder(config="model: {}\n")).fit(Logging(), datamodule=Tokens())
    run = only_run(tmp_path)
    environment = json.loads(run.environment.read_text())
    assert environment["fingerprints"] == {"tokenizer": VoiceGrid().fingerprint}
    assert environment["devices"]["accelerator"] == "CPUAccelerator"
    assert run.config.read_text() == "model: {}\n"
    assert load_tokenizer(run.tokenizer).fingerprint == VoiceGrid().fingerprint
    assert f"Run {run.path}" in run.log.read_text()


def test_a_tokenizer_of_somebody_elses_class_is_no_obstacle(tmp_path: Path) -> None:
    class MyGrid(VoiceGrid):
        pass

    trainer_with(tmp_path, RunRecorder()).fit(Logging(), datamodule=Tokens(MyGrid()))
    assert not only_run(tmp_path).tokenizer.exists()
    assert "No tokenizer.json: Only" in only_run(tmp_path).log.read_text()


def test_without_a_run_logger_it_brings_one_to_the_trainers_own_folder(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="csv", version=0)
    trainer_with(tmp_path, RunRecorder(), logger=logger).fit(Logging())
    run = RunFolder(tmp_path / "csv" / "version_0")
    assert run.best() == (0.5, 4)
    assert (run.path / "metrics.csv").is_file()


def test_a_trial_run_of_one_batch_writes_nothing(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder(), fast_dev_run=True).fit(Logging())
    assert not (tmp_path / "runs").exists()


def test_validation_alone_makes_no_run(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder(), logger=False).validate(Logging(), verbose=False)
    assert list(tmp_path.iterdir()) == []


class Failing(Logging):
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the disk is full")


def test_a_failure_is_an_event_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer_with(tmp_path, RunRecorder()).fit(Failing())
    run = only_run(tmp_path)
    assert told(run)[-1]["event"] == "failed"
    assert told(run)[-1]["reason"] == "RuntimeError: the disk is full"
    assert "in on_train_batch_end" in run.log.read_text()


def test_the_log_is_given_back(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    trainer_with(tmp_path, RunRecorder()).fit(Logging())
    assert logging.getLogger().handlers == before


def test_going_on_appends_and_keeps_the_first_environment(tmp_path: Path) -> None:
    trainer = trainer_with(tmp_path, RunRecorder())
    trainer.fit(Logging(), datamodule=Tokens())
    run = only_run(tmp_path)
    first, rows = run.environment.read_bytes(), run.metrics.read_bytes()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer_with(tmp_path, RunRecorder(), logger=RunLogger(folder=run.path), max_steps=6)
    again.fit(Logging(), datamodule=Tokens(), ckpt_path=tmp_path / "a.ckpt")
    assert run.metrics.read_bytes().startswith(rows)
    assert read_rows(run.metrics)[-1]["step"] == 6
    assert [event["event"] for event in told(run)] == ["started", "best", "finished", "resumed", "finished"]
    assert run.environment.read_bytes() == first


def test_going_on_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    trainer_with(tmp_path, RunRecorder()).fit(Logging(), datamodule=Tokens())
    run = only_run(tmp_path)
    again = trainer_with(tmp_path, RunRecorder(), logger=RunLogger(folder=run.path))
    other = VoiceGrid(lowest=30)
    with pytest.raises(
        ValueError, match=f"tokenizer of fingerprint {VoiceGrid().fingerprint}, but the tokenizer here has {other.fingerprint}"
    ):
        again.fit(Logging(), datamodule=Tokens(other))


def test_what_was_logged_before_there_was_a_folder_is_in_the_log_too(tmp_path: Path) -> None:
    held = TrainLog()
    held.listen()
    try:
        logging.getLogger("musictrain.early").info("before the folder")
        trainer_with(tmp_path, RunRecorder(train_log=held)).fit(Logging())
        logging.getLogger("musictrain.late").warning("after the fit")
    finally:
        held.stop()
    text = only_run(tmp_path).log.read_text()
    assert text.index("before the folder") < text.index("Run ") < text.index("after the fit")


def test_stock_checkpoints_land_in_the_run_folder(tmp_path: Path) -> None:
    trainer_with(tmp_path, enable_checkpointing=True).fit(Logging())
    assert [path.suffix for path in only_run(tmp_path).checkpoints.iterdir()] == [".ckpt"]


class Ranked(Logging):
    def on_train_start(self) -> None:
        if self.global_rank == 1:
            logging.getLogger("musictrain.ranked").warning("only here")

    def on_fit_end(self) -> None:
        folder = Path(str(self.trainer.log_dir))
        (folder / f"rank_{self.global_rank}").touch()


def test_two_processes_write_one_run(tmp_path: Path) -> None:
    module: LightningModule = Ranked()
    trainer_with(tmp_path, RunRecorder(), accelerator="cpu", devices=2, strategy="ddp_fork").fit(module)
    run = only_run(tmp_path)
    assert [row["step"] for row in read_rows(run.metrics)] == [2, 2, 4, 4]
    assert [event["event"] for event in told(run)] == ["started", "best", "finished"]
    assert sum(map(is_marker, read_records(run.metrics))) == 1
    status = read_status(run.status)
    assert status is not None
    assert (status.state, status.world_size) == ("finished", 2)
    assert "rank 1" in (run.path / "train_rank1.log").read_text()
    assert (run.path / "rank_0").exists()
    assert (run.path / "rank_1").exists()
