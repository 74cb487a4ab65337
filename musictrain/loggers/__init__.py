"""The run's own logger, and loggers for people who look at their runs in TensorBoard or W&B; all keep to this machine.

They are imported when first used, and need tensorboard and wandb only when something is logged.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.loggers.run_logger import RunLogger
    from musictrain.loggers.tensorboard_logger import TensorBoard
    from musictrain.loggers.wandb_logger import WandB

_HOMES = {
    "RunLogger": "musictrain.loggers.run_logger",
    "TensorBoard": "musictrain.loggers.tensorboard_logger",
    "WandB": "musictrain.loggers.wandb_logger",
}

__all__ = ["RunLogger", "TensorBoard", "WandB"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.loggers' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
