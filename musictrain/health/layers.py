"""Layers: units that are always zero, or always at the end of their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

ADVICE = {
    "dead": "Lower the learning rate or lengthen the warm-up; units that are dead stay so: go back to a version before it.",
    "saturated": "Lower the learning rate, clip gradients, or normalise what goes into the layer.",
}


@dataclass(frozen=True, kw_only=True)
class Layers(Settings):
    """Layers of which too many units are dead or saturated.

    Looks at ``dead/<layer>`` and ``saturated/<layer>``: found after ``patience`` looks in a row with more than ``most_dead`` or
    ``most_saturated`` of a layer's units. A layer that was so at its first look already is found too: it does not learn. Layers that are
    frozen or held back are not looked at.

    Args:
        most_dead: share of a layer's units, in [0, 1].
        most_saturated: likewise.
        patience: looks in a row.
    """

    kind: ClassVar[str] = "layers"
    shares: ClassVar[frozenset[str]] = frozenset({"most_dead", "most_saturated"})
    action: Action = "alert"
    most_dead: float = 0.5
    most_saturated: float = 0.9
    patience: int = 3
    calm: int = 3

    def detector(self) -> LayersDetector:
        """A detector that has seen nothing yet."""
        return LayersDetector(self)


class LayersDetector(IncidentDetector[Layers]):
    """Finds layers that are mostly dead or saturated."""

    def __init__(self, settings: Layers) -> None:
        super().__init__(settings)
        self._high: dict[str, int] = {}

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """The layers with too many such units."""
        if not (vitals.family("dead") or vitals.family("saturated")):
            return None
        found = {}
        for state, most in (("dead", self.settings.most_dead), ("saturated", self.settings.most_saturated)):
            for layer, share in vitals.family(state).items():
                place = f"{state}/{layer}"
                if not share > most:
                    self._high.pop(place, None)
                    continue
                self._high[place] = high = self._high.get(place, 0) + 1
                if high >= self.settings.patience:
                    found[place] = self._finding(state, layer, share, most, vitals.step)
        return found or NOTHING

    def _finding(self, state: str, layer: str, share: float, most: float, step: int) -> Finding:
        what, beyond = f"the share of {state} units", f"more than {100 * most:g} % of its units in {self.settings.patience} looks in a row"
        details = {"layer": layer, "units": state}
        return Finding(self.settings.kind, step, what, layer, share, 0.0, share, ADVICE[state], beyond, "%", details)

    def own_state(self) -> dict[str, Any]:
        """How often in a row."""
        return {"high": dict(self._high)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._high = {place: int(high) for place, high in state["high"].items()}
