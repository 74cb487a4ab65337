"""From moments of a training to what an Eta is told."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs.eta import Eta, Plan
from musictrain.speed.eta_clock import EtaClock, plan_of, time_limit
from musictrain.speed.phases import listen, phase, stop_listening


class Told(Eta):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, float, int]] = []

    def tell(self, kind: str, seconds: float, steps: int = 1) -> None:
        self.all.append((kind, round(seconds, 6), steps))
        super().tell(kind, seconds, steps)


class Moments:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def started(step: int = 0) -> tuple[EtaClock, Told, Moments]:
    told, moments = Told(), Moments()
    clock = EtaClock(told, now=moments)
    clock.start(step)
    return clock, told, moments


def test_steps_are_told_without_the_pauses_between_them() -> None:
    clock, told, moments = started(10)
    moments.at = 2.0
    clock.step(11)
    clock.enter("validation")
    moments.at = 7.0
    clock.leave("validation")
    moments.at = 9.0
    clock.step(13)
    assert told.all == [("step", 2, 1), ("validation", 5, 1), ("step", 2, 2)]


def test_a_pause_inside_another_counts_once() -> None:
    clock, told, moments = started()
    clock.enter("validation")
    moments.at = 4.0
    clock.enter("sampling")
    clock.enter("sampling")
    moments.at = 7.0
    clock.leave("sampling")
    clock.leave("sampling")
    moments.at = 8.0
    clock.leave("validation")
    assert told.all == [("sampling", 3, 1), ("validation", 5, 1)]


def test_gathering_batches_is_part_of_a_step_and_reporting_too() -> None:
    clock, told, moments = started()
    moments.at = 1.0
    clock.step(0)
    clock.enter("reporting")
    moments.at = 3.0
    clock.leave("reporting")
    clock.step(1)
    assert told.all == [("step", 3, 1)]


@given(st.lists(st.tuples(st.sampled_from(["step", "validation", "sampling", "saving"]), st.floats(0, 100)), max_size=30))
def test_all_that_is_told_adds_up_to_what_has_elapsed(done: list[tuple[str, float]]) -> None:
    clock, told, moments = started()
    for step, (kind, seconds) in enumerate([*done, ("step", 0.0)], start=1):
        clock.enter(kind)
        moments.at += seconds
        clock.leave(kind)
        if kind == "step":
            clock.step(step)
    assert sum(seconds for _, seconds, _ in told.all) == pytest.approx(clock.elapsed_seconds, abs=1e-3)


def test_what_is_running_is_known() -> None:
    clock, _, moments = started()
    moments.at = 1.5
    assert clock.running() == ("step", 1.5)
    clock.enter("saving")
    moments.at = 2.0
    assert clock.running() == ("saving", 0.5)
    clock.leave("saving")
    assert clock.running() == ("step", 1.5)


def test_elapsed_goes_on_after_a_resume_and_stands_still_in_between() -> None:
    clock, _, moments = started()
    moments.at = 30.0
    clock.stop()
    moments.at = 50.0
    assert clock.elapsed_seconds == 30
    resumed, later = EtaClock(Eta(), now=moments), json.loads(json.dumps(clock.state_dict()))
    resumed.load_state_dict(later)
    resumed.start(5)
    moments.at = 60.0
    assert resumed.elapsed_seconds == 40


def test_phases_of_this_thread_are_heard() -> None:
    clock, told, moments = started()
    listen(clock)
    with phase("saving"):
        moments.at = 2.0
    stop_listening(clock)
    with phase("saving"):
        moments.at = 9.0
    assert told.all == [("saving", 2, 1)]


def test_a_clock_that_was_not_started_tells_nothing() -> None:
    told = Told()
    clock = EtaClock(told)
    clock.enter("saving")
    clock.leave("saving")
    clock.step(3)
    assert (told.all, clock.elapsed_seconds, clock.running()) == ([], 0, ("step", 0.0))


def a_trainer(**options: Any) -> SimpleNamespace:
    defaults = {"val_check_batch": 60, "check_val_every_n_epoch": None, "num_val_batches": [6, 6], "num_training_batches": 100}
    return SimpleNamespace(**{**defaults, "callbacks": [], **options})


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ({}, 20),
        ({"check_val_every_n_epoch": 2, "val_check_batch": 100}, 68),
        ({"check_val_every_n_epoch": 1, "val_check_batch": 50}, 17),
        ({"check_val_every_n_epoch": 1, "val_check_batch": math.inf}, 34),
        ({"num_val_batches": [0]}, math.inf),
        ({"_val_check_time_interval": 600}, None),
    ],
)
def test_validations_are_planned_by_batches_and_by_epochs(options: dict[str, Any], every: float | None) -> None:
    plan = plan_of(a_trainer(**options), batches_per_step=3, steps_per_epoch=34)
    assert plan.every.get("validation") == every
    assert plan.guesses["validation"] == pytest.approx(0 if every == math.inf else 12 / 3 / 3)


def test_callbacks_may_say_what_pauses_they_make_and_when_time_is_up() -> None:
    class Samples:
        def pauses(self, validation_every: float | None) -> Plan:
            return Plan(every={"sampling": 2 * (validation_every or 1)}, at_end={"sampling": 1})

    timers = [SimpleNamespace(time_remaining=lambda left=left: left) for left in (None, 90.0, 50.0)]
    plan = plan_of(a_trainer(callbacks=[Samples(), *timers]))
    assert (plan.every["sampling"], plan.at_end, plan.limit_seconds) == (120, {"sampling": 1}, 50)
    assert time_limit(a_trainer()) is None
