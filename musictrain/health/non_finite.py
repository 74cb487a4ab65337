"""NonFinite: loss, gradients or weights that are nan or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

FLAGS = ("non_finite/weights", "non_finite/gradients", "non_finite/loss")
ADVICE = {
    "loss": "Look at the batch with `musictrain replay`. Lower the learning rate, lengthen the warm-up, or train in 32 or bfloat16.",
    "gradients": "Look at the step with `musictrain replay`. Clip gradients, lower the learning rate, or train in 32 bits or bfloat16.",
    "weights": "Skipping no longer helps: go back to an earlier version, and look at what changed the weights.",
}


@dataclass(frozen=True, kw_only=True)
class NonFinite(Settings):
    """Loss, gradients or weights that are nan or infinite.

    Looks at ``non_finite/loss``, ``non_finite/gradients``, ``non_finite/weights`` and at ``loss`` and ``gradient_norm`` themselves. Found
    at the very look; no false alarms are possible. Of several, weights come first, since they do not mend by themselves.
    """

    kind: ClassVar[str] = "non_finite"
    action: Action = "skip"
    calm: int = 1

    def detector(self) -> NonFiniteDetector:
        """A detector that has seen nothing yet."""
        return NonFiniteDetector(self)


class NonFiniteDetector(IncidentDetector[NonFinite]):
    """Finds what is not finite at the look at which it is not."""

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """What is not finite."""
        values = vitals.values
        loss, norm = values.get("loss"), values.get("gradient_norm")
        flags = [values.get(name) for name in FLAGS]
        if loss is None and norm is None and flags == [None] * len(FLAGS):
            return None
        bad = {name.removeprefix("non_finite/"): math.nan for name, flag in zip(FLAGS, flags, strict=True) if flag}
        if loss is not None and not math.isfinite(loss):
            bad["loss"] = loss
        if norm is not None and not math.isfinite(norm):
            bad["gradients"] = norm
        if not bad:
            return NOTHING
        return {name: self._finding(name, value, vitals) for name, value in bad.items()}

    def _finding(self, name: str, value: float, vitals: Vitals) -> Finding:
        place = vitals.where.get(f"non_finite/{name}", "")
        what = {"loss": "the training loss", "gradients": "the gradients", "weights": "the weights"}[name]
        score = {"loss": 1.0, "gradients": 2.0, "weights": 3.0}[name]
        details = {"of": name, **({"parameter": place} if place else {})}
        return Finding(self.settings.kind, vitals.step, what, place, value, math.nan, score, ADVICE[name], details=details)
