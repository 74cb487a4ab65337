"""A run that gathers batches, saved anywhere and resumed, ends in the bits of the uninterrupted one, inside windows and across changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from musictrain.callbacks import AccumulationSchedule, VersionedCheckpoint
from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.storing import load
from musictrain.module import STEP_TOKENS_KEY, MusicModule
from musictrain.optim import WarmupCosine
from tests.checkpoints.exact_runs import MODULES, Numbered, PositionKeepingData, Run, apart, quiet, train
from tests.strategies.ranks import run_ranks
from tests.tiny_runs import PAD, ForeignNetwork, new_module, new_trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

SCHEDULE = {0: 1, 3: 4, 8: 3, 12: 1}
BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None, "max_steps": 16}
BY_EPOCHS = {"max_epochs": 4}


def padded(self: Numbered, number: int, rank: int = 0, world_size: int = 1) -> dict[str, Tensor]:
    """Rows of unlike lengths."""
    batch = plain_batch(self, number)
    for row in range(2):
        batch["tokens"][row, 9 - (3 * number + 2 * row) % 7 :] = PAD
    return {key: value[rank::world_size] for key, value in batch.items()}


plain_batch = Numbered.batch


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setattr(Numbered, "batch", padded)


def fit(folder: Path, module: str, scheduled: bool, **options: Any) -> Run:
    schedule: list[Callback] = [AccumulationSchedule(batches=SCHEDULE)] if scheduled else []
    own = {} if scheduled else {"accumulate_grad_batches": 4}
    run = train(folder, MODULES[module](), *schedule, val_check_interval=3, **own, **options)
    assert run.error is None, run.error
    return run


def check_resumes(whole: Run, versions: list[Version], module: str, scheduled: bool, **options: Any) -> None:
    for version in versions:
        folder = whole.folder.parent / version.name
        again = fit(folder, module, scheduled, ckpt_path=version.path, saving={"after_validation": False}, **options)
        assert apart(whole.end, again.end) == [], version.path.name
        assert again.rows == whole.logger.rows_after(version.name), version.path.name


def whole_run(folder: Path, module: str, scheduled: bool, **options: Any) -> Run:
    return fit(folder, module, scheduled, saving={"every_n_train_steps": 1, "on_epoch_end": True}, **options)


def inside_windows(whole: Run) -> list[Version]:
    return [version for version in whole.versions if GRADIENTS in load(version.path)]


@pytest.mark.parametrize("scheduled", [True, False], ids=["scheduled", "constant"])
def test_a_run_over_padded_rows_resumed_inside_a_window_ends_in_the_same_bits(scheduled: bool, tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "whole", "music", scheduled, **BY_STEPS)
    inside = inside_windows(whole)
    assert len(inside) >= 4
    assert all(load(version.path)[STEP_TOKENS_KEY]["tokens"] > 0 for version in inside)
    check_resumes(whole, [*inside[::2], *whole.versions[1:-1:6]], "music", scheduled, **BY_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("length", [BY_STEPS, BY_EPOCHS], ids=["steps", "epochs"])
@pytest.mark.parametrize("module", ["music", "plain"])
@pytest.mark.parametrize("scheduled", [True, False], ids=["scheduled", "constant"])
def test_resumed_from_any_version_a_run_ends_in_the_same_bits(scheduled: bool, module: str, length: dict[str, Any], tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "whole", module, scheduled, **length)
    assert len(whole.versions) >= 15
    check_resumes(whole, whole.versions[:-1], module, scheduled, **length)


def test_a_window_whose_gradients_nobody_kept_weighs_what_it_still_gathers(tmp_path: Path) -> None:
    """Lightning's own checkpoints hold no gradients: the tokens behind the lost ones must not count."""
    trainer = new_trainer(tmp_path, max_steps=4, accumulate_grad_batches=4, limit_val_batches=0, max_epochs=-1)

    class Save(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if trainer.fit_loop.total_batch_idx == 5:
                trainer.save_checkpoint(tmp_path / "inside.ckpt")

    trainer.callbacks.append(Save())  # type: ignore[attr-defined]
    trainer.fit(module := music(), datamodule=PositionKeepingData())
    assert torch.load(tmp_path / "inside.ckpt", weights_only=True)[STEP_TOKENS_KEY]["tokens"] > 0
    resumed = music()
    sizes: list[float] = []
    again = new_trainer(tmp_path / "again", max_steps=2, accumulate_grad_batches=4, limit_val_batches=0, max_epochs=-1)
    weigh = resumed._bring_to_mean

    def watch() -> None:
        sizes.append(resumed._step_tokens.state_dict()["tokens"])
        weigh()

    resumed._bring_to_mean = watch  # type: ignore[method-assign]
    again.fit(resumed, datamodule=PositionKeepingData(), ckpt_path=tmp_path / "inside.ckpt")
    counted = sum(int((padded(Numbered(1), number)["tokens"][:, 1:] != PAD).sum()) for number in (6, 7))
    assert sizes == [counted]
    assert module.global_step == 4


# Two processes


def music() -> MusicModule:
    return new_module(ForeignNetwork(), schedule=WarmupCosine(warmup_steps=2))


class OnRanks(PositionKeepingData):
    """This rank's row of each batch."""

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        loader.dataset.rank, loader.dataset.world_size = torch.distributed.get_rank(), 2
        return loader


def run_rank(folder: Path, scheduled: bool) -> None:
    """A whole run, and one from each of its versions, on this rank."""
    torch.set_num_threads(1)
    Numbered.batch = padded  # type: ignore[method-assign]
    saving = {"every_n_train_steps": 1, "newest": 1000, "every_n_minutes": 0, "signals": False}

    def run(name: str, ckpt_path: Path | None = None) -> None:
        callbacks: list[Callback] = [VersionedCheckpoint(folder / name, **saving)]  # type: ignore[arg-type]
        own = {} if scheduled else {"accumulate_grad_batches": 4}
        callbacks += [AccumulationSchedule(batches=SCHEDULE)] if scheduled else []
        own |= {"enable_checkpointing": True, "val_check_interval": 3, "devices": 2, "strategy": "ddp", "logger": False, **BY_STEPS}
        with quiet():
            new_trainer(folder, callbacks=callbacks, **own).fit(music(), datamodule=OnRanks(), ckpt_path=ckpt_path)

    run("whole")
    for version in list_versions(folder / "whole")[1:-1:4]:
        run(version.name, version.path)


def run_all(folder: Path) -> None:
    for scheduled in (True, False):
        run_ranks(2, run_rank, folder / str(scheduled), scheduled)


@pytest.mark.slow
def test_two_processes_save_at_the_ends_of_windows_and_end_in_the_same_bits(tmp_path: Path, repository: Path) -> None:
    script = "import sys; from pathlib import Path; from tests.test_accumulation_resume import run_all; run_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for scheduled in ("True", "False"):
        whole, *resumed = sorted((tmp_path / scheduled).iterdir(), key=lambda folder: folder.name != "whole")
        assert len(resumed) >= 4
        end = load(list_versions(whole)[-1].path)
        for folder in resumed:
            assert apart(end, load(list_versions(folder)[-1].path)) == [], folder.name
        assert not any(GRADIENTS in load(version.path) for version in list_versions(whole))
