"""The settings of every detector, by the key that ``AnomalyAlerts`` has for it, and all of them together as one."""

from __future__ import annotations

from musictrain.health.batches import DataAnomalies
from musictrain.health.detector import Settings
from musictrain.health.layers import Layers
from musictrain.health.memory import Memory
from musictrain.health.non_finite import NonFinite
from musictrain.health.pace import DataWait, SlowRank, Throughput
from musictrain.health.predictions import Entropy, LossScale
from musictrain.health.spikes import GradientSpike, LossSpike
from musictrain.health.trends import Divergence, Plateau
from musictrain.health.updates import Updates
from musictrain.health.validation import MusicalCollapse, ValidationDrift

DETECTORS: dict[str, type[Settings]] = {
    one.kind: one
    for one in (
        *(NonFinite, LossSpike, GradientSpike, Divergence, Plateau, Updates, Layers, Entropy, LossScale),
        *(Throughput, DataWait, Memory, SlowRank, DataAnomalies, ValidationDrift, MusicalCollapse),
    )
}
"""In the order in which they are asked: what spoils a run first."""
