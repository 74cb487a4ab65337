"""Callbacks of somebody's own that spoil a training, or let it go back."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from musictrain.rolling_back import StepTrail, roll_back, rolled_back_before


class Spoil(lightning.Callback):
    """Makes the first value of a weight no number, before a step."""

    def __init__(self, step: int, name: str) -> None:
        self.step, self.name = step, name

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        """Once."""
        if trainer.global_step + 1 == self.step:
            with torch.no_grad():
                dict(pl_module.named_parameters())[self.name].view(-1)[0] = torch.nan


class GoBack(lightning.Callback):
    """Goes back after a step, once in a run, and passes its batches over."""

    def __init__(self, step: int) -> None:
        self.step, self.trail = step, StepTrail()

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Note the batch."""
        self.trail.see(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Ask for it."""
        if trainer.global_step == self.step and not rolled_back_before(trainer):
            refusal = roll_back(trainer, reason="A test.", step=self.step, batches=self.trail.batches(trainer, self.step, self.step))
            raise AssertionError(refusal)


class NanInBatch(lightning.Callback):
    """One gradient of the first parameter is nan whenever this batch comes."""

    def __init__(self, number: int) -> None:
        self.number, self._now = number, -1

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, *args: Any) -> None:
        """Note the batch."""
        self._now = int(batch["number"])

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Spoil it."""
        gradient = next(parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None)
        if self._now == self.number:
            gradient.view(-1)[0] = torch.nan


class LittleRoom(lightning.Callback):
    """While training, the network has room for the activations of so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """From now on."""

        def ask(network: torch.nn.Module, tokens: tuple[torch.Tensor, ...]) -> None:
            if network.training and len(tokens[0]) > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        pl_module.network.register_forward_pre_hook(ask)
