"""Measuring how a run is, on its own device: gradients, updates, layers, predictions, batches, memory and time, as numbers with names.

Torch only, no Lightning. What the numbers mean stands in ``musictrain.health.vitals``; who looks at them, in
``musictrain.callbacks.AnomalyAlerts``. Nothing here changes a bit of what is trained.
"""

from musictrain.vitals.batch_facts import BatchFacts, TokenTables, facts_of, tables_of
from musictrain.vitals.call_before import call_before
from musictrain.vitals.gauge import Gauge, Ranks
from musictrain.vitals.gradient_norms import GradientNorms, ParameterNorms
from musictrain.vitals.late_gauge import LateGauge
from musictrain.vitals.layer_watch import LayerWatch
from musictrain.vitals.memory_held import memory_held
from musictrain.vitals.step_clock import StepClock
from musictrain.vitals.told_stage import stage_of
from musictrain.vitals.update_sizes import UpdateSizes

__all__ = [
    "BatchFacts",
    "Gauge",
    "GradientNorms",
    "LateGauge",
    "LayerWatch",
    "ParameterNorms",
    "Ranks",
    "StepClock",
    "TokenTables",
    "UpdateSizes",
    "call_before",
    "facts_of",
    "memory_held",
    "stage_of",
    "tables_of",
]
