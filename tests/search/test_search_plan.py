"""A search that is killed anywhere comes to what an undisturbed one comes to; nothing is trained twice; a rule spends what it says."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.search.definition import SearchError
from musictrain.search.eta import cost_of
from musictrain.search.ledger import FAILED, FINISHED, PRUNED, REACHED, REUSED, Ledger, Record, read_ledger, tried_again
from musictrain.search.plan import Finished, Planned, Round, course, next_round
from musictrain.search.points import Point
from musictrain.search.results import results_of
from tests.search.simulated_searches import LOSS, TWO, World, definition_of, drive, drive_through, known, planned_for

POINTS = st.lists(st.integers(0, 60), min_size=1, max_size=14, unique=True).map(lambda found: [{"a": each} for each in found])
RULES = st.sampled_from(["none", "halving", "median"])
OBJECTIVES = st.sampled_from([LOSS, TWO])
SEEDS = st.sampled_from([(0,), (0, 1, 2)])
BAD = st.sampled_from([0.0, 0.4, 1.0])


@pytest.fixture(autouse=True, scope="module")
def disk_that_is_not_waited_for() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def searched(definition: Any, planned: Sequence[Planned], bad: float = 0.0) -> tuple[Finished, World, Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "trials.jsonl", bad)
        return drive(definition, planned, world), world, read_ledger(world.ledger)


@settings(max_examples=40)
@given(POINTS, RULES, OBJECTIVES, SEEDS, BAD, st.integers(0, 10**6))
def test_killed_anywhere_it_comes_to_what_it_comes_to_undisturbed(
    points: list[Any], rule: str, objectives: Any, seeds: Any, bad: float, chance: int
) -> None:
    definition, planned = definition_of(rule, seeds=seeds, objectives=objectives), planned_for(points, seeds)
    finished, world, ledger = searched(definition, planned, bad)
    with tempfile.TemporaryDirectory() as folder:
        disturbed = World(Path(folder) / "trials.jsonl", bad)
        assert drive_through(definition, planned, disturbed, random.Random(chance), 0.15).best == finished.best
        after = read_ledger(disturbed.ledger)
    assert known(after) == known(ledger)
    assert results_of(definition, planned, after).rungs == results_of(definition, planned, ledger).rungs
    # Each of them was trained once, from where it was to where it went: no trial lost, none doubled.
    assert sorted(disturbed.trained) == sorted(world.trained)
    assert max(Counter((run, begin) for run, begin, _ in disturbed.trained).values()) == 1


@settings(max_examples=20)
@given(POINTS, SEEDS)
def test_without_a_rule_every_trial_is_trained_to_the_end(points: list[Any], seeds: Any) -> None:
    definition, planned = definition_of("none", (900,), seeds), planned_for(points, seeds)
    _, world, ledger = searched(definition, planned)
    assert sorted(world.trained) == sorted((f"s-{each.identity[:8]}", 0, 900) for each in planned)
    assert {trial.last.state for trial in ledger.trials.values()} == {REACHED}


@settings(max_examples=40)
@given(POINTS, RULES, SEEDS, st.sampled_from([2.0, 3.0, 4.5]), st.sampled_from([(10,), (10, 20), (100, 300, 900)]))
def test_what_it_spends_is_what_was_said_before(points: list[Any], rule: str, seeds: Any, factor: float, rungs: Any) -> None:
    definition, planned = definition_of(rule, rungs, seeds, factor=factor), planned_for(points, seeds)
    _, world, _ = searched(definition, planned)
    cost = cost_of(definition, len(points))
    spent = sum(end - begin for _, begin, end in world.trained)
    # Equals stay together at a median, so that more may go on than half of them.
    assert spent == cost.steps or (rule == "median" and spent > cost.steps)
    assert cost.trials == len(planned)


def test_halving_spends_what_its_formula_says() -> None:
    definition = definition_of("halving", (100, 300, 900), (0, 1))
    planned = planned_for([{"a": each} for each in range(27)], (0, 1))
    _, world, _ = searched(definition, planned)
    assert sum(end - begin for _, begin, end in world.trained) == 2 * (27 * 100 + 9 * 200 + 3 * 600)
    assert Counter(end for _, _, end in world.trained) == {100: 54, 300: 18, 900: 6}


@settings(max_examples=30)
@given(POINTS, RULES, OBJECTIVES, BAD, st.randoms())
def test_the_order_of_the_points_changes_nothing(points: list[Any], rule: str, objectives: Any, bad: float, chance: Any) -> None:
    definition = definition_of(rule, seeds=(0, 1), objectives=objectives)
    finished, world, _ = searched(definition, planned_for(points, (0, 1)), bad)
    chance.shuffle(points)
    again, others, _ = searched(definition, planned_for(points, (0, 1)), bad)
    assert again.best == finished.best
    assert sorted(others.trained) == sorted(world.trained)


@settings(max_examples=30)
@given(POINTS, RULES, BAD, st.data())
def test_points_that_are_added_later_come_to_what_all_come_to_at_once(points: list[Any], rule: str, bad: float, data: Any) -> None:
    definition, every = definition_of(rule), planned_for(points, (0,))
    finished, _, ledger = searched(definition, every, bad)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "trials.jsonl", bad)
        drive(definition, every[: data.draw(st.integers(1, len(every)))], world)
        trained = len(world.trained)
        assert drive(definition, every, world).best == finished.best
        assert course(definition, every, read_ledger(world.ledger)) == course(definition, every, ledger)
        assert max(Counter((run, begin) for run, begin, _ in world.trained).values()) == 1
        assert trained <= len(world.trained)
        # Once more finds nothing to do.
        before = (list(world.trained), world.ledger.read_bytes())
        drive(definition, every, world)
        assert (world.trained, world.ledger.read_bytes()) == before


def test_points_of_the_same_configuration_are_one_and_trained_once() -> None:
    definition = definition_of("halving", (10, 20), factor=2)
    _, world, ledger = searched(definition, planned_for([{"a": 1}, {"a": 1, "b": None}, {"a": 2}], (0,)))
    assert len(ledger.trials) == 2
    assert Counter(end for _, _, end in world.trained) == {10: 2, 20: 1}


def test_what_cannot_be_is_passed_over_and_the_rest_goes_on() -> None:
    definition, planned = definition_of("halving", factor=2), planned_for([{"a": 1, "error": "width is no multiple"}, {"a": 2}], (0,))
    finished, world, ledger = searched(definition, planned)
    assert finished.best is not None
    assert finished.best.point == Point({"a": 2})
    assert list(ledger.trials) == [planned[1].identity]
    nothing, world, _ = searched(definition, planned[:1])
    assert (nothing.best, world.trained) == (None, [])


def record(planned: Planned, state: str, step: int, loss: float, **more: Any) -> Record:
    return Record(
        planned.identity, planned.point.values, planned.seed, f"s-{planned.identity[:8]}", state, step, {"val/loss": loss}, **more
    )


def test_a_failed_trial_is_worst_and_its_point_goes_on_only_behind_all_whole_ones() -> None:
    planned = planned_for([{"a": each} for each in range(4)], (0, 1))
    losses = [0.1, 0.2, 0.3, 0.4]
    ledger = Ledger(record(each, REACHED, 10, losses[each.point.values["a"]]) for each in planned[1:])
    ledger.take(replace(record(planned[0], FAILED, 7, 0.0), values={}, reason="it crashed"))
    rungs = course(definition_of("halving", (10, 20), (0, 1), factor=2), planned, ledger)
    assert [entry.point.values["a"] for entry in rungs[0].ranking] == [1, 2, 3, 0]
    assert [entry.point.values["a"] for entry in rungs[0].survivors] == [1, 2]
    # Its other seed is good, and with a factor of 4 of fewer whole ones it would still be asked.
    few = course(definition_of("halving", (10, 20), (0, 1)), planned[:2], ledger)
    todo = next_round(definition_of("halving", (10, 20), (0, 1)), planned[:2], ledger)
    assert [entry.point.values["a"] for entry in few[0].survivors] == [0]
    assert isinstance(todo, Round)
    assert [(job.seed, job.from_step, job.to_step) for job in todo.jobs] == [(1, 10, 20)]


def test_a_value_that_is_not_finite_is_none() -> None:
    planned = planned_for([{"a": 1}, {"a": 2}], (0,))
    ledger = Ledger([record(planned[0], REACHED, 10, float("nan")), record(planned[1], REACHED, 10, 5.0)])
    todo = next_round(definition_of("none", (10, 20)), planned, ledger)
    assert isinstance(todo, Round)
    assert [job.point.values["a"] for job in todo.jobs] == [2]
    assert [each.reason for each in todo.pruned] == ["no value at rung 1 (10 steps), of which the first 1 went on"]


def test_what_a_trial_measured_before_it_failed_still_counts() -> None:
    planned = planned_for([{"a": 1}, {"a": 2}], (0,))
    ledger = Ledger([record(planned[0], REACHED, 10, 0.1), record(planned[1], REACHED, 10, 0.5)])
    ledger.take(replace(record(planned[0], FAILED, 15, 0.0), values={}, reason="it crashed"))
    finished = next_round(definition_of("halving", (10, 20), factor=2), planned, ledger)
    # The other one was given up at the first rung, and stays so: what came later does not change what was decided.
    assert isinstance(finished, Finished)
    assert finished.best is None
    ledger.take(tried_again(ledger.failures()[0], 1.0))
    todo = next_round(definition_of("halving", (10, 20), factor=2), planned, ledger)
    assert isinstance(todo, Round)
    assert [(job.identity, job.from_step, job.to_step, job.attempts) for job in todo.jobs] == [(planned[0].identity, 10, 20, 0)]


def test_a_trial_that_ended_by_itself_counts_at_later_rungs_and_is_not_asked_again() -> None:
    planned = planned_for([{"a": 1}], (0,))
    ledger = Ledger([record(planned[0], FINISHED, 40, 0.1)])
    rungs = course(definition_of("none", (10, 20, 60)), planned, ledger)
    # At rungs before its end nobody has looked yet, so a job finds out; behind it nothing is left.
    assert [(rung.step, rung.keep) for rung in rungs] == [(10, None)]
    ledger = Ledger([record(planned[0], REACHED, 10, 0.3), record(planned[0], REACHED, 20, 0.2), record(planned[0], FINISHED, 40, 0.1)])
    assert isinstance(next_round(definition_of("none", (10, 20, 60)), planned, ledger), Finished)


def test_a_run_of_another_search_is_taken_under_its_own_name() -> None:
    planned = planned_for([{"a": 1}, {"a": 2}], (0,))
    ledger = Ledger([replace(record(planned[0], REUSED, 10, 0.1), run="another-12345678"), record(planned[1], REACHED, 10, 0.1)])
    todo = next_round(definition_of("none", (10, 20)), planned, ledger)
    assert isinstance(todo, Round)
    assert [job.run for job in todo.jobs] == ["another-12345678", f"s-{planned[1].identity[:8]}"]


def test_two_trials_never_share_a_run() -> None:
    twins = [Planned(Point({"a": each}), 0, f"01234567{each}" + "0" * 55) for each in range(2)]
    todo = next_round(definition_of("none", (10,)), twins, Ledger())
    assert isinstance(todo, Round)
    names = [job.run for job in todo.jobs]
    assert names == ["s-01234567", "s-0123456710000000"]
    # Whoever has a name keeps it, whichever of them comes first now.
    ledger = Ledger([Record(twins[0].identity, run=names[0])])
    later = next_round(definition_of("none", (10,)), twins[::-1], ledger)
    assert isinstance(later, Round)
    assert [job.run for job in later.jobs] == names[::-1]


def test_pruned_trials_are_told_once_with_their_reason() -> None:
    definition, planned = definition_of("halving", (10, 20)), planned_for([{"a": each} for each in range(3)], (0,))
    ledger = Ledger(record(each, REACHED, 10, each.point.values["a"]) for each in planned)
    todo = next_round(definition, planned, ledger)
    assert [(each.point["a"], each.state, each.reason.partition(" at ")[0]) for each in todo.pruned] == [
        (1, PRUNED, "place 2 of 3"),
        (2, PRUNED, "place 3 of 3"),
    ]
    for each in todo.pruned:
        ledger.take(each)
    assert next_round(definition, planned, ledger).pruned == ()


def test_a_search_without_rungs_is_refused() -> None:
    with pytest.raises(SearchError, match="how long a trial is"):
        next_round(definition_of("none", ()), planned_for([{"a": 1}], (0,)), Ledger())
