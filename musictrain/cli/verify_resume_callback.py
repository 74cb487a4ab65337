"""The interruption that ``verify-resume`` makes: SIGTERM, as a machine that shuts down sends it."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.callbacks import VersionedCheckpoint
from musictrain.sampling.sampling_callback import SamplingCallback


class Interrupt(Callback):
    """Sends this process a SIGTERM after a step; keeps the run from sampling at its end, and its versions where they are.

    Args:
        step: after which; 0 is never.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sampling takes longer than the steps that are compared, and changes none of them; no version goes, none to a mirror."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SamplingCallback):
                callback.rest()
            elif isinstance(callback, VersionedCheckpoint):
                callback.mirror, callback.retention = None, replace(callback.retention, keep_all=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The signal."""
        if self.step and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)
