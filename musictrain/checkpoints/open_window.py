"""Gradients of a half-filled accumulation window: saved whole by one process, and taken up by any number of them.

Conventions: only runs of one process save inside a window; several wait for its end. Strategies take the mean over the shares of the data,
so gradients that are means stand in every share as they are. MusicModule gathers sums and counts their tokens instead, under
``STEP_TOKENS``; of sums and counts every share gets its part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.sharded_saving import spread_like, whole

STEP_TOKENS = "musictrain_step_tokens"


def gathered_gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradients of a module, whole, by the names of its parameters."""
    return {name: whole(each.grad) for name, each in module.named_parameters() if each.grad is not None}


def dealt_gradients(trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The gradients in a checkpoint, for this process; the module's count of tokens is made to fit."""
    gradients = dict(checkpoint.get(GRADIENTS) or {})
    shares = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
    counted = checkpoint.get(STEP_TOKENS)
    if not gradients or shares == 1 or not counted:
        return gradients
    pl_module.on_load_checkpoint({**checkpoint, STEP_TOKENS: {**counted, "tokens": counted["tokens"] / shares}})
    return {name: gradient / shares for name, gradient in gradients.items()}


def give_back_gradients(module: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Let a module go on with gradients that were saved whole, by the names of its parameters."""
    for name, parameter in module.named_parameters():
        if name in gradients:
            parameter.grad = spread_like(gradients[name], parameter)
