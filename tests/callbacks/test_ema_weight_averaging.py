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


class Validated(Callback):
    """The weights that validations saw, by the number of steps."""

    def __init__(self) -> None:
        self.seen: dict[int, torch.Tensor] = {}
        self.raw: dict[int, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.raw[trainer.global_step] = pl_module.layer.weight.detach().clone()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.seen[trainer.global_step] = pl_module.layer.weight.detach().clone()


def validated(steps: int, averaging: Callback, folder: Path, ckpt_path: Path | None = None) -> tuple[BoringModel, Validated]:
    torch.manual_seed(0)
    module, watch = BoringModel(), Validated()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
    every = {"max_steps": steps, "val_check_interval": 1, "limit_val_batches": 1, "limit_train_batches": 8, "num_sanity_val_steps": 0}
    trainer = Trainer(accelerator="cpu", callbacks=[averaging, watch, SaveInTheMiddle(folder)], **every, **quiet)
    trainer.fit(module, ckpt_path=ckpt_path)
    return module, watch


def test_before_the_average_begins_it_is_the_weights_of_the_step_that_are_validated_saved_and_left(tmp_path: Path) -> None:
    module, watch = validated(5, EMAWeightAveraging(decay=0.5, update_starting_at_step=9), tmp_path)
    assert set(watch.seen) == {1, 2, 3, 4, 5}
    assert all(torch.equal(watch.seen[step], watch.raw[step]) for step in watch.seen)
    assert torch.equal(module.layer.weight, watch.raw[5])
    for name in ("True", "False"):
        stored = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert torch.equal(stored["state_dict"]["layer.weight"], watch.raw[4])


@pytest.mark.parametrize("resumed", [False, True])
def test_an_average_begins_as_a_copy_whatever_was_saved_before_it(resumed: bool, tmp_path: Path) -> None:
    _, watch = validated(7, EMAWeightAveraging(decay=0.5, update_starting_at_step=4), tmp_path)
    if resumed:
        _, watch = validated(7, EMAWeightAveraging(decay=0.5, update_starting_at_step=4), tmp_path / "again", tmp_path / "False.ckpt")
        assert set(watch.raw) == {5, 6, 7}
    average = watch.raw[5]
    assert torch.equal(watch.seen[5], average)
    for step in (6, 7):
        average = torch.lerp(average, watch.raw[step], 0.5)
        torch.testing.assert_close(watch.seen[step], average)


def test_a_configuration_may_name_it_with_lightnings_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    words = ["--trainer.callbacks=musictrain.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
    cli = LightningCLI(BoringModel, run=False, args=[*words, "--trainer.callbacks.update_starting_at_step=3", "--trainer.logger=false"])
    (averaging,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, EMAWeightAveraging)]
    assert averaging.update_starting_at_step == 3
    assert averaging.state_key == LightningEMAWeightAveraging().state_key
