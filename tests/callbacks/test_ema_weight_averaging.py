"""What is saved of a run with averaged weights is the average, whether more is saved or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.callbacks import EMAWeightAveraging

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


class SaveInTheMiddle(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 4:
            for only in (True, False):
                trainer.save_checkpoint(self.folder / f"{only}.ckpt", weights_only=only)


def weights_saved(folder: Path, averaging: Callback) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, BoringModel]:
    """The weights in a weights-only checkpoint, in a full one, and the raw ones of that step."""
    torch.manual_seed(0)
    module = BoringModel()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    Trainer(max_steps=6, accelerator="cpu", callbacks=[averaging, SaveInTheMiddle(folder)], limit_val_batches=0, **quiet).fit(module)
    only, full = (torch.load(folder / f"{name}.ckpt", weights_only=True) for name in ("True", "False"))
    return only["state_dict"]["layer.weight"], full["state_dict"]["layer.weight"], full["current_model_state"]["layer.weight"], module


def test_a_weights_only_checkpoint_holds_the_average(tmp_path: Path) -> None:
    only, full, raw, module = weights_saved(tmp_path, EMAWeightAveraging(decay=0.5))
    assert torch.equal(only, full)
    assert not torch.equal(only, raw)
    assert "on_save_checkpoint" not in module.__dict__, "the module is left as it was"


def test_lightnings_own_saves_the_raw_weights_there(tmp_path: Path) -> None:
    only, full, raw, _ = weights_saved(tmp_path, LightningEMAWeightAveraging(decay=0.5))
    assert torch.equal(only, raw)
    assert not torch.equal(only, full)


def test_a_configuration_may_name_it_with_lightnings_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    words = ["--trainer.callbacks=musictrain.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    cli = LightningCLI(BoringModel, run=False, args=[*words, "--trainer.callbacks.update_starting_at_step=3", "--trainer.logger=false"])
    (averaging,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
    assert averaging.update_starting_at_step == 3
    assert averaging.state_key == LightningEMAWeightAveraging().state_key
