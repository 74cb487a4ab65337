"""Every exported callback works alone in a plain Trainer with a module that knows nothing of musictrain."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

import musictrain.callbacks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
CALLBACKS = [name for name in musictrain.callbacks.__all__ if issubclass(getattr(musictrain.callbacks, name), Callback)]


def fit(folder: Path, callback: Callback, steps: int, ckpt_path: str | None = None) -> lightning.Trainer:
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=isinstance(callback, lightning.pytorch.callbacks.ProgressBar),
        enable_checkpointing=isinstance(callback, lightning.pytorch.callbacks.Checkpoint),
        limit_val_batches=2,
    )
    trainer.fit(BoringModel(), ckpt_path=ckpt_path)
    return trainer


def test_there_are_callbacks() -> None:
    assert {
        "VersionedCheckpoint",
        "RunRecorder",
        "WriteSamples",
        "MusicalEarlyStopping",
        "EMAWeightAveraging",
        "PlainProgress",
        "ThroughputReport",
    } <= set(CALLBACKS)


@pytest.mark.parametrize("name", CALLBACKS)
def test_it_runs_alone_and_its_state_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    make = getattr(musictrain.callbacks, name)
    first = make()
    trainer = fit(tmp_path / "first", first, 4)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    stored = torch.load(tmp_path / "state.ckpt", weights_only=True)["callbacks"].get(first.state_key, {})
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == first.state_dict() == stored
    second = make()
    fit(tmp_path / "second", second, 6, str(tmp_path / "state.ckpt"))
    assert second.state_key == first.state_key


SCRIPT = """
import sys
import lightning
from lightning.pytorch.demos.boring_classes import BoringModel
import musictrain.callbacks

callback = getattr(musictrain.callbacks, sys.argv[1])()
trainer = lightning.Trainer(
    default_root_dir=sys.argv[2], max_steps=3, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], logger=False,
    enable_model_summary=False, enable_progress_bar=isinstance(callback, lightning.pytorch.callbacks.ProgressBar),
    enable_checkpointing=isinstance(callback, lightning.pytorch.callbacks.Checkpoint), limit_val_batches=2,
)
trainer.fit(BoringModel())
print(f"rank {trainer.global_rank} done after {trainer.global_step}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
def test_it_runs_with_two_processes(name: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), name, str(tmp_path / "run")], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rank 0 done after 3" in done.stdout
    assert "rank 1 done after 3" in done.stdout
