"""The clock of phases: everything it tells adds up to the time that went by."""

from __future__ import annotations

import contextlib
import threading

import pytest
import torch

from musictrain.speed.phase_clock import MOST_MARKS, CudaTicker, PhaseClock, WallTicker, ticker_for
from musictrain.speed.phases import PHASES, listen, phase, stop_listening


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(time: Time) -> PhaseClock:
    return PhaseClock(WallTicker(time))


def test_phases_add_up_to_the_time_that_went_by(time, clock):
    clock.start("data")
    for seconds, name in ((1.0, "forward"), (2.0, "backward"), (4.0, "data"), (8.0, "forward")):
        time.now += seconds
        clock.switch(name)
    time.now += 16.0
    assert clock.read() == {"data": 1.0 + 8.0, "forward": 2.0 + 16.0, "backward": 4.0}
    time.now += 32.0
    assert clock.read() == {"forward": 32.0}, "a reading begins where the last one ended, in the same phase"


def test_each_moment_belongs_to_the_innermost_phase(time, clock):
    clock.start("validation")
    time.now += 1.0
    clock.enter("sampling")
    time.now += 2.0
    clock.enter("saving")
    time.now += 4.0
    clock.leave("saving")
    clock.switch("other")  # driven on from inside: it counts once sampling is over
    time.now += 8.0
    clock.leave("sampling")
    time.now += 16.0
    assert clock.read() == {"validation": 1.0, "sampling": 2.0 + 8.0, "saving": 4.0, "other": 16.0}


def test_a_clock_that_stands_still_ignores_everything(time, clock):
    clock.switch("forward")
    clock.enter("saving")
    clock.leave("saving")
    assert clock.read() == {}
    clock.start("data")
    time.now += 1.0
    clock.stop()
    time.now += 1.0
    assert (clock.read(), clock.runs) == ({}, False)


def test_leaving_what_was_not_entered_changes_nothing(time, clock):
    clock.start("data")
    clock.leave("saving")
    clock.enter("sampling")
    time.now += 1.0
    clock.leave("saving")
    time.now += 1.0
    assert clock.read() == {"data": 0.0, "sampling": 2.0}


def test_a_clock_that_nobody_reads_does_not_grow(time, clock):
    clock.start("data")
    for _ in range(2 * MOST_MARKS):
        time.now += 1.0
        clock.switch("forward")
    assert len(clock._marks) <= MOST_MARKS
    assert sum(clock.read().values()) == 2 * MOST_MARKS


class Event:
    """What torch's CUDA event does, on a time line in milliseconds."""

    moment = 0.0
    waited: list[float] = []  # noqa: RUF012

    def record(self) -> None:
        self.at = Event.moment

    def synchronize(self) -> None:
        Event.waited.append(self.at)

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_events_are_only_waited_for_when_they_are_read():
    clock = PhaseClock(CudaTicker(Event))
    clock.start("data")
    Event.moment = 250.0
    clock.switch("forward")
    Event.moment = 1000.0
    assert Event.waited == []
    assert clock.read() == {"data": 0.25, "forward": 0.75}
    assert Event.waited == [1000.0]
    assert isinstance(ticker_for(torch.device("cuda")), CudaTicker)
    assert isinstance(ticker_for(torch.device("cpu")), WallTicker)


def test_any_code_can_say_what_it_is_doing(time, clock):
    @phase("saving")
    def save() -> None:
        time.now += 2.0

    with phase("sampling"):
        time.now += 1.0  # nobody listens
    clock.start("other")
    listen(clock)
    listen(clock)
    with contextlib.suppress(RuntimeError), phase("sampling"):
        time.now += 4.0
        save()
        raise RuntimeError("in the middle of it")
    stop_listening(clock)
    stop_listening(clock)
    save()
    assert clock.read() == {"other": 2.0, "sampling": 4.0, "saving": 2.0}


def test_other_threads_do_not_hold_training_up(time, clock):
    def save() -> None:
        with phase("saving"):
            time.now += 1.0

    clock.start("forward")
    listen(clock)
    thread = threading.Thread(target=save)
    thread.start()
    thread.join()
    stop_listening(clock)
    assert clock.read() == {"forward": 1.0}


def test_a_phase_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no phase 'sample' of training.*Did you mean 'sampling'"):
        phase("sample")
    assert set(PHASES) >= {"data", "forward", "backward", "optimizer", "validation", "sampling", "saving"}
