"""The points of a space: scikit-learn's own, in its order, and the same for ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import ParameterGrid, ParameterSampler

from musictrain.search.conditions import check_conditions
from musictrain.search.definition import Condition, Definition, Random, SearchError
from musictrain.search.distributions import Distribution, read_distribution
from musictrain.search.points import Point
from musictrain.search.space import largest_number, points_of, space_fingerprint

PLAIN = st.one_of(st.integers(-5, 5), st.booleans(), st.sampled_from(["a", "b", "c"]), st.floats(-2, 2))
GRIDS = st.dictionaries(st.sampled_from("abcd"), st.lists(PLAIN, min_size=1, max_size=3, unique_by=repr), min_size=1, max_size=3)


def values(definition: Definition, base: Any = None) -> list[dict[str, Any]]:
    return [dict(point.values) for point in points_of(definition, base)]


def space(**told: Any) -> dict[str, Distribution]:
    return {key: read_distribution(each) for key, each in told.items()}


def drawn(n: int, seed: int = 0, **told: Any) -> Random:
    return Random(n, seed, (space(**told),))


@given(st.lists(GRIDS, min_size=1, max_size=2))
def test_a_grid_is_scikit_learns_in_its_order(grids: list[dict[str, list[Any]]]) -> None:
    definition = Definition("x", grid=tuple({key: tuple(each) for key, each in grid.items()} for grid in grids))
    expected = list(dict.fromkeys(Point(each) for each in ParameterGrid(grids)))
    assert points_of(definition) == expected


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_draws_are_scikit_learns(seed: int, n: int) -> None:
    told = space(lr="loguniform(1e-4, 1e-2)", depth=[2, 4], dropout="uniform(0, 0.5)")
    expected = [dict(each) for each in ParameterSampler(told, n, random_state=seed)]
    assert values(Definition("x", random=Random(n, seed, (told,)))) == expected


def test_more_draws_begin_with_the_fewer() -> None:
    def of(n: int) -> list[Point]:
        return points_of(Definition("x", random=drawn(n, lr="norm(0, 1)", k=[1, 2]), constraints=("lr < 1",)))

    assert of(20)[:7] == of(7)


@pytest.mark.parametrize("n", [1, 5, 12, 50])
def test_a_space_of_lists_gives_no_point_twice_and_in_the_end_all(n: int) -> None:
    of_n = values(Definition("x", random=drawn(n, a=[1, 2, 3], b=[1, 2, 3, 4])))
    every = values(Definition("x", random=drawn(100, a=[1, 2, 3], b=[1, 2, 3, 4])))
    assert len(of_n) == min(n, 12)
    assert of_n == every[:n]
    assert sorted(map(repr, every)) == sorted(map(repr, ParameterGrid({"a": [1, 2, 3], "b": [1, 2, 3, 4]})))


def test_each_combination_of_a_grid_has_the_same_draws_and_a_value_more_leaves_them() -> None:
    few, more = (values(Definition("x", grid=({"depth": depths},), random=drawn(3, lr="uniform(0, 1)"))) for depths in ((2, 4), (2, 4, 6)))
    assert more[:6] == few
    assert [each["lr"] for each in more[:3]] == [each["lr"] for each in more[3:6]] == [each["lr"] for each in more[6:]]


def test_a_conditional_part_is_there_where_it_holds_and_changes_nothing_elsewhere() -> None:
    alone = values(Definition("x", random=drawn(40, optimizer=["SGD", "Lion"], lr="uniform(0, 1)")))
    part = Condition({"optimizer": ("Lion",)}, space(beta="uniform(0.9, 1)"))
    both = values(Definition("x", random=drawn(40, optimizer=["SGD", "Lion"], lr="uniform(0, 1)"), when=(part,)))
    assert [{key: each[key] for key in ("optimizer", "lr")} for each in both] == alone
    assert all(("beta" in each) == (each["optimizer"] == "Lion") for each in both)
    assert len({each["beta"] for each in both if "beta" in each}) > 5


def test_conditional_parts_of_a_grid_are_listed() -> None:
    part = Condition({"optimizer": ("Lion",)}, space(beta=[0.9, 0.99]))
    assert values(Definition("x", grid=({"optimizer": ("SGD", "Lion")},), when=(part,))) == [
        {"optimizer": "SGD"},
        {"optimizer": "Lion", "beta": 0.9},
        {"optimizer": "Lion", "beta": 0.99},
    ]


def test_constraints_are_met_and_drawn_for_until_there_are_enough() -> None:
    definition = Definition("x", random=drawn(15, width="integers(1, 64)"), constraints=("width % heads == 0",))
    found = [each["width"] for each in values(definition, {"heads": 4})]
    assert len(set(found)) == len(found) == 15
    assert all(width % 4 == 0 for width in found)


def test_constraints_that_nothing_meets_are_an_error() -> None:
    with pytest.raises(SearchError, match=r"only 0 meet the constraints, and 2 are wanted"):
        points_of(Definition("x", random=drawn(2, lr="uniform(0, 1)"), constraints=("lr > 2",)))
    with pytest.raises(SearchError, match=r"No point meets the constraints: a > 2"):
        points_of(Definition("x", grid=({"a": (1, 2)},), constraints=("a > 2",)))


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (Definition("x"), "The space is empty"),
        (Definition("x", grid=({str(key): tuple(range(10)) for key in range(9)},)), "up to 1,000,000,000 points"),
        (
            Definition("x", grid=({"a": (1,)},), when=(Condition({"a": (1,)}, space(b="norm(0, 1)")),)),
            "a grid draws nothing",
        ),
    ],
)
def test_spaces_that_cannot_be_listed_are_refused(definition: Definition, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        points_of(definition)


@given(GRIDS, st.integers(1, 3))
def test_no_space_has_more_points_than_were_counted(grid: dict[str, list[Any]], n: int) -> None:
    definition = Definition("x", grid=({f"g{key}": tuple(each) for key, each in grid.items()},), random=drawn(n, lr="norm(0, 1)"))
    assert len(points_of(definition)) <= largest_number(definition)


def test_conditions_that_never_hold_are_refused() -> None:
    grid = ({"optimizer": ("SGD", "AdamW")},)
    with pytest.raises(SearchError, match=r"part 1 never holds: optimizer is never Lion, but SGD, AdamW"):
        check_conditions(Definition("x", grid=grid, when=(Condition({"optimizer": ("Lion",)}, space(b=[1])),)))
    with pytest.raises(SearchError, match=r"'optimiser' is no key of the space above it.* Did you mean 'optimizer'"):
        check_conditions(Definition("x", grid=grid, when=(Condition({"optimiser": ("SGD",)}, space(b=[1])),)))


def test_the_fingerprint_knows_what_constraints_hang_on() -> None:
    definition = Definition("x", grid=({"width": (4, 6)},), constraints=("width % heads == 0",))
    assert space_fingerprint(definition, {"heads": 2}) == space_fingerprint(definition, {"heads": 2, "other": 1})
    assert space_fingerprint(definition, {"heads": 2}) != space_fingerprint(definition, {"heads": 4})


# What is drawn.


@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(
    ("text", "low", "high", "kind"),
    [
        ("uniform(2, 3)", 2, 3, float),
        ("loguniform(1e-4, 1e-2)", 1e-4, 1e-2, float),
        ("loguniform(1e-4, 1e-2, digits=2)", 1e-4, 1e-2, float),
        ("randint(1, 3)", 1, 2, int),
        ("integers(1, 3)", 1, 3, int),
        ("logintegers(8, 512)", 8, 512, int),
        ("truncnorm(0, 5, -1, 2)", -1, 2, float),
        ("beta(2, 3)", 0, 1, float),
        ("lognorm(0.1, 1)", 0, np.inf, float),
    ],
)
def test_draws_lie_where_people_say(text: str, low: float, high: float, kind: type, seed: int) -> None:
    value = read_distribution(text).rvs(random_state=np.random.RandomState(seed))
    assert type(value) is kind
    assert low <= value <= high


def test_both_ends_of_whole_numbers_are_drawn() -> None:
    state = np.random.RandomState(0)
    for text, ends in (("integers(1, 3)", {1, 2, 3}), ("randint(1, 3)", {1, 2}), ("logintegers(1, 3)", {1, 2, 3})):
        assert {read_distribution(text).rvs(random_state=state) for _ in range(200)} == ends


@pytest.mark.parametrize("text", ["loguniform(0.0001, 0.01)", "uniform(0, 0.5, digits=2)", "integers(1, 8)", "choice('a', 2, 0.5)"])
def test_a_distribution_is_read_as_it_is_shown(text: str) -> None:
    assert str(read_distribution(text)) == text
    assert read_distribution(read_distribution(text).told()) == read_distribution(text)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("loguniform(0, 1)", "a logarithm needs numbers above 0"),
        ("uniform(2, 1)", "the lower end 2 is not below the upper end 1"),
        ("logunifrom(1, 2)", "There is no distribution 'logunifrom'. Did you mean 'loguniform'"),
        ("uniform(1)", r"it is uniform\(low, high\), got 1 arguments"),
        ("uniform(0, 1, digits=0)", "digits is a whole number from 1 to 15, got 0"),
        ("uniform(0, high=1, up=2)", "'up' is no argument that is left"),
        ("integers(0.5, 2)", "whole numbers are needed"),
        ("norm(0, -1)", "standard deviation is above 0"),
        ("uniform(0, 'a')", "high is a number, got 'a'"),
        ("__import__('os').system('x')", "is neither a list of values nor a distribution"),
        ([], "nothing to choose"),
        (3, "Expected a list of values or a distribution"),
    ],
)
def test_what_nothing_can_be_drawn_from_is_refused(told: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_distribution(told)
