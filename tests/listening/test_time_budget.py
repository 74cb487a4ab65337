"""What something may take of a training's time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.listening.time_budget import TimeBudget


@given(st.floats(0.01, 1.0), st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 5.0)), max_size=60))
def test_what_was_spent_stays_below_the_share_if_each_takes_as_long_as_the_last(share: float, moments: list[tuple[float, float]]) -> None:
    budget, now = TimeBudget(share, quick_seconds=0.0), 0.0
    budget.begin(now)
    for training, _ in moments:
        now += training
        if budget.allows(now, 2.0):
            now += 2.0
            budget.spend(2.0)
    assert budget.spent_seconds <= share * now + 1e-9


def test_the_first_may_be_quick_and_the_second_waits_for_its_share() -> None:
    budget = TimeBudget(0.1, quick_seconds=10.0)
    budget.begin(100.0)
    assert budget.allows(101.0, 9.0)
    assert not budget.allows(101.0, 11.0)
    assert budget.allows(210.0, 11.0)
    budget.spend(9.0)
    assert not budget.allows(199.0)
    assert budget.allows(272.0)


def test_no_share_is_never_and_the_whole_is_always() -> None:
    for share, expected in ((0.0, False), (1.0, True)):
        budget = TimeBudget(share)
        budget.begin(0.0)
        assert budget.allows(5.0, 5.0) is expected
        budget.spend(5.0)
        assert budget.allows(5.0) is expected


def test_what_was_put_off_comes_when_there_is_time_for_it() -> None:
    budget = TimeBudget(0.1)
    budget.begin(0.0)
    budget.put_off(60.0)
    assert not budget.allows(500.0)
    assert budget.allows(600.0)


def test_time_between_two_attempts_is_not_counted() -> None:
    first, second = TimeBudget(0.1), TimeBudget(0.2)
    first.begin(0.0)
    first.begin(5.0)
    first.spend(3.0)
    first.pause(40.0)
    assert first.state_at(1000.0) == {"whole_seconds": 40.0, "spent_seconds": 3.0, "last_seconds": 3.0}
    second.load(first.state_at(1000.0))
    second.begin(5000.0)
    assert second.at(5010.0) == pytest.approx(50.0)
    assert second.most_share == 0.2
