"""Which rows of metrics.jsonl count, and how a growing file is read on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs import CountingRows, Records, RowReader, RunFolder, read_rows
from musictrain.runs.rows import BLOCK_BYTES, is_marker, marker, values_of


def row(step: int | None, attempt: Any = 1, **values: Any) -> dict[str, Any]:
    return {"time": 10.0 * attempt, "step": step, "epoch": 0, "attempt": attempt, **values}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    records = Records(path)
    for each in rows:
        records.append(each)
    records.close()
    return path


def counted(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["step"], *values_of(each).items()) for each in rows]


def test_a_marker_withdraws_the_rows_above_its_step_and_is_no_row_itself() -> None:
    rows = CountingRows([marker(1, 0, 1.0), row(1, loss=5), row(2, loss=4), row(3, loss=3), marker(2, 2, 2.0), row(3, 2, loss=3.5)])
    assert counted(rows.rows()) == [(1, ("loss", 5)), (2, ("loss", 4)), (3, ("loss", 3.5))]
    assert rows.rows()[-1]["attempt"] == 2


def test_a_marker_at_the_beginning_of_training_withdraws_everything_before_it() -> None:
    rows = CountingRows([row(0, loss=6), row(1, loss=5), marker(2, -1, 2.0), row(1, 2, loss=7)])
    assert counted(rows.rows()) == [(1, ("loss", 7))]


def test_what_is_recorded_again_at_the_very_step_replaces_that_value_alone() -> None:
    rows = CountingRows([row(2, loss=4, lr=1), row(2, val=9), marker(2, 2, 2.0), row(2, 2, val=8), row(2, 2, loss=3)])
    assert counted(rows.rows()) == [(2, ("lr", 1)), (2, ("val", 8)), (2, ("loss", 3))]


def test_rows_of_an_older_version_without_markers_count_once_too() -> None:
    doubled = [row(1, loss=5), row(2, loss=4), row(3, loss=3), row(2, loss=4), row(3, loss=3), row(4, loss=2)]
    old = [{key: value for key, value in each.items() if key != "attempt"} for each in doubled]
    assert counted(CountingRows(old).rows()) == [(1, ("loss", 5)), (2, ("loss", 4)), (3, ("loss", 3)), (4, ("loss", 2))]


def test_several_rows_of_one_step_stay_apart_and_in_their_order() -> None:
    rows = [row(2, b=1), row(2, a=2), row(2, c=3)]
    assert CountingRows(rows).rows() == rows


def test_rows_without_a_step_are_kept_and_come_first() -> None:
    rows = [row(1, loss=1), row(None, test=2), row(None, test=3), marker(2, 0, 2.0)]
    assert counted(CountingRows(rows).rows()) == [(None, ("test", 2)), (None, ("test", 3))]


def test_steps_that_are_no_whole_numbers_are_none_at_all() -> None:
    strange: list[dict[str, Any]] = [
        {"step": "7", "a": 1},
        {"step": True, "a": 2},
        {"step": 2.5, "a": 3},
        {"step": [1], "a": 4},
        {"step": 2.0, "a": 5},
    ]
    assert [each["a"] for each in CountingRows([*strange, marker(2, 1, 0.0)]).rows()] == [1, 2, 3, 4]


def test_adding_leaves_the_given_rows_as_they_are() -> None:
    given_rows = [row(2, loss=4, lr=1), row(2, loss=3)]
    before = json.dumps(given_rows)
    CountingRows(given_rows)
    assert json.dumps(given_rows) == before


@st.composite
def attempts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What several attempts record that each begin somewhere before the end of the one before; the last one comes to step 12."""
    rows, reached = [], 0
    for attempt in range(1, draw(st.integers(1, 5)) + 1):
        start = draw(st.integers(0, reached))
        rows.append(marker(attempt, start, float(attempt)))
        reached = draw(st.integers(start, 12))
        rows += [row(step, attempt, loss=step * 0.5) for step in range(start + 1, reached + 1)]
    rows.append(marker(9, reached, 9.0))
    return [*rows, *(row(step, 9, loss=step * 0.5) for step in range(reached + 1, 13))]


