"""Music stops real runs of Bach's chorales: what copies, what loops, on two processes, and killed in between."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks import musical_stopping
from benchmarks.guard_alarms import alarm_rate, looped, of_measures, windows_of
from benchmarks.stopping_runs import Ended, fit, write_few_chorales
from musictrain.data import load_corpus
from musictrain.metrics import measure_all
from musictrain.notes import Notes
from musictrain.stopping import GUARDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chorales to train on, eight to validate on."""
    return write_few_chorales(tmp_path_factory.mktemp("chorales") / "few")


@pytest.fixture(scope="module")
def copied(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The run that learns four chorales by heart."""
    return fit(musical_stopping.copying_config(few), tmp_path_factory.mktemp("copying"), "copying")


@pytest.fixture(scope="module")
def told(copied: Ended, few: Path) -> dict[str, Any]:
    """What is to be said of it."""
    return musical_stopping.told_of_copying(copied, few)


def test_a_run_that_copies_is_stopped_while_its_training_loss_still_falls(told: dict[str, Any]) -> None:
    assert (told["exit_status"], told["state"]) == (3, "stopped")
    assert told["reason"].startswith("val/copy_excess is ")
    assert told["training_loss_still_falls"]
    assert told["stopped_at"] in told["vetoed_steps"]
    assert told["best_step"] == told["validation_loss_lowest_at"] < told["stopped_at"]


def test_the_bars_it_names_are_those_of_the_chorale(told: dict[str, Any]) -> None:
    right = told["passage_is_right"]
    assert right["steps_with_the_same_pitches"] == right["steps"] >= 16
    assert right["source_bars"] == right["measures_of_music21"]
    assert all(told["named_in"].values())


def test_a_wrong_passage_would_be_noticed(copied: Ended, told: dict[str, Any], few: Path) -> None:
    step = told["stopped_at"]
    passage = copied.scores(step)["copied"][0]
    moved = {**passage, "source_beat": passage["source_beat"] + 1.0, "beats": passage["beats"] - 1.0}
    wrong = musical_stopping.passage_is_right(moved, copied.run.samples_at(step), few)
    assert wrong["steps_with_the_same_pitches"] < wrong["steps"]


def test_what_stands_still_is_not_called_best_though_its_loss_is_the_lowest(few: Path, tmp_path: Path) -> None:
    found = musical_stopping.fate_of_lowest(fit(musical_stopping.collapse_config(few), tmp_path, "collapse"))
    assert found["lowest_loss_is_vetoed"]
    assert found["course"]["val/mean_note_length"][found["lowest_loss_at"]] > float(GUARDS["standstill"].bound)
    assert found["best_step"] is not None
    assert found["loss_of_best_version"] > found["best_loss_of_all"]


def test_two_processes_stop_together(few: Path, tmp_path: Path) -> None:
    found = musical_stopping.two_processes(tmp_path, few)
    assert found["ranks_agree"]
    assert found["reason"].startswith("val/copy_excess is ")
    assert {rank["stopped_at"] for rank in found["ranks"].values()} == {found["stopped_at"]}


@pytest.mark.parametrize("place", musical_stopping.KILLS)
def test_a_kill_leaves_the_decision_unchanged(few: Path, tmp_path: Path, told: dict[str, Any], place: str) -> None:
    found = musical_stopping.killed_once(tmp_path, few, told, place)
    assert found["exit_status_of_the_killed"] == -signal.SIGKILL
    assert found["unchanged"], found["resumed"]
    assert found["scores_unchanged"]


def test_chorales_in_place_of_samples_raise_no_alarm_and_loops_do() -> None:
    pieces = [piece.notes for piece in load_corpus("chorales", progress=False).split("test")]
    measured = of_measures([windows_of(notes, most=2) for notes in pieces])
    assert [each["sets_of"]["18"]["alarms"] for each in measured.values()] == [0, 0]
    assert measure_all(looped(pieces[0], 1))["bar_repetition"] > float(GUARDS["collapse"].bound)


def test_an_alarm_rate_is_a_share_of_sets() -> None:
    import numpy as np

    assert alarm_rate(np.array([0.0, 0.5, 1.0, 0.25]), 0.25)["rate"] == 0.5
    assert alarm_rate(np.zeros(300), 0.25)["at_most_95"] == 0.01


def test_a_loop_is_as_long_as_a_window() -> None:
    scale = Notes.from_rows([(float(beat), 1.0, 60 + beat) for beat in range(12)])
    loop = looped(scale, 2)
    assert loop.end == 32.0
    assert measure_all(loop)["bar_repetition"] == 0.75
