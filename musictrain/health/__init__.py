"""Is a run well? Detectors in plain Python on a few numbers of each step: each has frozen settings, a small state, and ``see``.

Standard library and numpy only; ``musictrain.callbacks.AnomalyAlerts`` measures, and does what the settings say.
"""

from musictrain.health.batches import DataAnomalies
from musictrain.health.detector import ACTIONS, Action, Detector, Settings, stronger
from musictrain.health.detectors import DETECTORS
from musictrain.health.finding import Finding
from musictrain.health.layers import Layers
from musictrain.health.memory import Memory
from musictrain.health.non_finite import NonFinite
from musictrain.health.pace import DataWait, SlowRank, Throughput
from musictrain.health.predictions import Entropy, LossScale
from musictrain.health.spikes import GradientSpike, LossSpike
from musictrain.health.trends import Divergence, Plateau
from musictrain.health.updates import Updates
from musictrain.health.validation import Bound, MusicalCollapse, ValidationDrift
from musictrain.health.vitals import Vitals

__all__ = [
    "ACTIONS",
    "DETECTORS",
    "Action",
    "Bound",
    "DataAnomalies",
    "DataWait",
    "Detector",
    "Divergence",
    "Entropy",
    "Finding",
    "GradientSpike",
    "Layers",
    "LossScale",
    "LossSpike",
    "Memory",
    "MusicalCollapse",
    "NonFinite",
    "Plateau",
    "Settings",
    "SlowRank",
    "Throughput",
    "Updates",
    "ValidationDrift",
    "Vitals",
    "stronger",
]
