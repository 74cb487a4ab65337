"""Entropy and LossScale: predictions that have collapsed, and 16-bit gradients that overflow again and again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.robust import RollingMedian
from musictrain.health.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class Entropy(Settings):
    """Predictions that have collapsed to a few tokens.

    Looks at ``entropy`` and ``loss``. Where a network knows what it does not know, both are alike, however low they are: a piece known by
    heart is no collapse. Found after ``patience`` looks in a row at which the entropy is less than ``least_share`` of the loss, or less
    than ``least_share`` of its own median while the loss has not fallen along.

    Args:
        least_share: of the loss, and of the usual share, in [0, 1].
        patience: looks in a row.
        window: looks whose median is what is usual.
        least: looks before anything is said.
    """

    kind: ClassVar[str] = "entropy"
    shares: ClassVar[frozenset[str]] = frozenset({"least_share"})
    action: Action = "alert"
    least_share: float = 0.25
    patience: int = 3
    window: int = 64
    least: int = 8
    calm: int = 3

    def detector(self) -> EntropyDetector:
        """A detector that has seen nothing yet."""
        return EntropyDetector(self)


class EntropyDetector(IncidentDetector[Entropy]):
    """Finds predictions that are far surer than they are right."""

    def __init__(self, settings: Entropy) -> None:
        super().__init__(settings)
        self._shares = RollingMedian(settings.window)
        self._loss = math.nan
        self._low = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether the predictions are too sure."""
        loss, entropy, settings = vitals.values.get("loss", math.nan), vitals.values.get("entropy", math.nan), self.settings
        if math.isfinite(loss):
            self._loss = loss
        if not (math.isfinite(entropy) and self._loss > 0):
            return None
        share = entropy / self._loss
        usual = min(1.0, self._shares.median()) if self._shares else 1.0
        if len(self._shares) < settings.least or share >= settings.least_share * usual:
            self._low = 0
            self._shares.add(share)
            return NOTHING
        self._low += 1
        return {"": self._finding(vitals.step, entropy, share, usual)} if self._low >= settings.patience else NOTHING

    def _finding(self, step: int, entropy: float, share: float, usual: float) -> Finding:
        return Finding(
            *(self.settings.kind, step, "the entropy of the predictions", "", entropy, usual * self._loss),
            *(usual / max(share, 1e-30), "Lower the learning rate, add label smoothing or z-loss; go back to a version before it."),
            f"the predictions are far surer than they are right, at a loss of {self._loss:.4g}",
            "nats",
        )

    def own_state(self) -> dict[str, Any]:
        """The shares of the entropy in the loss."""
        return {"shares": self._shares.values(), "loss": None if math.isnan(self._loss) else self._loss, "low": self._low}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._shares.restore(state["shares"])
        self._loss, self._low = math.nan if state["loss"] is None else float(state["loss"]), int(state["low"])


@dataclass(frozen=True, kw_only=True)
class LossScale(Settings):
    """A loss scale of 16-bit training that keeps falling: gradients overflow at every scale.

    Looks at ``loss_scale``. Found at the very look at which it is below ``smallest``, or, after ``warm_up`` looks in which it finds its
    place, has been halved ``most_halvings`` times within the last ``window`` looks.

    Args:
        smallest: a scale below it loses small gradients rather than saving them.
        most_halvings: more than so many are unusual; an overflow now and then halves it once.
        window: looks.
        warm_up: looks at the start.
    """

    kind: ClassVar[str] = "loss_scale"
    action: Action = "alert"
    smallest: float = 1.0
    most_halvings: float = 4.0
    window: int = 200
    warm_up: int = 50

    def detector(self) -> LossScaleDetector:
        """A detector that has seen nothing yet."""
        return LossScaleDetector(self)


class LossScaleDetector(IncidentDetector[LossScale]):
    """Finds a loss scale that keeps falling."""

    def __init__(self, settings: LossScale) -> None:
        super().__init__(settings)
        # The highest of the last looks: those that no later one exceeds, each with its look.
        self._high: deque[tuple[int, float]] = deque()
        self._looks = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether it keeps falling."""
        scale, settings = vitals.values.get("loss_scale"), self.settings
        if scale is None or not math.isfinite(scale):
            return None
        self._looks += 1
        if self._looks > settings.warm_up:
            self._remember(scale)
        highest = self._high[0][1] if self._high else scale
        halvings = math.log2(highest / scale) if scale > 0 else math.inf
        if scale >= settings.smallest and halvings < settings.most_halvings:
            return NOTHING
        return {"": self._finding(vitals.step, scale, highest, halvings)}

    def _remember(self, scale: float) -> None:
        while self._high and self._high[-1][1] <= scale:
            self._high.pop()
        self._high.append((self._looks, scale))
        if self._high[0][0] <= self._looks - self.settings.window:
            self._high.popleft()

    def _finding(self, step: int, scale: float, highest: float, halvings: float) -> Finding:
        beyond = f"halved {halvings:.0f} times" if halvings >= 1 else f"below {self.settings.smallest:g}, where small gradients are lost"
        return Finding(
            *(self.settings.kind, step, "the loss scale", "", scale, max(highest, self.settings.smallest), halvings),
            "Gradients overflow in 16 bits: lower the learning rate, clip, or train in bf16-mixed.",
            beyond,
        )

    def own_state(self) -> dict[str, Any]:
        """The highest of the last looks."""
        return {"looks": self._looks, "high": [list(pair) for pair in self._high]}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._looks, self._high = int(state["looks"]), deque((int(look), float(scale)) for look, scale in state["high"])
