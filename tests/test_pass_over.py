"""MusicDataModule.pass_over in a Trainer: what is passed over never comes, all else comes as it would have, and resumes keep to it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from musictrain.batch_seed import number_of_batch
from musictrain.datamodule import MusicDataModule
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from tests.cli.tiny import write_corpus

WINDOW = 32


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "frames.json", pieces=6)


class Watch(pl.Callback):
    """Notes the batches and rows that come, and the random number that each would draw first; saves once after a step."""

    def __init__(self, save_at: int = 0, path: Path | None = None) -> None:
        self.save_at, self.path = save_at, path
        self.numbers: list[int] = []
        self.rows: list[tuple[int, int]] = []
        self.drawn: dict[int, float] = {}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Any) -> None:
        self.drawn[self.numbers[-1]] = float(torch.random.get_rng_state().double().sum())

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.numbers.append(batch["number"])
        self.rows += zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True)
        assert number_of_batch(trainer) == batch["number"]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.save_at and self.path is not None and not self.path.exists():
            trainer.save_checkpoint(self.path)


def data_of(frames: Path, *passed: tuple[int, int], **options: Any) -> MusicDataModule:
    data = MusicDataModule(str(frames), window=WINDOW, **{"batch_size": 2, **options})
    for first, last in passed:
        data.pass_over(first, last)
    return data


def fit(data: MusicDataModule, watch: Watch | None = None, ckpt_path: Path | None = None, **options: Any) -> tuple[Watch, Any]:
    """A fit of a tiny network with dropout; what it met, and its module."""
    torch.manual_seed(0)
    watch = watch or Watch()
    network = Decoder(data.vocab_size, d_model=8, num_layers=1, num_heads=2, max_context=WINDOW, dropout=0.2)
    module = MusicModule(network, schedule=Constant())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    steps = {"max_steps": 8, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu", "devices": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(callbacks=[watch], **{**quiet, **steps, **options}).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return watch, module


def test_the_batches_passed_over_never_come_and_the_next_ones_take_their_place(frames: Path) -> None:
    watch, _ = fit(data_of(frames, (2, 3), (6, 6)))
    assert watch.numbers == [0, 1, 4, 5, 7, 8, 9, 10]


def test_every_other_batch_draws_what_it_would_have_drawn(frames: Path) -> None:
    straight, _ = fit(data_of(frames), max_steps=11)
    jumping, _ = fit(data_of(frames, (2, 3), (6, 6)))
    assert len(set(straight.drawn.values())) == len(straight.drawn)
    assert jumping.drawn == {number: straight.drawn[number] for number in jumping.numbers}


def test_an_epoch_has_as_many_batches_as_before(frames: Path) -> None:
    straight, _ = fit(data_of(frames), max_epochs=3, max_steps=-1)
    jumping, _ = fit(data_of(frames, (1, 2)), max_epochs=3, max_steps=-1)
    assert len(jumping.numbers) == len(straight.numbers) > 6
    assert jumping.numbers == [0, *range(3, len(straight.numbers) + 2)]


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}], ids=str)
def test_a_resumed_run_passes_them_over_too_and_ends_in_the_same_bits(frames: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    for step in (1, 2, 3, 7):
        whole, ends = fit(data_of(frames, (2, 3), (6, 6)), Watch(step, tmp_path / f"{step}.ckpt"), accumulate_grad_batches=1)
        rest, again = fit(data_of(frames, **options), ckpt_path=tmp_path / f"{step}.ckpt")
        assert rest.numbers == whole.numbers[step:]
        assert all(torch.equal(one, other) for one, other in zip(ends.parameters(), again.parameters(), strict=True))


def test_what_is_passed_over_later_does_not_shift_what_came_before(frames: Path, tmp_path: Path) -> None:
    """As after a going back: the checkpoint knows less than the data module."""
    fit(data_of(frames, (1, 1)), Watch(3, tmp_path / "at.ckpt"), max_steps=3)
    assert fit(data_of(frames, (5, 6)), ckpt_path=tmp_path / "at.ckpt")[0].numbers == [4, 7, 8, 9, 10]


def test_windows_that_are_passed_over_as_a_whole_leave_steps_as_they_are_in_larger_batches(frames: Path) -> None:
    by_twos, _ = fit(data_of(frames, (2, 3)), accumulate_grad_batches=2, max_steps=3)
    at_once, _ = fit(data_of(frames, (1, 1), batch_size=4), max_steps=3)
    assert (by_twos.numbers, at_once.numbers) == ([0, 1, 4, 5, 6, 7], [0, 2, 3])
    assert by_twos.rows == at_once.rows


# Before, after, what is passed over, and what comes after two steps: the same rows whatever the size.
SIZES = [(2, 4, (4, 5), [1, 3, 4]), (4, 2, (3, 3), [4, 5, 8, 9, 10])]


@pytest.mark.parametrize(("before", "now", "gap", "rest"), SIZES)
def test_with_another_batch_size_every_batch_with_one_of_their_rows_is_passed_over(
    frames: Path, tmp_path: Path, before: int, now: int, gap: tuple[int, int], rest: list[int]
) -> None:
    fit(data_of(frames, gap, batch_size=before), Watch(2, tmp_path / "at.ckpt"), max_steps=2)
    watch, _ = fit(data_of(frames, batch_size=now), ckpt_path=tmp_path / "at.ckpt", max_steps=2 + len(rest))
    assert watch.numbers == rest


def test_a_checkpoint_without_any_looks_as_it_always_did(frames: Path, tmp_path: Path) -> None:
    fit(data_of(frames), Watch(2, tmp_path / "at.ckpt"), max_steps=2)
    assert "passed_over" not in torch.load(tmp_path / "at.ckpt", weights_only=True)["MusicDataModule"]
    fit(data_of(frames, (0, 0)), Watch(2, tmp_path / "passed.ckpt"), max_steps=2)
    state = torch.load(tmp_path / "passed.ckpt", weights_only=True)["MusicDataModule"]
    assert state["passed_over"] == [[0, 2]]
    assert state["position"] == 3


class Meddler(pl.Callback):
    """Passes a batch over in the middle of a fit, after one that has been passed over already."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.datamodule.pass_over(40, 40)  # type: ignore[attr-defined]
        trainer.datamodule.pass_over(50, 51)  # type: ignore[attr-defined]


def test_in_the_middle_of_a_fit_it_is_refused_and_afterwards_it_is_not(frames: Path) -> None:
    data = data_of(frames, (40, 41))
    with pytest.raises(RuntimeError, match="Batches 50 to 51 cannot be passed over while a fit goes on: leave it first, and fit again"):
        pl.Trainer(callbacks=[Meddler()], max_steps=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                   enable_checkpointing=False, enable_model_summary=False).fit(
            MusicModule(Decoder(data.vocab_size, d_model=8, num_layers=1, num_heads=2, max_context=WINDOW), schedule=Constant()), data
        )  # fmt: skip
    data.pass_over(50, 51)
    assert data.passed_over == [(40, 41), (50, 51)]
