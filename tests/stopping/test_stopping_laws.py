"""Laws of stopping over drawn courses: with one metric it is Lightning's EarlyStopping, and each setting means what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import EarlyStopping

from musictrain.stopping import COMBINATIONS, Guard, StoppingRule, Watch
from tests.stopping.test_stopping_rules import COMBINED, GROOVE, LOSS, stops_at, verdicts

EIGHTHS = st.integers(-8, 8).map(lambda eighths: eighths / 8)
ANY_VALUES = st.lists(EIGHTHS | st.sampled_from([math.nan, math.inf, -math.inf]), max_size=16)
VALUES = st.lists(EIGHTHS, max_size=16)
PAIRS = st.lists(st.tuples(EIGHTHS, EIGHTHS), max_size=14)
PATIENCE = st.integers(1, 4)
MODES = st.sampled_from(["min", "max"])


def lightning_stops_at(theirs: EarlyStopping, values: Sequence[float]) -> int | None:
    """By its own arithmetic, without the fits around it; real ones are in the tests of the callback."""
    stops = (theirs._evaluate_stopping_criteria(torch.tensor(value))[0] for value in values)
    return next((10 * number for number, stop in enumerate(stops, 1) if stop), None)


@settings(max_examples=400)
@given(
    values=ANY_VALUES,
    mode=MODES,
    patience=PATIENCE,
    min_delta=st.sampled_from([0.0, 0.125, 0.5]),
    check_finite=st.booleans(),
    goal=st.none() | EIGHTHS,
    divergence=st.none() | EIGHTHS,
)
def test_with_one_metric_it_is_lightnings(
    values: list[float], mode: str, patience: int, min_delta: float, check_finite: bool, goal: float | None, divergence: float | None
) -> None:
    theirs = EarlyStopping(
        "x",
        mode=mode,
        patience=patience,
        min_delta=min_delta,
        check_finite=check_finite,
        stopping_threshold=goal,
        divergence_threshold=divergence,
    )
    beyond = {"above": divergence} if mode == "min" else {"below": divergence}
    rule = StoppingRule(
        [Watch("x", mode, min_delta=min_delta, check_finite=check_finite, goal=goal)],
        patience=patience,
        guards=[] if divergence is None else [Guard("x", **beyond)],
    )
    assert stops_at(rule, x=values) == lightning_stops_at(theirs, values)


@given(VALUES, PATIENCE, st.sampled_from([0.125, 0.25]), MODES, st.sampled_from([0.25, 4.0, 64.0]))
def test_a_relative_min_delta_knows_no_unit(values: list[float], patience: int, min_delta: float, mode: str, unit: float) -> None:
    def rule() -> StoppingRule:
        return StoppingRule([Watch("x", mode, min_delta=min_delta, relative=True)], patience=patience)

    assert stops_at(rule(), x=values) == stops_at(rule(), x=[unit * value for value in values])


@given(VALUES, PATIENCE)
def test_a_band_is_the_distance_to_it_except_that_its_inside_is_never_left_for_want_of_progress(values: list[float], patience: int) -> None:
    distances = [max(-0.25 - value, value - 0.25, 0.0) for value in values]
    banded = StoppingRule([Watch("x", band=(-0.25, 0.25))], patience=patience)
    plain = StoppingRule([LOSS], patience=patience)
    for one, other, distance in zip(verdicts(banded, x=values), verdicts(plain, loss=distances), distances, strict=True):
        assert not one.stop if distance == 0 else one.stop <= other.stop
    outside = [value for value in values if not -0.25 <= value <= 0.25]
    far = [max(-0.25 - value, value - 0.25) for value in outside]
    expected = stops_at(StoppingRule([LOSS], patience=patience), loss=far)
    assert stops_at(StoppingRule([Watch("x", band=(-0.25, 0.25))], patience=patience), x=outside) == expected


@given(PAIRS, PATIENCE, st.sampled_from([0.0, 0.25]))
def test_a_weighted_sum_is_watched_as_one_metric(pairs: list[tuple[float, float]], patience: int, min_delta: float) -> None:
    loss, groove = [one for one, _ in pairs], [other for _, other in pairs]
    both = StoppingRule([LOSS, replace(GROOVE, weight=2.0)], combine="weighted", patience=patience, min_delta=min_delta)
    alone = StoppingRule([Watch("sum", min_delta=min_delta)], patience=patience)
    sums = [one - 2.0 * other for one, other in pairs]
    assert stops_at(both, loss=loss, groove=groove) == stops_at(alone, sum=sums)


@given(PAIRS, PATIENCE)
def test_a_pareto_front_waits_while_some_earlier_validation_was_as_good_in_both(pairs: list[tuple[float, float]], patience: int) -> None:
    waited, expected = 0, None
    for place, (loss, groove) in enumerate(pairs):
        matched = any(one <= loss and other >= groove for one, other in pairs[:place])
        waited = waited + 1 if matched else 0
        if waited >= patience and expected is None:
            expected = 10 * (place + 1)
    rule = StoppingRule([LOSS, GROOVE], combine="pareto", patience=patience)
    assert stops_at(rule, loss=[one for one, _ in pairs], groove=[other for _, other in pairs]) == expected


@given(PAIRS, PATIENCE)
def test_any_is_the_first_that_stops_alone_and_all_needs_every_one_at_once(pairs: list[tuple[float, float]], patience: int) -> None:
    courses = {"loss": [one for one, _ in pairs], "groove": [other for _, other in pairs]}
    alone = [
        [each.stop for each in verdicts(StoppingRule([watch], patience=patience), **{watch.metric: courses[watch.metric]})]
        for watch in (LOSS, GROOVE)
    ]
    for combine, decide in (("any", any), ("all", all)):
        both = [each.stop for each in verdicts(StoppingRule([LOSS, GROOVE], combine=combine, patience=patience), **courses)]
        assert both == [decide(pair) for pair in zip(*alone, strict=True)]


@given(PAIRS, COMBINED, PATIENCE, st.integers(0, 120))
def test_the_least_budget_hides_what_comes_before_it_and_changes_nothing_after(
    pairs: list[tuple[float, float]], combine: str, patience: int, min_steps: int
) -> None:
    courses = {"loss": [one for one, _ in pairs], "groove": [other for _, other in pairs]}
    free, held = (StoppingRule([LOSS, GROOVE], combine=combine, patience=patience, min_steps=least) for least in (0, min_steps))
    told = enumerate(zip(verdicts(free, **courses), verdicts(held, **courses), strict=True), 1)
    assert all(two.stop == (one.stop and 10 * number >= min_steps) for number, (one, two) in told)


@given(PAIRS, COMBINED, PATIENCE, st.integers(0, 14))
def test_a_warm_up_is_as_if_the_run_had_begun_after_it(pairs: list[tuple[float, float]], combine: str, patience: int, cold: int) -> None:
    rules = [StoppingRule([LOSS, GROOVE], combine=combine, patience=patience, warm_up=warm_up) for warm_up in (0, 10 * (cold + 1))]
    named = [{"loss": one, "groove": other} for one, other in pairs]
    late = [repr(rules[0].judge(10 * number, values)) for number, values in enumerate(named, 1) if number > cold]
    assert [repr(rules[1].judge(10 * number, values)) for number, values in enumerate(named, 1)][cold:] == late


@given(PAIRS, COMBINED, st.integers(0, 14))
def test_a_validation_that_logs_nothing_changes_nothing(pairs: list[tuple[float, float]], combine: str, place: int) -> None:
    def told(pauses: int) -> list[tuple[bool, float | None]]:
        rule = StoppingRule([LOSS, GROOVE], combine=combine, patience=2)
        found = []
        for number, (loss, groove) in enumerate(pairs):
            if number == place:
                for _ in range(pauses):
                    rule.judge(10 * number, {})
            verdict = rule.judge(10 * number, {"loss": loss, "groove": groove})
            found.append((verdict.stop, verdict.cost))
        return found

    assert told(0) == told(3)


@given(VALUES, EIGHTHS, MODES)
def test_a_goal_that_is_reached_is_not_waited_for_and_one_that_is_lost_again_is(values: list[float], goal: float, mode: str) -> None:
    patient = StoppingRule([Watch("x", mode, goal=goal)], patience=99)
    found = verdicts(patient, x=values)
    assert [each.stop for each in found] == [value < goal if mode == "min" else value > goal for value in values]
    assert all(each.reason.endswith(f"better than its goal {goal:.4g}.") and "further goal" in each.advice for each in found if each.stop)


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_without_any_value_nothing_ever_stops(combine: str) -> None:
    rule = StoppingRule([LOSS, GROOVE], combine=combine, patience=1)
    assert stops_at(rule, loss=[None] * 9, groove=[None] * 9) is None
