"""Trials of a search stand behind one line in the list of runs, and each by itself where somebody asks for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.runs_searches import folded
from musictrain.runs import RunFolder
from musictrain.runs.lineage import add_parent
from tests.cli.tiny import type_command
from tests.runs.some_runs import losses, write_run


def trial(runs_dir: Path, name: str, loss: float, *searches: str, **status: Any) -> RunFolder:
    best = {"metric": "val/loss", "value": loss, "step": 10}
    told = {"state": "finished", "step": 10, "total": 10, "best": best, "elapsed_seconds": 60.0, "first_started": 1735725600.0, **status}
    run = write_run(runs_dir, name, losses(loss), **told)
    for search in searches:
        add_parent(run, "trial of", search)
    return run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three trials of a search, of which one was made by another search with a single trial, and a run of its own."""
    runs_dir = tmp_path / "runs"
    trial(runs_dir, "alone", 0.5, first_started=1735812000.0)
    for name, loss in (("rates-1", 0.4), ("rates-2", 0.3)):
        trial(runs_dir, name, loss, "rates", "later")
    trial(runs_dir, "rates-3", 0.6, "rates", state="training", total=20, updated=4e9)
    trial(runs_dir, "older-1", 0.7, "older", "rates")
    return runs_dir


def lines_of(capsys: Any, runs_dir: Path, *words: Any) -> list[list[str]]:
    status, out, err = type_command(capsys, "runs", "list", *words, "--runs", runs_dir)
    assert (status, err) == (0, "")
    return [re.split(r"\s{2,}", re.sub(r" +(\d+ %)", r" \1", line.strip())) for line in out.splitlines()]


def test_the_trials_of_a_search_are_one_line_that_counts_them_and_knows_the_best(capsys: Any, runs: Path) -> None:
    heads, *lines, footing = lines_of(capsys, runs)
    assert [line[0] for line in lines] == ["alone", "rates (3 trials)", "older-1"]
    assert heads[:3] == ["run", "state", "progress"]
    assert lines[1][1:5] == ["training", "2/3 66 %", "0.3", "10"]
    assert lines[1][5] == "3 min 0 s"
    assert footing[0].startswith("5 runs in")
    assert footing[0].endswith("3 of them trials of 1 search (--trials shows each).")


@pytest.mark.parametrize(
    ("objective", "best", "step"),
    [
        ({"metric": "val/loss", "mode": "max", "value": "best"}, "0.6", "10"),
        ({"metric": "train/x", "mode": "max", "value": "best"}, "9 (train/x)", "2"),
        ({"metric": "train/x", "mode": "min", "value": "last"}, "1 (train/x)", "4"),
        ({"metric": "train/x", "mode": "max", "value": "last"}, "5 (train/x)", "4"),
    ],
)
def test_a_search_goes_by_its_own_objective(capsys: Any, runs: Path, objective: dict[str, str], best: str, step: str) -> None:
    for name, values in {"rates-1": (9.0, 1.0), "rates-2": (7.0, 5.0)}.items():
        with (runs / name / "metrics.jsonl").open("a") as out:
            out.writelines(json.dumps({"time": 1.0, "step": 2 * (place + 1), "train/x": x}) + "\n" for place, x in enumerate(values))
    (runs / "rates").mkdir()
    (runs / "rates/search.yaml").write_text(json.dumps({"name": "rates", "objectives": [objective, {"metric": "y", "mode": "min"}]}))
    _, *lines, _ = lines_of(capsys, runs)
    assert lines[1][3:5] == [best, step]
    (runs / "rates/search.yaml").write_text("objectives: [")
    _, *lines, _ = lines_of(capsys, runs)
    assert lines[1][3:5] == ["0.3", "10"], "nobody can tell what else it goes by"


def test_unfolded_they_follow_their_search(capsys: Any, runs: Path) -> None:
    _, *lines, footing = lines_of(capsys, runs, "--trials")
    assert [line[0] for line in lines[:2]] == ["alone", "rates (3 trials)"]
    assert {line[0] for line in lines[2:5]} == {"rates-1", "rates-2", "rates-3"}
    assert "--trials" not in footing[0]


@pytest.mark.parametrize("words", [("--where", "val/loss<0.65"), ("--name", "rates"), ("--columns", "state")])
def test_whoever_looks_for_certain_runs_or_values_sees_each(words: tuple[str, ...], capsys: Any, runs: Path) -> None:
    names = {line[0] for line in lines_of(capsys, runs, *words)}
    assert {"rates-1", "rates-2", "rates-3"} <= names
    assert not any("trials)" in name for name in names)


def test_programs_are_told_of_each(capsys: Any, runs: Path) -> None:
    status, out, _ = type_command(capsys, "runs", "list", "--json", "--runs", runs)
    assert status == 0
    assert {row["name"] for row in json.loads(out)} == {"alone", "rates-1", "rates-2", "rates-3", "older-1"}


def test_no_run_is_lost_and_none_told_twice_however_they_are_sorted() -> None:
    def row(number: int) -> dict[str, Any]:
        facts = {
            "state": "finished",
            "best_metric": "val/loss",
            "best_value": None,
            "best_step": None,
            "created": None,
            "elapsed_seconds": None,
        }
        return {"id": number, "name": str(number), "archived": 0, **facts}

    rows, searches = [row(number) for number in (4, 1, 3, 0, 2, 5)], {1: "a", 2: "a", 3: "b", 4: "b", 5: "c"}
    closed, counts = folded(rows, searches)
    assert [line["name"] for line in closed] == ["b (2 trials)", "a (2 trials)", "0", "5"]
    assert counts == {"a": 2, "b": 2}
    opened, _ = folded(rows, searches, unfold=True)
    assert [line["name"].strip() for line in opened] == ["b (2 trials)", "4", "3", "a (2 trials)", "1", "2", "0", "5"]
