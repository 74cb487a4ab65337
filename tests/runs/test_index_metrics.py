"""What the index keeps of metrics is what the rows that count say, however the file grew."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musictrain.runs.index_metrics import CURVE_POINTS, Extent, Place, read_extents, thinned
from musictrain.runs.rows import marker, read_rows, values_of, vetoed_steps
from tests.runs.some_runs import losses

VALUES = st.one_of(st.sampled_from([0.0, 1.0, -1.0, "NaN", "Infinity"]), st.floats(-1e6, 1e6))
ROWS = st.builds(lambda step, key, value: {"step": step, key: value}, st.integers(0, 12), st.sampled_from(["a", "b"]), VALUES)
MARKERS = st.builds(lambda step: marker(2, step, 0.0), st.integers(0, 12))
VETOES = st.builds(lambda step, why: {"step": step, "vetoed": why}, st.integers(0, 12), st.sampled_from(["it loops", "it copies", ""]))
PARTS = st.lists(st.lists(st.one_of(ROWS, ROWS, ROWS, VETOES, MARKERS), max_size=8), max_size=5)


def truth(path: Path) -> dict[str, tuple[Any, ...]]:
    """Last value of each metric, lowest and highest of the steps that were not vetoed, by the rows that count."""
    found: dict[str, list[tuple[int, float]]] = {}
    rows = read_rows(path)
    vetoed = vetoed_steps(rows)
    for row in rows:
        for key, value in values_of(row).items():
            found.setdefault(key, []).append((row["step"], float(value)))
    told = {}
    for key, points in found.items():
        finite = [(step, value) for step, value in points if math.isfinite(value) and step not in vetoed]
        low, high = min((value for _, value in finite), default=None), max((value for _, value in finite), default=None)
        told[key] = (points[-1][0], repr(points[-1][1]), low, high)
    return told


def told(extents: dict[str, Extent]) -> dict[str, tuple[Any, ...]]:
    return {key: (each.last_step, repr(each.last), each.lowest, each.highest) for key, each in extents.items() if key != "vetoed"}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS)
def test_reading_on_and_reading_anew_say_the_same_as_the_rows(parts: list[list[dict[str, Any]]], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"")
    extents: dict[str, Extent] = {}
    place = Place()
    for part in parts:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)
        extents, place = read_extents(path, extents, place)
        anew, _ = read_extents(path, {}, Place())
        assert told(extents) == told(anew) == truth(path)


def test_a_vetoed_step_is_neither_lowest_nor_highest_and_the_index_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [*losses(5.0, 1.0, 4.0), {"step": 20, "vetoed": "it loops"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extents, place = read_extents(path, {}, Place())
    assert (extents["val/loss"].lowest, extents["val/loss"].lowest_step, extents["val/loss"].last) == (4.0, 30, 4.0)
    assert (extents["vetoed"].last, extents["vetoed"].last_step) == (1.0, 20)
    with path.open("a") as file:
        file.write(json.dumps({"step": 30, "vetoed": "it copies"}) + "\n")  # only now, though its value was read before
    extents, place = read_extents(path, extents, place)
    assert extents["val/loss"].lowest == 5.0
    with path.open("a") as file:
        file.write(json.dumps({"step": 30, "vetoed": ""}) + "\n")
    assert read_extents(path, extents, place)[0]["val/loss"].lowest == 4.0


def test_a_torn_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a"')
    extents, place = read_extents(path, {}, Place())
    assert (extents["a"].last_step, extents["a"].lowest) == (1, 1.0)
    with path.open("a") as file:
        file.write(": 0.5}\n")
    extents, _ = read_extents(path, extents, place)
    assert (extents["a"].last_step, extents["a"].lowest, extents["a"].lowest_step) == (2, 0.5, 2)


@pytest.mark.parametrize("content", ['{"step": 9, "b": 3.0}\n' * 5, ""])
def test_another_file_is_read_from_its_beginning(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in losses(1.0, 2.0)))
    extents, place = read_extents(path, {}, Place())
    path.write_text(content)
    extents, _ = read_extents(path, extents, place)
    assert list(extents) == (["b"] if content else [])


def test_steps_withdrawn_and_done_again_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [*losses(5.0, 4.0, -9.0), marker(2, 20, 0.0), *[{"step": step, "val/loss": 3.0} for step in (20, 30)]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    extent = read_extents(path, {}, Place())[0]["val/loss"]
    assert (extent.lowest, extent.lowest_step, extent.highest, list(extent.values)) == (3.0, 20, 5.0, [5.0, 3.0, 3.0])


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=400))
def test_a_thin_curve_keeps_ends_and_extremes_in_order(values: list[float]) -> None:
    steps, kept = thinned(array("d", range(len(values))), array("d", values))
    assert len(kept) == len(values) if len(values) <= CURVE_POINTS else len(kept) <= CURVE_POINTS
    assert list(steps) == sorted(set(steps))
    assert [values[int(step)] for step in steps] == list(kept)
    assert (kept[0], kept[-1], min(kept), max(kept)) == (values[0], values[-1], min(values), max(values))
