"""What is done about what the detectors find: how often something is tried, and what comes next when it does not help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from musictrain.health.detector import Action, Detector, stronger
from musictrain.health.finding import Finding

BOUNDED: tuple[Action, ...] = ("skip", "reduce_lr", "roll_back")
"""Tried so many times; what is milder may be done again and again, what is stronger ends the run."""

FORGOTTEN_AFTER = 100
"""Optimizer steps after the last update that was left out."""


@dataclass(frozen=True)
class Response:
    """What is to be done about one step, as one detector sees it.

    Args:
        finding: what is wrong, or over.
        action: what is to be done; ``log`` and ``alert`` do nothing but tell.
        tells: whether people are to hear of it now: an incident begins, is over, or is met with something stronger than before.
        attempt: the how-manieth of its kind, from 1; 0 where attempts are not counted.
        attempts: how many there may be.
        after: what was tried before and did not help; empty if nothing was.
        because: why something milder could not be done, in a sentence.
    """

    finding: Finding
    action: Action
    tells: bool
    attempt: int = 0
    attempts: int = 0
    after: Action | str = ""
    because: str = ""


class Responses:
    """Counts attempts by kind and action, in a run and all its lives.

    Updates that are left out are counted anew after a hundred steps without: a bad batch now and then ends no run. What would not help is
    passed over: weights that are not finite stay so, whatever update is left out.
    """

    def __init__(self) -> None:
        self._tried: dict[str, dict[str, int]] = {}
        self._skipped: dict[str, int] = {}
        self._told: dict[str, Action] = {}

    def to(self, detector: Detector, told: Finding | None, *, busy: bool = False, late: bool = False) -> Response | None:
        """What is to be done after a look; None for nothing.

        Args:
            detector: as it is after the look.
            told: what ``see`` gave.
            busy: whether the learning rate is reduced at present, so that doing so again must wait.
            late: whether the update has been made, so that it cannot be left out; one that is not finite has not been.
        """
        kind, unusual = detector.settings.kind, detector.unusual
        if unusual is None:
            if told is None or not told.over:
                return None
            self._told.pop(kind, None)
            return Response(told, "log" if detector.settings.action == "log" else "alert", tells=True)
        if detector.settings.action in ("log", "alert"):
            return None if told is None else Response(told, detector.settings.action, tells=True)
        begun = told if told is not None and not told.over else None
        if late and detector.settings.action == "skip" and kind != "non_finite":
            return None if begun is None else Response(begun, "alert", tells=True, because="It is too late to leave out the update.")
        return self._act(detector, begun, unusual, busy)

    def _act(self, detector: Detector, told: Finding | None, unusual: Finding, busy: bool) -> Response | None:
        settings = detector.settings
        kind, attempts, tried = settings.kind, settings.attempts, self._tried.setdefault(settings.kind, {})
        if unusual.step - self._skipped.get(kind, unusual.step) > FORGOTTEN_AFTER:
            tried.pop("skip", None)
        action = settings.action
        while action in BOUNDED and (tried.get(action, 0) >= attempts or is_vain(action, unusual)):
            action = stronger(action)
        if action == "reduce_lr" and busy:
            return self._wait(told, unusual)
        if action in BOUNDED:
            tried[action] = tried.get(action, 0) + 1
        if action == "skip":
            self._skipped[kind] = unusual.step
        before, self._told[kind] = self._told.get(kind, ""), action
        after = before if before not in ("", action) else settings.action if action != settings.action else ""
        tells = told is not None or before != action
        return Response(told or unusual, action, tells, tried.get(action, 0), attempts if action in BOUNDED else 0, after)

    def _wait(self, told: Finding | None, unusual: Finding) -> Response | None:
        """The rate is reduced already: an update that is not finite is not made all the same, and tells that this was no help."""
        if unusual.kind == "non_finite":
            tried = self._tried[unusual.kind]
            tried["reduce_lr"] = tried.get("reduce_lr", 0) + 1
            return Response(unusual, "skip", tells=False)
        return Response(told, "alert", tells=True) if told is not None else None

    def refused(self, response: Response, because: str) -> Response:
        """The next stronger thing, where what was to be done cannot be done, and why."""
        action = self._told[response.finding.kind] = stronger(response.action)
        return Response(response.finding, action, tells=True, because=because)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "tried": {kind: dict(counts) for kind, counts in self._tried.items()},
            "told": dict(self._told),
            "skipped": dict(self._skipped),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._tried = {kind: {action: int(count) for action, count in counts.items()} for kind, counts in state.get("tried", {}).items()}
        self._told = dict(state.get("told", {}))
        self._skipped = {kind: int(step) for kind, step in state.get("skipped", {}).items()}


def is_vain(action: Action | str, finding: Finding) -> bool:
    """Whether doing this cannot help: weights that are not finite do not mend by leaving updates out or making them smaller."""
    return action in ("skip", "reduce_lr") and finding.kind == "non_finite" and finding.details.get("of") == "weights"


def leaves_out(response: Response) -> bool:
    """Whether the update is not made: also where more is done about values that are not finite, and before going back."""
    action = response.action
    return action in ("skip", "roll_back") or (response.finding.kind == "non_finite" and action in ("reduce_lr", "stop"))
