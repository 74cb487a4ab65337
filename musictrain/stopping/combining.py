"""How several watched metrics make one decision.

Conventions:

- ``all``: stop when each has waited long enough, lies in its band, or has reached its goal. One that gets better, or was not heard yet,
  holds the run.
- ``any``: stop when one of them has.
- ``weighted``: their costs, times their weights, are added up, and the sum is watched as one metric.
- ``pareto``: stop when for long enough no validation was better than *all* earlier ones in at least one metric.

Nothing latches: a metric that had waited long enough and gets better holds the run again. A metric that was not logged since the last
validation is not counted again; a sum or a comparison of several waits for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from musictrain.stopping.watches import Wait, Watch, short, validations

COMBINATIONS = ("all", "any", "weighted", "pareto")


class Combination(Protocol):
    """What remembers the validations of several metrics."""

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Count a validation; ``values`` holds what was logged since the last one."""

    def enough(self) -> str:
        """Why the run has waited long enough as of the last validation, in words; empty if it has not."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what fits; the settings stay those of the constructor."""


class Each:
    """Every metric waits for itself.

    Args:
        watches: the metrics, each with patience and warm-up.
        needed: ``all`` of them or ``any``.
    """

    def __init__(self, watches: Sequence[Watch], needed: str = "all") -> None:
        self._watches, self._needed = watches, needed
        self._waits = [Wait(watch.patience or 1, watch.min_delta, watch.relative) for watch in watches]
        self._last = [0.0] * len(watches)
        self._reached = [False] * len(watches)

    def take(self, step: int, values: Mapping[str, float]) -> None:
        for place, (watch, wait) in enumerate(zip(self._watches, self._waits, strict=True)):
            if watch.metric in values and step >= (watch.warm_up or 0):
                self._last[place] = value = values[watch.metric]
                self._reached[place] = watch.is_reached(value)
                wait.take(watch.cost(value), step, content=watch.is_content(value))

    def enough(self) -> str:
        over = [wait.is_over or reached for wait, reached in zip(self._waits, self._reached, strict=True)]
        held = [not (is_over or wait.content) for is_over, wait in zip(over, self._waits, strict=True)]
        if not any(over) or (self._needed == "all" and any(held)):
            return ""
        return "; ".join(self._in_words(place) for place, is_over in enumerate(over) if is_over)

    def _in_words(self, place: int) -> str:
        watch, wait, value = self._watches[place], self._waits[place], self._last[place]
        if self._reached[place] and watch.goal is not None:
            return f"{watch.metric} is {short(value)}, better than its goal {short(watch.goal)}"
        return watch.in_words(wait.best, wait.best_step, wait.waited, value)

    def state_dict(self) -> dict[str, Any]:
        every = zip(self._watches, self._waits, self._last, self._reached, strict=True)
        return {watch.direction: {**wait.state_dict(), "last": last, "reached": reached} for watch, wait, last, reached in every}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for place, (watch, wait) in enumerate(zip(self._watches, self._waits, strict=True)):
            if found := state.get(watch.direction):
                wait.load_state_dict(found)
                self._last[place], self._reached[place] = float(found["last"]), bool(found.get("reached"))


class Weighted:
    """The weighted sum of the costs waits.

    Args:
        watches: the metrics.
        wait: for the sum.
    """

    def __init__(self, watches: Sequence[Watch], wait: Wait) -> None:
        self._watches, self._wait = watches, wait
        self._last = 0.0

    def take(self, step: int, values: Mapping[str, float]) -> None:
        if (cost := weighted_cost(self._watches, step, values)) is not None:
            self._last = cost
            self._wait.take(cost, step, content=all(watch.is_content(values[watch.metric]) for watch in self._watches))

    def enough(self) -> str:
        if not self._wait.is_over:
            return ""
        wait, names = self._wait, " + ".join(f"{watch.weight:g} * {watch.metric}" for watch in self._watches)
        at = f" (at step {wait.best_step:,})" if wait.best_step is not None else ""
        times = validations(wait.waited)
        return f"The weighted sum {names}, as costs, did not fall below {short(wait.best)}{at} in {times}: now {short(self._last)}"

    def state_dict(self) -> dict[str, Any]:
        return {self._key: {**self._wait.state_dict(), "last": self._last}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if found := state.get(self._key):
            self._wait.load_state_dict(found)
            self._last = float(found["last"])

    @property
    def _key(self) -> str:
        return "weighted: " + ", ".join(f"{watch.weight:g} {watch.direction}" for watch in self._watches)


class Pareto:
    """Waits for a validation that no earlier one was at least as good as in every metric.

    Args:
        watches: the metrics; ``min_delta`` of each is how much better a new value must be.
        patience: validations in a row.
    """

    def __init__(self, watches: Sequence[Watch], patience: int) -> None:
        self._watches, self._patience = watches, patience
        self._front: list[tuple[int, tuple[float, ...]]] = []
        self._waited = 0

    def take(self, step: int, values: Mapping[str, float]) -> None:
        if weighted_cost(self._watches, step, values) is None:
            return
        costs = tuple(watch.cost(values[watch.metric]) for watch in self._watches)
        if any(self._is_as_good(earlier, costs) for _, earlier in self._front) or any(map(math.isnan, costs)):
            content = all(watch.is_content(values[watch.metric]) for watch in self._watches)
            self._waited = 0 if content else self._waited + 1
            return
        self._waited = 0
        kept = [(at, earlier) for at, earlier in self._front if not all(new <= old for new, old in zip(costs, earlier, strict=True))]
        self._front = [*kept, (step, costs)]

    def _is_as_good(self, earlier: tuple[float, ...], costs: tuple[float, ...]) -> bool:
        pairs = zip(self._watches, earlier, costs, strict=True)
        return all(not new + _delta(watch, old) < old for watch, old, new in pairs)

    def enough(self) -> str:
        if self._waited < self._patience:
            return ""
        names, steps = ", ".join(watch.metric for watch in self._watches), ", ".join(f"{step:,}" for step, _ in self._front)
        return f"None of {names} got better in {validations(self._waited)} than at the best steps so far ({steps}), each of its kind"

    def state_dict(self) -> dict[str, Any]:
        return {self._key: {"front": [[step, *costs] for step, costs in self._front], "waited": self._waited}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if found := state.get(self._key):
            self._front = [(int(step), tuple(map(float, costs))) for step, *costs in found["front"]]
            self._waited = int(found["waited"])

    @property
    def _key(self) -> str:
        return "pareto: " + ", ".join(watch.direction for watch in self._watches)


def _delta(watch: Watch, best: float) -> float:
    return watch.min_delta * (abs(best) if math.isfinite(best) else 0.0) if watch.relative else watch.min_delta


def weighted_cost(watches: Sequence[Watch], step: int, values: Mapping[str, float]) -> float | None:
    """The sum of the costs times their weights, lower is better; None while one is missing or warms up, or nothing is watched."""
    if not watches or any(watch.metric not in values or step < (watch.warm_up or 0) for watch in watches):
        return None
    return sum(watch.weight * watch.cost(values[watch.metric]) for watch in watches)
