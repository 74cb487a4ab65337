"""EMAWeightAveraging: Lightning's moving average of the weights, also where only weights are saved, and where they lie in shares.

Lightning puts the average into a full checkpoint alone: ``save_weights_only=True`` and ``trainer.save_checkpoint(path, weights_only=True)``
store the raw weights of the last step without a word. Here every kind of checkpoint holds the average in ``state_dict``. Lightning copies
the whole module, which fails for modules that are sharded (FSDP2, tensor parallel); there every process averages its own share. And until
``update_starting_at_step`` Lightning validates, saves and in the end leaves behind the weights that training began with; here it is those
of the step, for they are what an average that begins now begins with.

When: small data sets, long runs; what is validated, kept as best and sampled from is the average. Cost: a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from musictrain.checkpoints.consolidating import RAW
from musictrain.checkpoints.sharded import writes_directories
from musictrain.checkpoints.sharded_average import ShardedAverage, load_raw
from musictrain.checkpoints.sharded_saving import whole

# torch's AveragedModel keeps the module under this name.
PREFIX = "module."


def _nothing() -> None:
    return


class EMAWeightAveraging(LightningEMAWeightAveraging):
    """As Lightning's, with its arguments: ``decay``, ``update_every_n_steps``, ``update_starting_at_step``..."""

    _unwrap: Callable[[], None] = staticmethod(_nothing)
    _shares: ShardedAverage | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module, unless it is to lie in shares: those are not there yet."""
        self._shares = None
        if isinstance(trainer.strategy, ModelParallelStrategy):
            self._average_model = None
        else:
            super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take part when only weights are saved: Lightning then asks the module, and no callback."""
        if isinstance(trainer.strategy, ModelParallelStrategy):
            self._shares = ShardedAverage(pl_module, self._kwargs["avg_fn"], self._use_buffers, self._device)
            self._average_model = self._shares  # type: ignore[assignment]
        own = pl_module.on_save_checkpoint

        def with_average(checkpoint: dict[str, Any]) -> None:
            if "callbacks" not in checkpoint and self._average_model is not None:
                self._follow(pl_module)
                checkpoint["state_dict"] = self._average_state(trainer, pl_module, checkpoint["state_dict"])
            own(checkpoint)

        self._unwrap = _shadow(pl_module, "on_save_checkpoint", with_average)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average behind."""
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)

    def _follow(self, pl_module: LightningModule) -> None:
        """Take the weights as they are until there is an average."""
        average = self._average_model
        if average is not None and not int(average.n_averaged):
            average.update_parameters(pl_module)  # of nothing averaged yet, it is a copy
            average.n_averaged.zero_()

    def _average_state(self, trainer: Trainer, pl_module: LightningModule, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        if self._shares is None:
            assert self._average_model is not None
            state = self._average_model.state_dict()
            return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        if writes_directories(trainer.strategy):
            return self._shares.state(pl_module, state_dict)
        # The first process writes it all; the others take part in putting it together.
        gathered = {name: whole(value) for name, value in self._shares.state(pl_module, pl_module.state_dict()).items()}
        return gathered if trainer.is_global_zero else {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average in the place of the weights, and those beside it; of shares, all into what is written in shares."""
        self._follow(pl_module)
        if self._shares is None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            return
        raw, average = checkpoint["state_dict"], self._average_state(trainer, pl_module, checkpoint["state_dict"])
        if writes_directories(trainer.strategy):
            average |= {RAW + name: value for name, value in raw.items()}
        else:
            checkpoint["current_model_state"] = raw
        checkpoint["state_dict"] = average
        checkpoint["averaging_state"] = {"n_averaged": self._shares.n_averaged.clone()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take up average and raw weights, whatever strategy has saved them."""
        if self._shares is None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
            return
        averaging = checkpoint.get("averaging_state")
        self._shares.take(pl_module, checkpoint.get("state_dict"), averaging["n_averaged"] if averaging else None)
        if averaging and "current_model_state" in checkpoint:
            options = StateDictOptions(full_state_dict=True, strict=pl_module.strict_loading)
            set_model_state_dict(pl_module, checkpoint["current_model_state"], options=options)
        elif averaging and "state_dict" not in checkpoint:
            load_raw(pl_module, trainer.strategy.broadcast(str(trainer.ckpt_path)))

    def _swap_models(self, pl_module: LightningModule) -> None:
        if self._shares is None:
            super()._swap_models(pl_module)
        else:
            self._shares.swap(pl_module)

    def _copy_average_to_current(self, pl_module: LightningModule) -> None:
        if self._shares is None:
            super()._copy_average_to_current(pl_module)
        else:
            self._shares.copy_to(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was; the training's end has put the average into it."""
        unwrap, self._unwrap = self._unwrap, _nothing
        unwrap()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self.teardown(trainer, pl_module, "fit")


def _shadow(module: LightningModule, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let an instance's method be another for a time; gives back what ends that."""
    module.__dict__[name] = function

    def end() -> None:
        module.__dict__.pop(name, None)

    return end
