"""What a command line says of devices, strategy and precision, turned into what Lightning's Trainer takes."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

from musictrain.runs.environment import cpu_count
from musictrain.strategies.precision import choose_matmul_precision, device_at_hand
from musictrain.strategies.spreading import KINDS, Spread, spread
from musictrain.strategies.threads import settle_threads
from musictrain.strategies.trace import TraceProfiler

log = logging.getLogger(__name__)

Precision = Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true", "32", "bf16", "16", "64", 32, 16, 64]


class SpreadTrainer(Trainer):
    """Lightning's Trainer, whose ``precision`` may be ``auto`` on the command line.

    Args:
        precision: of computing; ``auto`` chooses for the device and says why.
    """

    def __init__(self, *, precision: Precision | None = "auto", **kwargs: Any) -> None:
        super().__init__(precision=None if precision == "auto" else precision, **kwargs)


def settle_device(settings: Any, trainer_settings: Any, model: Any, datamodule: Any) -> tuple[dict[str, Any], list[str]]:
    """What of the Trainer's arguments was decided here, and the lines that say why; sets threads and matrix precision of this process.

    Args:
        settings: of the command.
        trainer_settings: of its trainer, instantiated.
        model: the module.
        datamodule: where there is one.

    Raises:
        ValueError: if something cannot work here.
    """
    found = spread(trainer_settings, model, datamodule, timeout_minutes=float(settings.get("timeout_minutes") or 10.0))
    if warning := settle_threads(found.local, cpu_count()):
        warnings.warn(warning, stacklevel=2)
    reasons = [*found.reasons, *settle_matmul(str(settings.get("matmul_precision") or "auto"), found, trainer_settings.get("precision"))]
    for reason in reasons:
        log.info("%s", reason)
    profiler = {"profiler": TraceProfiler()} if trainer_settings.get("profiler") == "trace" else {}
    return {**found.options, **profiler}, reasons


def settle_matmul(asked: str, found: Spread, precision: Any) -> list[str]:
    """Set how products of 32-bit matrices are computed; gives back a line where ``auto`` chose another than the most exact way."""
    if asked != "auto":
        torch.set_float32_matmul_precision(asked)
        return []
    if found.kind not in KINDS:
        return []
    name = str(found.options.get("precision", precision))
    name = {"32": "32-true", "None": "32-true"}.get(name, name)
    chosen, reason = choose_matmul_precision(device_at_hand(found.kind), name)
    torch.set_float32_matmul_precision(chosen)
    return [f"matmul {chosen}: {reason}"] if chosen != "highest" else []
