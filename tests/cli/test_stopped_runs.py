"""What the command line says of a run that MusicalEarlyStopping has ended: its exit status, the reason, and which version is best."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from musictrain.checkpoints.catalog import list_versions
from musictrain.cli.training import status_of_fit
from musictrain.runs import find_run
from musictrain.runs.records import read_records
from musictrain.runs.status import Status, read_status
from tests.cli.tiny import tiny_config, type_command, write_config


def fit(tmp_path: Path, corpus: Path, capsys: Any, more: Sequence[dict[str, Any]] = (), **settings: Any) -> tuple[int, str, Path]:
    """A validation after each of six steps, if it gets so far: exit status, what was printed, the run folder."""
    config = copy.deepcopy(tiny_config(corpus))
    config["trainer"]["val_check_interval"] = 1
    config["trainer"]["callbacks"] = [{"class_path": "musictrain.callbacks.MusicalEarlyStopping", "init_args": settings}, *more]
    file = write_config(tmp_path / "stopping.yaml", config)
    status, out, _ = type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--name", "short")
    return status, out, find_run("latest", tmp_path / "runs").path


def test_a_guard_ends_with_status_three_and_no_version_is_best(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    guard = {"metric": "val/loss", "above": 0.001, "patience": 2, "advice": "Listen."}
    status, out, run = fit(tmp_path, corpus, capsys, watch="val/loss", guards=[guard])
    assert status == 3
    assert "Stopped after 2 of 6 steps. val/loss is" in out
    assert "above 0.001, 2 validations in a row. Listen." in out
    recorded = read_status(run / "status.json")
    assert recorded is not None
    assert (recorded.state, recorded.advice) == ("stopped", "Listen.")
    events = [each["event"] for each in read_records(run / "events.jsonl")]
    assert events[-1] == "stopped"
    assert "alert" in events
    versions = list_versions(run / "checkpoints")
    assert [bool(each.vetoed) for each in versions if each.step] == [True, True]
    assert "best checkpoint" not in out
    assert f"never best       2 of the versions; {versions[-1].name}: val/loss is" in out
    saved = [each.get("vetoed") for each in read_records(run / "events.jsonl") if each["event"] == "saved"]
    assert saved == [None, *(each.vetoed for each in versions if each.step)]


def test_out_of_patience_is_an_end_like_any_other(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    watch = {"metric": "val/loss", "min_delta": 100.0}
    status, out, run = fit(tmp_path, corpus, capsys, watch=[watch], patience=1, guards=[])
    assert status == 0
    assert "Stopped after 2 of 6 steps. val/loss did not get better than" in out
    assert "best checkpoint" in out
    assert [each.vetoed for each in list_versions(run / "checkpoints")] == ["", "", ""]


def test_what_samples_score_reaches_the_rules(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    sampling = {"num": 1, "num_between": 1, "num_scored": 2, "continuations": 1, "beats": 4, "beats_between": 4, "prompt_beats": 2}
    scoring = {"class_path": "musictrain.callbacks.SampleAndScore", "init_args": {**sampling, "most_share": 1.0, "every": 2}}
    guard = {"metric": "val/notes_per_beat", "above": -1.0, "patience": 2}
    status, out, _ = fit(tmp_path, corpus, capsys, more=[scoring], watch=[{"metric": "val/pitch_range", "band": "corpus"}], guards=[guard])
    assert status == 3
    # Every second validation is scored: the guard is not asked again in between.
    assert "Stopped after 4 of 6 steps. val/notes_per_beat is" in out


@pytest.mark.parametrize(
    ("by_guard", "state", "expected"), [(True, "stopped", 3), (True, "finished", 0), (False, "stopped", 0), (True, None, 0)]
)
def test_the_exit_status_agrees_with_what_is_recorded(by_guard: bool, state: str | None, expected: int) -> None:
    trainer = SimpleNamespace(callbacks=[SimpleNamespace(), SimpleNamespace(stopped_by_guard=by_guard)])
    assert status_of_fit(trainer, None if state is None else Status("a-run", state=state)) == expected
