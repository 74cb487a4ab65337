"""Going on: by name, by configuration, from an older version; said in full, and refused where it cannot be what was meant."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.lock import FolderLock
from musictrain.cli.run_defaults import default_callbacks
from musictrain.runs import RunFolder, list_runs, read_records, read_rows
from tests.checkpoints.small_versions import spoil
from tests.cli.tiny import tiny_config, type_command, write_config


class StopAt(Callback):
    """Stops the run as SIGTERM does, after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def fit(capsys: Any, config: Path, runs: Path, *words: Any) -> tuple[int, str, str]:
    return type_command(capsys, "fit", "--config", config, "--runs", runs, *words)


@pytest.fixture
def interrupted(config_file: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run of six steps that was stopped after four."""
    runs = tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr("musictrain.cli.lightning_cli.default_callbacks", lambda *args: [StopAt(4), *default_callbacks(*args)])
        assert fit(capsys, config_file, runs, "--ckpt_path", "auto")[0] == 143
    (run,) = list_runs(runs)
    return run


def test_auto_begins_where_nothing_was_interrupted_and_goes_on_where_something_was(
    interrupted: RunFolder, config_file: Path, capsys: Any
) -> None:
    runs = interrupted.path.parent
    status, out, err = fit(capsys, config_file, runs, "--ckpt_path", "auto")
    assert (status, err) == (0, "")
    assert "resumed  v000003_step000004.ckpt, after step 4: weights, optimizer, schedule, loops" in out
    assert "exact: as if there had been no interruption" in out
    assert [run.name for run in list_runs(runs)] == [interrupted.name], "it went on in the same folder"
    assert [row["step"] for row in read_rows(interrupted.metrics) if "train/loss" in row] == [2, 4, 6]
    status, out, _ = fit(capsys, config_file, runs, "--ckpt_path", "auto")
    assert (status, len(list_runs(runs)), "resumed" in out) == (0, 2, False), "a finished run is not gone on with: a new one begins"


def test_another_configuration_is_another_run(interrupted: RunFolder, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["seed_everything"] = 8
    other = write_config(tmp_path / "other.yaml", config)
    runs = interrupted.path.parent
    status, _, err = fit(capsys, other, runs, "--ckpt_path", "last")
    assert status == 2
    assert "--ckpt_path last: no run in" in err
    assert "--ckpt_path auto, which begins where nothing was interrupted" in err
    assert fit(capsys, other, runs, "--ckpt_path", "auto")[0] == 0
    assert len(list_runs(runs)) == 2


def test_a_key_that_musictrain_has_learned_since_makes_no_other_run(interrupted: RunFolder, config_file: Path, capsys: Any) -> None:
    began = yaml.safe_load(interrupted.config.read_text(encoding="utf-8"))
    del began["model"]["init_args"]["activation_checkpointing"]
    del began["matmul_precision"]
    interrupted.config.write_text(yaml.safe_dump(began), encoding="utf-8")
    assert "resumed  v000003_step000004.ckpt" in fit(capsys, config_file, interrupted.path.parent, "--ckpt_path", "auto")[1]
    assert len(list_runs(interrupted.path.parent)) == 1


@pytest.mark.parametrize(("which", "step"), [("last", 4), ("best", 3)])
def test_last_and_best_go_on_with_the_newest_run_of_the_configuration(
    which: str, step: int, interrupted: RunFolder, config_file: Path, capsys: Any
) -> None:
    status, out, _ = fit(capsys, config_file, interrupted.path.parent, "--ckpt_path", which)
    assert (status, f"after step {step}: weights" in out) == (0, True)
    assert len(list_runs(interrupted.path.parent)) == 1


def test_versions_of_which_none_is_whole_are_never_a_new_beginning(interrupted: RunFolder, config_file: Path, capsys: Any) -> None:
    for version in list_versions(interrupted.checkpoints):
        spoil(version.path)
    for words in (("fit", "--config", config_file, "--ckpt_path", "auto"), ("resume", "latest")):
        status, _, err = type_command(capsys, *words, "--runs", interrupted.path.parent)
        assert status == 1
        assert "None of the 3 versions in" in err
        assert "Nothing was started from step 0" in err
    assert len(list_runs(interrupted.path.parent)) == 1


def test_a_damaged_newest_version_is_passed_over_and_set_aside(interrupted: RunFolder, capsys: Any) -> None:
    spoil(list_versions(interrupted.checkpoints)[-1].path)
    status, out, _ = type_command(capsys, "resume", "latest", "--runs", interrupted.path.parent)
    assert (status, "resumed  v000002_step000003.ckpt" in out) == (0, True)
    assert [path.name for path in interrupted.checkpoints.glob("*.corrupt")] == ["v000003_step000004.ckpt.corrupt"]
    numbers = [version.number for version in list_versions(interrupted.checkpoints)]
    assert numbers == [1, 2, 4], "a number is never given out twice"


def test_going_on_from_an_older_version_sets_the_later_ones_aside(interrupted: RunFolder, capsys: Any) -> None:
    status, out, _ = type_command(capsys, "resume", "latest", "--version", 2, "--runs", interrupted.path.parent)
    assert (status, "resumed  v000002_step000003.ckpt" in out) == (0, True)
    assert [path.name for path in interrupted.checkpoints.glob("*.abandoned")] == ["v000003_step000004.ckpt.abandoned"]
    parents = {version.name: version.seal.parent for version in list_versions(interrupted.checkpoints) if version.seal is not None}
    assert parents["v000004_step000006"] == "v000002_step000003"
    status, _, err = type_command(capsys, "resume", "latest", "--version", 77, "--runs", interrupted.path.parent)
    assert (status, "There is no version or file '77'" in err) == (2, True)


def test_what_has_changed_is_said(interrupted: RunFolder, capsys: Any) -> None:
    words = ("--trainer.max_steps", 8, "--trainer.accumulate_grad_batches", 2)
    status, out, _ = type_command(capsys, "resume", "latest", "--runs", interrupted.path.parent, *words)
    assert status == 0
    assert "changed: trainer.max_steps was 6, is 8" in out
    assert "changed: accumulate_grad_batches was 1, is 2" in out
    assert "the same state; from here on the changes count" in out
    (report,) = [event for event in read_records(interrupted.events) if event["event"] == "resume_report"]
    assert (report["step"], report["exact"]) == (4, False)


def test_a_run_that_is_being_trained_is_left_alone(interrupted: RunFolder, capsys: Any) -> None:
    lock = FolderLock(interrupted.checkpoints)
    lock.acquire()
    try:
        status, _, err = type_command(capsys, "resume", "latest", "--runs", interrupted.path.parent)
    finally:
        lock.release()
    assert (status, "Another trainer of this process is saving into" in err) == (1, True)


def test_a_version_of_another_model_is_refused_before_it_is_loaded(
    interrupted: RunFolder, corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"]["init_args"]["d_model"] = 16
    version = list_versions(interrupted.checkpoints)[-1].path
    status, _, err = fit(capsys, write_config(tmp_path / "wide.yaml", config), tmp_path / "elsewhere", "--ckpt_path", version)
    assert status == 1
    assert "v000003_step000004.ckpt holds another model than this run has" in err
    assert "has the shape (359, 8) there and (359, 16) here" in err


def test_events_tell_what_was_saved_and_what_went(finished_runs: Path) -> None:
    (run,) = list_runs(finished_runs)
    saved = [event for event in read_records(run.events) if event["event"] == "saved"]
    assert [(event["step"], event["reason"]) for event in saved] == [(0, "start"), (3, "validation"), (6, "end")]
    assert all(event["bytes"] > 0 and event["plain_bytes"] > 0 and event["healthy"] for event in saved)
    assert "3 versions saved" in run.log.read_text()


def test_validate_takes_a_packed_version(finished_runs: Path, tmp_path: Path, capsys: Any) -> None:
    runs = Path(shutil.copytree(finished_runs, tmp_path / "runs"))
    status, out, err = type_command(capsys, "validate", "--run", "latest", "--runs", runs)
    assert (status, err) == (0, "")
    assert "val/loss" in out
