"""Is a run well? Detectors in plain Python on a few numbers of each step: each has frozen settings, a small state, and ``see``.

Standard library and numpy only; ``musictrain.callbacks.AnomalyAlerts`` measures, and does what the settings say.
"""

from musictrain.health.detector import ACTIONS, Action, Detector, Settings, stronger
from musictrain.health.detectors import (
    DETECTORS,
    DataAnomalies,
    DataWait,
    Divergence,
    Entropy,
    GradientSpike,
    Layers,
    LossScale,
    LossSpike,
    Memory,
    MusicalCollapse,
    NonFinite,
    Plateau,
    SlowRank,
    Throughput,
    Updates,
    ValidationDrift,
)
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

__all__ = [
    "ACTIONS",
    "DETECTORS",
    "Action",
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
