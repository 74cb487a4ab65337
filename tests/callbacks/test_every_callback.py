"""Every exported callback works alone in a plain Trainer with a module that knows nothing of musictrain."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

import musictrain.callbacks
from tests.strategies.ranks import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
CALLBACKS = [name for name in musictrain.callbacks.__all__ if issubclass(getattr(musictrain.callbacks, name), Callback)]


def fit(folder: Path, callback: Callback, steps: int, ckpt_path: str | None = None, **options: Any) -> lightning.Trainer:
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
        **options,
    )
    trainer.fit(BoringModel(), ckpt_path=ckpt_path)
    return trainer


def test_there_are_callbacks() -> None:
    assert {
        "AnomalyAlerts",
        "CurriculumSchedule",
        "VersionedCheckpoint",
        "RunRecorder",
        "WriteSamples",
        "MusicalEarlyStopping",
        "EMAWeightAveraging",
        "GradualUnfreezing",
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


def fit_as_rank(folder: Path, name: str) -> None:
    """One of two processes; leaves the step at which it ended."""
    trainer = fit(folder, getattr(musictrain.callbacks, name)(), 3, devices=2, strategy="ddp")
    (folder / f"rank{trainer.global_rank}").write_text(str(trainer.global_step))


def fit_all(folder: Path) -> None:
    """Each callback in two processes of its own; one that fails leaves no step, and its traceback on standard error."""
    for name in CALLBACKS:
        (folder / name).mkdir()
        with contextlib.suppress(RuntimeError):
            run_ranks(2, fit_as_rank, folder / name, name)


@pytest.fixture(scope="module")
def with_two_processes(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> tuple[Path, str]:
    """A folder for each callback, and what was said; one program imports everything once, and forks."""
    folder = tmp_path_factory.mktemp("ranks")
    script = "import sys; from pathlib import Path; from tests.callbacks.test_every_callback import fit_all; fit_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
def test_it_runs_with_two_processes(name: str, with_two_processes: tuple[Path, str]) -> None:
    folder, said = with_two_processes
    assert {path.name: path.read_text() for path in (folder / name).glob("rank*")} == {"rank0": "3", "rank1": "3"}, said[-3000:]
