"""When a run stops and what is vetoed: examples by hand, and laws over every course that values could take."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.stopping import COMBINATIONS, GUARDS, Guard, StoppingRule, Verdict, Watch
from musictrain.stopping.guards import guard_named
from musictrain.stopping.watches import made_of

LOSS, GROOVE = Watch("loss"), Watch("groove", "max")
NAN = math.nan


def verdicts(rule: StoppingRule, every: int = 10, **series: Sequence[float | None]) -> list[Verdict]:
    """What it says of one validation after another, ``every`` so many steps; None is a value that was not logged."""
    rows = zip(*series.values(), strict=True)
    named = [{name: value for name, value in zip(series, row, strict=True) if value is not None} for row in rows]
    return [rule.judge(every * number, values) for number, values in enumerate(named, start=1)]


def stops_at(rule: StoppingRule, every: int = 10, **series: Sequence[float | None]) -> int | None:
    """The step at which it first says stop, None if it never does."""
    return next((every * number for number, verdict in enumerate(verdicts(rule, every, **series), 1) if verdict.stop), None)


# One metric.


def test_it_stops_after_so_many_validations_without_an_improvement() -> None:
    assert stops_at(StoppingRule([LOSS], patience=2), loss=[3, 2, 2.5, 1.5, 1.5, 1.75]) == 60
    assert stops_at(StoppingRule([GROOVE], patience=2), groove=[0.2, 0.3, 0.3, 0.1]) == 40
    assert stops_at(StoppingRule([LOSS], patience=3), loss=[3, 2, 2, 2.5]) is None


def test_less_than_min_delta_is_no_improvement() -> None:
    course = [4.0, 3.75, 3.75]
    assert stops_at(StoppingRule([Watch("loss", min_delta=0.25)], patience=2), loss=course) == 30
    assert stops_at(StoppingRule([Watch("loss", min_delta=0.125)], patience=2), loss=course) is None


def test_a_relative_min_delta_is_a_share_of_the_best() -> None:
    rule = StoppingRule([Watch("loss", min_delta=0.1, relative=True)], patience=1)
    assert stops_at(rule, loss=[100.0, 89.0, 79.0, 72.0]) == 40
    negative = StoppingRule([Watch("score", "max", min_delta=0.1, relative=True)], patience=1)
    assert stops_at(negative, score=[-100.0, -89.0, -79.0, -72.0]) == 40


def test_inside_its_band_a_metric_is_content_and_outside_it_must_come_nearer() -> None:
    banded = Watch("repetition", band=(0.25, 0.5))
    assert stops_at(StoppingRule([banded], patience=2), repetition=[0.5, 0.25, 0.375, 0.375, 0.375]) is None
    assert stops_at(StoppingRule([banded], patience=2), repetition=[1.0, 0.875, 0.75, 0.0, 0.75]) == 50
    assert stops_at(StoppingRule([banded], patience=2), repetition=[0.375, 0.75, 0.375, 0.75, 0.625]) == 50


def test_values_before_the_warm_up_are_passed_over() -> None:
    course = [1.0, 5.0, 4.0, 3.0, 3.5]
    assert stops_at(StoppingRule([LOSS], patience=1), loss=course) == 20
    assert stops_at(StoppingRule([LOSS], patience=1, warm_up=20), loss=course) == 50
    assert stops_at(StoppingRule([Watch("loss", warm_up=30)], patience=1), loss=course) == 50


def test_before_the_least_budget_patience_stops_nothing_and_what_got_better_since_goes_on() -> None:
    assert stops_at(StoppingRule([LOSS], patience=2, min_steps=50), loss=[1, 2, 2, 2, 2, 2]) == 50
    assert stops_at(StoppingRule([LOSS], patience=2, min_steps=50), loss=[1, 2, 2, 2, 0.5, 0.25]) is None


def test_a_value_that_is_not_finite_stops_for_health_at_once_unless_told_otherwise() -> None:
    found = verdicts(StoppingRule([LOSS], min_steps=1_000), loss=[2.0, NAN])[-1]
    assert (found.stop, found.by_guard, found.reason, found.veto) == (True, True, "loss is nan.", "loss is nan")
    assert stops_at(StoppingRule([Watch("loss", check_finite=False)], patience=3), loss=[2.0, NAN, math.inf, NAN]) == 40
    assert stops_at(StoppingRule([LOSS], patience=2, warm_up=20), loss=[math.inf, 2.0, 1.0]) is None


def test_a_value_that_was_not_logged_is_not_counted() -> None:
    assert stops_at(StoppingRule([LOSS], patience=2), loss=[2.0, None, 3.0, None, None, 3.0]) == 60


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_the_corpus_own_band_is_settled_before_the_first_verdict(combine: str) -> None:
    def rule(band: Any = "corpus") -> StoppingRule:
        return StoppingRule([LOSS, Watch("groove", band=band)], combine=combine, patience=2)

    course = {"loss": [3.0, 2.0, 2.5, 2.5, 2.5], "groove": [0.875, 0.75, 0.875, 0.875, 0.875]}
    known, waiting = rule((0.25, 0.5)), rule()
    assert (known.awaits_bands, waiting.awaits_bands) == (False, True)
    expected = [repr(each) for each in verdicts(known, **course)]
    waiting.settle_bands({"groove": (0.25, 0.5), "other": (0.0, 1.0)})
    assert [repr(each) for each in verdicts(waiting, **course)] == expected
    resumed, again = rule(), rule()
    resumed.load_state_dict(waiting.state_dict())
    again.load_state_dict(resumed.state_dict())  # saved before a band was known
    again.settle_bands({"groove": (0.25, 0.5)})
    assert again.state_dict() == waiting.state_dict()
    with pytest.raises(
        ValueError, match=r"\['groove'\] with the band 'corpus', and this run knows .*\['groovy'\]. Did you mean 'groovy'\?"
    ):
        rule().settle_bands({"groovy": (0.0, 1.0)})


# Several.


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("any", 40),  # the loss is best at 20
        ("all", 70),  # the groove at 50
        ("weighted", 60),  # the loss less the groove at 40
        ("pareto", 80),  # at 60 both together are better than anything before, though neither is
    ],
)
def test_how_two_metrics_decide_together(combine: str, expected: int) -> None:
    rule = StoppingRule([LOSS, GROOVE], combine=combine, patience=2)
    loss, groove = [3.0, 2.0, 2.5, 2.25, 2.5, 2.375, 2.5, 2.5], [0.0, 0.25, 0.5, 0.625, 0.75, 0.6875, 0.25, 0.25]
    assert stops_at(rule, loss=loss, groove=groove) == expected


def test_all_does_not_latch_a_metric_that_gets_better_again_holds_the_run() -> None:
    course = {"loss": [3.0, 3.0, 3.0, 2.0, 2.5, 2.5], "groove": [0.1, 0.2, 0.3, 0.3, 0.3, 0.3]}
    assert stops_at(StoppingRule([LOSS, GROOVE], patience=2), **course) == 60


def test_all_is_held_by_a_metric_that_was_never_logged_and_not_by_one_inside_its_band() -> None:
    assert stops_at(StoppingRule([LOSS, GROOVE], patience=1), loss=[1.0, 2.0, 2.0], groove=[None, None, None]) is None
    banded = Watch("groove", band=(0.0, 1.0))
    assert stops_at(StoppingRule([LOSS, banded], patience=1), loss=[1.0, 2.0], groove=[0.5, 0.5]) == 20


def test_metrics_may_have_a_patience_of_their_own() -> None:
    patient = StoppingRule([LOSS, Watch("groove", "max", patience=4)], combine="any", patience=2)
    assert stops_at(patient, loss=[5.0, 4.0, 3.0, 2.0, 1.0], groove=[1.0, 0.0, 0.0, 0.0, 0.0]) == 50


def test_weights_decide_what_a_sum_listens_to() -> None:
    course = {"loss": [3.0, 2.0, 1.0], "groove": [1.0, 0.5, 0.25]}
    assert stops_at(StoppingRule([LOSS, GROOVE], combine="weighted", patience=2), **course) is None
    heavy = Watch("groove", "max", weight=8.0)
    assert stops_at(StoppingRule([LOSS, heavy], combine="weighted", patience=2), **course) == 30
    assert verdicts(StoppingRule([LOSS, heavy], combine="weighted"), **course)[0].cost == 3.0 - 8.0


def test_a_pareto_front_takes_what_is_better_in_anything() -> None:
    rule = StoppingRule([LOSS, GROOVE], combine="pareto", patience=1)
    course = {"loss": [3.0, 4.0, 2.0, 3.5], "groove": [0.5, 0.75, 0.25, 0.5]}
    assert stops_at(rule, **course) == 40  # 3.5 and 0.5: the first was as good in both
    (state,) = rule.state_dict()["watched"].values()
    assert [step for step, *_ in state["front"]] == [10, 20, 30]


# Guards.


def test_a_guard_stops_at_once_before_any_budget_and_vetoes() -> None:
    rule = StoppingRule([LOSS], min_steps=1_000, guards=[Guard("copies", above=0.5, advice="Transpose.")])
    found = verdicts(rule, loss=[3.0, 2.0, 1.0], copies=[0.0, 0.5, 0.625])
    assert [(each.stop, each.veto) for each in found] == [(False, ""), (False, ""), (True, "copies is 0.625, above 0.5")]
    assert (found[-1].by_guard, found[-1].reason, found[-1].advice) == (True, "copies is 0.625, above 0.5.", "Transpose.")


def test_a_veto_lasts_as_long_as_its_cause() -> None:
    rule = StoppingRule([LOSS], guards=[Guard("loops", above=0.5, action="veto")])
    found = verdicts(rule, loss=[3.0, 2.0, 1.0, 0.5], loops=[0.0, 0.75, 0.75, 0.25])
    assert [bool(each.veto) for each in found] == [False, True, True, False]
    assert [each.cost for each in found] == [3.0, math.inf, math.inf, 0.5]
    assert [crossing.times for each in found for crossing in each.crossings] == [1, 2]
    assert not any(each.stop for each in found)


def test_a_patient_guard_vetoes_at_once_and_stops_after_so_many_in_a_row() -> None:
    rule = StoppingRule([LOSS], guards=[Guard("copies", above=0.5, patience=2)])
    found = verdicts(rule, loss=[5.0, 4.0, 3.0, 2.0, 1.0], copies=[0.75, 0.25, 0.75, None, 0.75])
    assert [bool(each.veto) for each in found] == [True, False, True, False, True]
    assert [each.stop for each in found] == [False, False, False, False, True]
    assert found[-1].reason == "copies is 0.75, above 0.5, 2 validations in a row."


def test_the_bound_may_be_another_value_with_a_margin() -> None:
    guard = Guard("copies", above="own", margin=0.25)
    assert guard.crossed({"copies": 0.5, "own": 0.25}) == ""
    assert guard.crossed({"copies": 0.75, "own": 0.25}) == "copies is 0.75, above 0.25 (own) by more than 0.25"
    assert guard.crossed({"copies": 0.75}) is guard.crossed({"copies": NAN, "own": 0.0}) is None
    assert Guard("valid", below=0.5).crossed({"valid": 0.25}) == "valid is 0.25, below 0.5"


def test_notes_say_more_than_the_number() -> None:
    rule = StoppingRule([LOSS], guards=[Guard("copies", above=0.5)])
    assert rule.judge(10, {"copies": 1.0}, {"copies": "bar 3 of bwv1.6"}).reason == "copies is 1, above 0.5 (bar 3 of bwv1.6)."


def test_guards_do_not_look_during_their_warm_up() -> None:
    guard = Guard("loops", above=0.5)
    assert stops_at(StoppingRule([LOSS], warm_up=30, guards=[guard]), loss=[3.0, 2.0, 1.0], loops=[1.0, 1.0, 1.0]) == 30
    own = Guard("loops", above=0.5, warm_up=20)
    assert stops_at(StoppingRule([LOSS], warm_up=30, guards=[own]), loss=[3.0, 2.0, 1.0], loops=[1.0, 1.0, 1.0]) == 20


def test_every_guard_counts_whichever_stops_first() -> None:
    rule = StoppingRule([LOSS], guards=[Guard("a", above=0.5), Guard("b", above=0.5, patience=9)])
    found = rule.judge(10, {"a": 1.0, "b": 1.0})
    assert found.veto == "a is 1, above 0.5; b is 1, above 0.5"
    assert rule.state_dict()["crossed"] == {"a above 0.5": 1, "b above 0.5": 1}


# What it says.


def test_reasons_hold_the_numbers() -> None:
    rule = StoppingRule([Watch("groove", "max", min_delta=0.125)], patience=2)
    assert verdicts(rule, every=500, groove=[0.5, 0.75, 0.75, 0.8125])[-1].reason == (
        "groove did not get better than 0.75 (at step 1,000) by 0.125 in 2 validations: now 0.8125."
    )
    banded = StoppingRule([Watch("loops", band=(0.25, 0.5))], patience=1)
    assert verdicts(banded, loops=[0.625, 0.75])[-1].reason == (
        "loops lies outside of 0.25 to 0.5 and came no nearer in 1 validation (it came within 0.125 of it at step 10): 0.75."
    )
    several = StoppingRule([LOSS, GROOVE], patience=1)
    reason = verdicts(several, loss=[1.0, 2.0], groove=[0.5, 0.25])[-1].reason
    assert reason.startswith("loss did not get better than 1 (at step 10)")
    assert "; groove did not get better than 0.5 (at step 10)" in reason


# Laws.

COURSE = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "loss": st.integers(0, 8).map(float) | st.just(NAN),
            "groove": st.integers(0, 8).map(lambda eighths: eighths / 8),
            "loops": st.integers(0, 8).map(lambda eighths: eighths / 8),
        },
    ),
    max_size=24,
)
COMBINED = st.sampled_from(COMBINATIONS)
WATCHES = (Watch("loss", check_finite=False), GROOVE, Watch("loops", band=(0.25, 0.5), warm_up=30))


def rule_of(combine: str, patience: int = 3) -> StoppingRule:
    return StoppingRule(WATCHES, combine=combine, patience=patience, guards=[Guard("loops", above=0.75, patience=2)])


def told(rule: StoppingRule, course: Sequence[dict[str, float]], start: int = 0) -> list[str]:
    return [repr(rule.judge(10 * number, values)) for number, values in enumerate(course, start=1) if number > start]


@given(COURSE, COMBINED, st.integers(0, 24), st.integers(1, 4))
def test_a_rule_that_is_put_away_and_taken_up_again_says_the_same(
    course: list[dict[str, float]], combine: str, after: int, patience: int
) -> None:
    whole, first, second = (rule_of(combine, patience) for _ in range(3))
    expected = told(whole, course)[after:]
    told(first, course[:after])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert told(second, course, start=after) == expected
    assert repr(second.state_dict()) == repr(whole.state_dict())


@given(COURSE, COMBINED, st.integers(1, 4), st.integers(1, 4))
def test_what_is_loaded_never_overwrites_the_configured_patience(
    course: list[dict[str, float]], combine: str, before: int, now: int
) -> None:
    old, new, always = rule_of(combine, before), rule_of(combine, now), rule_of(combine, now)
    told(old, course)
    told(always, course)
    new.load_state_dict(old.state_dict())
    later = [{"loss": 8.0, "groove": 0.0, "loops": 0.625}] * 3
    assert told(new, course + later, start=len(course)) == told(always, course + later, start=len(course))


@given(COURSE, st.integers(1, 4))
def test_with_one_metric_every_combination_is_the_same(course: list[dict[str, float]], patience: int) -> None:
    rules = [StoppingRule([Watch("loss", check_finite=False)], combine=combine, patience=patience) for combine in COMBINATIONS]
    stops = [[rule.judge(10 * number, values).stop for number, values in enumerate(course)] for rule in rules]
    assert all(each == stops[0] for each in stops)


@given(COURSE, st.integers(1, 4))
def test_whoever_waits_for_all_stops_no_earlier_than_for_any(course: list[dict[str, float]], patience: int) -> None:
    rules = [StoppingRule(WATCHES, combine=combine, patience=patience) for combine in ("all", "any")]
    for number, values in enumerate(course):
        both = [rule.judge(10 * number, values).stop for rule in rules]
        assert both[1] or not both[0]


@given(COURSE, COMBINED)
def test_more_patience_never_stops_earlier(course: list[dict[str, float]], combine: str) -> None:
    stops = [[rule_of(combine, patience).judge] for patience in (1, 3)]
    for number, values in enumerate(course):
        hasty, patient = (judge(10 * number, values) for (judge,) in stops)
        assert hasty.stop or not patient.stop
        assert hasty.veto == patient.veto


@given(COURSE, COMBINED)
def test_whatever_stops_has_a_reason_and_whatever_goes_on_has_none(course: list[dict[str, float]], combine: str) -> None:
    rule = rule_of(combine)
    for number, values in enumerate(course):
        found = rule.judge(10 * number, values)
        assert found.stop == bool(found.reason) == bool(found.advice or found.by_guard)
        assert bool(found.veto) == bool(found.crossings)


# A state of other settings.


def test_a_best_value_of_another_direction_is_not_taken_up() -> None:
    old = StoppingRule([Watch("groove", "max")], patience=1)
    verdicts(old, groove=[0.5, 0.25])
    new = StoppingRule([Watch("groove", "min")], patience=1)
    new.load_state_dict(old.state_dict())
    assert not new.judge(30, {"groove": 0.75}).stop


def test_a_guard_that_is_new_begins_anew() -> None:
    rule = StoppingRule([LOSS], guards=[Guard("copies", above=0.5, patience=2)])
    rule.load_state_dict({"crossed": {"copies above 0.25": 5}})
    assert not rule.judge(10, {"copies": 1.0}).stop


# What cannot work.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": ""}, "needs the name of a logged value"),
        ({"mode": "mim"}, "Did you mean 'min'"),
        ({"band": (1.0, 0.0)}, "the lower one first"),
        ({"band": (NAN, 0.0)}, "the lower one first"),
        ({"min_delta": -1.0}, "a number from 0 on"),
        ({"patience": 0}, "a whole number from 1 on"),
        ({"warm_up": -1}, "optimizer steps from 0 on"),
        ({"weight": 0.0}, "a positive number"),
        ({"min_delta": "much"}, "min_delta='much'"),
        ({"band": ("low", "high")}, "the lower one first"),
        ({"band": "corpse"}, "or 'corpus'"),
        ({"goal": NAN}, "goal=nan; it needs a number"),
        ({"goal": 0.5, "band": (0.0, 1.0)}, "whose inside is the goal"),
    ],
)
def test_a_watch_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Watch(**{"metric": "val/x", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": ""}, "needs the name of a logged value"),
        ({}, "it needs one of them"),
        ({"above": 1.0, "below": 0.0}, "it needs one of them"),
        ({"above": math.inf}, "a number, or the name"),
        ({"above": 1.0, "action": "vetto"}, "Did you mean 'veto'"),
        ({"above": 1.0, "margin": -1.0}, "margin=-1.0"),
        ({"above": 1.0, "patience": 0}, "a whole number from 1 on"),
        ({"above": 1.0, "warm_up": -5}, "optimizer steps from 0 on"),
    ],
)
def test_a_guard_that_cannot_work_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guard(**{"metric": "val/x", **settings})


@pytest.mark.parametrize(
    ("watches", "settings", "message"),
    [
        ([], {}, "nothing to watch"),
        ([LOSS], {"combine": "paretto"}, "Did you mean 'pareto'"),
        ([LOSS, LOSS], {}, "'loss' more than once in `watch`"),
        ([LOSS], {"guards": [Guard("x", above=1.0)] * 2}, "'x above 1.0' more than once in `guards`"),
        ([LOSS], {"patience": 0}, "patience=0"),
        ([LOSS], {"warm_up": -1}, "warm_up=-1"),
        ([LOSS], {"min_steps": 1.5}, "min_steps=1.5"),
        ([Watch("loss", patience=2)], {"combine": "weighted"}, "set `patience` itself, not that of loss"),
        ([Watch("loss", min_delta=0.5)], {"combine": "weighted"}, "`min_delta` of the sum"),
        ([LOSS], {"min_delta": 0.5}, "of a metric in `watch`"),
        ([Watch("loss", goal=0.5)], {"combine": "pareto"}, "no goal: leave out that of loss"),
    ],
)
def test_settings_that_mean_nothing_together_are_refused(watches: list[Watch], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoppingRule(watches, **settings)


def test_ready_guards_have_names() -> None:
    assert all(guard_named(name) is guard and guard.advice for name, guard in GUARDS.items())
    with pytest.raises(ValueError, match=r"no guard 'copyng', only collapse, copying, tokens.*Did you mean 'copying'\?"):
        guard_named("copyng")


def test_settings_by_name_are_checked_like_arguments() -> None:
    assert made_of(Watch, {"metric": "val/x", "mode": "max"}) == Watch("val/x", "max")
    assert made_of(Guard, {"metric": "val/x", "above": 1.0}) == Guard("val/x", above=1.0)
    with pytest.raises(ValueError, match=r"The watch of 'val/x' has no 'moode', only metric, mode, .* Did you mean 'mode'\?"):
        made_of(Watch, {"metric": "val/x", "moode": "max"})
    assert made_of(Guard, {"metric": "val/x", "above": 1.0, "advice": {"It loops": "listen."}}).advice == "It loops: listen."
    with pytest.raises(ValueError, match="A guard needs a metric"):
        made_of(Guard, {"above": 1.0})
