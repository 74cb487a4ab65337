"""What is usual for a series of numbers: the level that it has lately had, and how far its values lie from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musictrain.health.robust import RollingMedian

FEW = 4  # values that have a level


class Usual:
    """The level is the median of the last few values, so that a series may fall; the spread is that of what they were above or below it.

    Args:
        level: values whose median the level is.
        window: values from which the spread is known.
        keeps_levels: whether ``lowest`` is wanted too.
    """

    def __init__(self, level: int, window: int, *, keeps_levels: bool = False) -> None:
        self._values, self._residuals = RollingMedian(level), RollingMedian(window)
        self._levels = RollingMedian(window) if keeps_levels else None

    def __len__(self) -> int:
        """Values from which the spread is known."""
        return len(self._residuals)

    def level(self) -> float:
        """There must be a value."""
        return self._values.median()

    def lowest(self) -> float:
        """The lowest level in the window; the present one if they are not kept."""
        return self._values.median() if self._levels is None else self._levels.lowest()

    def spread(self, least: float) -> float:
        """The robust deviation of values from their level, ``least`` at least."""
        return max(self._residuals.deviation(), least)

    def height(self, value: float, level: float, spread: float) -> float:
        """How many deviations a value lies above the level; where single values are wilder on that side, theirs count."""
        return (value - level) / max(spread, self._residuals.upper_deviation())

    def learn(self, value: float) -> None:
        """Take a value that is usual."""
        if len(self._values) >= FEW:
            level = self._values.median()
            self._residuals.add(value - level)
            if self._levels is not None:
                self._levels.add(level)
        self._values.add(value)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        levels = {} if self._levels is None else {"levels": self._levels.values()}
        return {"values": self._values.values(), "residuals": self._residuals.values(), **levels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._values.restore(state["values"])
        self._residuals.restore(state["residuals"])
        if self._levels is not None:
            self._levels.restore(state.get("levels", state["values"][-1:]))
