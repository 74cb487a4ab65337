"""Rules keep what they say they keep, fronts are what their definition says, and t intervals are scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.search.definition import Objective, SearchError
from musictrain.search.intervals import t_interval, t_quantile
from musictrain.search.objectives import is_whole, mean_worth, missing, not_finite, values_at, worth
from musictrain.search.pareto import crowding, fronts, fronts_and_room, ties
from musictrain.search.rules import Field, Halving, Median, NoRule, rule_of

SMALL = st.integers(0, 4).map(float)


def field(entered: int, whole: int | None = None, partial: int = 0, places: list[int] | None = None) -> Field:
    whole = entered if whole is None else whole
    return Field(entered, whole, partial, list(range(whole)) if places is None else places)


def test_halving_keeps_as_many_as_scikit_learn() -> None:
    from sklearn.dummy import DummyRegressor
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    for points, factor in [(20, 3), (7, 2), (9, 3)]:
        search = HalvingGridSearchCV(
            DummyRegressor(strategy="constant"), {"constant": list(range(points))}, factor=factor, min_resources=4, cv=2, n_jobs=1
        )
        search.fit(np.zeros((400, 1)), np.zeros(400))
        counts = [points]
        while len(counts) < len(search.n_candidates_):
            counts.append(Halving(factor).keep(field(counts[-1])))
        assert counts == list(search.n_candidates_)


@given(st.integers(1, 200), st.floats(2, 10), st.data())
def test_a_rule_keeps_at_least_one_and_none_without_a_value(entered: int, factor: float, data: st.DataObject) -> None:
    whole = data.draw(st.integers(0, entered))
    partial = data.draw(st.integers(0, entered - whole))
    told = field(entered, whole, partial)
    for rule in (NoRule(), Halving(factor), Median()):
        kept = rule.keep(told)
        assert kept <= whole + partial
        assert (kept >= 1) == (whole + partial >= 1)
    assert NoRule().keep(told) == whole + partial


def test_equals_stay_together_at_a_median() -> None:
    assert Median().keep(field(5)) == 3
    assert Median().keep(field(4)) == 2
    assert Median().keep(field(4, places=[0, 1, 1, 1])) == 4
    assert Median().keep(field(4, places=[0, 1, 1, 3])) == 3
    # Those that failed make it no easier for the others.
    assert Median().keep(field(8, whole=4)) == 2
    assert Median().keep(field(3, whole=0, partial=2)) == 1


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(SearchError, match=r"factor of 1\.5 keeps too many"):
        rule_of("halving", 1.5)
    with pytest.raises(SearchError, match="Did you mean 'halving'"):
        rule_of("halfing")
    assert [rule_of(name).name for name in ("none", "halving", "median")] == ["none", "halving", "median"]
    assert rule_of("halving", 4).words() == "the best of every 4 go on"


@given(st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[SMALL] * n), min_size=1, max_size=25)))
def test_a_point_lies_on_the_front_behind_all_that_dominate_it(points: list[tuple[float, ...]]) -> None:
    found = fronts(points).tolist()
    dominated_by = [
        [
            other
            for other in range(len(points))
            if points[other] != points[one] and all(b <= a for a, b in zip(points[one], points[other], strict=True))
        ]
        for one in range(len(points))
    ]
    # The definition: the longest chain of points that dominate one another, before it.
    assert found == [max((found[other] + 1 for other in by), default=0) for by in dominated_by]


def test_room_on_a_front() -> None:
    assert crowding([[0, 4], [1, 2], [3, 1], [4, 0]]).tolist() == [math.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, math.inf]
    assert crowding([[1, 1]]).tolist() == [0.0]
    front, room = fronts_and_room([[0.5], [0.2], [0.5]])
    assert (front, room) == ([1, 0, 1], [0.0, 0.0, 0.0])
    assert fronts_and_room([[0, 1], [1, 0], [2, 2]])[0] == [0, 0, 1]
    assert ties(["a", "b", "b", "c"]) == [0, 1, 1, 3]


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_a_t_quantile_is_that_of_scipy(level: float, freedom: int) -> None:
    from scipy.special import stdtrit

    assert t_quantile(level, freedom) == pytest.approx(stdtrit(freedom, (1 + level) / 2), rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6), st.floats(-50, 50), st.floats(0.1, 9))
def test_an_interval_moves_and_grows_with_its_values(values: list[float], moved: float, scale: float) -> None:
    one, other = t_interval(values), t_interval([scale * value + moved for value in values])
    assert other.mean == pytest.approx(scale * one.mean + moved, abs=1e-6)
    assert other.half == pytest.approx(scale * one.half, abs=1e-6)
    assert one.low <= one.mean <= one.high


def test_few_values_say_that_they_are_few() -> None:
    one, none, bad = t_interval([3.0]), t_interval([]), t_interval([1.0, math.nan])
    assert (one.mean, one.count) == (3.0, 1)
    assert math.isnan(one.half)
    assert all(map(math.isnan, (none.mean, none.low, bad.mean, bad.high)))
    with pytest.raises(ValueError, match=r"between 0 and 1 .* got 1\.0 and 3"):
        t_quantile(1.0, 3)


ROWS = [
    {"time": 0.0, "step": 10, "epoch": 0, "attempt": 1, "val/loss": 0.9, "val/groove": 0.1},
    {"step": 20, "val/loss": 0.5},
    {"step": 20, "vetoed": "it loops"},
    {"step": 30, "val/loss": 0.7, "val/groove": 0.4},
    {"step": 40, "val/loss": "NaN", "val/groove": 0.2},
    {"step": 50, "val/loss": 0.1},
]


@pytest.mark.parametrize(
    ("objective", "step", "value"),
    [
        (Objective(), 9, math.nan),
        (Objective(), 10, 0.9),
        (Objective(), 30, 0.7),  # that of step 20 was vetoed
        (Objective(), 45, 0.7),
        (Objective(), 50, 0.1),
        (Objective(value="last"), 20, 0.5),
        (Objective(value="last"), 40, math.nan),
        (Objective("val/groove", "max"), 50, 0.4),
        (Objective("val/groove", "min"), 50, 0.1),
        (Objective("val/groove", "max", "last"), 50, 0.2),
        (Objective("val/other"), 50, math.nan),
    ],
)
def test_a_value_is_that_of_the_rows_up_to_the_step(objective: Objective, step: int, value: float) -> None:
    assert values_at(ROWS, [objective], step) == pytest.approx({objective.metric: value}, nan_ok=True)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 9), min_size=1, max_size=9), st.integers(1, 9))
def test_the_best_so_far_never_gets_worse_and_knows_no_later_row(losses: list[float], step: int) -> None:
    rows = [{"step": place, "val/loss": loss} for place, loss in enumerate(losses, start=1)]
    now, later = (values_at(rows, [Objective()], each)["val/loss"] for each in (step, step + 1))
    assert later <= now
    assert values_at(rows[:step], [Objective()], step)["val/loss"] == now


def test_what_is_missing_or_not_finite_is_said() -> None:
    assert missing(ROWS, [Objective()]) == ""
    assert missing(ROWS, [Objective("val/grove")]) == (
        "The search looks at 'val/grove', and it logged val/groove, val/loss. Did you mean 'val/groove'?"
    )
    assert missing([], [Objective()]).endswith("and it logged nothing.")
    assert not_finite({"val/loss": math.nan, "val/groove": 0.1}, 1200) == "val/loss is not finite at step 1,200"
    assert not_finite({"val/loss": 0.1}, 1) == ""


def test_worth_is_lower_for_better() -> None:
    two = [Objective(), Objective("val/groove", "max")]
    assert worth({"val/loss": 0.5, "val/groove": 0.9}, two) == (0.5, -0.9)
    assert not is_whole(worth({"val/loss": 0.5}, two))
    assert not is_whole(worth(None, two))
    assert not is_whole(worth({"val/loss": math.inf, "val/groove": 1.0}, two))
    assert mean_worth([(0.5, -0.9), (0.7, -0.5)]) == (0.6, -0.7)
