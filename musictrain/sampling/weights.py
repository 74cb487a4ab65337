"""The weights that are played from: those that are validated, or the best so far."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from musictrain.checkpoints.whole_network import agreed, network_of_version

log = logging.getLogger(__name__)


@contextlib.contextmanager
def averaged_weights(trainer: Trainer, pl_module: LightningModule, asks: Callback | None = None) -> Iterator[None]:
    """Inside, the module has the weights that are validated: those of a moving average, if one is kept.

    Args:
        trainer: of the fit.
        pl_module: whose weights.
        asks: the callback that asks from its ``on_validation_epoch_end``. The averages that stand behind it in the list have not been put
            away yet when it is asked; None if all have.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    put_away = callbacks if asks is None else callbacks[: callbacks.index(asks)]
    averages = [callback for callback in put_away if isinstance(callback, WeightAveraging)]
    for callback in averages:
        callback.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for callback in averages:
            callback.on_validation_epoch_end(trainer, pl_module)


def best_network(trainer: Trainer, pl_module: LightningModule) -> nn.Module | None:
    """The network with the weights of the best checkpoint, on the first process; None on all where there is none that can be used."""
    wait = getattr(trainer.strategy.checkpoint_io, "wait", None)
    if wait is not None:
        wait()  # the best may be the last, which is being written
    watching = [callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None) is not None]
    path = agreed(str(getattr(watching[0], "best_model_path", "")) if watching else "")
    network = None
    if trainer.is_global_zero and path and Path(path).exists():
        try:
            network = network_of_version(trainer, pl_module, path)
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            log.warning("%s cannot be sampled from: %s", path, error)
    return network
