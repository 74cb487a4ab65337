"""Fits that log, for the tests of loggers that people bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.listening.sample_files import write_sample
from musictrain.notes import Notes

HOSTILE = "</script><img src=x onerror=alert(1)>"


class Logging(BoringModel):
    """Logs its own step, under names that are plain and one that is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", float(self.global_step))
        self.log(f"train/{HOSTILE}", 1.0)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", torch.tensor(float(self.global_step)))


class Sampling(Callback):
    """Hands a sample to every logger at each validation."""

    def __init__(self, folder: Path, name: str = "continued_1") -> None:
        self.folder, self.name = folder, name

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            stem = self.folder / "samples" / f"step_{trainer.global_step:06d}" / self.name
            write_sample(Notes.from_rows([(0, 1, 60), (1, 1, 64)]), stem, info={})
            for logger in trainer.loggers:
                logger.log_sample(stem, trainer.global_step, {"prompt": HOSTILE})


def fit(folder: Path, logger: Any, steps: int, ckpt_path: Any = None, callbacks: tuple[Any, ...] = ()) -> lightning.Trainer:
    """So many steps, a row at each, a validation at every second."""
    trainer = lightning.Trainer(
        default_root_dir=folder,
        logger=logger,
        max_steps=steps,
        max_epochs=-1,
        log_every_n_steps=1,
        val_check_interval=2,
        limit_val_batches=1,
        callbacks=list(callbacks),
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Logging(), ckpt_path=ckpt_path)
    return trainer
