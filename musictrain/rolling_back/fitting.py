"""fit: as ``trainer.fit``, and where a callback asks for a going back, again from the last good version, in the same program.

musictrain.rolling_back.fit(trainer, model, datamodule=data)
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from musictrain.checkpoints.catalog import NoGoodVersionError, list_versions
from musictrain.checkpoints.folder_checkpoint import FolderCheckpoint
from musictrain.checkpoints.lock import FolderInUseError
from musictrain.data.passed_over import in_other_batches
from musictrain.rolling_back.requesting import MOST, versions_of
from musictrain.rolling_back.settling import settle_rollbacks
from musictrain.runs import RunFolder, atomic_write
from musictrain.runs.endings import ending_of
from musictrain.runs.records import Records
from musictrain.runs.rollbacks import FILE_NAME, Rollback, RolledBack, read_rollbacks
from musictrain.runs.secrets import hide
from musictrain.runs.status import read_status

log = logging.getLogger(__name__)

WAIT_SECONDS = 600.0


class CannotFitAgainError(RuntimeError):
    """The run has gone back, and cannot go on in this program; the message says how it can."""


def fit(
    trainer: Trainer,
    model: LightningModule,
    *data: Any,
    ckpt_path: str | Path | None = None,
    most: int = 10,
    **options: Any,
) -> None:
    """``trainer.fit`` that can go back, as often as callbacks ask for it by ``roll_back``.

    What was passed over in an earlier life of the run is passed over again, and a going back that was cut off is carried out first. The
    Trainer, its callbacks, its loggers and the model are the same objects from beginning to end.

    Args:
        trainer: with a ``VersionedCheckpoint`` among its callbacks; without one nothing can be gone back to.
        model: as for ``trainer.fit``, as are ``data``, ``ckpt_path`` and the options, such as ``datamodule``.
        most: how often the run may go back, over all its lives.

    Raises:
        CannotFitAgainError: if the Trainer's strategy can fit only once in a program; ``ckpt_path="last"`` goes on in another one.
        NoGoodVersionError: if the version to go back to has been damaged since, and there is no other.
        ValueError: for a negative ``most``.
    """
    if most < 0:
        raise ValueError(f"rolling_back.fit got most={most}; it needs 0 or more.")
    modes = [(module, module.training) for module in model.modules()]
    a_trainer = cast(Any, trainer)
    a_trainer.callbacks = [passing := _PassOver(), *a_trainer.callbacks]
    setattr(trainer, MOST, most)
    has_gone_back = False
    try:
        _finish_going_back(trainer, ckpt_path)
        while _fit_once(trainer, model, data, {"ckpt_path": ckpt_path, **options}):
            has_gone_back = True
            ckpt_path = _version_to_go_on_from(trainer)
            _renew(trainer, model, modes)
    except BaseException as error:
        if has_gone_back and trainer.is_global_zero:
            note_end(trainer, error)
        raise
    finally:
        delattr(trainer, MOST)
        a_trainer.callbacks = [callback for callback in a_trainer.callbacks if callback is not passing]


def _fit_once(trainer: Trainer, model: LightningModule, data: Any, options: dict[str, Any]) -> bool:
    """One fit; gives back whether it has ended in a going back."""
    try:
        trainer.fit(model, *data, **options)
    except RolledBack:
        return True
    return False


class _PassOver(Callback):
    """Tells the data module, before its loaders are made, what is to be passed over: the same in every process."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = trainer.strategy.broadcast(str(_folder_of(trainer) or ""))
        found = read_rollbacks(Path(folder).parent / FILE_NAME) if folder and trainer.is_global_zero else []
        pass_over(getattr(trainer, "datamodule", None), trainer.strategy.broadcast(found))


def pass_over(datamodule: Any, rollbacks: Iterable[Rollback]) -> None:
    """Let a data module leave out what a run has passed over, whatever the size of its batches was then; one that cannot stays as it is."""
    for rollback in rollbacks:
        first, last = rollback.first, rollback.last
        if first is None or last is None or not hasattr(datamodule, "pass_over"):
            continue
        now = getattr(datamodule, "batch_size", None)
        if rollback.batch_size and now and now != rollback.batch_size:
            first, last = in_other_batches(first, last, rollback.batch_size, now)
        datamodule.pass_over(first, last)


# Before the first fit.


def _finish_going_back(trainer: Trainer, ckpt_path: Any) -> None:
    """Carry out what a kill has cut off, before anybody looks for the last version."""
    folder = _folder_of(trainer, ckpt_path)
    if folder is None or not (folder.parent / FILE_NAME).is_file():
        return
    if trainer.is_global_zero:
        settle_rollbacks(folder)
    until = time.monotonic() + WAIT_SECONDS
    while not all(rollback.settled for rollback in read_rollbacks(folder.parent / FILE_NAME)):
        if time.monotonic() > until:
            raise CannotFitAgainError(f"The first process has not set aside what lies beyond the version to go on from, in {folder}.")
        time.sleep(0.1)


