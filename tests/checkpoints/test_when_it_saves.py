"""When a fit saves: by steps, clock, epochs and time limits, once for each state, and several processes at the same step."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


def saves(folder: Path, callbacks: tuple[Callback, ...] = (), trainer: dict[str, Any] | None = None, **rules: Any) -> list[tuple[int, str]]:
    """Step and reason of each version of a fit of 12 steps in epochs of 5 batches."""
    saving = VersionedCheckpoint(dirpath=folder / "checkpoints", newest=100, monitor=None, **rules)
    options = {"max_steps": 12, "max_epochs": -1, "limit_train_batches": 5, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    lightning.Trainer(callbacks=[*callbacks, saving], **{**options, **quiet, **(trainer or {})}).fit(BoringModel())
    return told(folder)


def told(folder: Path) -> list[tuple[int, str]]:
    return [(version.step, version.seal.reason) for version in list_versions(folder / "checkpoints") if version.seal is not None]


def test_the_beginning_validations_and_the_end_are_saved(tmp_path: Path) -> None:
    assert saves(tmp_path) == [(0, "start"), (5, "validation"), (10, "validation"), (12, "end")]


def test_steps_and_epochs_are_saved_once_each(tmp_path: Path) -> None:
    found = saves(tmp_path, every_n_train_steps=5, on_epoch_end=True, after_validation=False, at_start=False)
    assert [step for step, _ in found] == [5, 10, 12], "a step and an epoch that end together are one version"
    without_validation = {"limit_val_batches": 0}
    found = saves(tmp_path / "other", trainer=without_validation, every_n_train_steps=4, on_epoch_end=True, at_start=False)
    assert found == [(4, "step"), (5, "epoch"), (8, "step"), (10, "epoch"), (12, "end")]


class Slow(Callback):
    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(0.05)


def test_the_clock_saves_too(tmp_path: Path) -> None:
    found = saves(tmp_path, callbacks=(Slow(),), every_n_minutes=0.1 / 60, after_validation=False, at_start=False)
    assert found[-1] == (12, "end")
    assert {reason for _, reason in found[:-1]} == {"time"}


def test_everything_is_saved_before_slurm_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 170))
    with pytest.raises(SIGTERMException) as stop:
        saves(tmp_path, time_limit_margin_minutes=3)
    assert stop.value.code == 143
    assert told(tmp_path) == [(0, "start"), (1, "signal")]
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 7200))
    assert saves(tmp_path / "later")[-1] == (12, "end")


def test_a_trial_run_of_few_batches_saves_nothing(tmp_path: Path) -> None:
    assert saves(tmp_path, trainer={"fast_dev_run": 2}) == []


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"newest": -1}, "newest=-1, expected a whole number from 0 on"),
        ({"every_n_train_steps": -5}, "every_n_steps=-5"),
        ({"metrics": {"val/groove": "highest"}}, "'highest' for the metric 'val/groove', expected min or max"),
    ],
)
def test_rules_that_cannot_work_are_refused_at_once(rules: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        VersionedCheckpoint(**rules)


TWO = """
import os, signal, sys, time
import lightning
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from musictrain.callbacks import VersionedCheckpoint

class Told(Callback):
    def on_train_batch_end(self, trainer, *args):
        time.sleep(0.01)
        if trainer.global_rank == 1 and trainer.global_step == 20:
            os.kill(os.getpid(), signal.SIGTERM)

saving = VersionedCheckpoint(dirpath=sys.argv[1], monitor=None, after_validation=False)
trainer = lightning.Trainer(max_steps=100_000, max_epochs=-1, accelerator="cpu", devices=2, strategy="ddp", callbacks=[Told(), saving],
    logger=False, enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0)
try:
    trainer.fit(BoringModel())
finally:
    print(f"rank {trainer.global_rank} left after step {trainer.global_step}", flush=True)
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO)
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "versions")], capture_output=True, text=True, timeout=600)
    # The two write at once, and may share a line.
    left = re.findall(r"rank \d left after step (\d+)(?=rank|\n|$)", done.stdout)
    assert len(left) == 2, done.stderr[-2000:]
    steps = set(left)
    assert len(steps) == 1
    last = list_versions(tmp_path / "versions")[-1]
    assert last.seal is not None
    assert (str(last.step), last.seal.reason) == (steps.pop(), "signal")
    assert done.returncode == 143
