"""What a resumed run must know of the values logged before: the last of each, which rules and schedules read, and the epoch's sums so far.

Lightning saves neither. Without them a ``ReduceLROnPlateau`` misses a step or ends the run, and ``self.log(..., on_epoch=True)`` gives the
mean of the rest of an epoch for that of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync

LOGGED = "musictrain_logged"


def logged_values(trainer: Trainer) -> dict[str, Any]:
    """``metrics``: the last value of each. ``sums``: of the epoch so far, what ``self.log`` reduces to a mean, sum, minimum or maximum.

    With several processes each has sums of its own: they are left out.
    """
    metrics = {name: value.detach() for name, value in trainer.callback_metrics.items()}
    sums = _sums(trainer) if trainer.world_size == 1 else []
    return {"metrics": metrics, "sums": {key: _sum_of(item) for key, item in sums if not item.has_reset}}


def _sums(trainer: Trainer) -> list[tuple[str, Any]]:
    """What Lightning reduces over the epoch, by its key."""
    results: Any = trainer.fit_loop.epoch_loop._results
    return [(key, item) for key, item in results.items() if item.is_tensor and item.meta.on_epoch]


def _sum_of(item: Any) -> dict[str, Any]:
    how = {name: getattr(item.meta, name) for name in ("fx", "name", "prog_bar", "logger", "on_step")}
    return {"value": item.value, "size": getattr(item, "cumulated_batch_size", None), "reduce": item.meta.reduce_fx.__name__, "how": how}


class LoggedBefore:
    """Gives a resumed fit the values that ``logged_values`` has saved."""

    def __init__(self) -> None:
        self._metrics: Mapping[str, Any] = {}
        self._sums: dict[str, Any] = {}
        self._stand_ins: list[str] = []
        self._marks: dict[str, tuple[Any, Any]] = {}

    def load(self, checkpoint: Mapping[str, Any]) -> None:
        """Take them out of a checkpoint; nothing if it has none."""
        logged = checkpoint.get(LOGGED) or {}
        self._metrics, self._sums = logged.get("metrics", {}), dict(logged.get("sums", {}))

    def give_back(self, trainer: Trainer) -> None:
        """To be called in ``on_train_start``, before the loops are told that an epoch is over: what waits for metrics is made up for."""
        metrics, self._metrics = self._metrics, {}
        if not metrics:
            return
        loop: Any = trainer.fit_loop
        device = trainer.strategy.root_device
        trainer._logger_connector._callback_metrics.update({name: value.to(device) for name, value in metrics.items()})
        ended = loop.restarted_on_epoch_end or loop.resumed_on_epoch_end
        if loop.epoch_loop.restarted_on_train_batch_end:
            loop.epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if ended:
            self._sums = {}
            loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        elif loop.epoch_loop._num_ready_batches_reached():
            self._stand_in(trainer)
        # Lightning would pass over such schedules at the end of the epoch, for want of metrics.
        loop._restarting = False

    def _stand_in(self, trainer: Trainer) -> None:
        """No batch of this epoch is left, so that nothing would be logged any more: its sums are put where Lightning looks for them."""
        results: Any = trainer.fit_loop.epoch_loop._results
        for key, saved in self._sums.items():
            meta = _Metadata(**saved["how"], on_epoch=True, reduce_fx=saved["reduce"])
            meta.sync = _Sync()
            results[key] = item = _ResultMetric(meta, is_tensor=True).to(trainer.strategy.root_device)
            item.update(item.value, 0)
        self._stand_ins = list(self._sums)
        self.add_sums(trainer)

    def batch_starts(self, trainer: Trainer) -> None:
        """Nothing of this batch has been logged yet: what stood in for values of an epoch that is over gives way."""
        for key in self._stand_ins:
            trainer.fit_loop.epoch_loop._results.pop(key, None)
        self._stand_ins = []
        self.add_sums(trainer)

    def take_back(self, trainer: Trainer) -> None:
        """Forget what was logged since ``add_sums``: the batch has failed, and will be done again."""
        for key, item in _sums(trainer):
            if key not in self._marks:
                item.reset()
            elif not item.has_reset:
                item.value, size = self._marks[key]
                if size is not None:
                    item.cumulated_batch_size = size

    def add_sums(self, trainer: Trainer) -> None:
        """Add the sums to those that have begun since; to be called whenever something may have been logged."""
        results: Any = trainer.fit_loop.epoch_loop._results if self._sums else {}
        for key in [key for key in self._sums if key in results and not results[key].has_reset]:
            item, saved = results[key], self._sums.pop(key)
            value = saved["value"].to(item.value.device)
            if item.meta.is_max_reduction or item.meta.is_min_reduction:
                item.value = item.meta.reduce_fx(value, item.value)
            else:
                item.value = value + item.value
            if item.meta.is_mean_reduction:
                item.cumulated_batch_size = torch.as_tensor(saved["size"]).to(item.value.device) + item.cumulated_batch_size
            item._computed = None
        # Lightning makes a new tensor at each addition, so that the old ones can be kept as they are.
        self._marks = {key: (item.value, getattr(item, "cumulated_batch_size", None)) for key, item in _sums(trainer) if not item.has_reset}
