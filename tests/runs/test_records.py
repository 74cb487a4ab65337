"""One record, one line, whatever it holds and however the writer died."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.runs import Records, read_records
from musictrain.runs.folder import number
from musictrain.runs.records import record_line

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def write(path: Path, *records: dict[str, Any]) -> None:
    writer = Records(path)
    for record in records:
        writer.append(record)
    writer.close()


@settings(max_examples=60, deadline=None)
@given(record=st.dictionaries(st.text(), values, max_size=4))
def test_any_record_is_one_line_and_comes_back(record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    write(path, record, {"after": 1})
    assert path.read_bytes().count(b"\n") == 2
    assert path.read_text(encoding="ascii").splitlines()[1] == '{"after": 1}'
    assert read_records(path) == [record, {"after": 1}]


def test_what_json_lacks_is_text_that_float_reads() -> None:
    line = record_line({"a": math.nan, "b": -math.inf, "c": np.float32(0.5), "d": np.arange(2), "e": Path("x"), 3: (1,)})
    assert line == b'{"a": "NaN", "b": "-Infinity", "c": 0.5, "d": [0, 1], "e": "x", "3": [1]}\n'
    assert math.isnan(number("NaN"))
    assert number("-Infinity") == -math.inf


@pytest.mark.parametrize("kept", range(1, len(record_line({"step": 12})) - 1))
def test_a_torn_last_line_is_skipped_by_readers_and_cut_by_the_next_writer(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(record_line({"step": 1}) + record_line({"step": 12})[:kept])
    assert read_records(path) == [{"step": 1}]
    write(path, {"step": 2})
    assert read_records(path) == [{"step": 1}, {"step": 2}]
    assert path.read_bytes() == record_line({"step": 1}) + record_line({"step": 2})


def test_a_file_that_is_one_torn_line_longer_than_a_block_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 70_000)
    write(path, {"step": 1})
    assert read_records(path) == [{"step": 1}]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a" 2}\n[3]\n{"a": 4}\n')
    with caplog.at_level(logging.WARNING):
        assert read_records(path) == [{"a": 1}, {"a": 4}]
    assert [record.getMessage().split(", ")[1] for record in caplog.records] == ["line 2: no JSON object", "line 3: no JSON object"]


def test_two_writers_share_a_file_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, second = Records(path), Records(path)
    for step in range(5):
        first.append({"writer": 1, "step": step})
        second.append({"writer": 2, "step": step})
    assert [(row["step"], row["writer"]) for row in read_records(path)] == [(step, writer) for step in range(5) for writer in (1, 2)]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "a.jsonl") == []
