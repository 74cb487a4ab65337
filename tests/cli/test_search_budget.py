"""A search that is larger than was asked for is refused, with what it would take by runs of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.cli.search_budget import check_budget, pace_of
from musictrain.search.definition import Definition, Most, Rule, SearchError
from musictrain.search.folder import SearchFolder

CONFIG: dict[str, Any] = {"model": {"class_path": "M"}, "data": {"init_args": {"window": 8}}, "trainer": {"max_steps": 900}}


def write_run(runs: Path, name: str, step: int, seconds: float, window: int = 8) -> None:
    (runs / name).mkdir(parents=True)
    (runs / name / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": {"init_args": {"window": window}}, "name": name}))
    (runs / name / "status.json").write_text(json.dumps({"name": name, "state": "finished", "step": step, "elapsed_seconds": seconds}))


def search(most: Most, rule: str = "none", slots: int = 1) -> Definition:
    rungs = (900,) if rule == "none" else (100, 300, 900)
    return Definition("x", grid=({"a": (1,)},), seeds=(0, 1), rule=Rule(rule, rungs=rungs), most=most, slots=slots)


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    write_run(tmp_path, "2025-01-01_000000-a", 100, 200.0)
    write_run(tmp_path, "2025-01-02_000000-b", 100, 400.0)
    write_run(tmp_path, "2025-01-03_000000-c", 100, 9000.0, window=64)
    write_run(tmp_path, "2025-01-04_000000-d", 2, 60.0)
    return SearchFolder(tmp_path / "x")


def test_the_pace_is_that_of_runs_of_the_same_kind(folder: SearchFolder, tmp_path: Path) -> None:
    pace = pace_of(CONFIG, tmp_path)
    assert pace is not None
    assert (pace.seconds, pace.runs) == (3.0, 2)
    assert pace_of({"model": {"class_path": "Other"}}, tmp_path) is None


def test_more_trials_than_asked_for_are_refused_with_how_long_they_would_take(folder: SearchFolder) -> None:
    # 9 points x 2 seeds x 900 steps x 3 s are 13.5 hours.
    with pytest.raises(
        SearchError, match=r"9 points with 2 seeds each: 18 trials, 16,200 steps in all, about 14 hours \(3 s a step, by 2 runs"
    ):
        check_budget(search(Most(trials=17)), 9, CONFIG, folder)
    assert check_budget(search(Most(trials=18)), 9, CONFIG, folder) == []


def test_more_hours_than_asked_for_are_refused_unless_a_rule_or_slots_save_them(folder: SearchFolder) -> None:
    with pytest.raises(SearchError, match=r"No more than 10 hours are asked for.*--most-hours 15"):
        check_budget(search(Most(hours=10)), 9, CONFIG, folder)
    assert check_budget(search(Most(hours=10), slots=2), 9, CONFIG, folder) == []
    # 18 x 100 + 6 x 200 + 2 x 600 steps of 3 s are 3.5 hours.
    assert check_budget(search(Most(hours=3.6), "halving"), 9, CONFIG, folder) == []
    with pytest.raises(SearchError, match=r"about 3.5 hours"):
        check_budget(search(Most(hours=3.4), "halving"), 9, CONFIG, folder)


def test_a_search_that_has_begun_may_go_on_and_an_unknown_pace_is_said(folder: SearchFolder) -> None:
    said = check_budget(search(Most(hours=10)), 9, {"model": {"class_path": "Other"}}, folder)
    assert said == ["No run of this kind says how long a step takes; the search ends when its hours are over."]
    folder.path.mkdir()
    folder.trials.write_text("")
    assert check_budget(search(Most(hours=10)), 9, CONFIG, folder) == []
