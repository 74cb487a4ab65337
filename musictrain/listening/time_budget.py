"""How much of a training's time something else may take, as a rule in plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

QUICK_SECONDS = 10.0


@dataclass
class TimeBudget:
    """Lets something happen again and again as long as it takes no more than a share of all time.

    Times are seconds on a clock that the caller reads; only while ``begin`` and ``pause`` enclose it does the time of the whole run on.

    Args:
        most_share: of the time so far, from 0 (never) to 1 (always).
        quick_seconds: the very first may take that long, however little time there was before it.
        whole_seconds: the time so far.
        spent_seconds: what was taken of it.
        last_seconds: how long the last one took: what the next is expected to take. None before the first.

    >>> budget = TimeBudget(most_share=0.1)
    >>> budget.begin(0.0)
    >>> budget.spend(4.0)
    >>> budget.allows(60.0), budget.allows(90.0)
    (False, True)
    """

    most_share: float
    quick_seconds: float = QUICK_SECONDS
    whole_seconds: float = 0.0
    spent_seconds: float = 0.0
    last_seconds: float | None = None
    _begun: float | None = None

    def begin(self, now: float) -> None:
        """From now on the time of the whole runs; nothing happens if it does already."""
        if self._begun is None:
            self._begun = now

    def pause(self, now: float) -> None:
        """It runs no more."""
        self.whole_seconds, self._begun = self.at(now), None

    def at(self, now: float) -> float:
        """The time of the whole until now."""
        return self.whole_seconds + (0.0 if self._begun is None else max(0.0, now - self._begun))

    def allows(self, now: float, expected: float | None = None) -> bool:
        """Whether one more that takes ``expected`` seconds (as long as the last one, if left out) stays within the share."""
        seconds = self.last_seconds if expected is None else expected
        if seconds is None or self.most_share <= 0.0:
            return False
        if self.last_seconds is None and seconds <= self.quick_seconds:
            return True
        return self.spent_seconds + seconds <= self.most_share * (self.at(now) + seconds)

    def spend(self, seconds: float) -> None:
        """One took so long."""
        self.spent_seconds += seconds
        self.last_seconds = seconds

    def put_off(self, expected: float) -> None:
        """The first one, which would take so long, did not happen."""
        self.last_seconds = expected

    def state_at(self, now: float) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"whole_seconds": self.at(now), "spent_seconds": self.spent_seconds, "last_seconds": self.last_seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Take it back; the rule stays that of the constructor."""
        self.whole_seconds, self.spent_seconds = float(state["whole_seconds"]), float(state["spent_seconds"])
        self.last_seconds = None if state["last_seconds"] is None else float(state["last_seconds"])
