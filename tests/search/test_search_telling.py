"""What a search tells while it goes on and at its end: line, table, page, results.csv, best.yaml; and --show from its files alone."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.cli.exits import UsageError
from musictrain.cli.search_driving import Driver, Trials
from musictrain.cli.search_showing import look_at, show_search
from musictrain.cli.search_telling import Told
from musictrain.cli.search_texts import SearchStanding, importance_lines, with_interval
from musictrain.cli.search_workers import local_workers
from musictrain.runs.eta import TimeLeft
from musictrain.runs.status import Status
from musictrain.search import trial_job
from musictrain.search.definition import Definition
from musictrain.search.folder import SearchFolder
from musictrain.search.importance import importances
from musictrain.search.intervals import Interval
from musictrain.search.ledger import read_ledger
from musictrain.search.plan import Job, Round
from musictrain.search.points import Point
from musictrain.search.results import results_of
from musictrain.search.telling import compared, told_of
from musictrain.search.trial_job import train
from tests.search.fake_trials import LAST, FakeTrials, planned_of, search_of, usual_loss

XS = (5.0, 1.0, 4.0, 2.0, 3.0, 6.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_job, "LOOK_SECONDS", 0.01)


def searched(tmp_path: Path, definition: Definition, loss: Callable[[Mapping[str, Any], int], float] = usual_loss) -> SearchFolder:
    """A search that has been driven to its end by one that tells everything."""
    folder = SearchFolder(tmp_path / "runs" / definition.name)
    folder.path.mkdir(parents=True)
    folder.definition.write_text(yaml.safe_dump(definition.told()))
    drive(folder, definition, loss)
    return folder


def drive(folder: SearchFolder, definition: Definition, loss: Callable[[Mapping[str, Any], int], float] = usual_loss) -> None:
    """The command, once more."""
    trials = trials_of(folder, definition)
    workers = local_workers(definition.slots, partial(train, start=FakeTrials(loss=loss)))
    assert Driver(trials, workers, Told(trials)).run() == 0


def trials_of(folder: SearchFolder, definition: Definition) -> Trials:
    """What the driver of a search is told."""
    return Trials(definition, folder, planned_of(definition), lambda job: [f"x={json.dumps(job.point.values['x'])}"], LAST)


def page_data(folder: SearchFolder) -> dict[str, Any]:
    """What the page shows."""
    told: dict[str, Any] = json.loads(folder.page_data.read_text().removeprefix("musictrain.search(").removesuffix(");\n"))
    return told


def halved(tmp_path: Path) -> SearchFolder:
    """Six points by halving, one of which comes to nothing."""
    definition = search_of(XS, (3, 6, LAST), "halving", seeds=(0, 1))
    return searched(tmp_path, definition, lambda point, step: math.nan if point["x"] == 6 else usual_loss(point, step))


def test_at_the_end_there_is_a_table_with_the_best_first_and_what_failed_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halved(tmp_path)
    printed = capsys.readouterr().out
    assert "small: finished, 6 points, 12 of 12 trials, 2 failed" in printed
    table = printed[printed.index("place") :].splitlines()
    assert table[0].split() == ["place", "val/loss", "at", "step", "x", "state", "run"]
    assert table[1].split()[:5] == ["1", "1.111", "9", "1", "finished"]
    assert table[2].split()[:5] == ["2", "2.167", "6", "2", "given"]
    assert "2 trials failed" in printed
    assert printed.count("x=6, seed") == 2
    assert "val/loss is not finite at step 3" in printed
    assert "best.yaml" in printed


def test_the_csv_holds_every_trial_to_the_last_digit(tmp_path: Path) -> None:
    folder = halved(tmp_path)
    with folder.results.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert (rows[0]["x"], rows[0]["place"], float(rows[0]["val/loss"])) == ("1.0", "1", 1 + 1 / 9)
    assert {row["trial state"] for row in rows if row["x"] == "6.0"} == {"failed"}
    assert [row["val/loss"] for row in rows if row["x"] == "6.0"] == ["", ""]
    trials = read_ledger(folder.trials).trials
    assert {row["run"] for row in rows} == {trial.last.run for trial in trials.values()}


def test_the_best_configuration_is_that_of_the_run_without_its_name_and_place(tmp_path: Path) -> None:
    definition = search_of((2.0, 1.0))
    folder = searched(tmp_path, definition)
    results = results_of(definition, planned_of(definition), read_ledger(folder.trials))
    assert results.best is not None
    trial = results.best.best_run(definition.objectives)
    assert trial is not None
    config = folder.path.parent / trial.run / "config.yaml"
    assert yaml.safe_load(folder.best.read_text()) == json.loads(config.read_text()) == {"point": {"x": 1.0}}
    config.write_text(
        yaml.safe_dump({"name": "y", "ckpt_path": "z", "seed_everything": 3, "init_from": "a@best", "trainer": {"max_steps": 9}})
    )
    from musictrain.cli.search_telling import write_best_of

    write_best_of(Trials(definition, folder, planned_of(definition), lambda job: [], LAST), results)
    text = folder.best.read_text()
    assert yaml.safe_load(text) == {"seed_everything": 3, "init_from": "a@best", "trainer": {"max_steps": 9}}
    assert "# The best of 2 points of the search small: x=1\n# val/loss 1.1111 after 9 steps, 1 seed\n" in text


def test_the_page_is_told_points_in_order_failures_and_that_it_is_over(tmp_path: Path) -> None:
    folder = halved(tmp_path)
    assert folder.page.is_file()
    data = page_data(folder)
    assert [point["values"]["x"] for point in data["points"]] == [1, 2, 3, 4, 5, 6]
    assert [point["state"] for point in data["points"]] == ["finished", "given up", "given up", "given up", "given up", "failed"]
    assert [point["step"] for point in data["points"]] == [9, 6, 3, 3, 3, 0]
    facts = {"state": "finished", "trials": 12, "done": 12, "failed": 2, "rung": 3, "share": 1}
    assert facts.items() <= data["facts"].items()
    assert [each["reason"] for each in data["failures"]] == ["val/loss is not finite at step 3"] * 2
    assert len(data["curves"]["val/loss"]["0"]) == 2, "one curve a seed"
    assert data["importance"]["sentence"].startswith("5 points with a result are too few")


def test_importance_goes_by_the_rung_that_nearly_all_have_come_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    definition = search_of([float(x) for x in range(12)], (3, 6, LAST), "halving")
    folder = searched(tmp_path, definition)
    results = results_of(definition, planned_of(definition), read_ledger(folder.trials))
    points, values, step = compared(definition, results)
    assert step == 3
    assert values == [float(point["x"]) + 1 / 3 for point in points]
    told = page_data(folder)["importance"]
    assert told["num_points"] == 12
    assert told["r2"] == pytest.approx(importances(points, values).r2, rel=1e-4)
    assert told["about"].startswith("By lowest val/loss after 3 steps")
    mattered = f"What mattered, by how far R2 falls: x {told['parameters'][0]['mean']:.2f} (R2 {told['r2']:.2f}, 12 points).\n"
    assert mattered in capsys.readouterr().out
    folder.results.unlink()  # nothing is found out again
    assert show_search(definition.name, tmp_path / "runs") == 0
    assert mattered in capsys.readouterr().out
    assert importance_lines(definition, {**told, "r2": 0.0, "unsure": True}) == ["What mattered cannot be told (R2 0.00, 12 points)."]


def test_a_search_that_is_over_is_told_again_but_neither_drawn_nor_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, definition = halved(tmp_path), search_of(XS, (3, 6, LAST), "halving", seeds=(0, 1))
    files = (folder.page, folder.page_data, folder.results)
    first, was = capsys.readouterr().out, [file.stat().st_ino for file in files]
    drive(folder, definition)
    assert [file.stat().st_ino for file in files] == was
    assert (again := capsys.readouterr().out).startswith("small: finished, 6 points")
    assert again in first
    folder.results.unlink()
    drive(folder, definition)
    assert folder.results.is_file()
    assert folder.page_data.stat().st_ino != was[1]


@pytest.mark.parametrize("what", ["another definition", "another record", "a page of a driver that was killed"])
def test_what_has_changed_is_drawn_again(what: str, tmp_path: Path) -> None:
    folder, definition = halved(tmp_path), search_of(XS, (3, 6, LAST), "halving", seeds=(0, 1))
    was = folder.page_data.stat().st_ino
    if what == "another definition":
        folder.definition.write_text(folder.definition.read_text() + "# somebody was here\n")
    elif what == "another record":
        folder.trials.write_text(folder.trials.read_text() + "\n")
    else:
        job = Job("9" * 64, Point({"x": 1.0}), 0, "small-99999999", 0, 3)
        Told(trials_of(folder, definition)).begin(read_ledger(folder.trials), Round(0, 3, (job,)))
        assert page_data(folder)["live"] is True
        was = folder.page_data.stat().st_ino
    drive(folder, definition)
    assert folder.page_data.stat().st_ino != was
    assert page_data(folder)["live"] is False


def test_show_says_the_same_from_the_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = halved(tmp_path)
    printed = capsys.readouterr().out
    assert show_search("small", tmp_path / "runs") == 0
    shown = capsys.readouterr().out
    assert shown[: shown.index("  page")] in printed
    assert show_search(str(folder.path), Path("elsewhere"), as_json=True) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["search"], record["finished"], len(record["points"])) == ("small", True, 6)
    assert record["points"][0]["values"] == {"x": 1.0}
    with pytest.raises(UsageError, match=r"no search 'smal' in .* Did you mean 'small'"):
        show_search("smal", tmp_path / "runs")
    with pytest.raises(UsageError, match="There is none yet"):
        show_search("small", tmp_path / "nowhere")


def test_a_trial_that_trains_is_seen_by_its_run_in_later_rungs_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = halved(tmp_path)
    lines = folder.trials.read_text().splitlines(keepends=True)
    first_rung = [line for line in lines if json.loads(line)["step"] <= 3 and json.loads(line)["state"] != "pruned"]
    folder.trials.write_text("".join(first_rung))
    capsys.readouterr()
    assert show_search("small", tmp_path / "runs") == 0
    assert "small: rung 2 of 3" in (resting := capsys.readouterr().out)
    assert "running" not in resting
    best = next(row.trials[0] for row in look_at(folder).results.rows if row.point.values["x"] == 1)
    now: dict[str, Any] = {"state": "training", "step": 5, "updated": time.time(), "elapsed_seconds": 5.0, "host": "elsewhere"}
    (folder.path.parent / best.run / "status.json").write_text(Status(best.run, **now).as_json())
    assert show_search("small", tmp_path / "runs") == 0
    assert "1 running, 2 failed, about " in capsys.readouterr().out


def test_before_the_first_trial_there_is_a_table_without_numbers() -> None:
    definition = search_of(XS)
    results = results_of(definition, planned_of(definition), read_ledger("/nowhere/at/all"))
    told = told_of(definition, results, read_ledger("/nowhere/at/all"))
    assert told["facts"]["done"] == 0
    assert {point["state"] for point in told["points"]} == {"training"}
    assert told["parameters"] == [{"key": "x", "name": "x", "told": "1, 2, 3, 4, 5, 6", "log": False}]


def test_a_mean_has_as_many_digits_as_its_interval_allows() -> None:
    assert with_interval(Interval(1234.5678, 1200.0, 1269.2, 3)) == "1235 ± 35"
    assert with_interval(Interval(0.0123456, 0.01234, 0.01235, 3)) == "0.0123456 ± 0.0000050"
    assert with_interval(Interval(math.nan, math.nan, math.nan, 0)) == with_interval(None) == ""


def test_the_line_tells_trials_rung_best_failures_and_the_time_left() -> None:
    standing = SearchStanding(7, 24, 80.0, TimeLeft(200.0, 150.0, 260.0), state="2 running", rung="rung 1 of 3 (100 steps)", of_all=0.25)
    assert standing.line().startswith("7 of 24 trials   25 %  rung 1 of 3 (100 steps)  2 running  1 min 20 s elapsed")
    assert "3 min 20 s left" in standing.line()
    assert len(standing.line(30)) <= 30
