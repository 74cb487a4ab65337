"""Fits that are compared to the bit: tiny modules, numbered batches, a logger that remembers, and the comparison itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.checkpoints.comparing import differences
from musictrain.checkpoints.storing import load
from musictrain.data.loading import batch_loader
from musictrain.optim import WarmupCosine
from tests.tiny_runs import QUIET, VOCAB, ForeignNetwork, new_module

EPOCH = 11
"""Batches in an epoch; divided by nothing that a run counts in."""

CLOCKS = (
    "['musictrain_training_sums']['seconds']",
    "['musictrain_circumstances']['commit']",
    "['musictrain_logged']",
    "['callbacks']['AnomalyAlerts']['machine']",
)
"""What no two runs have in common: how long they took, and what was committed between them."""


class Numbered:
    """Batches as a function of their number."""

    def __init__(self, num_batches: int, first: int = 0) -> None:
        self.num_batches, self._first = num_batches, first

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self._first + number)
        tokens = torch.randint(1, VOCAB, (2, 9), generator=generator)[rank::world_size]
        return {"tokens": tokens, "notes": torch.full((len(tokens),), 2.0), "beats": torch.full((len(tokens),), 4.0)}


class PositionKeepingData(lightning.LightningDataModule):
    """Goes on with the batch after the last one that was trained on."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.num_workers = num_workers

    def _next(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def train_dataloader(self) -> Any:
        return batch_loader(Numbered(EPOCH), first=self._next, num_workers=self.num_workers)

    def val_dataloader(self) -> Any:
        return batch_loader(Numbered(2, first=10_000))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._next()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The trainer's own count is what counts."""


class Plain(lightning.LightningModule):
    """Somebody's module that knows nothing of musictrain: dropout, running statistics, a schedule."""

    def __init__(self, batch_norm: bool = True, plateau: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.plateau = plateau
        torch.manual_seed(3)
        norm = nn.BatchNorm1d(6) if batch_norm else nn.Tanh()
        self.layers = nn.Sequential(nn.Linear(8, 6), norm, nn.Dropout(0.5), nn.Linear(6, 1))

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        numbers = batch["tokens"].float() / VOCAB
        return (self.layers(numbers[:, :-1]) - numbers[:, -1:]).square().mean()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss)
        self.log("epoch/loss", loss, on_step=False, on_epoch=True)
        self.log("epoch/highest", loss.detach(), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("epoch/sum", loss.detach(), on_step=True, on_epoch=True, reduce_fx="sum")
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # Validation may draw random numbers: training must not notice.
        self.log("val/loss", self._loss(batch) + 0 * torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if self.plateau is not None:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.9, patience=0, threshold=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **self.plateau}}
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ByHand(Plain):
    """Two optimizers that it steps itself: two steps in a batch, or one."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        for optimizer in self.optimizers()[: 1 + batch_idx % 2]:
            loss = self._loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.AdamW(self.layers[:2].parameters(), lr=0.01), torch.optim.SGD(self.layers[2:].parameters(), lr=0.01)]


def music() -> lightning.LightningModule:
    """A MusicModule around an LSTM with dropout."""
    return new_module(ForeignNetwork(), schedule=WarmupCosine(warmup_steps=2))


MODULES: dict[str, Callable[[], lightning.LightningModule]] = {"music": music, "plain": Plain, "by hand": ByHand}


class At(Callback):
    """Does something once, in a callback's hook during or after a batch, or inside that batch's ``forward`` or ``optimizer_step``."""

    def __init__(self, hook: str, batch: int, act: Callable[[], Any]) -> None:
        self._hook, self._batch, self._act = hook, batch, act
        self.done = False
        if hook not in ("forward", "optimizer_step"):
            setattr(self, hook, self._in_hook)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._trainer = trainer
        if self._hook == "forward":
            next(pl_module.children()).register_forward_pre_hook(lambda module, _: self._in_hook() if module.training else None)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._hook == "optimizer_step":
            trainer.optimizers[0].register_step_post_hook(self._in_hook)

    def _in_hook(self, *args: Any, **kwargs: Any) -> None:
        if not self.done and self._trainer.fit_loop.epoch_loop.batch_progress.total.ready >= self._batch:
            self.done = True
            self._act()


@dataclass
class Row:
    """One call of a logger: the step as Lightning counts it, the steps and batches done, and what was logged."""

    step: int | None
    global_step: int
    batches: int
    values: dict[str, Any] = field(default_factory=dict)


class RememberingLogger(Logger):
    """Keeps every row, and how many there were at each save."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.saves: dict[str, tuple[int, int, bool]] = {}
        self.trainer: Any = None

    @property
    def name(self) -> str:
        return "rows"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Of no interest."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        values = {key: value for key, value in metrics.items() if "second" not in key}
        self.rows.append(Row(step, self.trainer.global_step, self._batches(), values))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        epochs = self.trainer.fit_loop.epoch_progress.total
        self.saves[checkpoint_callback._folder.parent] = len(self.rows), self._batches(), epochs.processed == epochs.ready

    def _batches(self) -> int:
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)

    def rows_after(self, version: str) -> list[Row]:
        """What a run that goes on from a version has still to log."""
        count, batches, epoch_ends = self.saves[version]
        # The lines of the step and of the epoch are written just after the save at its end, and belong to what came before.
        ours = {"train/loss", *(["epoch/loss"] if epoch_ends else [])}
        return [row for row in self.rows[count:] if row.batches > batches or not ours & set(row.values)]


@dataclass
class Run:
    """A fit that is over, or was ended."""

    trainer: lightning.Trainer
    logger: RememberingLogger
    folder: Path
    error: BaseException | None = None

    @property
    def versions(self) -> list[Version]:
        return list_versions(self.folder)

    @property
    def rows(self) -> list[Row]:
        return self.logger.rows

    @property
    def end(self) -> Any:
        """The content of the last version."""
        return load(max(self.versions, key=lambda version: (version.step, version.number)).path)


def train(
    folder: Path,
    module: lightning.LightningModule,
    *callbacks: Callback,
    ckpt_path: Path | str | None = None,
    saving: dict[str, Any] | None = None,
    num_workers: int = 0,
    **options: Any,
) -> Run:
    """Fit with versions in ``folder``; what ended it is kept, not raised."""
    logger = RememberingLogger()
    versions = VersionedCheckpoint(folder, **{"newest": 1000, "every_n_minutes": 0, **(saving or {})})
    every = {"enable_checkpointing": True, "log_every_n_steps": 1, "logger": logger, "default_root_dir": folder.parent}
    logger.trainer = trainer = lightning.Trainer(**{**QUIET, **every, **options}, callbacks=[*callbacks, versions])
    run = Run(trainer, logger, folder)
    with quiet():
        try:
            trainer.fit(module, datamodule=PositionKeepingData(num_workers), ckpt_path=ckpt_path)
        except BaseException as error:
            run.error = error
    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Within it Lightning logs errors alone."""
    lightnings = logging.getLogger("lightning.pytorch")
    before = lightnings.level
    lightnings.setLevel(logging.ERROR)
    try:
        yield
    finally:
        lightnings.setLevel(before)


def apart(one: Any, other: Any, ignore: Sequence[str] = ()) -> list[str]:
    """Where two checkpoints differ, clocks left out."""
    return [str(difference) for difference in differences(one, other, [*CLOCKS, *ignore])][:5]
