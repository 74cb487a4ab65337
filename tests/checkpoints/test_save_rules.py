"""When to save and what counts as healthy: rules on plain numbers."""

from __future__ import annotations

import itertools
import math

import pytest

from musictrain.checkpoints.health import LossWatch
from musictrain.checkpoints.triggers import Rhythm, SaveTriggers, time_limit


def watch_of(losses: list[float]) -> LossWatch:
    watch = LossWatch()
    for loss in losses:
        watch.add(loss)
    return watch


def noisy(level: float, num: int) -> list[float]:
    return [level + 0.05 * math.sin(7 * number) for number in range(num)]


def test_a_calm_loss_is_no_spike_and_a_jump_is_one() -> None:
    assert watch_of(noisy(2.0, 40)).spike() == ""
    assert watch_of([*noisy(2.0, 40), 3.1, 3.3, 3.2]).spike() == "inside a loss spike: 3.2 against a median of 2.007"
    assert watch_of([*noisy(2.0, 40), 3.1, 3.3, 3.2, *noisy(2.0, 3)]).spike() == "", "it is over"


def test_a_falling_or_constant_loss_is_no_spike() -> None:
    assert watch_of([3.0 - 0.02 * number for number in range(60)]).spike() == ""
    assert watch_of([1.0] * 40).spike() == ""


def test_few_losses_are_never_a_spike_but_nothing_but_nan_is() -> None:
    assert watch_of([1.0, 1.0, 9.0]).spike() == ""
    assert watch_of([math.nan]).spike() == "the loss is nan"
    assert watch_of([*noisy(2.0, 40), math.nan, math.inf, math.nan]).spike() == "the loss is nan"


@pytest.mark.parametrize("after", range(3))
def test_one_loss_that_is_not_finite_is_no_spike(after: int) -> None:
    assert watch_of([*noisy(2.0, 40), math.nan, *noisy(2.0, after)]).spike() == ""


def test_one_loss_that_is_not_finite_hides_no_spike() -> None:
    assert watch_of([*noisy(2.0, 40), math.nan, 3.2, 3.2]).spike() == "inside a loss spike: 3.2 against a median of 2.007"


def test_a_watch_remembers_across_a_resume() -> None:
    first = watch_of([*noisy(2.0, 40), 3.1, 3.3, 3.2])
    second = LossWatch()
    second.restore(first.losses())
    assert second.spike() == first.spike() != ""


def test_looking_at_the_losses_does_not_add_to_them() -> None:
    watch = watch_of([0.01, 0.02, 0.03])
    assert watch.losses() == watch.losses() == [0.01, 0.02, 0.03]
    watch.add(0.04)
    assert watch.spike() == "", "four losses are too few"


def test_saves_are_due_by_steps_and_by_the_clock() -> None:
    triggers = SaveTriggers(every_n_steps=50, every_n_minutes=10, last_save=1000.0)
    assert [step for step in range(1, 201) if triggers.by_steps(step, step - 1)] == [50, 100, 150, 200]
    assert [step for step in range(3, 200, 3) if triggers.by_steps(step, step - 3)] == [51, 102, 150], "a multiple is not jumped over"
    assert not triggers.by_clock(1599.9)
    assert triggers.by_clock(1600.0)
    off = SaveTriggers(0, 0)
    assert not off.by_steps(50, 49)
    assert not off.by_clock(1e9)


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_minutes=-1; it needs a positive number, or 0 for off"):
        SaveTriggers(every_n_minutes=-1)
    with pytest.raises(ValueError, match="threshold=0"):
        LossWatch(0)


def test_the_time_limit_is_slurms() -> None:
    assert time_limit({"SLURM_JOB_END_TIME": "1700000000"}) == 1.7e9
    assert time_limit({}) is None
    assert time_limit({"SLURM_JOB_END_TIME": "soon"}) is None


def test_processes_talk_about_once_a_second_and_at_the_same_steps() -> None:
    rhythm, talks, step, now = Rhythm(seconds=1.0), [], 0, 0.0
    while now < 60:
        step, now = step + 1, now + 0.01
        if rhythm.due(step):
            talks.append(step)
            rhythm.agreed(step, rhythm.proposal(step, now))
    assert talks[:5] == [1, 2, 4, 8, 16], "at first often, since nobody knows how long a step takes"
    assert {later - earlier for earlier, later in itertools.pairwise(talks[10:])} <= {99, 100, 101}
