"""Fits that go back, and the callback that asks for it: tiny modules, a data module that passes batches over, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback

from musictrain import rolling_back
from musictrain.callbacks import RunLogger, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.data.loading import batch_loader
from musictrain.data.passed_over import PassedOver
from musictrain.rolling_back import StepTrail, roll_back
from musictrain.runs import RunFolder
from tests.checkpoints.exact_runs import EPOCH, Numbered, quiet
from tests.tiny_runs import QUIET

BATCH = 2
RUN_OF_ITS_OWN = ("['callbacks']['RunRecorder']", "['callbacks']['Spoiler']")


class StreamData(lightning.LightningDataModule):
    """Numbered batches that can be passed over, in somebody's own data module of a few lines."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.num_workers, self._passed = num_workers, PassedOver()

    def pass_over(self, first: int, last: int) -> None:
        self._passed.add(first, last, 1)

    def number_of_batch(self, index: int) -> int:
        return self._passed.number(index, 1)

    def _next(self) -> int:
        assert self.trainer is not None
        return self.number_of_batch(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def train_dataloader(self) -> Any:
        numbers = lambda start, count: self._passed.numbers(start, count, 1)  # noqa: E731
        return batch_loader(WithNumbers(EPOCH), first=self._next, numbers=numbers, num_workers=self.num_workers)

    def val_dataloader(self) -> Any:
        return batch_loader(Numbered(2, first=10_000))

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [list(each) for each in self._passed.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._passed.add_rows(state_dict["rows"])


class WithNumbers(Numbered):
    """Batches that know their number."""

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        return {**super().batch(number, rank, world_size), "number": number}


class Spoiler(Callback):
    """Spoils the weights with a batch, as often as it comes, and asks for a going back some steps later, a resume in between or not.

    Args:
        batches: numbers of those that spoil.
        later: optimizer steps until it is noticed.
        delay: steps before that are not trusted either.
        hook: in which it is noticed.
        pass_over: whether the batches are passed over.
        meanwhile: called when it is noticed.
    """

    def __init__(
        self,
        *batches: int,
        later: int = 0,
        delay: int = 0,
        hook: str = "on_train_batch_end",
        pass_over: bool = True,
        meanwhile: Callable[[], Any] = lambda: None,
    ) -> None:
        self.batches, self.later, self.delay, self.pass_over, self.meanwhile = batches, later, delay, pass_over, meanwhile
        self.trail = StepTrail()
        self.seen: list[int] = []
        self.refusals: list[str] = []
        self._step = 0
        setattr(self, hook, self._look)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        self._step, self.trail = 0, StepTrail()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "trail": self.trail.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]
        self.trail.load_state_dict(state_dict["trail"])

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.trail.see(trainer)
        self.seen.append(int(batch["number"]))
        if self.seen[-1] in self.batches and not self._step:
            self._step = trainer.global_step + 1

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        if self._step == trainer.global_step + 1:
            with torch.no_grad():
                next(pl_module.parameters()).mul_(-3.0)

    def _look(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if not self._step or trainer.global_step < self._step + self.later or trainer.sanity_checking:
            return
        step, self._step = self._step, 0
        self.meanwhile()
        batches = self.trail.batches(trainer, step, step) if self.pass_over else None
        self.refusals.append(roll_back(trainer, reason=f"Batch {self.batches[0]} is bad.", step=step, batches=batches, delay=self.delay))


def trainer_of(run: RunFolder, *callbacks: Callback, saving: dict[str, Any] | None = None, **options: Any) -> lightning.Trainer:
    """A Trainer that records in a run folder and saves every other step."""
    saving = {"newest": 1000, "every_n_minutes": 0, "every_n_train_steps": 2, "after_validation": False, **(saving or {})}
    every: dict[str, Any] = {**QUIET, "enable_checkpointing": True, "log_every_n_steps": 1, "max_steps": 12, "max_epochs": -1}
    return lightning.Trainer(
        **{**every, "limit_val_batches": 0, **options},
        default_root_dir=run.path,
        logger=RunLogger(folder=run.path),
        callbacks=[*callbacks, VersionedCheckpoint(run.checkpoints, **saving), RunRecorder()],
    )


def fit(
    run: RunFolder, module: Any, *callbacks: Callback, ckpt_path: Any = None, data: Any = None, most: int = 10, **options: Any
) -> lightning.Trainer:
    """A fit that can go back."""
    trainer = trainer_of(run, *callbacks, **options)
    with quiet():
        rolling_back.fit(trainer, module, datamodule=data or StreamData(), ckpt_path=ckpt_path, most=most)
    return trainer


def never_met(run: RunFolder, module: Any, *passed: tuple[int, int], data: Any = None, **options: Any) -> lightning.Trainer:
    """A fit that left those batches out from the beginning."""
    data = data or StreamData()
    for first, last in passed:
        data.pass_over(first, last)
    return fit(run, module, data=data, **options)


def end_of(run: RunFolder) -> Any:
    """The content of the last version."""
    return load(max(list_versions(run.checkpoints), key=lambda version: (version.step, version.number)).path)
