"""A thinned curve keeps its ends, its extremes and its gaps, whatever it was and however it grew."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.dashboard.downsampling import RunningCurve, thinned

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
LIMIT = 16


def grown(values: list[float], most_points: int = LIMIT) -> RunningCurve:
    curve = RunningCurve(most_points)
    for step, value in enumerate(values):
        curve.add(step, value)
    return curve


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


@given(st.lists(numbers, max_size=LIMIT - 2))
def test_a_short_curve_stays_as_it_is(values: list[float]) -> None:
    points = grown(values).points()
    assert [step for step, _ in points] == list(range(len(values)))
    assert all(same(value, values[step]) for step, value in points)


@given(st.lists(numbers, min_size=1, max_size=300))
def test_every_point_is_one_that_was_given_and_there_are_few(values: list[float]) -> None:
    points = grown(values).points()
    assert len(points) <= LIMIT
    assert all(one[0] < other[0] for one, other in itertools.pairwise(points))
    assert all(same(value, values[step]) for step, value in points)


@given(st.lists(numbers, min_size=1, max_size=300))
def test_ends_and_extremes_stay(values: list[float]) -> None:
    points = grown(values).points()
    assert points[0][0] == 0
    assert points[-1][0] == len(values) - 1
    finite = [value for value in values if math.isfinite(value)]
    kept = [value for _, value in points if math.isfinite(value)]
    assert [min(finite, default=0), max(finite, default=0)] == [min(kept, default=0), max(kept, default=0)]


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_gap_is_not_lost(broken: list[bool]) -> None:
    points = grown([math.nan if gap else 1.0 for gap in broken]).points()
    assert any(broken) == any(math.isnan(value) for _, value in points)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 220))
def test_withdrawn_steps_are_gone_and_the_others_are_not(values: list[float], step: int) -> None:
    curve = grown(values)
    before = curve.points()
    curve.cut_after(step)
    kept = [point for point in before if point[0] <= step]
    assert set(kept) <= set(curve.points()) if step >= len(values) - 1 else curve.points() == kept
    curve.add(max(step, len(values)) + 1, 7.0)
    assert curve.last == (max(step, len(values)) + 1, 7.0)


@given(st.permutations(list(range(12))))
def test_the_order_of_few_rows_does_not_matter(order: list[int]) -> None:
    curve = RunningCurve(LIMIT)
    for step in order:
        curve.add(step, step * 2.0)
    assert curve.points() == [(step, step * 2.0) for step in range(12)]
    assert curve.num_rows == 12


def test_a_step_that_was_done_again_replaces_the_first() -> None:
    curve = grown([1.0, 2.0, 3.0])
    curve.add(1, 9.0)
    curve.add(2, 8.0)
    assert curve.points() == [(0, 1.0), (1, 9.0), (2, 8.0)]


def test_a_spike_of_one_step_in_a_hundred_thousand_is_seen() -> None:
    draw = random.Random(1)
    values = [draw.random() for _ in range(100_000)]
    values[54_321] = 50.0
    curve = grown(values, 2_000)
    points = curve.points()
    assert (54_321, 50.0) in points
    assert 500 < len(points) <= 2_000
    assert curve.num_rows == 100_000


def test_changes_tell_whether_to_draw_again() -> None:
    curve = grown([1.0, 2.0])
    before = curve.changes
    curve.cut_after(5)
    assert curve.changes == before
    curve.add(2, 1.0)
    assert curve.changes > before


def test_thinning_leaves_a_short_curve_alone() -> None:
    points = [(step, float(step)) for step in range(100)]
    assert thinned(points, 100) is points
    few = thinned(points, 20)
    assert len(few) <= 20
    assert (few[0], few[-1]) == (points[0], points[-1])


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="most_points=3"):
        RunningCurve(3)
