"""The writer works in order, keeps two copies at most, and is waited for once where the disk hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from musictrain.checkpoints.writer import BackgroundWriter

LONGEST_SECONDS = 300.0
# So short that a test may wait for it, and so long that nobody needs it.
SHORT = 0.05


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a job waits for that hangs; opened in the end, so that no thread stays behind."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_jobs_are_done_one_after_the_other_in_the_order_they_came() -> None:
    writer, done = BackgroundWriter(), []
    for number in range(50):
        writer.submit(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    assert writer.wait(LONGEST_SECONDS)
    assert done == [(number, "checkpoint-writer") for number in range(50)]


def test_there_are_two_copies_and_no_third_until_one_is_written(gate: threading.Event) -> None:
    writer = BackgroundWriter()
    first, second = writer.buffers(LONGEST_SECONDS), writer.buffers(LONGEST_SECONDS)
    assert first is not None
    assert second is not None
    assert first is not second
    writer.submit(lambda: gate.wait(LONGEST_SECONDS), first)
    assert writer.buffers(SHORT) is None
    gate.set()
    third = writer.buffers(LONGEST_SECONDS)
    assert third is first
    writer.give_back(second)
    assert writer.buffers(0.0) is second


def test_who_wants_a_third_copy_gets_it_as_soon_as_one_is_written(gate: threading.Event) -> None:
    writer, got = BackgroundWriter(), []
    for _ in range(2):
        buffers = writer.buffers(LONGEST_SECONDS)
        writer.submit(lambda: gate.wait(LONGEST_SECONDS), buffers)
    training = threading.Thread(target=lambda: got.append(writer.buffers(LONGEST_SECONDS)))
    training.start()
    training.join(SHORT)
    assert training.is_alive(), "it is held up"
    gate.set()
    training.join(LONGEST_SECONDS)
    assert got != [None]


def test_buffers_of_a_failed_job_are_free_again_and_the_next_job_runs(caplog: pytest.LogCaptureFixture) -> None:
    writer, done = BackgroundWriter(), []

    def fail() -> None:
        raise OSError("broken")

    for _ in range(3):
        buffers = writer.buffers(LONGEST_SECONDS)
        assert buffers is not None
        writer.submit(fail, buffers)
    writer.submit(lambda: done.append(True))
    with caplog.at_level(logging.ERROR):
        assert writer.wait(LONGEST_SECONDS)
    assert done == [True]
    assert "A job of the checkpoint writer failed." in caplog.text


def test_a_job_that_ends_the_thread_does_not_end_the_writer() -> None:
    writer, done = BackgroundWriter(), []

    def leave() -> None:
        raise SystemExit

    writer.submit(leave)
    assert writer.wait(LONGEST_SECONDS)
    writer.submit(lambda: done.append(True))
    assert writer.wait(LONGEST_SECONDS)
    assert done == [True]


def test_waiting_gives_up_after_its_time_and_is_told_when_all_is_done(gate: threading.Event) -> None:
    writer = BackgroundWriter()
    assert writer.wait(0.0), "there is nothing to wait for"
    writer.submit(lambda: gate.wait(LONGEST_SECONDS))
    assert not writer.wait(SHORT)
    gate.set()
    assert writer.wait(LONGEST_SECONDS)


def test_a_disk_that_hangs_is_waited_for_once_whoever_waits(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("musictrain.checkpoints.writer.time.monotonic", lambda: now[0])
    writer, started = BackgroundWriter(), threading.Event()

    def hang() -> None:
        started.set()
        gate.wait(LONGEST_SECONDS)

    writer.submit(hang)
    assert started.wait(LONGEST_SECONDS)
    assert not writer.wait(0.0), "from here on it is waited for"
    now[0] = 61.0
    # Had they 60 seconds left, these would wait for ever: this clock stands still.
    assert not writer.wait(60.0)
    writer.buffers(60.0), writer.buffers(60.0)
    assert writer.buffers(60.0) is None
    gate.set()
    assert writer.wait(), "without a limit it waits"
    again = threading.Event()
    writer.submit(lambda: again.wait(LONGEST_SECONDS))
    now[0] = 62.0
    threading.Timer(SHORT, again.set).start()
    assert writer.wait(60.0), "another job has its whole time"
