"""The row that Lightning will log next for what is done already: a version that is saved just before it must know of it.

Lightning logs the values of a step after every callback's ``on_train_batch_end``, and those of an epoch after ``on_train_epoch_end``: what
is saved in these hooks is gone on from behind that row, which nobody would log again.
"""

from __future__ import annotations

from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Trainer


def row_to_come(trainer: Trainer) -> dict[str, Any]:
    """The values that are about to be logged, with ``epoch``; empty if there are none.

    With several processes all must ask: values that are reduced over them are reduced here.
    """
    if trainer.state.fn != "fit" or not trainer.training or not (_epoch_ends(trainer) or _step_ends(trainer)):
        return {}
    values = dict(convert_tensors_to_scalars(trainer._logger_connector.metrics["log"]))
    values.pop("step", None)
    return {"epoch": trainer.current_epoch, **values} if values else {}


def _epoch_ends(trainer: Trainer) -> bool:
    epochs: Any = trainer.fit_loop.epoch_progress.total
    return epochs.completed < epochs.processed


def _step_ends(trainer: Trainer) -> bool:
    inner: Any = trainer.fit_loop.epoch_loop
    batches = inner.batch_progress.total
    if batches.completed >= batches.processed or not trainer._logger_connector.should_update_logs:
        return False
    return not (trainer.lightning_module.automatic_optimization and trainer.fit_loop._should_accumulate())
