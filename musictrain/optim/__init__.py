"""What turns gradients into steps: parameter groups, optimizers, learning-rate schedules."""

from musictrain.optim.optimizers import AdamW
from musictrain.optim.parameter_groups import describe_groups, parameter_groups
from musictrain.optim.schedules import Constant, InverseSquareRoot, Schedule, WarmupCosine, WarmupStableDecay

__all__ = [
    "AdamW",
    "Constant",
    "InverseSquareRoot",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "describe_groups",
    "parameter_groups",
]
