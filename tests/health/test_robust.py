"""Rolling medians and blocks are what the definitions say, at every length and after a restore."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.health.robust import NORMAL, BlockMedians, RollingMedian

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def upper_median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@given(numbers, st.integers(1, 20))
def test_median_and_deviation_are_those_of_the_last_values(values: list[float], size: int) -> None:
    rolling = RollingMedian(size)
    for number, value in enumerate(values, 1):
        rolling.add(value)
        last = values[max(0, number - size) : number]
        median = statistics.median(last)
        assert rolling.median() == pytest.approx(median, abs=1e-9)
        assert rolling.deviation() == pytest.approx(NORMAL * upper_median([abs(one - rolling.median()) for one in last]), abs=1e-6)
        assert rolling.lowest() == min(last)
        assert len(rolling) == len(last)


@given(numbers, numbers, st.integers(1, 20))
def test_a_restored_window_goes_on_as_the_first(before: list[float], after: list[float], size: int) -> None:
    first = RollingMedian(size, before)
    second = RollingMedian(size)
    second.restore(first.values())
    for value in after:
        first.add(value)
        second.add(value)
    assert (first.values(), first.median(), first.deviation()) == (second.values(), second.median(), second.deviation())


def test_half_of_the_values_may_be_wild() -> None:
    rolling = RollingMedian(9, [1.0, 2.0, 3.0, 2.0, 1e9, 2.0, -1e9, 1e9, 1.0])
    assert rolling.median() == 2.0
    assert rolling.deviation() == NORMAL * 1.0


def test_a_block_is_worth_its_median_when_it_is_full() -> None:
    blocks = BlockMedians(3, keep=2)
    assert [blocks.add(value) for value in (1.0, 5.0, 2.0, 7.0, 8.0, 9.0, 4.0, 4.0, 4.0)] == [False, False, True] * 3
    assert list(blocks.medians) == [8.0, 4.0]
    assert blocks.error == 0.0


@given(numbers, numbers, st.integers(1, 7))
def test_restored_blocks_go_on_as_the_first(before: list[float], after: list[float], size: int) -> None:
    first, second = BlockMedians(size, 3), BlockMedians(size, 3)
    for value in before:
        first.add(value)
    second.load_state_dict(first.state_dict())
    assert [first.add(value) for value in after] == [second.add(value) for value in after]
    assert first.state_dict() == second.state_dict()


def test_the_upper_deviation_is_that_of_normal_values_and_wider_where_one_side_is_wild() -> None:
    rng = np.random.default_rng(0)
    normal = RollingMedian(4_000, rng.standard_normal(4_000))
    assert normal.upper_deviation() == pytest.approx(1.0, abs=0.05)
    assert normal.deviation() == pytest.approx(1.0, abs=0.05)
    skewed = RollingMedian(4_000, np.exp(rng.standard_normal(4_000)))
    assert skewed.upper_deviation() > 1.5 * skewed.deviation()
    assert RollingMedian(5, [3.0] * 5).upper_deviation() == 0.0
