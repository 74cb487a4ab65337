"""Small fits in plain Trainers: one linear layer, a few steps, a version after each, and something that happens at a step."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from musictrain.callbacks.versioned_checkpoint import VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO

LONGEST_SECONDS = 300.0


class Line(LightningModule):
    """A linear layer that learns to answer 0."""

    def __init__(self, width: int = 8, optimizer: Callable[..., Any] = torch.optim.AdamW, scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.optimizer, self.scale = width, optimizer, scale
        self.layer = torch.nn.Linear(width, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.scale * self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch).square().mean())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/loss", self.layer(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=0.01)


class At(Callback):
    """Does something before the batch that follows a step, once everything saved before is on disk."""

    def __init__(self, acts: Mapping[int, Callable[[], Any]], wait: bool = True) -> None:
        self.acts, self.wait = dict(acts), wait

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if act := self.acts.pop(trainer.global_step, None):
            if self.wait:
                assert trainer.strategy.checkpoint_io.wait(LONGEST_SECONDS)  # type: ignore[attr-defined]
            act()


def batches(width: int = 8, num: int = 8) -> DataLoader[Any]:
    """So many batches of two rows."""
    return DataLoader(torch.linspace(-1, 1, 2 * num * width).reshape(2 * num, width), batch_size=2)  # type: ignore[arg-type]


def checkpoint_in(folder: Path, **options: Any) -> VersionedCheckpoint:
    """A VersionedCheckpoint that saves after each step."""
    return VersionedCheckpoint(**{"dirpath": folder, "every_n_train_steps": 1, "after_validation": False, "monitor": None, **options})


def trainer_in(folder: Path, *callbacks: Callback, steps: int = 4, io: CompressedCheckpointIO | None = None, **options: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    where = {"default_root_dir": folder, "accelerator": "cpu", "devices": 1, "plugins": [io] if io else None}
    return Trainer(**{**quiet, **where, "max_steps": steps, "callbacks": list(callbacks), **options})


def fit(
    folder: Path,
    *callbacks: Callback,
    steps: int = 4,
    model: LightningModule | None = None,
    io: CompressedCheckpointIO | None = None,
    ckpt_path: str | Path | None = None,
    trainer: Mapping[str, Any] | None = None,
    **checkpoint: Any,
) -> VersionedCheckpoint:
    """Train so many steps with versions in ``folder``; gives back their callback."""
    model = model or Line()
    saving = checkpoint_in(folder, **checkpoint)
    fitting = trainer_in(folder.parent, saving, *callbacks, steps=steps, io=io, **(trainer or {}))
    fitting.fit(model, batches(getattr(model, "width", 8)), ckpt_path=str(ckpt_path) if ckpt_path is not None else None)
    return saving


def steps_in(folder: Path) -> list[int]:
    """The steps of the versions in a folder."""
    return [version.step for version in list_versions(folder)]


def on_writers_thread() -> bool:
    """Whether the caller is the thread that writes checkpoints."""
    return threading.current_thread().name == "checkpoint-writer"


@contextmanager
def hung_disk(patch: pytest.MonkeyPatch, call: str = "fsync") -> Iterator[threading.Event]:
    """The writer's thread hangs in a system call until the event is set, which happens at the latest when the block is left."""
    gate, real = threading.Event(), getattr(os, call)

    def hang(*arguments: Any, **options: Any) -> Any:
        if on_writers_thread():
            gate.wait(LONGEST_SECONDS)
        return real(*arguments, **options)

    patch.setattr(os, call, hang)
    try:
        yield gate
    finally:
        gate.set()
        patch.setattr(os, call, real)
