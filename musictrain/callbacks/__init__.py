"""Callbacks for any Lightning Trainer: one file each, none knows another.

They are imported when first used: each needs only its own part of the house.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.callbacks.accumulation_schedule import AccumulationSchedule
    from musictrain.callbacks.anomaly_alerts import AnomalyAlerts
    from musictrain.callbacks.curriculum_schedule import CurriculumSchedule
    from musictrain.callbacks.ema_weight_averaging import EMAWeightAveraging
    from musictrain.callbacks.gradual_unfreezing import GradualUnfreezing
    from musictrain.callbacks.live_page import LivePage
    from musictrain.callbacks.musical_early_stopping import MusicalEarlyStopping
    from musictrain.callbacks.notifications import Notifications
    from musictrain.callbacks.progress import PlainProgress, ProgressLine
    from musictrain.callbacks.run_recorder import RunRecorder
    from musictrain.callbacks.sample_and_score import SampleAndScore
    from musictrain.callbacks.throughput_report import ThroughputReport
    from musictrain.callbacks.versioned_checkpoint import VersionedCheckpoint
    from musictrain.callbacks.write_samples import WriteSamples
    from musictrain.loggers.run_logger import RunLogger

_HOMES = {
    "AccumulationSchedule": "musictrain.callbacks.accumulation_schedule",
    "AnomalyAlerts": "musictrain.callbacks.anomaly_alerts",
    "CurriculumSchedule": "musictrain.callbacks.curriculum_schedule",
    "EMAWeightAveraging": "musictrain.callbacks.ema_weight_averaging",
    "GradualUnfreezing": "musictrain.callbacks.gradual_unfreezing",
    "LivePage": "musictrain.callbacks.live_page",
    "MusicalEarlyStopping": "musictrain.callbacks.musical_early_stopping",
    "Notifications": "musictrain.callbacks.notifications",
    "PlainProgress": "musictrain.callbacks.progress",
    "ProgressLine": "musictrain.callbacks.progress",
    "RunLogger": "musictrain.loggers.run_logger",
    "RunRecorder": "musictrain.callbacks.run_recorder",
    "SampleAndScore": "musictrain.callbacks.sample_and_score",
    "ThroughputReport": "musictrain.callbacks.throughput_report",
    "VersionedCheckpoint": "musictrain.callbacks.versioned_checkpoint",
    "WriteSamples": "musictrain.callbacks.write_samples",
}

__all__ = [
    "AccumulationSchedule",
    "AnomalyAlerts",
    "CurriculumSchedule",
    "EMAWeightAveraging",
    "GradualUnfreezing",
    "LivePage",
    "MusicalEarlyStopping",
    "Notifications",
    "PlainProgress",
    "ProgressLine",
    "RunLogger",
    "RunRecorder",
    "SampleAndScore",
    "ThroughputReport",
    "VersionedCheckpoint",
    "WriteSamples",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.callbacks' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