def _folder_of(trainer: Trainer, ckpt_path: Any = None) -> Path | None:
    """The folder of versions, as far as it is known before a fit: that of a new run is made later."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    versions = next((each for each in callbacks if isinstance(each, FolderCheckpoint)), None)
    if versions is None or versions.dirpath is not None:
        return versions_of(trainer)
    if ckpt_path is not None and Path(ckpt_path).exists():
        return Path(ckpt_path).resolve().parent
    goes_on = ckpt_path is not None or any(getattr(logger, "started", False) for logger in trainer.loggers)
    if not goes_on and trainer.state.status != "running":
        return None
    return Path(cast(Any, versions)._ModelCheckpoint__resolve_ckpt_dir(trainer))


# Between two fits.


def _version_to_go_on_from(trainer: Trainer) -> Path:
    """Set aside what lies beyond the version, and give back where it is, in every process."""
    # What the spoiled fit still holds (hooks on the weights, above all) must be gone before they are wrapped anew.
    gc.collect()
    folder = versions_of(trainer)
    assert folder is not None
    told = _from_first(_settled(trainer, folder) if trainer.is_global_zero else None)
    if isinstance(told, BaseException):
        raise told
    return Path(told)


def _settled(trainer: Trainer, folder: Path) -> str | BaseException:
    """The version's path, or what went wrong."""
    try:
        if refusal := _fits_once(trainer):
            raise CannotFitAgainError(refusal)
        done = settle_rollbacks(folder)[-1]
        path = next(version.path for version in list_versions(folder) if version.name == done.version)
    except (OSError, FolderInUseError, NoGoodVersionError, CannotFitAgainError) as error:
        return error
    print(f"\n{done.sentence()}", flush=True)
    return str(path)


def _fits_once(trainer: Trainer) -> str:
    """Why this Trainer cannot fit a second time in one program, and what can be done; empty if it can."""
    strategy, launcher = trainer.strategy, trainer.strategy.launcher
    known = isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy)
    if known and (launcher is None or isinstance(launcher, _SubprocessScriptLauncher)):
        return ""
    return (
        f"{type(strategy).__name__} cannot be set up twice in one program: go on in a new one, with musictrain resume, or with "
        "musictrain.rolling_back.fit(..., ckpt_path='last'). It goes on from that version, and passes over those batches."
    )


def note_end(trainer: Trainer, error: BaseException) -> None:
    """Write down how a run has ended that was to go on, unless somebody has: between two fits nobody else would. Callbacks that tell
    people of a run have closed by then: those with a method ``on_end_between_fits`` are told."""
    folder = versions_of(trainer)
    run = RunFolder(folder.parent if folder is not None else Path())
    status = read_status(run.status) if folder is not None else None
    if status is None or not status.is_active() or status.pid != os.getpid():
        return
    now, ending = round(time.time(), 3), ending_of(error, run.name)
    ended = replace(status, state=ending.state, reason=hide(ending.reason), advice=ending.advice, ended=now, updated=now)
    events = Records(run.events)
    try:
        atomic_write(run.status, ended.as_json())
        events.append({"time": now, "event": ended.state, "step": status.step, "reason": ended.reason, "advice": ended.advice})
    except OSError as failure:
        log.warning("How the run ended could not be recorded: %s", failure)
    finally:
        events.close()
    for callback in cast(Any, trainer).callbacks:
        if callable(tell := getattr(callback, "on_end_between_fits", None)):
            _try_to(tell, trainer, run, error)


def _try_to(tell: Callable[..., Any], *arguments: Any) -> None:
    """What has ended the run is to come out, not what happens while it is told."""
    try:
        tell(*arguments)
    except Exception as failure:
        log.warning("%s: %s, while the end of the run was told.", type(failure).__name__, failure)


def _from_first(told: Any) -> Any:
    """What the first process has, in every process."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return told
    together = [told]
    torch.distributed.broadcast_object_list(together, src=0)
    return together[0]


def _renew(trainer: Trainer, model: LightningModule, modes: Iterable[tuple[Any, bool]]) -> None:
    """Let a Trainer begin anew: it counts nothing, and the model is as it was given, but for its weights, which the version brings."""
    before = trainer.fit_loop
    trainer.fit_loop = _FitLoop(trainer, min_epochs=before.min_epochs, max_epochs=before.max_epochs)
    trainer.fit_loop.epoch_loop = _TrainingEpochLoop(trainer, min_steps=before.min_steps, max_steps=before.max_steps)
    trainer.should_stop = False
    # Where weights lie in shares, torch takes gradients for a sign that the optimizer needs no state.
    model.zero_grad(set_to_none=True)
    # A validation that was left in the middle has put dropout and the like to rest.
    for module, training in modes:
        module.training = training
