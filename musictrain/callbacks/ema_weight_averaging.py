"""EMAWeightAveraging: Lightning's moving average of the weights, also where only weights are saved.

Lightning puts the average into a full checkpoint alone: ``save_weights_only=True`` and ``trainer.save_checkpoint(path, weights_only=True)``
store the raw weights of the last step without a word. Here every kind of checkpoint holds the average in ``state_dict``.

When: small data sets, long runs; what is validated, kept as best and sampled from is the average. Cost: a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging

# torch's AveragedModel keeps the module under this name.
PREFIX = "module."


def _nothing() -> None:
    return


class EMAWeightAveraging(LightningEMAWeightAveraging):
    """As Lightning's, with its arguments: ``decay``, ``update_every_n_steps``, ``update_starting_at_step``..."""

    _unwrap: Callable[[], None] = staticmethod(_nothing)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take part when only weights are saved: Lightning then asks the module, and no callback."""
        own = pl_module.on_save_checkpoint

        def with_average(checkpoint: dict[str, Any]) -> None:
            if "callbacks" not in checkpoint and self._average_model is not None:
                checkpoint["state_dict"] = self._average_state()
            own(checkpoint)

        self._unwrap = _shadow(pl_module, "on_save_checkpoint", with_average)

    def _average_state(self) -> dict[str, Any]:
        assert self._average_model is not None
        state = self._average_model.state_dict()
        return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}

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
