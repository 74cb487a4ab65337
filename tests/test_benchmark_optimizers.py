"""The optimizers' benchmark: how it searches, and when a loss counts as reached."""

from __future__ import annotations

import pytest

from benchmarks.optimizers import MOST_FURTHER, interval, next_rate, reached, summed_up

RATES = (1.0, 3.0, 9.0)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({}, 1.0),
        ({1.0: 2.0}, 3.0),
        ({1.0: 2.0, 3.0: 1.0, 9.0: 2.0}, None),
        ({1.0: 3.0, 3.0: 2.0, 9.0: 1.0}, 27.0),
        ({1.0: 1.0, 3.0: 2.0, 9.0: 3.0}, 0.33),
        ({1.0: 3.0, 3.0: 2.0, 9.0: 1.0, 27.0: 2.0}, None),
        ({1.0: 3.0, 3.0: 2.0, 9.0: 1.0, 27.0: 0.5}, 81.0),
        ({1.0: 4.0, 3.0: 3.0, 9.0: 2.0, 27.0: 1.0, 81.0: 0.5}, None),
    ],
)
def test_the_search_goes_on_as_long_as_the_best_is_at_an_end_and_not_for_ever(losses, expected):
    assert next_rate(RATES, losses) == expected
    assert len(losses) <= len(RATES) + MOST_FURTHER


def test_a_loss_is_reached_between_two_validations_or_never():
    course = [[10, 1.0, 4.0], [20, 2.0, 2.0], [30, 3.0, 3.0], [40, 4.0, 1.0]]
    assert reached(course, 3.0, 0) == 15
    assert reached(course, 3.0, 1) == 1.5
    assert reached(course, 1.5, 0) == 37.5
    assert reached(course, 4.0, 0) == 10
    assert reached(course, 0.5, 0) is None


def test_an_interval_is_students():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx({"mean": 2.0, "low": 2.0 - 4.302653 / 3**0.5, "high": 2.0 + 4.302653 / 3**0.5})
    assert interval([1.0]) == {"mean": 1.0}


def test_what_is_summed_up_leaves_the_search_out_and_compares_seed_by_seed():
    adamw = [{"arm": "AdamW", "rate": 1.0, "seed": seed, "course": [[10, 1.0, 3.0], [20, 2.0, 2.0]]} for seed in (0, 1)]
    muon = [{"arm": "Muon", "rate": 2.0, "seed": seed, "course": [[10, 2.0, 2.0], [20, 4.0, 1.0]]} for seed in (0, 1, 1_000)]
    told = summed_up([*adamw, *muon])
    assert told["targets"] == {"half": 3.0, "three quarters": 2.0, "all": 2.0}
    found = told["optimizers"]["Muon"]
    assert (found["seeds"], found["rate"], found["final_loss_against_adamw"]["mean"]) == (2, 2.0, -1.0)
    assert found["to_all"]["steps_of_adamws"]["mean"] == 0.5
    assert found["to_all"]["seconds_of_adamws"]["mean"] == 1.0
    assert found["milliseconds_a_step"]["mean"] == 200.0
