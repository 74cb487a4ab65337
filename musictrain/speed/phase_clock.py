"""A clock that knows which phase every moment belongs to, so that the phases add up to the time on the wall."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

MOST_MARKS = 4096  # a clock that nobody reads must not grow without end


class Ticker(Protocol):
    """Where the moments come from."""

    def now(self) -> Any:
        """A mark of this moment."""

    def settle(self, mark: Any) -> None:
        """Wait until this mark, and so every earlier one, can be read."""

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks."""


class WallTicker:
    """Marks of the host's clock."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now

    def settle(self, mark: float) -> None:
        """Nothing to wait for."""

    def seconds(self, start: float, end: float) -> float:
        """Seconds between two marks."""
        return end - start


class CudaTicker:
    """Marks on the device's own time line: events that are recorded without waiting, and read when somebody asks.

    The host runs ahead of a GPU, so its clock would only tell how long it takes to queue the work. On the device's time line a phase in
    which the host holds the device up (data, a save) shows as the gap that it is. Not run here: this machine has no GPU.

    Args:
        new_event: makes an event with timing.
    """

    def __init__(self, new_event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True)) -> None:
        self.new_event = new_event

    def now(self) -> Any:
        """An event on the current stream."""
        event = self.new_event()
        event.record()
        return event

    def settle(self, mark: Any) -> None:
        """Wait until the device has come this far."""
        mark.synchronize()

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two events."""
        return start.elapsed_time(end) / 1000


def ticker_for(device: torch.device) -> Ticker:
    """Events on CUDA devices, the host's clock elsewhere."""
    return CudaTicker() if device.type == "cuda" else WallTicker()


class PhaseClock:
    """Adds up the seconds of each phase; they sum to the time from ``start`` to ``read``.

    Who drives the training says ``switch``; what runs somewhere inside it says ``enter`` and ``leave``, and the innermost counts. A clock
    that stands still ignores all of them.
    """

    def __init__(self, ticker: Ticker | None = None) -> None:
        self._ticker: Ticker = ticker or WallTicker()
        self._marks: list[tuple[str, Any]] = []
        self._sums: dict[str, float] = {}
        self._driven = "other"
        self._inside: list[str] = []

    @property
    def runs(self) -> bool:
        """Whether it has been started and not stopped."""
        return bool(self._marks)

    def start(self, phase: str) -> None:
        """Begin at zero in this phase."""
        self._driven, self._inside, self._sums = phase, [], {}
        self._marks = [(phase, self._ticker.now())]

    def stop(self) -> None:
        """Stand still; what was not read is lost."""
        self._marks, self._inside, self._sums = [], [], {}

    def switch(self, phase: str) -> None:
        """From now on training is in this phase."""
        self._driven = phase
        if self._marks and not self._inside:
            self._mark(phase)

    def enter(self, phase: str) -> None:
        """A phase inside the present one."""
        if self._marks:
            self._inside.append(phase)
            self._mark(phase)

    def leave(self, phase: str) -> None:
        """Back to the phase outside; nothing happens if it is not in this one."""
        if self._inside and self._inside[-1] == phase:
            self._inside.pop()
            self._mark(self._inside[-1] if self._inside else self._driven)

    def read(self) -> dict[str, float]:
        """Seconds of each phase since it was started or read last. On CUDA this waits for the device."""
        self._fold()
        sums, self._sums = self._sums, {}
        return sums

    def _mark(self, phase: str) -> None:
        self._marks.append((phase, self._ticker.now()))
        if len(self._marks) > MOST_MARKS:
            self._fold()

    def _fold(self) -> None:
        """Turn the marks into sums, but for the last, at which the next reading begins."""
        if not self._marks:
            return
        marks = [*self._marks, (self._marks[-1][0], self._ticker.now())]
        self._ticker.settle(marks[-1][1])
        for (phase, start), (_, end) in itertools.pairwise(marks):
            self._sums[phase] = self._sums.get(phase, 0.0) + self._ticker.seconds(start, end)
        self._marks = marks[-1:]
