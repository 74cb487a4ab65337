"""LossSpike and GradientSpike: a value far above what it has been, for a moment or for good.

Level and spread are those of :class:`~musictrain.health.usual.Usual`; values in a spike move neither. Source of the idea: the robust
z-score (Iglewicz & Hoaglin 1993).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.usual import Usual
from musictrain.health.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class _Spike(Settings):
    sudden: float = 14.0
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

    Looks at ``loss`` and ``gradient_norm``. Found at the very look if the loss lies ``sudden`` robust deviations above its level, or loss
    and gradient norm both lie ``together`` above theirs: a hard piece does the one, a broken one both. Found within ``patience`` looks if
    each of them lies ``threshold`` above; within ``level`` looks if the level itself has risen by ``persistent`` above the lowest of the
    last ``window`` looks. Nothing is said in the first ``least`` looks. What stays high for ``window`` looks is taken for normal from then
    on. Where ``stage`` changes everything begins anew; a change that nobody tells is told of once.

    Either the batch of the step is to blame or the update before it, whose weights that loss is of: ``roll_back`` goes to before that
    update, and passes over the batches of both.

    False alarms: none in eleven sound runs of tiny networks on chorales and fiddle tunes (6,700 steps; cosines, restarts, batches of one
    row to eight), none in 72 simulated runs of 2,000 steps, of six shapes; 7 in 12 more in which losses double for a batch, since that is
    what is looked for (``benchmarks/false_alarms.py``). The thresholds were chosen with these same runs in view: elsewhere there may be
    some.

    Args:
        together: deviations at which one look is enough where the gradient norm, by its logarithm, lies as many above its own level.
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
    together: float = 5.5

    def detector(self) -> LossSpikeDetector:
        """A detector that has seen nothing yet."""
        return LossSpikeDetector(self)


@dataclass(frozen=True, kw_only=True)
class GradientSpike(_Spike):
    """A gradient norm far above what it has been.

    Looks at ``gradient_norm``, before clipping; all is measured on its logarithm, and otherwise as for ``LossSpike``. Norms grow by
    much and for good in sound runs, some by ten times within fifty steps: that is no spike unless ``persistent`` is set.

    False alarms: none in the same runs, 11 real and 84 simulated ones. The highest of a real one lay 5.8 deviations above its level.
    These thresholds too were chosen with them in view.

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
TINY = 1e-30
LEAST_FACTOR = math.log(1.1)  # what gradient norms vary by at the least


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
        self._usual = Usual(settings.level, settings.window, keeps_levels=settings.persistent > 0)
        self._high, self._since = 0, 0

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
        scaled, settings, usual = self.on_scale(value), self.settings, self._usual
        if len(usual) < settings.least:
            self._learn(scaled, vitals)
            return NOTHING
        level, lowest = usual.level(), usual.lowest()
        least = self.least_rise(level)
        if scaled - level <= least and level - lowest <= least * self._long_share:
            self._high = 0  # whatever the spread is: it need not be known
            self._learn(scaled, vitals)
            return NOTHING
        spread = usual.spread(max(least / settings.threshold, TINY))
        height = usual.height(scaled, level, spread)
        if height > settings.threshold:
            return self._high_value(vitals, height, level)
        self._high = 0
        self._learn(scaled, vitals)
        if 0 < settings.persistent < (risen := (level - lowest) / spread):
            began = max(0, vitals.step - settings.level + 1)
            return {"": self._finding(vitals, risen, lowest, f"for long: the last {settings.level} lie", began)}
        return NOTHING

    def _learn(self, scaled: float, vitals: Vitals) -> None:
        self._usual.learn(scaled)

    def _high_value(self, vitals: Vitals, height: float, level: float) -> Mapping[str, Finding]:
        self._high, self._since = self._high + 1, self._since if self._high else vitals.step
        if self._high >= self.settings.window:
            self._begin()
            self._incidents.note("", stayed=True)
            return NOTHING
        if self._incidents.open or self._high >= self.settings.patience or self._is_sudden(height, vitals):
            return {"": self._finding(vitals, height, level, "it lies", self._since)}
        return NOTHING

    def _is_sudden(self, height: float, vitals: Vitals) -> bool:
        return height > self.settings.sudden

    def _finding(self, vitals: Vitals, score: float, level: float, how: str, began: int) -> Finding:
        beyond = f"{how} {score:.0f} robust deviations above that"
        value = vitals.values[self.name]
        said = self.what, "", value, self.from_scale(level), score, self.advice, beyond
        return Finding(self.settings.kind, vitals.step, *said, began=began)

    def own_state(self) -> dict[str, Any]:
        """What is usual, and for how many looks, since which step, it has not been so."""
        return {"stage": self._stage, "high": self._high, "since": self._since if self._high else 0, "usual": self._usual.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._stage, self._high, self._since = state["stage"], int(state["high"]), int(state["since"])
        self._usual.load_state_dict(state["usual"])


class LossSpikeDetector(_SpikeDetector[LossSpike]):
    """Finds a loss far above its level."""

    name, what = "loss", "the training loss"
    advice = "Hear the batch with `musictrain replay`. If it is sound, clip gradients, lower the learning rate or lengthen the warm-up."

    def _begin(self) -> None:
        super()._begin()
        self._gradients = Usual(self.settings.level, self.settings.window)

    def least_rise(self, level: float) -> float:
        """A share of the loss itself."""
        return self.settings.least_rise * abs(level)

    def _learn(self, scaled: float, vitals: Vitals) -> None:
        self._usual.learn(scaled)
        norm = vitals.values.get("gradient_norm", math.nan)
        if math.isfinite(norm):
            self._gradients.learn(math.log(max(norm, TINY)))

    def _is_sudden(self, height: float, vitals: Vitals) -> bool:
        if height > self.settings.sudden or height <= self.settings.together or len(self._gradients) < self.settings.least:
            return height > self.settings.sudden
        norm = vitals.values.get("gradient_norm", math.nan)
        return math.isfinite(norm) and self._height_of(norm) > self.settings.together

    def _height_of(self, norm: float) -> float:
        level = self._gradients.level()
        return self._gradients.height(math.log(max(norm, TINY)), level, self._gradients.spread(LEAST_FACTOR))

    def own_state(self) -> dict[str, Any]:
        """That of the gradient norm too."""
        return {**super().own_state(), "gradients": self._gradients.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        super().load_own_state(state)
        self._gradients.load_state_dict(state["gradients"])


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
