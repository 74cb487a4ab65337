"""What every detector is: frozen settings, a state of plain values, and ``see``.

One incident is one alert. While it lasts, ``see`` is silent; when it has been calm for long enough, it says so once. What the step at hand
looks like, told or not, is in ``unusual``: an action that is meant for every such step (skipping an update) goes by that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals
from musictrain.suggestions import did_you_mean

Action = Literal["off", "log", "alert", "skip", "reduce_lr", "roll_back", "stop"]
# From the mildest to the strongest.
ACTIONS: tuple[Action, ...] = ("off", "log", "alert", "skip", "reduce_lr", "roll_back", "stop")


def stronger(action: Action) -> Action:
    """What follows where an action has been tried often enough: skip, reduce_lr, roll_back, stop; the milder ones only repeat themselves.

    >>> stronger("skip"), stronger("stop"), stronger("alert")
    ('reduce_lr', 'stop', 'alert')
    """
    place = ACTIONS.index(action)
    return ACTIONS[min(place + 1, len(ACTIONS) - 1)] if place >= ACTIONS.index("skip") else action


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of all detectors share.

    Args:
        action: what is done about a finding; ``off`` does not even look.
        attempts: how often ``skip``, ``reduce_lr`` and ``roll_back`` are tried in a run before the next stronger thing happens;
            updates that were left out are forgotten after 100 steps without.
        calm: looks in a row without anything unusual after which an incident is over.

    Raises:
        ValueError: for a number out of its range, or an action that there is not.
    """

    kind: ClassVar[str] = ""
    shares: ClassVar[frozenset[str]] = frozenset()
    action: Action = "alert"
    attempts: int = 3
    calm: int = 16

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            hint = did_you_mean(str(self.action), ACTIONS)
            raise ValueError(f"{type(self).__name__} got action={self.action!r}; it needs one of {', '.join(ACTIONS)}. {hint}".rstrip())
        for entry in fields(self):
            self._check(entry.name, str(entry.type), getattr(self, entry.name))

    def _check(self, name: str, kind: str, value: Any) -> None:
        got, is_number = f"{type(self).__name__} got {name}={value!r}", isinstance(value, int | float) and not isinstance(value, bool)
        if kind == "int" and not (is_number and isinstance(value, int) and value >= 1):
            raise ValueError(f"{got}; it needs a whole number from 1 on.")
        if kind == "float" and not (is_number and math.isfinite(value) and value >= 0):
            raise ValueError(f"{got}; it needs a number from 0 on.")
        if name in self.shares and value > 1:
            raise ValueError(f"{got}; it needs a share, from 0 to 1.")

    def detector(self) -> Detector:
        """A detector with these settings that has seen nothing yet."""
        raise NotImplementedError


@runtime_checkable
class Detector(Protocol):
    """What ``AnomalyAlerts`` knows of a detector."""

    @property
    def settings(self) -> Settings:
        """How it looks, and what is done about it."""

    @property
    def unusual(self) -> Finding | None:
        """What is wrong with the vitals last seen, told or not; None if nothing is, or it did not measure."""

    def see(self, vitals: Vitals) -> Finding | None:
        """Look at the vitals of a step; what is to be told, once when an incident begins and once when it is over."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what fits; the settings stay those of the constructor."""


S = TypeVar("S", bound=Settings)
NOTHING: Mapping[str, Finding] = {}


class IncidentDetector(Generic[S]):
    """A detector that makes incidents out of what ``look`` finds.

    Args:
        settings: how it looks.
    """

    def __init__(self, settings: S) -> None:
        self._settings = settings
        self._incidents = Incidents(settings.calm)
        self._unusual: Finding | None = None

    @property
    def settings(self) -> S:
        """How it looks, and what is done about it."""
        return self._settings

    @property
    def unusual(self) -> Finding | None:
        """What is wrong with the vitals last seen, told or not; what looks at blocks of steps knows only at the end of each."""
        return self._unusual

    def see(self, vitals: Vitals) -> Finding | None:
        """Look at the vitals of a step; what is to be told, if anything is."""
        found = self.look(vitals)
        if not found:
            self._unusual = None
            return self._incidents.take(vitals.step, found) if found is not None and self._incidents.open else None
        self._unusual = worst_of(found)
        return self._incidents.take(vitals.step, found)

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """What is wrong, by place; empty if nothing is, None if nothing was measured that it looks at."""
        raise NotImplementedError

    def own_state(self) -> dict[str, Any]:
        """What ``look`` remembers."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain values."""
        return {"incidents": self._incidents.state_dict(), **self.own_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what fits; the settings stay those of the constructor."""
        self._incidents.load_state_dict(state.get("incidents", {}))
        self._unusual = None
        if self.own_state().keys() <= state.keys():  # one that has been stored by another version may lack something
            self.load_own_state(state)


def worst_of(found: Mapping[str, Finding]) -> Finding:
    """The one with the highest score; the first of equals; the others' places are in its details."""
    worst = max(found.values(), key=lambda one: math.inf if math.isnan(one.score) else one.score)
    if len(found) == 1:
        return worst
    others = [one.where for one in found.values() if one is not worst and one.where]
    return replace(worst, details={**worst.details, "others": others})


class Incidents:
    """Which places are in trouble, since when: one incident is told twice, when it begins and when it is over.

    Args:
        calm: looks in a row without anything unusual after which a place is out of trouble.
    """

    def __init__(self, calm: int) -> None:
        self._calm = calm
        self.open: dict[str, _Incident] = {}

    def take(self, step: int, found: Mapping[str, Finding]) -> Finding | None:
        """What is to be told after a look: what has begun in a new place, or, where the last place is calm again, that it is over."""
        begun = {place: finding for place, finding in found.items() if place not in self.open}
        for place, finding in found.items():
            self.open[place] = self.open.get(place, _Incident(finding)).goes_on(finding)
        ended = [ended for place in list(self.open) if place not in found and (ended := self._ended(place))]
        if begun:
            return worst_of(begun)
        return None if self.open or not ended else max(ended, key=lambda one: one.worst.score).ending(step)

    def note(self, place: str, **facts: Any) -> None:
        """Add facts to the details of an open incident; nothing happens if there is none."""
        if incident := self.open.get(place):
            incident.worst = replace(incident.worst, details={**incident.worst.details, **facts})

    def _ended(self, place: str) -> _Incident | None:
        incident = self.open[place]
        incident.calm += 1
        return self.open.pop(place) if incident.calm >= self._calm else None

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {place: incident.state_dict() for place, incident in self.open.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.open = {place: _Incident.from_state(one) for place, one in state.items()}


class _Incident:
    def __init__(self, worst: Finding) -> None:
        self.worst, self.last, self.calm = worst, worst.step, 0

    def goes_on(self, finding: Finding) -> _Incident:
        self.calm, self.last = 0, finding.step
        if finding.score > self.worst.score:  # false where one of them is nan
            self.worst = replace(finding, began=self.worst.began)
        return self

    def ending(self, step: int) -> Finding:
        return replace(self.worst, step=self.last, over=True, details={**self.worst.details, "over_at": step})

    def state_dict(self) -> dict[str, Any]:
        worst = {entry.name: getattr(self.worst, entry.name) for entry in fields(self.worst)}
        return {"worst": {**worst, "details": dict(self.worst.details)}, "last": self.last, "calm": self.calm}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Incident:
        incident = cls(Finding(**state["worst"]))
        incident.last, incident.calm = int(state["last"]), int(state["calm"])
        return incident
