"""Importance: what matters is found, what does not is not, and where there is nothing to say, that is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from musictrain.search.importance import LEAST_POINTS, Importances, Table, importances

KINDS = ("adam", "lion", "sgd")


def some_points(num: int, seed: int = 0) -> list[dict[str, object]]:
    drawn = np.random.default_rng(seed)
    return [
        {"rate": float(10 ** drawn.uniform(-4, -2)), "depth": int(drawn.integers(2, 7)), "optimizer": KINDS[drawn.integers(3)]}
        for _ in range(num)
    ]


def by_key(found: Importances) -> dict[str, float]:
    return {each.key: each.mean for each in found.parameters}


def test_the_parameter_that_makes_the_result_comes_first_and_the_others_are_next_to_nothing() -> None:
    points = some_points(60)
    found = importances(points, [abs(math.log10(point["rate"]) + 3) for point in points])  # type: ignore[arg-type]
    assert found.parameters[0].key == "rate"
    assert found.r2 > 0.8
    assert by_key(found)["rate"] > 0.7
    assert all(abs(mean) < 0.1 for key, mean in by_key(found).items() if key != "rate")
    assert f"R2 {found.r2:.2f}, 60 points" in found.sentence


def test_a_kind_is_shuffled_as_one_however_many_columns_it_takes() -> None:
    points = some_points(60)
    found = importances(points, [{"adam": 1.0, "lion": 3.0, "sgd": 2.0}[str(point["optimizer"])] for point in points])
    assert found.parameters[0].key == "optimizer"
    assert by_key(found)["optimizer"] > 0.9


def test_chance_is_called_chance_where_a_forest_asked_about_what_it_has_seen_would_not() -> None:
    from sklearn.ensemble import RandomForestRegressor

    points, results = some_points(40), list(np.random.default_rng(5).normal(size=40))
    found = importances(points, results)
    assert found.r2 < 0.1
    assert "mean nothing" in found.sentence
    table = Table.of(points)
    seen = RandomForestRegressor(50, random_state=0).fit(table.spread_out(table.columns), results)
    assert seen.score(table.spread_out(table.columns), results) > 0.5


def test_the_r2_is_that_of_scikit_learns_own_out_of_bag_prediction() -> None:
    from sklearn.ensemble import RandomForestRegressor

    from musictrain.search.importance import SEED, TREES

    points = some_points(50)
    results = [float(point["depth"]) + math.log(point["rate"]) for point in points]  # type: ignore[arg-type]
    table = Table.of(points)
    forest = RandomForestRegressor(TREES, min_samples_leaf=2, oob_score=True, random_state=SEED)
    forest.fit(table.spread_out(table.columns), results)
    assert importances(points, results).r2 == pytest.approx(forest.oob_score_, abs=1e-9)


def test_points_that_failed_are_left_out_and_counted() -> None:
    points = some_points(30)
    results: list[float | None] = [math.log(point["rate"]) for point in points]  # type: ignore[arg-type]
    whole = importances(points, results)
    more = importances([*points, *some_points(3, seed=1)], [*results, None, math.nan, math.inf])
    assert (more.num_points, more.num_left_out) == (30, 3)
    assert more.parameters == whole.parameters


def test_a_parameter_that_only_some_points_have_does_not_stop_the_others() -> None:
    points = some_points(40)
    for place, point in enumerate(points):
        if place % 2:
            point |= {"momentum": 0.5 + 0.01 * place, "nesterov": place % 4 == 1}
    found = importances(points, [1.0 if "momentum" in point else 2.0 for point in points])
    assert set(by_key(found)) == {"rate", "depth", "optimizer", "momentum", "nesterov"}
    assert found.parameters[0].key in ("momentum", "nesterov")


@pytest.mark.parametrize(
    ("points", "results", "said"),
    [
        (some_points(LEAST_POINTS - 1), [float(n) for n in range(LEAST_POINTS - 1)], "too few"),
        ([{"rate": 1.0}] * 20, [float(n) for n in range(20)], "No parameter differs"),
        (some_points(20), [1.0] * 20, "the same result"),
        ([], [], "too few"),
    ],
)
def test_where_there_is_nothing_to_say_that_is_said(points: list[dict[str, object]], results: list[float], said: str) -> None:
    found = importances(points, results)
    assert found.parameters == ()
    assert said in found.sentence


def test_as_many_results_as_points() -> None:
    with pytest.raises(ValueError, match="2 points and 1 results"):
        importances(some_points(2), [1.0])


def test_a_long_search_is_told_by_some_of_its_points_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictrain.search.importance.MOST_POINTS", 40)
    points = some_points(100)
    results = [math.log(point["rate"]) for point in points]  # type: ignore[arg-type]
    found = importances(points, results)
    assert (found.num_points, found.num_left_out) == (40, 60)
    places = [99 * place // 39 for place in range(40)]
    assert found.parameters == importances([points[n] for n in places], [results[n] for n in places]).parameters
