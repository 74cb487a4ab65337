"""A learning rate that is lower for some steps, whatever else decides about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class LoweredRate:
    """Multiplies every group's learning rate while a step is taken, and gives it back before anybody else sees it.

    Schedules, plateaus and checkpoints know nothing of it: they find the rate that they have laid. Its own state is plain.

    Attributes:
        factor: what the rate is multiplied by; 1.0 is as it is.
        first, last: numbers of the first and the last step that it holds for.
    """

    def __init__(self) -> None:
        self.factor, self.first, self.last = 1.0, 0, 0
        self._before: list[tuple[Any, Any]] = []

    def holds(self, step: int) -> bool:
        """Whether this step is taken at a lower rate."""
        return self.factor != 1.0 and self.first <= step <= self.last

    def factor_at(self, step: int) -> float:
        """What the rate of this step is multiplied by."""
        return self.factor if self.holds(step) else 1.0

    def lower(self, factor: float, first: int, steps: int) -> None:
        """From step ``first`` on, for so many steps; on top of what holds already."""
        self.factor = self.factor_at(first) * factor
        self.first, self.last = first, first + steps - 1

    def apply(self, groups: Iterable[Mapping[str, Any]], step: int) -> None:
        """Just before the step; twice is once."""
        if self._before or not self.holds(step):
            return
        for group in groups:
            rate = group["lr"]
            self._before.append((group, rate.clone() if hasattr(rate, "fill_") else rate))
            _set(group, rate * self.factor)

    def give_back(self) -> None:
        """Just after it; nothing happens if it was not applied."""
        while self._before:
            _set(*self._before.pop())

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"factor": self.factor, "first": self.first, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.factor = float(state.get("factor", 1.0))
        self.first, self.last = int(state.get("first", 0)), int(state.get("last", 0))


def _set(group: Any, rate: Any) -> None:
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
