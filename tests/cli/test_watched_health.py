"""``fit`` watches over itself: alerts with their pieces and a command to copy, exit status 3, short errors for what cannot be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import list_runs
from musictrain.runs.records import read_records
from musictrain.runs.status import read_status
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus

pytestmark = pytest.mark.slow


def fit(tmp_path: Path, capsys: Any, *callbacks: dict[str, Any]) -> tuple[int, str, str]:
    config = tiny_config(write_corpus(tmp_path / "frames.json"))
    no_samples = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
    config["trainer"]["callbacks"] = [no_samples, *callbacks]
    path = write_config(tmp_path / "mine.yaml", config)
    return type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs", "--data.cache_dir", tmp_path / "cache")


def poison(step: int) -> dict[str, Any]:
    return {"class_path": "tests.callbacks.sick_runs.NanAtStep", "init_args": {"step": step}}


def alerts(**settings: Any) -> dict[str, Any]:
    return {"class_path": "musictrain.callbacks.AnomalyAlerts", "init_args": settings}


def test_a_fit_is_watched_without_being_asked_to(tmp_path: Path, capsys: Any) -> None:
    status, _, _ = fit(tmp_path, capsys, poison(4))
    assert status == 0
    (run,) = list_runs(tmp_path / "runs")
    (told,) = [event for event in read_records(run.events) if event["event"] == "alert" and event["kind"] == "non_finite"]
    assert (told["step"], told["did"]) == (4, "The update of this step is left out (1 of 3).")
    assert len(told["pieces"]) == 2
    assert all(re.fullmatch(r"\S+ from bar \d+", piece) for piece in told["pieces"])
    assert f"`musictrain replay {run.name} --step 4`" in told["advice"]
    assert [event["step"] for event in read_records(run.events) if event["event"] == "skipped"] == [4]
    found = read_status(run.status)
    assert found is not None
    assert found.last_alert["kind"] == "non_finite"


def test_a_run_that_is_stopped_for_its_health_ends_with_status_3(tmp_path: Path, capsys: Any) -> None:
    status, out, _ = fit(tmp_path, capsys, poison(4), alerts(non_finite={"action": "stop"}))
    assert status == 3
    assert "Stopped after 4 of 6 steps. At step 4 the gradients are not finite" in out
    (run,) = list_runs(tmp_path / "runs")
    found = read_status(run.status)
    assert found is not None
    assert (found.state, found.step) == ("stopped", 4)


def test_what_cannot_be_configured_is_a_short_error(tmp_path: Path, capsys: Any) -> None:
    for settings, word in (
        ({"non_finite": {"acton": "stop"}}, "acton"),
        ({"memory": {"action": "skip"}}, "memory got action='skip'"),
        ({"loss_spkie": {"action": "stop"}}, "loss_spike"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
    ):
        status, _, err = fit(tmp_path, capsys, alerts(**settings))
        assert status == 2
        assert word in err
        assert len(err.splitlines()) <= 3
    assert not (tmp_path / "runs").exists() or not list_runs(tmp_path / "runs")
