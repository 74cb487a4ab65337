"""The settings of every detector, by the key that ``AnomalyAlerts`` has for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from musictrain.health.detector import Action, Settings


@dataclass(frozen=True, kw_only=True)
class NonFinite(Settings):
    """Loss, gradients or weights that are nan or infinite."""

    kind: ClassVar[str] = "non_finite"
    action: Action = "skip"


@dataclass(frozen=True, kw_only=True)
class LossSpike(Settings):
    """A loss far above what it has been."""

    kind: ClassVar[str] = "loss_spike"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class GradientSpike(Settings):
    """A gradient norm far above what it has been."""

    kind: ClassVar[str] = "gradient_spike"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Divergence(Settings):
    """A loss that has been rising for long."""

    kind: ClassVar[str] = "divergence"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Plateau(Settings):
    """A training loss that no longer falls."""

    kind: ClassVar[str] = "plateau"
    action: Action = "log"


@dataclass(frozen=True, kw_only=True)
class Updates(Settings):
    """Updates that are far too large or too small for the weights they change."""

    kind: ClassVar[str] = "updates"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Layers(Settings):
    """Layers whose units are mostly dead or saturated."""

    kind: ClassVar[str] = "layers"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Entropy(Settings):
    """Predictions that have collapsed to a few tokens."""

    kind: ClassVar[str] = "entropy"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class LossScale(Settings):
    """A loss scale of 16-bit training that keeps falling."""

    kind: ClassVar[str] = "loss_scale"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Throughput(Settings):
    """Training that has become slower."""

    kind: ClassVar[str] = "throughput"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class DataWait(Settings):
    """Training that waits for data."""

    kind: ClassVar[str] = "data_wait"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class Memory(Settings):
    """Memory that keeps growing."""

    kind: ClassVar[str] = "memory"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class SlowRank(Settings):
    """One rank that the others wait for."""

    kind: ClassVar[str] = "slow_rank"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class DataAnomalies(Settings):
    """Batches that look wrong: tokens never seen, one piece only, silence."""

    kind: ClassVar[str] = "data"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class ValidationDrift(Settings):
    """A validation loss that rises while the training loss falls."""

    kind: ClassVar[str] = "validation_drift"
    action: Action = "alert"


@dataclass(frozen=True, kw_only=True)
class MusicalCollapse(Settings):
    """Samples that have fallen into loops or silence."""

    kind: ClassVar[str] = "musical_collapse"
    action: Action = "alert"


DETECTORS: dict[str, type[Settings]] = {
    "non_finite": NonFinite,
    "loss_spike": LossSpike,
    "gradient_spike": GradientSpike,
    "divergence": Divergence,
    "plateau": Plateau,
    "updates": Updates,
    "layers": Layers,
    "entropy": Entropy,
    "loss_scale": LossScale,
    "throughput": Throughput,
    "data_wait": DataWait,
    "memory": Memory,
    "slow_rank": SlowRank,
    "data": DataAnomalies,
    "validation_drift": ValidationDrift,
    "musical_collapse": MusicalCollapse,
}
