"""``--pause_at``: a run rests after a step, and what goes on from there is what had never rested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.comparing import differences
from musictrain.checkpoints.storing import load
from musictrain.cli.exits import UsageError
from musictrain.cli.pausing import PauseAt, pauses_of
from musictrain.cli.verify_resume import NOT_COMPARED
from musictrain.dashboard.event_reading import EventReader
from musictrain.runs import RunFolder, find_run
from musictrain.runs.endings import ending_of, mark_paused
from musictrain.runs.index_reading import status_by_events
from musictrain.runs.records import read_records
from musictrain.runs.rows import read_rows, values_of
from musictrain.runs.status import Status, read_status
from tests.cli.tiny import tiny_config, type_command, write_config

# Of an epoch of some batches; a validation, the middle of what two validations enclose, and an epoch's end are among them.
STEPS, EVERY = 9, 3
SILENT = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}


def config_of(corpus: Path, folder: Path, **trainer: Any) -> Path:
    config = tiny_config(corpus)
    config["trainer"] |= {"max_steps": STEPS, "val_check_interval": EVERY, "log_every_n_steps": 1, "callbacks": [], **trainer}
    config["trainer"]["callbacks"] = [SILENT]
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    return write_config(folder / "pausing.yaml", config)


def rested(capsys: Any, file: Path, runs: Path, pauses: Sequence[int]) -> RunFolder:
    """Fit until the first pause, resume until each further one, and to the end."""
    words: list[Any] = ["fit", "--config", file]
    for step in pauses:
        status, out, err = type_command(capsys, *words, "--runs", runs, "--pause_at", step)
        assert (status, err) == (0, "")
        assert f"The run rests after {step:,} steps" in out
        run = find_run("latest", runs)
        told = read_status(run.status)
        assert told is not None
        assert (told.state, told.step, told.shown_state()) == ("paused", step, "paused")
        last = list_versions(run.checkpoints)[-1]
        assert (last.step, last.seal.reason if last.seal else "") == (step, "pause")
        words = ["resume", run.path]
    assert type_command(capsys, *words, "--runs", runs)[0] == 0
    return find_run("latest", runs)


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """What was logged of learning, step by step."""
    every = [{"step": row["step"], **values_of(row)} for row in read_rows(run.metrics)]
    return [{key: value for key, value in row.items() if key in ("step", "val/loss", "train/loss", "val/note_nll")} for row in every]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_rested_ends_in_the_same_bits_and_has_logged_the_same(tmp_path: Path, corpus: Path, capsys: Any, accumulate: int) -> None:
    file = config_of(corpus, tmp_path, accumulate_grad_batches=accumulate, val_check_interval=EVERY * accumulate)
    whole, parted = rested(capsys, file, tmp_path / "whole", []), rested(capsys, file, tmp_path / "parted", [EVERY, EVERY + 2, 2 * EVERY])
    ends = [load(list_versions(run.checkpoints)[-1].path) for run in (whole, parted)]
    assert list(differences(*ends, (*NOT_COMPARED, "['callbacks']['WriteSamples']"))) == []
    ours, theirs = logged(whole), logged(parted)
    assert {row["step"] for row in ours if "val/loss" in row} == {EVERY, 2 * EVERY, 3 * EVERY}
    assert ours == theirs
    events = [each["event"] for each in read_records(parted.events)]
    assert events.count("paused") == 3
    assert not {"interrupted", "failed"} & {*events}
    config, undisturbed = (yaml.safe_load(run.config.read_text()) for run in (parted, whole))
    assert "pause_at" not in config
    assert config == {**undisturbed, "ckpt_path": config["ckpt_path"]}


def test_a_run_that_ends_there_does_not_rest(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    file = config_of(corpus, tmp_path, max_steps=2, val_check_interval=2)
    status, out, _ = type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--pause_at", 2)
    assert status == 0
    assert "Finished after 2 steps." in out
    told = read_status(find_run("latest", tmp_path / "runs").status)
    assert told is not None
    assert told.state == "finished"


def test_what_a_rule_ends_at_that_validation_does_not_rest(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    file = config_of(corpus, tmp_path)
    config = yaml.safe_load(file.read_text())
    rule = {"watch": [{"metric": "val/loss", "min_delta": 100.0}], "patience": 1, "guards": []}
    config["trainer"]["callbacks"].append({"class_path": "musictrain.callbacks.MusicalEarlyStopping", "init_args": rule})
    write_config(file, config)
    status, out, _ = type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--pause_at", 2 * EVERY)
    assert status == 0
    assert f"Stopped after {2 * EVERY} of {STEPS} steps." in out
    told = read_status(find_run("latest", tmp_path / "runs").status)
    assert told is not None
    assert told.state == "stopped"


def test_a_step_that_is_behind_is_refused(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    file = config_of(corpus, tmp_path)
    assert type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--pause_at", 2)[0] == 0
    run = find_run("latest", tmp_path / "runs")
    before, bits = run.status.read_text(), list_versions(run.checkpoints)
    status, _, err = type_command(capsys, "resume", run.path, "--pause_at", 1)
    assert status == 2
    assert "--pause_at 1: the run has done 2 steps already. Say a later one." in err
    assert run.status.read_text() == before
    # One that was killed between its version and its word.
    run.status.write_text(Status(run.name, state="training", step=2, pid=2**22 + 1).as_json())
    rows = read_rows(run.metrics)
    run.metrics.write_text("")
    assert type_command(capsys, "resume", run.path, "--pause_at", 2)[0] == 0
    told = read_status(run.status)
    assert told is not None
    assert (told.state, told.step) == ("paused", 2)
    assert [each.path for each in list_versions(run.checkpoints)] == [each.path for each in bits]
    assert rows


def test_without_versions_there_is_no_rest() -> None:
    with pytest.raises(UsageError, match="--pause_at needs versions to go on from"):
        pauses_of(3, [], None)
    assert pauses_of(None, [], None) == []
    found = pauses_of(3, [VersionedCheckpoint()], None)
    assert [type(each) for each in found] == [PauseAt]


def test_a_rest_is_told_from_an_interruption() -> None:
    error = SIGTERMException()
    assert ending_of(error, "a-run").state == "interrupted"
    mark_paused(error, 1200)
    ending = ending_of(error, "a-run")
    assert (ending.state, ending.reason) == ("paused", "It was asked to rest after 1,200 steps.")
    assert ending.advice == "Go on with: musictrain resume a-run"


def test_an_error_before_the_step_is_no_rest() -> None:
    error, pause = SIGTERMException(), PauseAt(5)
    pause.on_exception(SimpleNamespace(global_step=4), None, error)  # type: ignore[arg-type]
    assert ending_of(error, "a-run").state == "interrupted"


def test_who_reads_its_events_alone_knows_that_it_rests(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.events.write_text('{"time": 1.0, "event": "started"}\n{"time": 3.0, "event": "paused", "step": 7}\n')
    told: Status = status_by_events(run, {})
    assert (told.state, told.step, told.elapsed_seconds) == ("paused", 7, 2.0)
    reader = EventReader(run)
    reader.read()
    assert reader.last_state == "paused"
