"""Faults that a configuration can name, for real runs: in the data's path, in a weight, in the learning rate, in the token store, in the
loading of one rank, in a callback that keeps what it should let go.

What is of a batch comes again with it; what happens to the machine happens once, and a run that has gone back does not meet it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from musictrain import MusicDataModule
from musictrain.data.batches import Batch, NumberedBatches

MIB = 2**20


class NanInBatch(Callback):
    """One number of a batch is nan where its tokens enter the network, whenever that batch comes.

    Args:
        batch: its number.
        module: whose output it is, by name, the first of the network.
        rank: whose rows; None for every rank's.
    """

    def __init__(self, batch: int, module: str, rank: int | None = None) -> None:
        self.batch, self.module, self.rank = batch, module, rank
        self._hook: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Lie in wait."""
        if batch["number"] == self.batch and self.rank in (None, trainer.global_rank):
            self._hook = pl_module.get_submodule(self.module).register_forward_hook(_with_nan)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It was in this batch alone."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _with_nan(module: Any, arguments: Any, output: Tensor) -> Tensor:
    spoiled = torch.zeros_like(output)
    spoiled.view(-1)[0] = torch.nan
    return output + spoiled


class OnceInALife(Callback):
    """Happens in the first fit of a process, and not again after a going back."""

    _fits = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count the fits."""
        self._fits += stage == "fit"

    def is_due(self, trainer: Trainer, first: int, steps: int = 1) -> bool:
        """Whether the step that is about to be taken, from 1, is one of these."""
        return self._fits == 1 and first <= trainer.global_step + 1 < first + steps


class InfiniteWeight(OnceInALife):
    """One weight is infinite from a step on.

    Args:
        step: from 1.
        parameter: whose, by name.
        rank: on which rank; None for all.
    """

    def __init__(self, step: int, parameter: str, rank: int | None = None) -> None:
        self.step, self.parameter, self.rank = step, parameter, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the forward pass."""
        if self.is_due(trainer, self.step) and self.rank in (None, trainer.global_rank):
            with torch.no_grad():
                pl_module.get_parameter(self.parameter).view(-1)[0] = torch.inf


class HundredfoldRate(OnceInALife):
    """The learning rate is a hundred times what the schedule says, for some steps.

    Args:
        step: the first, from 1.
        steps: how many.
    """

    def __init__(self, step: int, steps: int = 20) -> None:
        self.step, self.steps = step, steps

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """The schedule lays the rate anew after every step."""
        if self.is_due(trainer, self.step, self.steps):
            for group in optimizer.param_groups:
                group["lr"] *= 100


class OverwrittenTokens(OnceInALife):
    """A region of the stored tokens is overwritten while the run reads them, for good.

    Args:
        step: before which, from 1.
        first: place of the first token in the store.
        tokens: what stands there from then on.
    """

    def __init__(self, step: int, first: int, tokens: Sequence[int]) -> None:
        self.step, self.first, self.tokens = step, first, list(tokens)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Before the next batch is read."""
        if self._fits == 1 and trainer.global_step + 1 == self.step and trainer.is_global_zero:
            store: Any = trainer.datamodule.store  # type: ignore[attr-defined]
            overwrite(store.folder, self.first, self.tokens, store.meta["dtype"])


def overwrite(folder: Path, first: int, tokens: Sequence[int], dtype: str) -> None:
    """Put other tokens into a store's file; its sizes and small files say nothing of it."""
    row = np.array(tokens, np.dtype(dtype))
    with (folder / "tokens.bin").open("r+b") as file:
        file.seek(first * row.itemsize)
        file.write(row.tobytes())


class LeakingCallback(Callback):
    """Keeps something of every step, as whoever collects losses with their graphs does.

    Args:
        step: from which on, from 1.
        mib: that are kept of each step.
    """

    def __init__(self, step: int, mib: float) -> None:
        self.step, self.mib = step, mib
        self._kept: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """One more; memory that was never written to is not there."""
        if trainer.global_step >= self.step:
            self._kept.append(torch.ones(round(self.mib * MIB / 4)))


class SleepingData(MusicDataModule):
    """The chorales; one rank takes its time to load some of the batches.

    Args:
        sleeping_rank: which.
        seconds: that a batch takes longer.
        first, last: numbers of the batches.
        options: those of MusicDataModule.
    """

    def __init__(self, *, sleeping_rank: int = 1, seconds: float = 0.2, first: int = 0, last: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.sleeping_rank, self.seconds, self.first, self.last = sleeping_rank, seconds, first, last

    def train_dataloader(self) -> Any:
        """As ever, but for that rank."""
        loader: Any = super().train_dataloader()
        if loader.dataset.rank == self.sleeping_rank:
            loader.dataset.plan = SleepingPlan(loader.dataset.plan, self.seconds, range(self.first, self.last + 1))
        return loader


class SleepingPlan:
    """Batches some of which come late.

    Args:
        plan: of all.
        seconds: by how much.
        late: their numbers.
    """

    def __init__(self, plan: NumberedBatches, seconds: float, late: range) -> None:
        self.plan, self.seconds, self.late = plan, seconds, late
        self.num_batches = plan.num_batches

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The batch, sooner or later."""
        if number in self.late:
            time.sleep(self.seconds)
        return self.plan.batch(number, rank, world_size)
