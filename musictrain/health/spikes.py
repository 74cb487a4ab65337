"""LossSpike and GradientSpike: a value far above what it has been, for a moment or for good.

The level is the median of the last few values, so that a falling loss is no trouble; the spread is that of what the values were above or
below that level. Values in a spike move neither. Source of the idea: the robust z-score (Iglewicz & Hoaglin 1993).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.robust import RollingMedian
from musictrain.health.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class _Spike(Settings):
    sudden: float = 12.0
    threshold: float = 4.0
    patience: int = 4
    persistent: float = 4.0
    level: int = 16
    window: int = 128
    least: int = 32
    least_rise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least > self.window or self.level > self.window:
            raise ValueError(
                f"{type(self).__name__} got window={self.window}; it needs at least least={self.least} and level={self.level}."
            )


@dataclass(frozen=True, kw_only=True)
class LossSpike(_Spike):
    """A loss far above what it has been.

    Looks at ``loss``. Found at the very look if it lies ``sudden`` robust deviations above its level; within ``patience`` looks if each of
    them lies ``threshold`` above; within ``level`` looks if the level itself has risen by ``persistent`` above the lowest of the last
    ``window`` looks. Nothing is said in the first ``least`` looks. What stays high for ``window`` looks is taken for normal from then on.
    Where ``stage`` changes everything begins anew.

    False alarms with these settings: LOSS_RATES

    Args:
        sudden: deviations at which one look is enough.
        threshold: deviations at which ``patience`` looks in a row are.
        patience: looks in a row.
        persistent: deviations of the level; 0 is off.
        level: looks whose median the level is.
        window: looks from which the deviation is known.
        least: looks before anything is said.
        least_rise: a rise by less than this share of the level is no spike by ``threshold``, however little the loss varies.
    """

    kind: ClassVar[str] = "loss_spike"
    action: Action = "alert"

    def detector(self) -> LossSpikeDetector:
        """A detector that has seen nothing yet."""
        return LossSpikeDetector(self)


@dataclass(frozen=True, kw_only=True)
class GradientSpike(_Spike):
    """A gradient norm far above what it has been.

    Looks at ``gradient_norm``, before clipping; all is measured on its logarithm, and otherwise as for ``LossSpike``. Norms grow by
    much and for good in sound runs, some by ten times within fifty steps: that is no spike unless ``persistent`` is set.

    False alarms with these settings: GRADIENT_RATES

    Args:
        sudden: deviations at which one look is enough.
        threshold: deviations at which ``patience`` looks in a row are.
        patience: looks in a row.
        persistent: deviations of the level; 0 is off.
        level: looks whose median the level is.
        window: looks from which the deviation is known.
        least: looks before anything is said.
        least_rise: a rise by less than this share of the level is no spike by ``threshold``; 1.0 is to twice as much.
    """

    kind: ClassVar[str] = "gradient_spike"
    action: Action = "alert"
    sudden: float = 8.0
    persistent: float = 0.0
    least_rise: float = 1.0

    def detector(self) -> GradientSpikeDetector:
        """A detector that has seen nothing yet."""
        return GradientSpikeDetector(self)


S = TypeVar("S", bound=_Spike)
FEW = 4  # values that have a level
TINY = 1e-30


class _SpikeDetector(IncidentDetector[S]):
    name = ""
    what = ""
    advice = ""

    def __init__(self, settings: S) -> None:
        super().__init__(settings)
        self._stage: float | None = None
        self._long_share = settings.persistent / settings.threshold if settings.persistent else math.inf
        self._begin()

    def _begin(self) -> None:
        settings = self.settings
        self._level = RollingMedian(settings.level)
        self._levels = RollingMedian(settings.window)
        self._residuals = RollingMedian(settings.window)
        self._high = 0

    def on_scale(self, value: float) -> float:
        """The value on the scale on which it is compared."""
        return value

    def from_scale(self, value: float) -> float:
        """Back to what was measured."""
        return value

    def least_rise(self, level: float) -> float:
        """On that scale: a smaller rise is none, however little the values vary."""
        raise NotImplementedError

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether the value stands in a spike."""
        value = vitals.values.get(self.name)
        if value is None or not math.isfinite(value):
            return None  # NonFinite says it
        if vitals.values.get("stage") != self._stage:
            self._stage = vitals.values.get("stage")
            self._begin()
        scaled, settings = self.on_scale(value), self.settings
        if len(self._level) < FEW:
            self._level.add(scaled)
            return NOTHING
        if len(self._residuals) < settings.least:
            self._learn(scaled, self._level.median())
            return NOTHING
        level = self._level.median()
        lowest = self._levels.lowest() if settings.persistent else level
        least = self.least_rise(level)
        if scaled - level <= least and level - lowest <= least * self._long_share:
            self._high = 0  # whatever the spread is: it need not be known
            self._learn(scaled, level)
            return NOTHING
        spread = max(self._residuals.deviation(), least / settings.threshold, TINY)
        # Single values may be wilder on this side than on the other; medians of them are not.
        height = (scaled - level) / max(spread, self._residuals.upper_deviation())
        if height > settings.threshold:
            return self._high_value(vitals, height, level)
        self._high = 0
        self._learn(scaled, level)
        if 0 < settings.persistent < (risen := (level - lowest) / spread):
            return {"": self._finding(vitals, risen, lowest, f"for long: the last {settings.level} lie")}
        return NOTHING

    def _learn(self, scaled: float, level: float) -> None:
        self._residuals.add(scaled - level)
        if self.settings.persistent:
            self._levels.add(level)
        self._level.add(scaled)

    def _high_value(self, vitals: Vitals, height: float, level: float) -> Mapping[str, Finding]:
        self._high += 1
        if self._high >= self.settings.window:
            self._begin()
            self._incidents.note("", stayed=True)
            return NOTHING
        if height > self.settings.sudden or self._high >= self.settings.patience or self._incidents.open:
            return {"": self._finding(vitals, height, level, "it lies")}
        return NOTHING

    def _finding(self, vitals: Vitals, score: float, level: float, how: str) -> Finding:
        beyond = f"{how} {score:.0f} robust deviations above that"
        value = vitals.values[self.name]
        return Finding(self.settings.kind, vitals.step, self.what, "", value, self.from_scale(level), score, self.advice, beyond)

    def own_state(self) -> dict[str, Any]:
        """Values, levels and what they were off."""
        series = {"level": self._level, "levels": self._levels, "residuals": self._residuals}
        return {"stage": self._stage, "high": self._high, **{name: one.values() for name, one in series.items()}}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._stage, self._high = state["stage"], int(state["high"])
        for name, one in (("level", self._level), ("levels", self._levels), ("residuals", self._residuals)):
            one.restore(state[name])


class LossSpikeDetector(_SpikeDetector[LossSpike]):
    """Finds a loss far above its level."""

    name, what = "loss", "the training loss"
    advice = "Hear the batch with `musictrain replay`. If it is sound, clip gradients, lower the learning rate or lengthen the warm-up."

    def least_rise(self, level: float) -> float:
        """A share of the loss itself."""
        return self.settings.least_rise * abs(level)


class GradientSpikeDetector(_SpikeDetector[GradientSpike]):
    """Finds a gradient norm far above its level; norms are compared as factors, by their logarithms."""

    name, what = "gradient_norm", "the gradient norm"
    advice = "Hear the batch with `musictrain replay`. Set trainer.gradient_clip_val, or lower the learning rate."

    def __init__(self, settings: GradientSpike) -> None:
        super().__init__(settings)
        self._least_factor = math.log1p(settings.least_rise)

    def on_scale(self, value: float) -> float:
        """Its logarithm."""
        return math.log(max(value, TINY))

    def from_scale(self, value: float) -> float:
        """The norm."""
        return math.exp(value)

    def least_rise(self, level: float) -> float:
        """By a factor."""
        return self._least_factor
