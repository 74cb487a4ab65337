"""The table of a search, its cost and its time left: by hand for small ones, as laws for any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.search.eta import Cost, Running, cost_of, makespan, time_left
from musictrain.search.ledger import BEGUN, FAILED, REACHED, REUSED, Ledger, Record
from musictrain.search.plan import Planned, Round, next_round
from musictrain.search.results import Results, results_of
from tests.search.simulated_searches import TWO, definition_of, planned_for


def record(planned: Planned, step: int, loss: float, state: str = REACHED, groove: float = 0.0, **more: Any) -> Record:
    values = {"val/loss": loss, "val/groove": groove} if state in (REACHED, REUSED) else {}
    return Record(planned.identity, planned.point.values, planned.seed, f"s-{planned.identity[:8]}", state, step, values, **more)


def trials(count: int, seeds: Sequence[int] = (0,)) -> list[Planned]:
    return planned_for([{"a": each} for each in range(count)], seeds)


def shown(results: Results) -> list[tuple[Any, ...]]:
    return [(row.place, row.point.values["a"], row.state, row.step) for row in results.rows]


def test_those_that_came_further_stand_first_whatever_the_others_had() -> None:
    planned, definition = trials(4), definition_of("halving", (10, 20), factor=2)
    ledger = Ledger(record(each, 10, [0.4, 0.1, 0.2, 0.3][each.point.values["a"]]) for each in planned)
    assert shown(results_of(definition, planned, ledger)) == [
        (1, 1, "training", 10),
        (2, 2, "training", 10),
        (3, 3, "pruned", 10),
        (4, 0, "pruned", 10),
    ]
    ledger.take(record(planned[2], 20, 0.9))
    assert shown(results_of(definition, planned, ledger))[:2] == [(1, 2, "training", 20), (2, 1, "training", 10)]
    ledger.take(record(planned[1], 20, 0.8))
    results = results_of(definition, planned, ledger)
    assert shown(results)[:3] == [(1, 1, "done", 20), (2, 2, "done", 20), (3, 3, "pruned", 10)]
    assert results.finished
    assert results.best is results.rows[0]
    assert results.rungs == ({"step": 10, "entered": 4, "with_value": 4, "kept": 2}, {"step": 20, "entered": 2, "with_value": 2, "kept": 2})
    assert results.rows[0].curve == {"val/loss": ((10, 0.1), (20, 0.8))}
    assert results.rows[2].reason == "place 3 of 4 at rung 1 (10 steps), of which the first 2 went on"


def test_a_mean_is_over_the_seeds_and_the_run_to_take_is_the_best_of_them() -> None:
    planned, definition = trials(2, (0, 1, 2)), definition_of("none", (10,), (0, 1, 2))
    ledger = Ledger(record(each, 10, each.point.values["a"] + [0.2, 0.1, 0.3][each.seed]) for each in planned)
    (first, second) = results_of(definition, planned, ledger).rows
    assert (first.means["val/loss"].mean, first.means["val/loss"].count) == (pytest.approx(0.2), 3)
    assert second.means["val/loss"].half == pytest.approx(first.means["val/loss"].half)
    best = first.best_run(definition.objectives)
    assert best is not None
    assert (best.seed, best.run) == (1, f"s-{planned[1].identity[:8]}")
    assert [trial.values for trial in first.trials] == [{"val/loss": value, "val/groove": 0.0} for value in (0.2, 0.1, 0.3)]


def test_failures_stand_last_with_their_reasons() -> None:
    planned = [*trials(3), *planned_for([{"a": 3, "error": "width is no multiple of heads"}], (0,))]
    ledger = Ledger([record(planned[0], 5, 0.0, FAILED, reason="it crashed"), record(planned[1], 10, 0.1)])
    results = results_of(definition_of("none", (10,)), planned, ledger)
    assert shown(results) == [(1, 1, "training", 10), (None, 2, "training", 0), (None, 0, "failed", 0), (None, 3, "failed", 0)]
    assert [(point.values["a"], trial.reason) for point, trial in results.failures()] == [
        (0, "it crashed"),
        (3, "width is no multiple of heads"),
    ]
    assert results.counts() == {"reached": 1, "to come": 1, "failed": 1, "impossible": 1}
    assert results.best is results.rows[0]
    none = results_of(definition_of("none", (10,)), planned[:1], ledger)
    assert (none.best, none.finished) == (None, True)


def test_the_front_is_of_those_at_the_furthest_rung_and_its_best_goes_by_the_first_objective() -> None:
    planned, definition = trials(4), definition_of("none", (10,), objectives=TWO)
    losses, grooves = [0.4, 0.3, 0.2, 0.1], [0.9, 0.4, 0.5, 0.1]
    ledger = Ledger(record(each, 10, losses[each.point.values["a"]], groove=grooves[each.point.values["a"]]) for each in planned)
    rows = results_of(definition, planned, ledger).rows
    assert {row.point.values["a"]: row.pareto for row in rows} == {0: True, 1: False, 2: True, 3: True}
    assert [row.point.values["a"] for row in rows] == [3, 0, 2, 1]


def test_a_cost_is_said_before_anything_is_trained() -> None:
    cost = cost_of(definition_of("halving", (100, 300, 900), (0, 1)), 27)
    assert cost == Cost(27, 54, 2 * (27 * 100 + 9 * 200 + 3 * 600), ((27, 100), (9, 200), (3, 600)))
    assert cost.words() == "54 trials, 12,600 steps in all"
    # 54 trials on 4 slots take 14 turns, 18 take 5, 6 take 2.
    assert cost.seconds(0.1, 4, 2) == pytest.approx((14 * 100 + 5 * 200 + 2 * 600) * 0.1)
    assert cost_of(definition_of("none", (900,)), 1).words() == "1 trial, 900 steps in all"
    assert cost_of(definition_of("median", (10, 20)), 5).rounds == ((5, 10), (3, 10))


@given(st.lists(st.floats(0, 9), max_size=9), st.integers(1, 5))
def test_slots_share_the_work_and_none_is_quicker_than_its_share(jobs: list[float], slots: int) -> None:
    found = makespan(jobs, slots)
    assert found >= max(jobs, default=0.0)
    assert found >= sum(jobs) / slots - 1e-9
    assert found <= sum(jobs) + 1e-9
    assert makespan(jobs, 1) == pytest.approx(sum(jobs))


def test_a_round_needs_a_slot() -> None:
    with pytest.raises(ValueError, match="got 0"):
        makespan([1.0], 0)


def test_nobody_can_tell_before_the_first_steps_unless_a_pace_is_known() -> None:
    definition, planned = definition_of("halving", (100, 300), slots=2), trials(6)
    assert time_left(definition, planned, Ledger()) is None
    left = time_left(definition, planned, Ledger(), seconds_per_step=0.1)
    # Three turns of 100 steps, then two points of six with 200 more each, at the same time.
    assert left is not None
    assert left.seconds == pytest.approx(3 * 100 * 0.1 + 200 * 0.1)
    assert left.low < left.seconds < left.high


def test_a_slow_point_is_expected_to_stay_slow_and_what_is_under_way_counts() -> None:
    definition, planned = definition_of("none", (10, 20), slots=2), trials(2)
    ledger = Ledger([record(planned[0], 10, 0.5, seconds=10.0), record(planned[1], 10, 0.5, seconds=40.0)])
    left = time_left(definition, planned, ledger)
    assert left is not None
    assert left.seconds == pytest.approx(40.0)
    ledger.take(record(planned[1], 10, 0.0, BEGUN, seconds=40.0))
    left = time_left(definition, planned, ledger, {planned[1].identity: Running(15, 60.0)})
    assert left is not None
    assert left.seconds == pytest.approx(20.0)


def test_a_reused_run_tells_no_pace_and_costs_no_time() -> None:
    definition, planned = definition_of("none", (10,)), trials(2)
    assert time_left(definition, planned, Ledger([record(planned[0], 10, 0.5, REUSED)])) is None
    left = time_left(definition, planned, Ledger([record(planned[0], 10, 0.5, REUSED)]), seconds_per_step=1.0)
    assert left is not None
    assert left.seconds == pytest.approx(10.0)


@given(st.integers(1, 12), st.sampled_from(["none", "halving", "median"]), st.integers(1, 4), st.sampled_from([(0,), (0, 1)]))
def test_where_every_step_takes_the_same_the_time_left_is_what_it_will_take(
    points: int, rule: str, slots: int, seeds: tuple[int, ...]
) -> None:
    definition, planned = definition_of(rule, (10, 30, 60), seeds, slots=slots), trials(points, seeds)
    ledger, spent, said = Ledger(), 0.0, []
    while isinstance(todo := next_round(definition, planned, ledger), Round):
        left = time_left(definition, planned, ledger, seconds_per_step=0.5)
        assert left is not None
        said.append(spent + left.seconds)
        steps = [job.to_step - job.from_step for job in todo.jobs]
        spent += makespan([0.5 * each for each in steps], slots)
        for job in todo.jobs:
            ledger.take(
                replace(record(Planned(job.point, job.seed, job.identity), job.to_step, job.point.values["a"]), seconds=0.5 * job.to_step)
            )
    assert said == pytest.approx([spent] * len(said))
    over = time_left(definition, planned, ledger)
    assert over is not None
    assert (over.seconds, over.low, over.high) == (0.0, 0.0, 0.0)
    assert math.isclose(said[0], cost_of(definition, points).seconds(0.5, slots, len(seeds)))
