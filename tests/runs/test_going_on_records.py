"""What a resumed run learns from its records before it adds to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import Records
from musictrain.runs.going_on import GoingOn, as_text, best_of, from_text, going_on
from musictrain.runs.rows import marker


def row(step: int, attempt: int = 1, **values: Any) -> dict[str, Any]:
    return {"time": 1.0, "step": step, "epoch": 0, "attempt": attempt, **values}


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    records = Records(folder / "metrics.jsonl")
    for each in rows:
        records.append(each)
    records.close()
    return records.path


def test_a_new_run_has_nothing_behind_it(tmp_path: Path) -> None:
    assert going_on(tmp_path / "metrics.jsonl", 0, [], "loss", "min") == GoingOn(0, [], {})


def test_only_what_is_not_recorded_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, marker(1, 0, 0.0), row(1, loss=5, lr=1), row(2, loss=4), row(3, loss=3))
    carried = [row(1, loss=5, lr=1), row(2, loss=4, lr=2), row(2, val=9), row(3, loss=3)]
    assert going_on(path, 2, carried, "val", "min") == GoingOn(1, [row(2, lr=2), row(2, val=9)], {"metric": "val", "value": 9.0, "step": 2})


def test_what_an_attempt_in_between_has_withdrawn_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, marker(1, 0, 0.0), row(1, loss=5), row(2, loss=4), marker(2, 1, 0.0))
    assert going_on(path, 2, [row(2, loss=4)], None, "min") == GoingOn(2, [row(2, loss=4)], {})


def test_the_best_after_the_step_no_longer_counts(tmp_path: Path) -> None:
    path = written(tmp_path, row(1, val=5), row(2, val="NaN"), row(3, val=1))
    assert going_on(path, 2, [], "val", "min") == GoingOn(1, [], {"metric": "val", "value": 5.0, "step": 1})


@pytest.mark.parametrize(("mode", "step"), [("min", 2), ("max", 3)])
def test_the_first_of_equals_is_the_best_and_what_is_not_finite_never_is(mode: str, step: int) -> None:
    rows = [row(1, val="NaN"), row(2, val=1), row(3, val=4), row(4, val=1), row(5, val=4), row(6, val="-Infinity"), row(7, val="Infinity")]
    assert best_of(rows, "val", mode)["step"] == step
    assert best_of([row(9, other=1)], "val", mode, {"value": 2}) == {"value": 2}


def test_rows_survive_as_text() -> None:
    rows = [row(1, loss=0.1 + 0.2), row(2, text="two\nlines"), row(3, loss=float("nan"))]
    assert from_text(as_text(rows)) == [rows[0], rows[1], row(3, loss="NaN")]
    assert from_text("") == []
