"""Whether a trainer stands between two steps, so that what an error leaves behind can be saved and gone on from to the bit."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from musictrain.checkpoints.trainer_state import inside_window, validation_due


class StepWatch:
    """Follows a fit through its hooks.

    An error before the weights change leaves the state of the step before, unless the forward pass has changed a buffer, such as the
    running statistics of a batch norm. What other callbacks do when a batch or an epoch ends may be half done, and so is a validation.
    """

    def __init__(self) -> None:
        self._changing = True
        self._buffers: tuple[Tensor, ...] = ()
        self._changes: list[int] = []

    def start(self, module: LightningModule) -> None:
        """Training begins."""
        self._buffers = tuple(buffer for buffer in module.buffers() if not buffer.is_inference())
        self.batch_starts()

    def batch_starts(self) -> None:
        """Every callback is done with the batch before."""
        self._changing = False
        # How often each was written to; a copy would have to be made at every step.
        self._changes = [buffer._version for buffer in self._buffers]

    def weights_change(self) -> None:
        """The optimizer is about to step."""
        self._changing = True

    def between_steps(self, trainer: Trainer) -> bool:
        """Whether the state is that after a whole step; a batch that was begun since has been taken back by ``back_to_last_step``."""
        loop: Any = trainer.fit_loop
        batches, epochs = loop.epoch_loop.batch_progress.total, loop.epoch_progress.total
        ending = epochs.completed < epochs.processed or (batches.completed < batches.processed and validation_due(trainer))
        return trainer.training and not (self._changing or ending or inside_window(trainer) or self._buffers_changed(trainer))

    def _buffers_changed(self, trainer: Trainer) -> bool:
        now = [buffer for buffer in trainer.lightning_module.buffers() if not buffer.is_inference()]
        same = len(now) == len(self._buffers) and all(one is other for one, other in zip(now, self._buffers, strict=True))
        return not same or [buffer._version for buffer in self._buffers] != self._changes
