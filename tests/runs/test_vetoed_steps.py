"""A step whose music was vetoed is called best by nobody who reads the rows, however they came to be there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.dashboard.page_data import PageData
from musictrain.runs import RunFolder, find_run, read_rows
from musictrain.runs.going_on import best_of, going_on
from musictrain.runs.index import RunIndex
from musictrain.runs.rows import marker, vetoed_steps
from musictrain.runs.summary import summary
from tests.runs.some_runs import append, losses, write_run

LOOPS = "val/bar_repetition is 0.9, above 0.7"
VALUES = st.builds(lambda step, value: {"step": step, "val/loss": value}, st.integers(1, 8), st.integers(0, 9).map(float))
VETOES = st.builds(lambda step, why: {"step": step, "vetoed": why}, st.integers(1, 8), st.sampled_from([LOOPS, ""]))
MARKERS = st.builds(lambda step: marker(2, step, 0.0), st.integers(0, 8))
ROWS = st.lists(st.one_of(VALUES, VALUES, VETOES, MARKERS), max_size=20)


def by_hand(rows: list[dict[str, Any]]) -> tuple[float, int] | None:
    """The lowest value of the steps that are not vetoed in the end, by going through the file as one would with a pencil."""
    values: dict[int, float] = {}
    vetoed: dict[int, str] = {}
    for row in rows:
        if "from_step" in row:
            values = {step: value for step, value in values.items() if step <= row["from_step"]}
            vetoed = {step: why for step, why in vetoed.items() if step <= row["from_step"]}
        elif "vetoed" in row:
            vetoed[row["step"]] = row["vetoed"]
        else:
            values[row["step"]] = row["val/loss"]
    return min(((value, step) for step, value in values.items() if not vetoed.get(step)), default=None)


@settings(max_examples=60)
@given(rows=ROWS)
def test_whoever_asks_for_the_best_step_is_told_the_same(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    runs_dir = tmp_path_factory.mktemp("runs")
    run = RunFolder(runs_dir / "run")
    run.path.mkdir()
    run.metrics.write_text("".join(json.dumps({"time": 1.0, **row}) + "\n" for row in rows))
    expected = by_hand(rows)
    value, step = expected or (None, None)
    assert run.best() == expected
    told = best_of(read_rows(run.metrics), "val/loss", "min")
    assert (told.get("value"), told.get("step")) == (value, step)
    assert going_on(run.metrics, 8, [], "val/loss", "min").best == told
    assert PageData(run).read()["best"] == told
    with RunIndex(runs_dir) as index:
        index.refresh()
        (row,) = index.select("SELECT best_value, best_step FROM runs") or [{"best_value": None, "best_step": None}]
    assert (row["best_value"], row["best_step"]) == (value, step)


@given(rows=ROWS, at=st.integers(0, 8))
def test_what_a_checkpoint_carried_is_vetoed_too(rows: list[dict[str, Any]], at: int) -> None:
    path = Path("/nonexistent/metrics.jsonl")
    carried = [row for row in rows if "from_step" not in row]
    found = going_on(path, at, carried, "val/loss", "min")
    kept = [row for row in found.missing if "vetoed" in row]
    assert {row["step"] for row in kept} == {row["step"] for row in carried if "vetoed" in row and row["step"] <= at}
    assert found.best.get("step") not in vetoed_steps(found.missing)


def test_a_veto_that_a_kill_kept_from_the_file_comes_back_with_the_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path, "run", losses(3.0, 1.0))
    carried = [*losses(3.0, 1.0), {"step": 20, "vetoed": LOOPS}]
    found = going_on(run.metrics, 20, carried, "val/loss", "min")
    assert found.missing == [{"step": 20, "vetoed": LOOPS}]
    assert found.best["step"] == 10
    append(run.metrics, found.missing)
    assert going_on(run.metrics, 20, carried, "val/loss", "min").missing == []


def test_the_best_run_is_not_the_one_whose_lowest_loss_was_vetoed(tmp_path: Path) -> None:
    write_run(tmp_path, "looping", [*losses(3.0, 0.1), {"step": 20, "vetoed": LOOPS}])
    write_run(tmp_path, "honest", losses(3.0, 2.0))
    assert find_run("best", tmp_path).name == "honest"


def test_a_run_of_which_everything_was_vetoed_has_no_best(tmp_path: Path) -> None:
    run = write_run(tmp_path, "looping", [*losses(3.0), {"step": 10, "vetoed": LOOPS}])
    assert run.best() is None
    assert "best" not in summary(run)
    assert PageData(run).read()["vetoed"] == [[10, LOOPS]]


def test_a_veto_is_no_logged_value_and_no_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path, "looping", [*losses(3.0, math.inf), {"step": 10, "vetoed": LOOPS}])
    assert [curve["key"] for curve in PageData(run).read()["curves"]] == ["val/loss"]
