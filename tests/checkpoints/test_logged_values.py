"""What was logged before a resume is known after it: by schedules that wait for metrics, and in the means of the epoch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.catalog import Version, list_versions
from tests.checkpoints.exact_runs import EPOCH, Plain, Run, apart, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

PLATEAUS: dict[str, dict[str, Any]] = {
    "after each validation of an epoch": {"interval": "epoch", "monitor": "val/loss"},
    "by the means of epochs": {"interval": "epoch", "monitor": "epoch/loss"},
    "after each step": {"interval": "step", "monitor": "train/loss"},
}
LENGTHS: dict[str, dict[str, Any]] = {
    "steps": {"max_steps": 35, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None},
    "epochs in windows of 4": {"max_epochs": 4, "val_check_interval": 3, "accumulate_grad_batches": 4},
}
SAVING = {"every_n_train_steps": 1, "on_epoch_end": True}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def fit(folder: Path, plateau: str, length: str, **options: Any) -> Run:
    run = train(folder, Plain(plateau=PLATEAUS[plateau]), **LENGTHS[length], **options)
    assert run.error is None, run.error
    return run


def chosen(whole: Run, every: int) -> list[Version]:
    """The versions at the ends of epochs, and every so many of the others."""
    batches = {name: batches for name, (_, batches, _) in whole.logger.saves.items()}
    versions = whole.versions[:-1]
    return [version for position, version in enumerate(versions) if position % every == 0 or batches[version.name] % EPOCH == 0]


def check_all(folder: Path, plateau: str, length: str, every: int) -> None:
    whole = fit(folder / "whole", plateau, length, saving=SAVING)
    rates = {group["lr"] for group in whole.end["optimizer_states"][0]["param_groups"]}
    assert rates != {0.01}, "the schedule has had something to do"
    for version in chosen(whole, every):
        again = fit(folder / version.name, plateau, length, saving={"after_validation": False}, ckpt_path=version.path)
        assert apart(whole.end, again.end) == [], version.path.name
        assert again.rows == whole.logger.rows_after(version.name), version.path.name


@pytest.mark.parametrize("plateau", PLATEAUS)
def test_a_schedule_that_waits_for_metrics_goes_on_to_the_bit(plateau: str, tmp_path: Path) -> None:
    check_all(tmp_path, plateau, "steps", every=12)


@pytest.mark.slow
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("plateau", PLATEAUS)
def test_so_it_does_from_any_version(plateau: str, length: str, tmp_path: Path) -> None:
    check_all(tmp_path, plateau, length, every=1)


TWO = """
import sys
import lightning
from lightning.pytorch.demos.boring_classes import BoringModel
from musictrain.callbacks import VersionedCheckpoint

class Logs(BoringModel):
    def training_step(self, batch, batch_idx):
        output = super().training_step(batch, batch_idx)
        self.log("train/loss", output["loss"], on_step=False, on_epoch=True, sync_dist=True)
        return output

saving = VersionedCheckpoint(dirpath=sys.argv[1], monitor=None, after_validation=False, on_epoch_end=True)
trainer = lightning.Trainer(max_epochs=2, limit_train_batches=3, accelerator="cpu", devices=2, strategy="ddp", callbacks=[saving],
    logger=False, enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0)
trainer.fit(Logs())
"""


@pytest.mark.slow
def test_two_processes_save_the_mean_of_both_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO)
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "versions")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = {version.step: set(version.seal.metrics) for version in list_versions(tmp_path / "versions") if version.seal is not None}
    assert metrics == {0: set(), 3: {"train/loss"}, 6: {"train/loss"}}
