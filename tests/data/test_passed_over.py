"""Batches that are passed over: the others keep their numbers, none is lost, and two ways of counting lead to each other."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.data.passed_over import PassedOver, in_other_batches

GAPS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6)
SIZES = st.integers(1, 7)


def passed(gaps: list[tuple[int, int]], batch_size: int) -> PassedOver:
    found = PassedOver()
    for first, last in gaps:
        found.add(first, last, batch_size)
    return found


def left(gaps: list[tuple[int, int]], start: int, count: int) -> list[int]:
    """By looking at every number."""
    numbers = (number for number in range(start, 10_000) if not any(first <= number <= last for first, last in gaps))
    return list(islice(numbers, count))


@given(gaps=GAPS, batch_size=SIZES, start=st.integers(0, 80), count=st.integers(0, 20))
def test_the_numbers_that_follow_are_all_but_those_passed_over(
    gaps: list[tuple[int, int]], batch_size: int, start: int, count: int
) -> None:
    assert list(passed(gaps, batch_size).numbers(start, count, batch_size)) == left(gaps, start, count)


@given(gaps=GAPS, batch_size=SIZES, count=st.integers(0, 100))
def test_number_and_count_lead_to_each_other(gaps: list[tuple[int, int]], batch_size: int, count: int) -> None:
    found = passed(gaps, batch_size)
    number = found.number(count, batch_size)
    assert number == left(gaps, 0, count + 1)[-1]
    assert found.count(number, batch_size) == count


@given(gaps=GAPS, batch_size=SIZES)
def test_the_order_in_which_they_are_told_does_not_matter_nor_how_often(gaps: list[tuple[int, int]], batch_size: int) -> None:
    once, again = passed(gaps, batch_size), passed([*reversed(gaps), *gaps], batch_size)
    assert once.rows == again.rows
    copy = PassedOver()
    copy.add_rows([list(rows) for rows in once.rows])
    assert copy.ranges(batch_size) == once.ranges(batch_size)


@given(gaps=GAPS, before=SIZES, now=SIZES)
def test_in_batches_of_another_size_no_row_of_them_comes_again_and_no_batch_without_one_is_lost(
    gaps: list[tuple[int, int]], before: int, now: int
) -> None:
    found = passed(gaps, before)
    rows = {row for first, last in gaps for row in range(first * before, (last + 1) * before)}
    touched = {row // now for row in rows}
    assert {number for first, last in found.ranges(now) for number in range(first, last + 1)} == touched
    assert {each for gap in gaps for each in range(*_half_open(in_other_batches(*gap, before, now)))} == touched


def _half_open(gap: tuple[int, int]) -> tuple[int, int]:
    return gap[0], gap[1] + 1


def test_nothing_passed_over_changes_nothing() -> None:
    nothing = PassedOver()
    assert not nothing
    assert [nothing.number(count, 16) for count in (0, 5, 10**9)] == [0, 5, 10**9]


@pytest.mark.parametrize("gap", [(-1, 2), (3, 2)])
def test_batches_that_cannot_be_are_refused(gap: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"no batches from {gap[0]} to {gap[1]}: expected two numbers from 0 on, the lower one first"):
        PassedOver().add(*gap, batch_size=4)
