"""Where a Lightning Trainer stands, between two batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from torch import Tensor

from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
from musictrain.checkpoints.circumstances import fingerprints_of
from musictrain.checkpoints.seal import Seal
from musictrain.runs import RunFolder
from musictrain.runs.writer import RecordWriter


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the batch that has just been trained on."""
    loop: Any = trainer.fit_loop
    return bool(trainer.enable_validation and loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def inside_window(trainer: Trainer) -> bool:
    """Whether gradients have been gathered that no step has used yet."""
    if trainer.accumulate_grad_batches == 1 or not trainer.lightning_module.automatic_optimization:
        return False
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop.batch_progress.current.ready and loop._should_accumulate())


def run_ends(trainer: Trainer) -> bool:
    """Whether the batch that has just been trained on is the last one of the run."""
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (trainer.is_last_batch and last_epoch)


def begin_between_epochs(trainer: Trainer) -> None:
    """Let a fit that was resumed at an epoch's end, or before the first batch, begin with a new epoch; to be called in ``on_train_start``.

    Where the number of steps ends the run, Lightning 2.6 takes an epoch's end for its middle: it trains one batch more in that epoch, and
    every accumulation window after it is another one. Before the first batch it counts a step for the loggers that was never made.
    """
    loop: Any = trainer.fit_loop
    epochs = loop.epoch_progress.total
    if not loop.is_resuming or epochs.ready != epochs.processed:
        return
    if epochs.completed < epochs.processed:
        loop.epoch_progress.increment_completed()
    inner = loop.epoch_loop
    for each in (loop, inner, inner.val_loop, inner.automatic_optimization, inner.manual_optimization):
        each._restarting = False
        each.reset_restart_stage()


def back_to_last_step(trainer: Trainer) -> None:
    """Take back what the loops have counted of a batch or an epoch that was begun and came to nothing.

    A version saved now goes on with that batch, under its own number, and with the validation after the last one done.
    """
    loop: Any = trainer.fit_loop
    inner, epochs = loop.epoch_loop, loop.epoch_progress
    batches, steps = inner.batch_progress, inner.automatic_optimization.optim_progress.optimizer
    if epochs.total.started < epochs.total.ready:
        epochs.total.ready -= 1
        epochs.current.ready -= 1
    if batches.total.processed < batches.total.ready:
        batches.is_last_batch = False
    for each in (batches.total, batches.current):
        each.ready = each.started = each.processed
    for step, cleared in ((steps.step.total, steps.zero_grad.total), (steps.step.current, steps.zero_grad.current)):
        step.ready = step.completed
        cleared.ready = cleared.started = cleared.completed = min(cleared.completed, step.completed)
    in_epoch = epochs.total.processed < epochs.total.ready
    if in_epoch and batches.total.completed == batches.total.processed and validation_due(trainer):
        # Lightning counts the step itself where it finds a validation done, for such versions are saved before it counts.
        inner._batches_that_stepped -= 1


def position_in(checkpoint: Mapping[str, Any], trainer: Trainer) -> bool:
    """Whether the data module or its loader has kept where it was."""
    datamodule = getattr(trainer, "datamodule", None)
    loaders = ((checkpoint.get("loops") or {}).get("fit_loop") or {}).get("state_dict", {}).get("combined_loader")
    return bool(loaders) or (datamodule is not None and type(datamodule).__qualname__ in checkpoint)


def loss_of(outputs: Any) -> Tensor | None:
    """The loss in what a training step gave back, None if there is none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return loss.detach() if isinstance(loss, Tensor) else None


def metrics_of(trainer: Trainer, validated: bool, anew: Collection[str]) -> dict[str, float]:
    """The finite values that say something of these weights.

    Args:
        trainer: whose values.
        validated: whether its last validation was of these weights; otherwise only what training logged is given.
        anew: names of what was logged since the validation before that one.
    """
    names = {name for name in trainer.callback_metrics if name.startswith("train/") or (validated and name in anew)}
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name in names}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def veto_of(trainer: Trainer) -> str:
    """Why the weights of this step are not to be called best, by any callback that keeps a ``veto`` of a ``vetoed_step``; empty if none."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    held = [callback.veto for callback in callbacks if getattr(callback, "vetoed_step", None) == trainer.global_step]
    return "; ".join(veto for veto in held if isinstance(veto, str) and veto)


def facts_of(trainer: Trainer, folder: Path, reason: str, metrics: Mapping[str, float], ill: str, circumstances: Mapping[str, Any]) -> Seal:
    """What the seal of a version is to say of the trainer at this moment."""
    prints = fingerprints_of(trainer)
    return Seal(
        sha256="",
        size=0,
        step=trainer.global_step,
        epoch=trainer.current_epoch,
        reason=reason,
        run=folder.resolve().parent.name,
        metrics=metrics,
        ill=ill,
        vetoed=veto_of(trainer),
        config=circumstances.get("config_fingerprint", ""),
        tokenizer=prints.get("tokenizer", ""),
        corpus=prints.get("corpus", ""),
        world_size=trainer.world_size,
        strategy=type(trainer.strategy).__name__,
    )


def plugin_of(trainer: Trainer, packing: str | None) -> CompressedCheckpointIO:
    """The trainer's CompressedCheckpointIO; in the place of Lightning's own a new one is put.

    Raises:
        ValueError: if the trainer has another plugin, or one that packs differently.
    """
    current = trainer.strategy.checkpoint_io
    if type(current) is TorchCheckpointIO:
        current = CompressedCheckpointIO(packing=packing or "optimizer")
        trainer.strategy.checkpoint_io = current
    elif not isinstance(current, CompressedCheckpointIO):
        raise ValueError(
            f"VersionedCheckpoint writes through CompressedCheckpointIO, and this Trainer has the plugin {type(current).__name__}. "
            "Leave that plugin out."
        )
    elif packing is not None and packing != current.packing:
        raise ValueError(f"VersionedCheckpoint got packing={packing!r}, and the Trainer's plugin has {current.packing!r}: set one.")
    return current


def events_beside(folder: Path) -> RecordWriter | None:
    """The events of the run folder that a folder of versions lies in, if somebody keeps some there; a thread writes them."""
    run = RunFolder(folder.parent)
    return RecordWriter(run.events) if run.events.is_file() else None
