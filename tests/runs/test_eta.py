"""How long a run still takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs.eta import FEW, PAUSES, WARM_UP, Eta, Plan, TimeLeft

SECONDS = st.floats(1e-4, 1e3)
TOLD = st.lists(
    st.one_of(st.tuples(st.just("step"), SECONDS, st.integers(1, 20)), st.tuples(st.sampled_from(PAUSES), st.floats(0, 1e3), st.just(1))),
    max_size=60,
)
PLANS = st.builds(
    Plan,
    every=st.dictionaries(st.sampled_from(PAUSES), st.floats(0.5, 300)),
    at_end=st.dictionaries(st.sampled_from(PAUSES), st.integers(0, 3)),
    guesses=st.dictionaries(st.sampled_from(PAUSES), st.floats(0, 100)),
    limit_seconds=st.none() | st.floats(0, 1e5),
)


def eta_that_was_told(told: list[tuple[str, float, int]]) -> Eta:
    eta = Eta()
    for kind, seconds, steps in told:
        eta.tell(kind, seconds, steps)
    return eta


def after_steps(*seconds: float) -> Eta:
    return eta_that_was_told([("step", each, 1) for each in seconds])


def left(eta: Eta, *args: Any, **options: Any) -> TimeLeft:
    found = eta.left(*args, **options)
    assert found is not None
    return found


@given(SECONDS, st.integers(1, 400), st.integers(0, 5000), st.floats(0.01, 1e3), st.integers(1, 999), st.integers(0, 3))
def test_constant_rates_give_exact_answers(step: float, done: int, more: int, pause: float, every: int, at_end: int) -> None:
    eta = after_steps(*[step] * done)
    eta.tell("validation", pause)
    eta.tell("sampling", 2 * pause)
    plan = Plan(every={"validation": every}, at_end={"sampling": at_end})
    validations = (done + more) // every - done // every
    # One sampling was seen that is not planned during training: as often it will come again.
    expected = more * step + validations * pause + at_end * 2 * pause + more / done * 2 * pause
    assert left(eta, done, done + more, plan).seconds == pytest.approx(expected)


@given(TOLD, PLANS, st.integers(0, 1000), st.none() | st.integers(0, 10_000), st.sampled_from([None, ("step", 3.0), ("validation", 2.0)]))
def test_bounds_hold_the_estimate_and_no_time_is_negative(
    told: list[Any], plan: Plan, step: int, more: int | None, running: tuple[str, float] | None
) -> None:
    found = eta_that_was_told(told).left(step, None if more is None else step + more, plan, running)
    if found is not None:
        assert 0 <= found.low <= found.seconds * (1 + 1e-9)
        assert found.seconds <= found.high * (1 + 1e-9)
        assert math.isfinite(found.high)


@given(TOLD, PLANS, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_more_to_do_never_takes_less(told: list[Any], plan: Plan, step: int, more: int, further: int) -> None:
    eta = eta_that_was_told([*told, ("step", 1.0, 1)])
    total = step + more + further
    sooner, later = left(eta, step, total, plan), left(eta, step + further, total, plan)
    assert later.seconds <= sooner.seconds * (1 + 1e-9)
    assert later.high <= sooner.high * (1 + 1e-9)


@given(TOLD, PLANS)
def test_what_was_told_survives_a_resume(told: list[Any], plan: Plan) -> None:
    eta, resumed, again = eta_that_was_told([*told, *[("step", 0.5, 1)] * (WARM_UP + 1)]), Eta(), Eta()
    resumed.load_state_dict(json.loads(json.dumps(eta.state_dict())))
    again.load_state_dict(resumed.state_dict())
    assert left(resumed, 10, 1000, plan).seconds == pytest.approx(left(eta, 10, 1000, plan).seconds)
    assert again.state_dict() == resumed.state_dict()
    resumed.tell("step", 900.0)
    assert left(resumed, 10, 1000, plan).seconds == pytest.approx(left(eta, 10, 1000, plan).seconds, rel=0.2), "it compiles again"


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=200), st.data())
def test_a_pause_of_ten_minutes_does_not_triple_it(seconds: list[float], data: st.DataObject) -> None:
    usual = [1.0] * WARM_UP + seconds
    paused = list(usual)
    paused[data.draw(st.integers(WARM_UP, len(usual) - 1))] += 600
    assert left(after_steps(*paused), 0, 1000).seconds < 3 * left(after_steps(*usual), 0, 1000).seconds


def test_stalls_that_come_again_and_again_count() -> None:
    eta = after_steps(*([0.1] * 99 + [5.0]) * 10)
    assert left(eta, 1000, 2000).seconds == pytest.approx(1000 * 0.1 + 10 * 4.9, rel=0.15)


def test_a_slow_first_step_is_left_out() -> None:
    assert left(after_steps(120.0, *[0.1] * 20), 21, 1021).seconds == pytest.approx(100)
    assert left(after_steps(120.0, 0.1), 2, 1002).seconds == pytest.approx(100)


def test_longer_sequences_are_followed() -> None:
    eta = after_steps(*[1.0] * 500, *[2.0] * 150)
    assert 1.7 < left(eta, 0, 1).seconds <= 2.0
    assert left(eta, 0, 1).high > 2.0


def test_another_machine_is_followed_soon_after_a_resume() -> None:
    resumed = Eta()
    resumed.load_state_dict(after_steps(*[1.0] * 1000).state_dict())
    for _ in range(WARM_UP + 60):
        resumed.tell("step", 0.25)
    assert left(resumed, 1000, 2000).seconds < 500


def test_the_bounds_close_in() -> None:
    widths = [(found.high - found.low) / found.seconds for n in (1, 5, 20, 200, 2000) if (found := left(after_steps(*[1.0] * n), n, 9000))]
    assert widths == sorted(widths, reverse=True)
    assert left(after_steps(1.0), 1, 9000).is_rough
    assert not left(after_steps(*[1.0] * 200), 200, 9000).is_rough


def test_a_limit_of_time_ends_the_training_and_the_end_follows() -> None:
    eta = after_steps(*[1.0] * 20)
    eta.tell("sampling", 30.0)
    plan = Plan(every={"sampling": 1e9}, at_end={"sampling": 1}, limit_seconds=100)
    assert left(eta, 20, None, plan).seconds == pytest.approx(130)
    assert left(eta, 20, 5000, plan).seconds == pytest.approx(130)
    assert left(eta, 20, 50, plan).seconds == pytest.approx(60)
    assert left(Eta(), 0, None, Plan(limit_seconds=100)).seconds == pytest.approx(100)


def test_nobody_can_tell_the_end_of_a_run_without_one() -> None:
    assert after_steps(*[1.0] * 20).left(20, None) is None
    assert after_steps(*[1.0] * 20).left(20, math.inf) is None
    assert Eta().left(0, 100) is None


def test_what_is_running_counts_down() -> None:
    eta = after_steps(*[1.0] * 20)
    eta.tell("validation", 40.0)
    plan = Plan(every={"validation": 100})
    assert left(eta, 100, 150, plan).seconds == pytest.approx(50)
    assert left(eta, 100, 150, plan, ("validation", 10.0)).seconds == pytest.approx(80)
    assert left(eta, 100, 150, plan, ("validation", 100.0)).seconds == pytest.approx(50)
    assert left(eta, 100, 150, plan, ("step", 0.25)).seconds == pytest.approx(49.75)
    eta.tell("sampling", 8.0)
    end = Plan(every={"sampling": 1e9}, at_end={"sampling": 1})
    assert left(eta, 150, 150, end, ("sampling", 2.0)).seconds == pytest.approx(6)
    longer = Plan(every={"sampling": 1e9}, at_end={"sampling": 2.5})
    assert left(eta, 150, 150, longer).seconds == pytest.approx(20)
    assert left(eta, 150, 150, longer, ("sampling", 12.0)).seconds == pytest.approx(8)


def test_what_was_never_seen_may_be_guessed() -> None:
    eta = after_steps(*[2.0] * 20)
    guessed = left(eta, 20, 100, Plan(every={"validation": 50}, guesses={"validation": 10}))
    assert guessed.seconds == pytest.approx(80 * 2 + 2 * 10 * 2)
    assert guessed.high > guessed.seconds + 20
    eta.tell("validation", 5.0)
    assert left(eta, 20, 100, Plan(every={"validation": 50}, guesses={"validation": 10})).seconds == pytest.approx(170)


RECORDED = json.loads((Path(__file__).parent / "recorded_step_times.json").read_text(encoding="utf-8"))


def foretold(done: int) -> tuple[TimeLeft, float]:
    """What the recorded run is estimated to take after so many steps, and what it took."""
    seconds, pauses = RECORDED["steps"], {int(step): pause for step, pause in RECORDED["validations"].items()}
    eta = Eta()
    for step, each in enumerate(seconds[:done], start=1):
        eta.tell("step", each)
        if step in pauses:
            eta.tell("validation", pauses[step])
    truth = sum(seconds[done:]) + sum(pause for step, pause in pauses.items() if step > done)
    return left(eta, done, len(seconds), Plan(every={"validation": 100}, guesses={"validation": 10 / 3})), truth


@pytest.mark.parametrize(("share", "error"), [(0.1, 0.15), (0.25, 0.15), (0.5, 0.10), (0.9, 0.10)])
def test_a_recorded_run_is_foretold(share: float, error: float) -> None:
    found, truth = foretold(int(share * len(RECORDED["steps"])))
    assert found.seconds == pytest.approx(truth, rel=error)


def test_the_truth_lies_within_the_bounds_about_four_times_out_of_five() -> None:
    found = [foretold(done) for done in range(10, len(RECORDED["steps"]) - 10, 10)]
    assert 0.7 < sum(each.low <= truth <= each.high for each, truth in found) / len(found) < 0.95


def test_few_tellings_become_many_without_a_jump() -> None:
    noisy = [1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.0, 1.1, 1.0, 1.0, 0.9]
    before, after = after_steps(*[1.0] * WARM_UP, *noisy[: FEW - 1]), after_steps(*[1.0] * WARM_UP, *noisy[:FEW])
    assert left(before, 0, 100).seconds == pytest.approx(left(after, 0, 100).seconds, rel=0.05)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_impossible_times_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="needs finite seconds"):
        Eta().tell("step", seconds)


def test_unknown_kinds_and_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="Did you mean 'validation'"):
        Eta().tell("validaton", 1.0)
    with pytest.raises(ValueError, match="no kind 'step'"):
        Plan(every={"step": 1})
    with pytest.raises(ValueError, match="steps between two are positive"):
        Plan(every={"validation": 0})