@given(attempts(), st.integers(0, 60))
def test_however_often_it_was_interrupted_every_step_counts_once(rows: list[dict[str, Any]], cut: int) -> None:
    counting = CountingRows(rows[:cut])
    counting.add(rows[cut:])
    assert counted(counting.rows()) == [(step, ("loss", step * 0.5)) for step in range(1, 13)]
    assert counting.rows() == CountingRows(rows).rows()


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "none.jsonl") == []
    assert RowReader(tmp_path / "none.jsonl").read_new() == []


def test_a_reader_gives_markers_and_only_what_is_new(tmp_path: Path) -> None:
    reader = RowReader(written(tmp_path / "m.jsonl", marker(1, 0, 1.0), row(1, loss=5)))
    first = reader.read_new()
    assert [is_marker(each) for each in first] == [True, False]
    assert reader.read_new() == []
    written(reader.path, row(2, loss=4))
    assert counted(reader.read_new()) == [(2, ("loss", 4))]
    assert reader.restarts == 0


def test_a_torn_last_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", row(1, loss=5))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    reader = RowReader(path)
    assert len(reader.read_new()) == 1
    assert reader.read_new() == []
    path.write_bytes(whole + whole)
    assert len(reader.read_new()) == 1
    assert reader.restarts == 0


def test_a_torn_last_line_that_the_next_writer_cuts_off_is_never_read(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", row(1, loss=5))
    with path.open("ab") as file:
        file.write(b'{"time": 1, "st')
    reader = RowReader(path)
    assert len(reader.read_new()) == 1
    written(path, row(2, loss=4))
    assert counted(reader.read_new()) == [(2, ("loss", 4))]


@pytest.mark.parametrize("rows", [[row(1, loss=9)], [row(step, loss=9.0 + step) for step in range(1, 9)]], ids=["shorter", "longer"])
def test_a_file_that_is_another_one_now_is_read_from_its_beginning(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = written(tmp_path / "m.jsonl", row(1, loss=5), row(2, loss=4))
    reader = RowReader(path)
    assert len(reader.read_new()) == 2
    path.unlink()
    written(path, *rows)
    assert reader.read_new() == rows
    assert reader.restarts == 1


def test_a_longer_copy_of_the_same_file_is_gone_on_with(tmp_path: Path) -> None:
    path = written(tmp_path / "m.jsonl", row(1, loss=5))
    reader = RowReader(path)
    reader.read_new()
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes() + json.dumps(row(2, loss=4)).encode() + b"\n")
    copy.replace(path)
    assert counted(reader.read_new()) == [(2, ("loss", 4))]
    assert reader.restarts == 0


def test_unreadable_lines_are_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1, "a": 1}\n\x00\x00\n[1]\n\xff\xfe\n\n' + b"[" * 100_000 + b'\n{"step": 2, "a": 2}\n')
    with caplog.at_level(logging.WARNING):
        assert counted(read_rows(path)) == [(1, ("a", 1)), (2, ("a", 2))]
    assert caplog.text.count("no JSON object") == 4


@pytest.mark.parametrize("most_bytes", [1, 50, 1000, None])
def test_reading_in_pieces_gives_the_same_rows(tmp_path: Path, most_bytes: int | None) -> None:
    rows = [row(step, loss=step, text="x" * (step * 37 % 300)) for step in range(1, 40)]
    reader = RowReader(written(tmp_path / "m.jsonl", *rows))
    pieces = []
    while new := reader.read_new(most_bytes):
        pieces.append(new)
    assert [each for piece in pieces for each in piece] == rows
    assert most_bytes is None or len(pieces) > 3


def test_a_line_longer_than_a_block_is_read(tmp_path: Path) -> None:
    rows = [row(1, text="x" * (2 * BLOCK_BYTES + 5)), row(2, text="y")]
    path = written(tmp_path / "m.jsonl", *rows)
    assert read_rows(path) == rows
    assert RowReader(path).read_new(10) == rows[:1]


def test_a_run_looks_at_the_rows_that_count(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    best_withdrawn = [row(10, **{"val/loss": 0.9}), row(20, **{"val/loss": 0.1}), marker(2, 10, 2.0), row(15, 2, **{"val/loss": 0.8})]
    written(run.metrics, *best_withdrawn)
    written(run.events, {"event": "started"}, {"event": "finished", "step": 20}, {"event": "resumed"}, {"event": "saved", "step": 12})
    assert run.best() == (0.8, 15)
    assert run.last_step() == 15
