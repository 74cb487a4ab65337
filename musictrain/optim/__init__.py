"""What turns gradients into steps: parameter groups, optimizers, clipping, learning-rate schedules.

The optimizers of the package pytorch-optimizer are imported when first used, so that nobody else needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from musictrain.optim.adaptive_clipping import clip_adaptively
from musictrain.optim.freezing import freeze
from musictrain.optim.layer_decay import LayerDecay, scale_learning_rates
from musictrain.optim.making import optimizer_of
from musictrain.optim.optimizers import AdamW
from musictrain.optim.parameter_groups import describe_groups, parameter_groups
from musictrain.optim.plateau import Plateau, PlateauWatch
from musictrain.optim.schedules import Constant, InverseSquareRoot, Schedule, WarmupCosine, WarmupStableDecay
from musictrain.optim.warm_restarts import WarmRestarts

if TYPE_CHECKING:
    from musictrain.optim.library import ADOPT, SOAP, Adafactor, Lion, Muon, Prodigy, ScheduleFreeAdamW
    from musictrain.optim.sharpness import SAM

__all__ = [
    "ADOPT",
    "SAM",
    "SOAP",
    "Adafactor",
    "AdamW",
    "Constant",
    "InverseSquareRoot",
    "LayerDecay",
    "Lion",
    "Muon",
    "Plateau",
    "PlateauWatch",
    "Prodigy",
    "Schedule",
    "ScheduleFreeAdamW",
    "WarmRestarts",
    "WarmupCosine",
    "WarmupStableDecay",
    "clip_adaptively",
    "describe_groups",
    "freeze",
    "optimizer_of",
    "parameter_groups",
    "scale_learning_rates",
]

_HOMES = {
    **dict.fromkeys(("ADOPT", "SOAP", "Adafactor", "Lion", "Muon", "Prodigy", "ScheduleFreeAdamW"), "musictrain.optim.library"),
    "SAM": "musictrain.optim.sharpness",
}
OPTIMIZERS = ("AdamW", *_HOMES)
"""Names of the optimizers here, known before their modules are imported."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.optim' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "pytorch_optimizer":
            raise
        raise ImportError(f"musictrain.optim.{name} needs the package pytorch-optimizer: pip install 'pytorch-optimizer>=4.1'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
