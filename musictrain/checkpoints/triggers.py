"""When to save: plain rules on steps and clocks, and how several processes come to agree without a word at every step."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class SaveTriggers:
    """Whether a save is due by the number of steps or by the clock.

    Args:
        every_n_steps: at every multiple of so many optimizer steps; 0 is off.
        every_n_minutes: when the last save is so long ago; 0 is off.

    Raises:
        ValueError: if one is negative.
    """

    every_n_steps: int = 0
    every_n_minutes: float = 0.0
    last_save: float = 0.0

    def __post_init__(self) -> None:
        for name in ("every_n_steps", "every_n_minutes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}; it needs a positive number, or 0 for off.")

    def by_steps(self, step: int, before: int) -> bool:
        """Whether a multiple was reached after step ``before``, up to ``step``: several optimizers make several steps of one batch."""
        return self.every_n_steps > 0 and step // self.every_n_steps > before // self.every_n_steps

    def by_clock(self, now: float) -> bool:
        """Whether the last save is long enough ago, in seconds of a clock that never goes back."""
        return self.every_n_minutes > 0 and now - self.last_save >= 60 * self.every_n_minutes


def time_limit(environment: Mapping[str, str] | None = None) -> float | None:
    """When SLURM will end this job, in seconds since 1970; None outside of SLURM or where it does not say."""
    value = (os.environ if environment is None else environment).get("SLURM_JOB_END_TIME", "")
    return float(value) if value.isdigit() else None


class Rhythm:
    """At which steps processes talk to each other, so that they do it about once a second and all at the same steps.

    The first process proposes how many steps to wait until the next time, from how long steps took; everybody takes its proposal.

    Args:
        seconds: wanted time between two talks.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self._steps = 1
        self._next: int | None = None
        self._last: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """Whether it is time to talk at this step."""
        return self._next is None or step >= self._next

    def proposal(self, step: int, now: float | None = None) -> int:
        """How many steps until the next talk, by this process's clock; at most twice as many as the last time."""
        now = time.monotonic() if now is None else now
        if self._last is not None and step > self._last[0]:
            per_step = max((now - self._last[1]) / (step - self._last[0]), 1e-6)
            self._steps = max(1, min(2 * self._steps, int(self.seconds / per_step), 1000))
        self._last = (step, now)
        return self._steps

    def agreed(self, step: int, steps: int) -> None:
        """Take the common number of steps until the next talk."""
        self._next = step + max(1, steps)
