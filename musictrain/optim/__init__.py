"""What turns gradients into steps: parameter groups, optimizers, clipping, learning-rate schedules."""

from musictrain.optim.adaptive_clipping import clip_adaptively
from musictrain.optim.freezing import freeze
from musictrain.optim.layer_decay import LayerDecay, scale_learning_rates
from musictrain.optim.optimizers import AdamW
from musictrain.optim.parameter_groups import describe_groups, parameter_groups
from musictrain.optim.plateau import Plateau, PlateauWatch
from musictrain.optim.schedules import Constant, InverseSquareRoot, Schedule, WarmupCosine, WarmupStableDecay
from musictrain.optim.warm_restarts import WarmRestarts

__all__ = [
    "AdamW",
    "Constant",
    "InverseSquareRoot",
    "LayerDecay",
    "Plateau",
    "PlateauWatch",
    "Schedule",
    "WarmRestarts",
    "WarmupCosine",
    "WarmupStableDecay",
    "clip_adaptively",
    "describe_groups",
    "freeze",
    "parameter_groups",
    "scale_learning_rates",
]
