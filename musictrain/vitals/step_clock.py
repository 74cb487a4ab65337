"""Where the time of a rank goes: being busy, waiting for data, waiting for other ranks, and what is no training at all."""

from __future__ import annotations

import time
from collections.abc import Callable

ASIDE = "aside"


class StepClock:
    """Adds up seconds by what they are spent on, ``busy``, ``data``, ``waiting`` or ``aside``. Costs a microsecond a switch.

    It can be told of phases by ``musictrain.speed.phases.listen``: all of validating, sampling, saving and reporting is aside.

    Args:
        now: seconds that never go back.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._sums: dict[str, float] = {}
        self._inside: list[str] = []
        self._driven, self._since = ASIDE, now()

    def start(self) -> None:
        """Begin anew."""
        self._sums, self._inside, self._driven, self._since = {}, [], "busy", self._now()

    def switch(self, kind: str) -> None:
        """From now on the training's own time is of this kind."""
        self._fold()
        self._driven = kind

    def enter(self, phase: str) -> None:
        """Something that is no training begins, perhaps inside another."""
        self._fold()
        self._inside.append(phase)

    def leave(self, phase: str) -> None:
        """It ends; nothing happens if it is not the innermost."""
        if self._inside and self._inside[-1] == phase:
            self._fold()
            self._inside.pop()

    def read(self) -> dict[str, float]:
        """Seconds of each kind since it was started or read last."""
        self._fold()
        sums, self._sums = self._sums, {}
        return sums

    def _fold(self) -> None:
        now, kind = self._now(), ASIDE if self._inside else self._driven
        self._sums[kind] = self._sums.get(kind, 0.0) + now - self._since
        self._since = now
