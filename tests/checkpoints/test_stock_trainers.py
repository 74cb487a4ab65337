"""The plugin under Lightning's own ModelCheckpoint, and versions in Trainers that have nothing else of musictrain, or nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints import CompressedCheckpointIO, list_versions
from musictrain.checkpoints.packing import PACKINGS
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import verify
from tests.checkpoints.small_fits import batches
from tests.tiny_runs import same_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
]
BATCHES = 4


class Boring(BoringModel):
    """BoringModel with moments worth packing, and a metric that falls, then rises."""

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", abs(self.trainer.current_epoch - 2) + 0.5)
        return super().validation_step(batch, batch_idx)

    def train_dataloader(self) -> Any:
        return batches(width=32, num=BATCHES)

    def val_dataloader(self) -> Any:
        return batches(width=32, num=1)


def trainer_of(folder: Path, *callbacks: Any, plugin: CompressedCheckpointIO | None = None, epochs: int = 5, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    plugins = [plugin] if plugin is not None else None
    return lightning.Trainer(
        default_root_dir=folder, max_epochs=epochs, callbacks=list(callbacks), plugins=plugins, num_sanity_val_steps=0, **quiet, **options
    )


def boring() -> Boring:
    torch.manual_seed(1)
    return Boring()


def model_checkpoint(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{epoch}", monitor="val/loss", save_top_k=2, save_last=True, auto_insert_metric_name=False)


@pytest.mark.parametrize("packing", PACKINGS)
def test_lightnings_own_callback_keeps_its_best_its_last_and_nothing_else(packing: str, tmp_path: Path) -> None:
    stock, ours, packed = model_checkpoint(tmp_path / "stock"), model_checkpoint(tmp_path / "ours"), CompressedCheckpointIO(packing)
    without, model = boring(), boring()
    trainer_of(tmp_path, stock).fit(without)
    trainer = trainer_of(tmp_path, ours, plugin=packed)
    trainer.fit(model)
    assert same_weights(model, without)
    files = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "stock").iterdir()) == ["1.ckpt", "2.ckpt", "last.ckpt"]
    assert [Path(path).name for path in (ours.best_model_path, ours.last_model_path)] == ["2.ckpt", "last.ckpt"]
    for path in (tmp_path / "ours").iterdir():
        assert verify(path).packing == packing
        expected = torch.load(tmp_path / "stock" / path.name, weights_only=True)
        assert all(torch.equal(tensor, load(path)["state_dict"][name]) for name, tensor in expected["state_dict"].items())
    assert trainer.test(ckpt_path="best", verbose=False) == [{}]
    assert trainer.ckpt_path == ours.best_model_path


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_fit_with_lightnings_own_callback_goes_on_from_its_last_file(packing: str, tmp_path: Path) -> None:
    whole, half, resumed = boring(), boring(), Boring()
    trainer_of(tmp_path, epochs=5, enable_checkpointing=False).fit(whole)
    trainer_of(tmp_path, model_checkpoint(tmp_path / "kept"), plugin=CompressedCheckpointIO(packing), epochs=3).fit(half)
    again = trainer_of(tmp_path, model_checkpoint(tmp_path / "kept"), plugin=CompressedCheckpointIO(packing))
    again.fit(resumed, ckpt_path="last")
    assert again.global_step == 5 * BATCHES
    assert same_weights(resumed, whole)
    assert not same_weights(half, whole)


@pytest.mark.parametrize("packing", [name for name in PACKINGS if name != "all"])
def test_where_the_weights_are_plain_anybody_loads_them(packing: str, tmp_path: Path) -> None:
    model = boring()
    trainer_of(tmp_path, model_checkpoint(tmp_path), plugin=CompressedCheckpointIO(packing), epochs=2).fit(model)
    again = Boring.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert same_weights(again, model)
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


# Versions


def versioned(folder: Path, **rules: Any) -> VersionedCheckpoint:
    return VersionedCheckpoint(folder, newest=10, **rules)


def test_a_new_trainer_finds_the_best_and_the_last_version(tmp_path: Path) -> None:
    whole, resumed = boring(), Boring()
    trainer_of(tmp_path, enable_checkpointing=False).fit(whole)
    trainer_of(tmp_path, versioned(tmp_path / "versions"), epochs=4).fit(boring())
    steps = {version.step: version.path for version in list_versions(tmp_path / "versions")}
    assert sorted(steps) == [0, 4, 8, 12, 16]
    measuring = trainer_of(tmp_path, versioned(tmp_path / "versions"))
    measuring.test(Boring(), ckpt_path="best", verbose=False)
    assert measuring.ckpt_path == str(steps[3 * BATCHES])
    going_on = trainer_of(tmp_path, versioned(tmp_path / "versions"))
    going_on.fit(resumed, ckpt_path="last")
    assert going_on.ckpt_path == str(steps[4 * BATCHES])
    assert same_weights(resumed, whole)


def test_best_and_last_of_an_empty_folder_are_lightnings_own_answers(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, versioned(tmp_path / "versions"))
    with pytest.raises(ValueError, match="not configured to save the best model"):
        trainer.test(Boring(), ckpt_path="best")
    with pytest.warns(UserWarning, match="there is no last checkpoint available"):
        trainer.fit(boring(), ckpt_path="last")


def test_a_trainer_without_musictrain_goes_on_from_an_unpacked_version(tmp_path: Path) -> None:
    whole, resumed = boring(), Boring()
    trainer_of(tmp_path, enable_checkpointing=False).fit(whole)
    trainer_of(tmp_path, versioned(tmp_path / "versions", packing="none"), epochs=3).fit(boring())
    last = list_versions(tmp_path / "versions")[-1]
    stock = trainer_of(tmp_path, enable_checkpointing=False)
    stock.fit(resumed, ckpt_path=last.path, weights_only=True)
    assert (last.step, stock.global_step) == (3 * BATCHES, 5 * BATCHES)
    assert same_weights(resumed, whole)
    assert same_weights(Boring.load_from_checkpoint(list_versions(tmp_path / "versions")[0].path, weights_only=True), boring())


def test_a_version_saved_by_the_plugin_alone_is_gone_on_from_by_the_callback(tmp_path: Path) -> None:
    whole, resumed = boring(), Boring()
    trainer_of(tmp_path, enable_checkpointing=False).fit(whole)
    trainer_of(tmp_path, model_checkpoint(tmp_path / "kept"), plugin=CompressedCheckpointIO("all"), epochs=2).fit(boring())
    trainer_of(tmp_path, versioned(tmp_path / "versions")).fit(resumed, ckpt_path=tmp_path / "kept" / "last.ckpt")
    assert same_weights(resumed, whole)
