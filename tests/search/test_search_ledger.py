"""The ledger comes back as it was written, whatever a kill left of it, and never says less than was on the disk."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.search.ledger import (
    BEGUN,
    FAILED,
    FINISHED,
    PRUNED,
    REACHED,
    REUSED,
    STATES,
    Ledger,
    LedgerWriter,
    Record,
    read_ledger,
    tried_again,
)

RECORDS = st.builds(
    Record,
    identity=st.sampled_from(["a" * 64, "b" * 64, "c" * 64]),
    point=st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    seed=st.integers(0, 5),
    run=st.text(max_size=5),
    state=st.sampled_from(STATES),
    step=st.integers(0, 9),
    values=st.dictionaries(st.sampled_from(["val/loss", "val/x"]), st.floats(allow_nan=False), max_size=2),
    reason=st.text(max_size=5),
    attempts=st.integers(0, 3),
    seconds=st.floats(0, 9),
    host=st.text(max_size=3),
    time=st.floats(0, 9),
)


@pytest.fixture(autouse=True, scope="module")
def disk_that_is_not_waited_for() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def written(path: Path, *records: Record) -> bytes:
    path.unlink(missing_ok=True)
    with LedgerWriter(path) as writer:
        writer.write(*records)
    return path.read_bytes() if path.exists() else b""


@settings(max_examples=40)
@given(st.lists(RECORDS, max_size=6))
def test_what_was_written_is_read_again(tmp_path_factory: Any, records: list[Record]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    written(path, *records)
    assert read_ledger(path).trials == Ledger(records).trials


@settings(max_examples=40)
@given(st.lists(RECORDS, min_size=1, max_size=4), RECORDS, st.data())
def test_cut_off_anywhere_it_holds_the_whole_records_before_and_takes_more(
    tmp_path_factory: Any, records: list[Record], later: Record, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    content = written(path, *records)
    end = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:end])
    # A line without its break is whole for a reader, and nothing for the next writer.
    whole = content[:end].count(b"\n")
    assert read_ledger(path).trials in (Ledger(records[:whole]).trials, Ledger(records[: whole + 1]).trials)
    with LedgerWriter(path) as writer:
        writer.write(later)
    assert read_ledger(path).trials == Ledger([*records[:whole], later]).trials


def test_a_value_that_is_no_number_for_json_comes_back(tmp_path: Path) -> None:
    written(tmp_path / "t.jsonl", Record("a", values={"x": math.nan, "y": -math.inf}, state=REACHED, step=3))
    values = read_ledger(tmp_path / "t.jsonl").trials["a"].at[3]
    assert math.isnan(values["x"])
    assert values["y"] == -math.inf


def test_what_is_no_record_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.jsonl"
    good = {"identity": "a", "state": "reached", "step": 3, "values": {"x": 1}, "of_a_later_version": True}
    strange = [
        {},
        {**good, "state": "asleep"},
        {**good, "step": "3"},
        {**good, "step": True},
        {**good, "values": 1},
        {**good, "seconds": "x"},
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*strange, good]))
    with caplog.at_level(logging.WARNING):
        ledger = read_ledger(path)
    assert ledger.trials["a"].at == {3: {"x": 1.0}}
    assert "6 lines tell of no trial" in caplog.text
    assert read_ledger(tmp_path / "none.jsonl").trials == {}


def test_each_record_is_on_the_disk_when_the_writer_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    path = tmp_path / "t.jsonl"
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.read_bytes().count(b"\n")))
    with LedgerWriter(path) as writer:
        writer.write(Record("a"))
        writer.write(Record("b"), Record("c"))
    assert synced == [1, 3]

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with LedgerWriter(path) as writer, pytest.raises(OSError, match="could not be brought to the disk"):
        writer.write(Record("d"))


def test_what_a_trial_measured_stays_and_its_state_is_what_was_said_last() -> None:
    steps = [
        (BEGUN, 0, {}),
        (REUSED, 10, {"x": 3.0}),
        (REACHED, 30, {"x": 2.0}),
        (PRUNED, 30, {}),
        (BEGUN, 30, {}),
        (FINISHED, 50, {"x": 1.0}),
    ]
    ledger = Ledger(Record("a", state=state, step=step, values=values, seconds=0.0 if step < 30 else 8.0) for state, step, values in steps)
    trial = ledger.trials["a"]
    assert (trial.last.state, trial.step, trial.ended, trial.at) == (FINISHED, 50, 50, {10: {"x": 3.0}, 30: {"x": 2.0}, 50: {"x": 1.0}})
    assert [trial.values_at(step) for step in (9, 10, 40, 50, 70)] == [None, {"x": 3.0}, None, {"x": 1.0}, {"x": 1.0}]
    assert [trial.settled_at(step) for step in (9, 10, 40, 50, 70)] == [False, True, False, True, True]
    # Ten of its steps were somebody else's.
    assert trial.seconds_per_step == 8.0 / 40


def test_a_failure_is_over_until_it_is_tried_again() -> None:
    ledger = Ledger(
        [Record("a", state=REACHED, step=10, values={"x": 1.0}), Record("a", state=FAILED, step=15, reason="it crashed", attempts=3)]
    )
    trial = ledger.trials["a"]
    assert (trial.failed, trial.settled_at(99), trial.values_at(10)) == (True, True, {"x": 1.0})
    (failure,) = ledger.failures()
    ledger.take(tried_again(failure, 7.0))
    assert ledger.failures() == []
    assert (trial.settled_at(99), trial.values_at(10), trial.last.attempts, trial.last.reason) == (False, {"x": 1.0}, 0, "")
