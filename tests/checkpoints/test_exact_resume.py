"""A run that is resumed from any of its versions ends in the bits in which it would have ended, and logs what it would have logged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from musictrain.checkpoints.catalog import Version
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.storing import load
from tests.checkpoints.exact_runs import EPOCH, MODULES, Run, apart, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

BY_STEPS = {"max_epochs": -1, "check_val_every_n_epoch": None}
LENGTHS: dict[str, dict[str, Any]] = {
    "60 steps": {"max_steps": 60, "val_check_interval": 4, **BY_STEPS},
    "60 batches in windows of 4": {"max_steps": 16, "val_check_interval": 3, "accumulate_grad_batches": 4, **BY_STEPS},
    "5 epochs": {"max_epochs": 5, "val_check_interval": 3},
    "5 epochs in windows of 4": {"max_epochs": 5, "val_check_interval": 3, "accumulate_grad_batches": 4},
    "6 epochs validated by twos": {"max_epochs": 6, "check_val_every_n_epoch": 2, "accumulate_grad_batches": 2},
    "steps and epochs": {"max_epochs": 5, "max_steps": 50, "val_check_interval": 3},
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums come out the same, and no seed is left by another test."""
    torch.set_num_threads(1)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def fit(folder: Path, module: str, length: str, **options: Any) -> Run:
    """A fit with averaged weights."""
    run = train(folder, MODULES[module](), EMAWeightAveraging(decay=0.9), **LENGTHS[length], **options)
    assert run.error is None, run.error
    return run


def whole_run(folder: Path, module: str, length: str, **options: Any) -> Run:
    """An uninterrupted fit with a version after every step, validation and epoch."""
    return fit(folder, module, length, saving={"every_n_train_steps": 1, "on_epoch_end": True}, **options)


def check_resume(whole: Run, version: Version, resume: Callable[..., Run]) -> None:
    """Resume from one version, and compare the end and every line of the log."""
    again = resume(whole.folder.parent / version.name, ckpt_path=version.path, saving={"after_validation": False})
    where = f"resumed from {version.path.name}, saved for {version.seal.reason if version.seal else ''}"
    assert apart(whole.end, again.end) == [], where
    assert again.rows == whole.logger.rows_after(version.name), where


def telling(whole: Run) -> list[Version]:
    """The versions at the ends of epochs, and some of the others."""
    batches = {name: batches for name, (_, batches, _) in whole.logger.saves.items()}
    versions = whole.versions[:-1]
    return [version for position, version in enumerate(versions) if position % 9 == 0 or batches[version.name] % EPOCH == 0]


@pytest.mark.parametrize(("module", "length"), [("plain", "60 steps"), ("music", "60 batches in windows of 4")])
def test_a_run_resumed_from_one_of_its_versions_ends_in_the_same_bits(module: str, length: str, tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "whole", module, length)
    assert len(telling(whole)) >= 7
    for version in telling(whole):
        check_resume(whole, version, partial(fit, module=module, length=length))


BY_HAND = [("by hand", length) for length in ("60 steps", "5 epochs")]  # windows are Lightning's affair


@pytest.mark.slow
@pytest.mark.parametrize(("module", "length"), [*((module, length) for module in ("plain", "music") for length in LENGTHS), *BY_HAND])
def test_a_run_resumed_from_any_of_its_versions_ends_in_the_same_bits(module: str, length: str, tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "whole", module, length)
    assert len(whole.versions) >= 30
    for version in whole.versions[:-1]:
        check_resume(whole, version, partial(fit, module=module, length=length))


def test_windows_that_a_validation_falls_into_keep_their_gradients(tmp_path: Path) -> None:
    whole = whole_run(tmp_path / "whole", "music", "60 batches in windows of 4")
    batches = {name: batches for name, (_, batches, _) in whole.logger.saves.items()}
    inside = [version for version in whole.versions if batches[version.name] % EPOCH % 4]
    assert len(inside) >= 8
    everything = {name for name, _ in MODULES["music"]().named_parameters()}
    assert [set(load(version.path)[GRADIENTS]) for version in inside] == [everything] * len(inside)


def test_without_seeding_each_batch_a_resume_is_another_run(tmp_path: Path) -> None:
    saving = {"every_n_train_steps": 1, "reseed": False}
    whole = fit(tmp_path / "whole", "plain", "60 steps", saving=saving)
    again = fit(tmp_path / "again", "plain", "60 steps", saving=saving, ckpt_path=whole.versions[20].path)
    assert "['state_dict']['layers" in apart(whole.end, again.end)[0]


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"precision": "bf16-mixed"}], ids=str)
def test_workers_and_bfloat16_change_nothing_of_that(options: dict[str, Any], tmp_path: Path) -> None:
    length = "60 batches in windows of 4"
    whole = whole_run(tmp_path / "whole", "music", length, **options)
    for version in telling(whole)[1::3]:
        check_resume(whole, version, partial(fit, module="music", length=length, **options))


def test_the_number_of_workers_does_not_matter_to_the_bits(tmp_path: Path) -> None:
    with_workers, without = (fit(tmp_path / str(n) / "v", "music", "60 batches in windows of 4", num_workers=n) for n in (2, 0))
    assert apart(with_workers.end, without.end) == []
