"""MusicDataModule in a plain Lightning Trainer: the batches a run sees are numbered without a gap, however it is interrupted."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from musictrain.callbacks import AccumulationSchedule
from musictrain.data.corpora import CorpusError
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule, ResumeError
from tests.ports import free_port

EPOCH = 7  # batches of an epoch of the data module below


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of four voices that wander, with its own splits."""
    chance = np.random.default_rng(0)

    def piece() -> list[list[int]]:
        walk = np.cumsum(chance.integers(-2, 3, (int(chance.integers(20, 60)), 4)), axis=0)
        return (np.clip(walk, -8, 8) + np.array([72, 66, 60, 50])).tolist()

    path = tmp_path_factory.mktemp("corpus") / "wander.json"
    splits = {"train": 12, "valid": 3, "test": 2}
    path.write_text(json.dumps({split: [piece() for _ in range(count)] for split, count in splits.items()}), encoding="utf-8")
    return path


@pytest.fixture
def make(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes data modules over the wandering corpus."""
    cache = tmp_path_factory.getbasetemp() / "cache"

    def make_datamodule(**options: Any) -> MusicDataModule:
        options = {"corpus": str(frames), "window": 64, "batch_size": 5, "cache_dir": str(cache), **options}
        return MusicDataModule(**options)

    return make_datamodule


class Bigram(pl.LightningModule):
    """The next token from the last one; remembers which batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.logits = torch.nn.Embedding(VoiceGrid().vocab_size, VoiceGrid().vocab_size)
        self.numbers: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.numbers.append(batch["number"])
        return self.loss(batch)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        torch.rand(3)  # Validation uses random numbers of its own.
        self.log("val/loss", self.loss(batch), batch_size=len(batch["tokens"]))

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return batch["piece"]

    def loss(self, batch: dict[str, Any]) -> torch.Tensor:
        tokens = batch["tokens"]
        return torch.nn.functional.cross_entropy(self.logits(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], ignore_index=0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class SaveAt(pl.Callback):
    """Saves one checkpoint in a hook, the first time it runs after ``step`` optimizer steps."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        self.step, self.path = step, path
        setattr(self, hook, self.save)

    def save(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def trainer_of(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **{**quiet, **options})


def fit(datamodule: MusicDataModule, *callbacks: pl.Callback, ckpt_path: Path | None = None, **options: Any) -> Bigram:
    module = Bigram()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("error", ".*not resumable.*")
        trainer_of(*callbacks, **options).fit(module, datamodule=datamodule, ckpt_path=ckpt_path)
    return module


# Exact resume

SAVES = {
    "mid_epoch": ("on_train_batch_end", EPOCH + 3),
    "last_batch_of_an_epoch": ("on_train_batch_end", EPOCH),
    "first_batch_of_an_epoch": ("on_train_batch_end", EPOCH + 1),
    "end_of_an_epoch": ("on_train_epoch_end", EPOCH),
    "after_a_validation": ("on_validation_end", 4),
}
ENDS: dict[str, dict[str, Any]] = {"steps": {"max_steps": 20}, "epochs": {"max_epochs": 4}}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("save", SAVES)
def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(make: Any, tmp_path: Path, save: str, end: str) -> None:
    options = {**ENDS[end], "val_check_interval": 4}
    hook, step = SAVES[save]
    whole = fit(make(), SaveAt(hook, step, tmp_path / "at.ckpt"), **options)
    resumed = fit(make(), ckpt_path=tmp_path / "at.ckpt", **options)
    assert resumed.numbers == whole.numbers[-len(resumed.numbers) :]
    assert whole.numbers == list(range(len(whole.numbers)))
    assert 0 < len(resumed.numbers) < len(whole.numbers)
    assert torch.equal(resumed.logits.weight, whole.logits.weight)


@pytest.mark.parametrize("save", ["mid_epoch", "end_of_an_epoch"])
def test_resuming_is_exact_with_workers_that_fetch_ahead(make: Any, tmp_path: Path, save: str) -> None:
    hook, step = SAVES[save]
    whole = fit(make(), SaveAt(hook, step, tmp_path / "at.ckpt"), max_steps=14)
    resumed = fit(make(num_workers=2), ckpt_path=tmp_path / "at.ckpt", max_steps=14)
    with_workers = fit(make(num_workers=2), max_steps=14)
    assert whole.numbers == with_workers.numbers == list(range(14))
    assert torch.equal(resumed.logits.weight, whole.logits.weight)
    assert torch.equal(with_workers.logits.weight, whole.logits.weight)


@pytest.mark.parametrize("batch_size", [5, 6], ids=["odd_epoch", "even_epoch"])
@pytest.mark.parametrize("save", ["mid_epoch", "end_of_an_epoch"])
def test_resuming_is_exact_between_accumulated_steps(make: Any, tmp_path: Path, save: str, batch_size: int) -> None:
    hook, step = SAVES[save]
    options = {"max_steps": 20, "accumulate_grad_batches": 2}
    whole = fit(make(batch_size=batch_size), SaveAt(hook, step, tmp_path / "at.ckpt"), **options)
    resumed = fit(make(batch_size=batch_size), ckpt_path=tmp_path / "at.ckpt", **options)
    assert whole.numbers == list(range(len(whole.numbers)))
    assert 0 < len(resumed.numbers) < len(whole.numbers)
    assert resumed.numbers == whole.numbers[-len(resumed.numbers) :]
    assert torch.equal(resumed.logits.weight, whole.logits.weight)


def test_two_interruptions_are_no_more_than_none(make: Any, tmp_path: Path) -> None:
    whole = fit(make(), max_steps=20)
    fit(make(), SaveAt("on_train_batch_end", 4, tmp_path / "1.ckpt"), max_steps=5)
    fit(make(), SaveAt("on_train_batch_end", 9, tmp_path / "2.ckpt"), max_steps=11, ckpt_path=tmp_path / "1.ckpt")
    resumed = fit(make(), max_steps=20, ckpt_path=tmp_path / "2.ckpt")
    assert resumed.numbers == list(range(9, 20))
    assert torch.equal(resumed.logits.weight, whole.logits.weight)


def test_limited_epochs_go_on_where_they_stopped(make: Any, tmp_path: Path) -> None:
    options = {"limit_train_batches": 4, "max_epochs": 3}
    whole = fit(make(), SaveAt("on_train_batch_end", 6, tmp_path / "at.ckpt"), **options)
    resumed = fit(make(), ckpt_path=tmp_path / "at.ckpt", **options)
    assert whole.numbers == list(range(12))
    assert resumed.numbers == list(range(6, 12))


def test_an_epoch_is_one_pass_over_the_corpus(make: Any) -> None:
    datamodule = make()
    module = fit(datamodule, max_epochs=2)
    assert module.numbers == list(range(2 * EPOCH))
    assert len(datamodule.train_dataloader()) == EPOCH == datamodule.train_plan().num_batches
    assert datamodule.position == 2 * EPOCH


# Accumulation and other batch sizes


@pytest.mark.parametrize(("batch_size", "accumulation"), [(12, 1), (6, 2), (3, 4), (1, 12)])
def test_an_epoch_is_as_many_rows_however_a_step_is_divided(make: Any, batch_size: int, accumulation: int) -> None:
    whole = make(batch_size=12).train_plan()
    module = fit(make(batch_size=batch_size), max_epochs=2, accumulate_grad_batches=accumulation)
    assert len(module.numbers) * batch_size == 2 * whole.num_batches * 12
    assert whole.num_batches * 12 > whole.windows.num_windows


def test_no_step_is_cut_short_by_an_epochs_end(make: Any) -> None:
    ends: list[int] = []
    step_ends = pl.Callback()
    step_ends.on_before_zero_grad = lambda trainer, *_: ends.append(trainer.fit_loop.total_batch_idx)  # type: ignore[method-assign]
    fit(make(), step_ends, max_epochs=3, accumulate_grad_batches=3)
    assert EPOCH % 3
    assert ends == list(range(0, 3 * 9, 3))


def test_an_epoch_holds_whole_windows_of_every_scheduled_number(make: Any) -> None:
    schedule = AccumulationSchedule(batches={0: 2, 4: 3})
    assert len(fit(make(), schedule, max_epochs=2).numbers) == 2 * 12
    # 7 batches cover the corpus: it is not gone through 11 times for the sake of a common multiple of 7 and 11.
    assert len(fit(make(), AccumulationSchedule(batches={0: 7, 4: 11}), max_epochs=2).numbers) == 2 * 11


def test_scheduled_steps_are_the_same_however_they_are_divided(make: Any) -> None:
    runs = {}
    for batch_size in (6, 3, 2):
        schedule = AccumulationSchedule(global_batch_tokens={0: 6 * 64, 3: 24 * 64})
        runs[batch_size] = fit(make(batch_size=batch_size), schedule, max_epochs=4)
    for batch_size in (3, 2):
        assert len(runs[batch_size].numbers) * batch_size == len(runs[6].numbers) * 6
        assert torch.allclose(runs[batch_size].logits.weight, runs[6].logits.weight, atol=1e-5)


RESIZED = {"larger": (3, 4, 6, 2), "smaller": (6, 2, 3, 4), "not accumulated": (6, 2, 12, 1)}


@pytest.mark.parametrize("save", ["mid_epoch", "end_of_an_epoch"])
@pytest.mark.parametrize("case", RESIZED)
def test_a_run_resumed_with_other_batches_makes_the_same_steps(make: Any, tmp_path: Path, case: str, save: str) -> None:
    before, accumulated_before, after, accumulated_after = RESIZED[case]
    hook, step = {"mid_epoch": ("on_train_batch_end", 5), "end_of_an_epoch": ("on_train_epoch_end", 3)}[save]
    whole = fit(make(batch_size=12), max_epochs=4)
    fit(make(batch_size=before), SaveAt(hook, step, tmp_path / "at.ckpt"), max_epochs=4, accumulate_grad_batches=accumulated_before)
    datamodule = make(batch_size=after)
    resumed = fit(datamodule, ckpt_path=tmp_path / "at.ckpt", max_epochs=4, accumulate_grad_batches=accumulated_after)
    rows = torch.load(tmp_path / "at.ckpt")["MusicDataModule"]["position"] * before
    assert rows % 12 == 0
    assert resumed.numbers == list(range(rows // after, len(whole.numbers) * 12 // after))
    assert datamodule.position * after == len(whole.numbers) * 12
    assert torch.allclose(resumed.logits.weight, whole.logits.weight, atol=1e-5)


def test_rows_that_would_come_again_are_said(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(make(), SaveAt("on_train_batch_end", 2, tmp_path / "at.ckpt"), max_steps=2)
    assert fit(make(batch_size=6), ckpt_path=tmp_path / "at.ckpt", max_steps=3).numbers == [1]
    expected = r"Resumed with batch_size=6 \(was 5\): 10 rows were trained on, no whole number .* the last 4 of them come again"
    assert re.search(expected, caplog.text)


def test_a_new_run_begins_at_the_beginning(make: Any) -> None:
    datamodule = make()
    assert fit(datamodule, max_steps=3).numbers == fit(datamodule, max_steps=3).numbers == [0, 1, 2]


def test_a_position_is_kept_where_the_trainer_forgot_it(make: Any, tmp_path: Path) -> None:
    fit(make(), SaveAt("on_train_batch_end", 7, tmp_path / "at.ckpt"), max_steps=7)
    checkpoint = torch.load(tmp_path / "at.ckpt", weights_only=True)
    del checkpoint["loops"]
    torch.save(checkpoint, tmp_path / "at.ckpt")
    datamodule = make()
    assert fit(datamodule, SaveAt("on_train_batch_end", 2, tmp_path / "on.ckpt"), ckpt_path=tmp_path / "at.ckpt", max_steps=3).numbers == [
        7,
        8,
        9,
    ]
    assert torch.load(tmp_path / "on.ckpt", weights_only=True)["MusicDataModule"]["position"] == 9


@pytest.mark.parametrize("batch_size", [5, 1])
def test_asking_for_the_runs_length_early_leaves_no_gap(make: Any, tmp_path: Path, batch_size: int, monkeypatch: Any) -> None:
    def configure_optimizers(self: Bigram) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.Adam(self.parameters(), lr=0.01)

    monkeypatch.setattr(Bigram, "configure_optimizers", configure_optimizers)
    fit(make(), SaveAt("on_train_batch_end", EPOCH + 3, tmp_path / "at.ckpt"), max_epochs=2)
    datamodule = make(batch_size=batch_size)
    again = SaveAt("on_train_batch_end", EPOCH + 5, tmp_path / "again.ckpt")
    resumed = fit(datamodule, again, ckpt_path=tmp_path / "at.ckpt", max_epochs=3)
    first = (EPOCH + 3) * 5 // batch_size
    assert resumed.numbers == list(range(first, first + len(resumed.numbers)))
    assert datamodule.position == first + len(resumed.numbers) > first + 5
    assert torch.load(tmp_path / "again.ckpt", weights_only=True)["MusicDataModule"]["position"] == first + 2


def test_overfitting_sees_the_same_batches_again(make: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fit(make(), overfit_batches=2, max_epochs=3).numbers == [0, 1] * 3


# Several ranks


def train_as_rank(rank: int, port: int, datamodule: MusicDataModule, folder: Path, options: dict[str, Any]) -> None:
    """What torchrun's processes do; writes down weights and rows."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"})
    module = Bigram()
    rows: list[torch.Tensor] = []
    module.on_train_batch_start = lambda batch, _: rows.append(batch["tokens"])  # type: ignore[method-assign, assignment]
    pl.Trainer(strategy="ddp", devices=2, **options).fit(module, datamodule=datamodule)
    torch.save({"rows": rows, "weight": module.logits.weight.data, "numbers": module.numbers}, folder / f"{rank}.pt")


@pytest.mark.parametrize("use_distributed_sampler", [True, False])
def test_two_ranks_train_on_the_batches_of_one(make: Any, tmp_path: Path, use_distributed_sampler: bool) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {**quiet, "accelerator": "cpu", "max_steps": EPOCH + 3, "use_distributed_sampler": use_distributed_sampler}
    one, plan = fit(make(batch_size=6), max_steps=EPOCH + 3), make(batch_size=6).train_plan()
    port = free_port()
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=train_as_rank, args=(r, port, make(batch_size=6), tmp_path, options)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["numbers"] == second["numbers"] == one.numbers
    for number, rows in enumerate(zip(first["rows"], second["rows"], strict=True)):
        assert torch.equal(torch.stack(rows, dim=1).flatten(0, 1), plan.batch(number)["tokens"])
    assert torch.equal(first["weight"], second["weight"])
    assert torch.allclose(first["weight"], one.logits.weight, atol=1e-6)


# What a checkpoint may be resumed with


@pytest.fixture
def checkpoint(make: Any, tmp_path: Path) -> Path:
    fit(make(), SaveAt("on_train_batch_end", 2, tmp_path / "at.ckpt"), max_steps=2)
    return tmp_path / "at.ckpt"


def test_the_state_is_plain(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["MusicDataModule"]
    assert state["position"] == 2
    assert json.loads(json.dumps(state)) == state
    assert state["tokenizer"]["fingerprint"] == VoiceGrid().fingerprint


def test_another_tokenizer_is_refused(make: Any, checkpoint: Path) -> None:
    other = VoiceGrid(steps_per_beat=2)
    expected = f"tokenizer VoiceGrid .{VoiceGrid().fingerprint}.*this run has VoiceGrid .{other.fingerprint}"
    with pytest.raises(ResumeError, match=expected):
        fit(make(tokenizer=other), ckpt_path=checkpoint, max_steps=4)


def test_another_corpus_is_refused_for_training_but_may_be_measured(make: Any, checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    other = json.loads(frames.read_text(encoding="utf-8"))
    other["train"].pop()
    (tmp_path / "other.json").write_text(json.dumps(other), encoding="utf-8")
    datamodule = make(corpus=str(tmp_path / "other.json"))
    with pytest.raises(ResumeError, match=r"the corpus wander .*but this run has other"):
        fit(datamodule, ckpt_path=checkpoint, max_steps=4)
    [scores] = trainer_of().validate(Bigram(), datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    assert scores["val/loss"] > 0


def test_other_batches_are_said(make: Any, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert fit(make(seed=3, window=32), ckpt_path=checkpoint, max_steps=4).numbers == [2, 3]
    assert "seed=3 (was 0), window=32 (was 64)" in caplog.text


def test_measuring_a_checkpoint_leaves_the_position_of_training_alone(make: Any, checkpoint: Path) -> None:
    datamodule = make()
    trainer_of().validate(Bigram(), datamodule=datamodule, ckpt_path=checkpoint, verbose=False)
    assert datamodule.position == 0


# Measuring


def test_validation_test_and_prediction_see_every_piece_of_their_split(make: Any) -> None:
    datamodule = make()
    datamodule.setup("test")
    for loader, split in ((datamodule.val_dataloader(), "valid"), (datamodule.test_dataloader(), "test")):
        pieces = datamodule.store.pieces(split)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert {int(piece) for batch in batches for piece in batch["piece"]} == set(pieces.tolist())
        assert sum(float(batch["notes"].sum()) for batch in batches) == pytest.approx(datamodule.store.num_notes[pieces].sum(), rel=1e-5)
    predicted = trainer_of().predict(Bigram(), datamodule=datamodule)
    assert predicted is not None
    assert {int(piece) for pieces in predicted for piece in pieces} == set(datamodule.store.pieces("test").tolist())


def test_longer_windows_to_measure_on(make: Any) -> None:
    datamodule = make(valid_window=4000, valid_batch_size=2)
    [first, second] = datamodule.val_dataloader()
    assert len(first["tokens"]) == 2
    assert not torch.cat([first["start"], second["start"]]).any()


def test_a_corpus_without_validation_pieces_can_be_trained_on(
    make: Any, frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(frames.read_text(encoding="utf-8"))
    (tmp_path / "all.json").write_text(json.dumps({"train": content["train"]}), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fit(make(corpus=str(tmp_path / "all.json"), splits=(1.0, 0.0, 0.0)), max_steps=2).numbers == [0, 1]
    assert "no valid piece" in caplog.text


# Arguments


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": 0}, "window=0, expected a multiple of 4.*such as 4"),
        ({"window": 62}, "window=62, expected a multiple of 4, the tokens per step of VoiceGrid, such as 64"),
        ({"align": 16}, "align=16 needs packing=False"),
        ({"align": 24, "packing": False}, "align=24, expected a multiple of 4 tokens that divides window=1024"),
        ({"valid_window": 30}, "valid_window=30, expected a multiple of 4"),
        ({"batch_size": 0}, "batch_size=0, expected at least 1"),
        ({"valid_batch_size": 0}, "valid_batch_size=0, expected at least 1"),
        ({"num_workers": -1}, "num_workers=-1, expected at least 0"),
        ({"seed": -1}, "seed=-1, expected at least 0"),
        ({"transpose": (3, -3)}, r"transpose got \(3, -3\): the lowest shift comes first"),
        ({"transpose": (1, 2, 3)}, "the lowest and the highest shift"),
        ({"transpose_within": "range"}, "expected 'vocabulary' or 'corpus'"),
        ({"splits": (0.5, 0.1, 0.1)}, "splits"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MusicDataModule(corpus="no such corpus", **options)


def test_construction_does_no_work(tmp_path: Path) -> None:
    datamodule = MusicDataModule(corpus="no such corpus", cache_dir=str(tmp_path / "cache"))
    assert datamodule.vocab_size == VoiceGrid().vocab_size
    assert not (tmp_path / "cache").exists()
    with pytest.raises(CorpusError, match="no such corpus"):
        datamodule.prepare_data()


def test_a_window_longer_than_every_piece_is_refused_before_training(make: Any) -> None:
    with pytest.raises(ValueError, match=r"4000 tokens is longer than every training piece: the longest has \d+"):
        fit(make(window=4000, packing=False), max_steps=1)


def test_a_folder_may_start_with_a_tilde(frames: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(frames.parent))
    datamodule = MusicDataModule(corpus="~/wander.json", window=64, cache_dir="~/cache")
    datamodule.prepare_data()
    assert datamodule.store.folder.is_relative_to(frames.parent / "cache")


def test_one_line_says_what_is_trained_on(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "musictrain")
    datamodule = make()
    datamodule.prepare_data()
    [line] = [record.getMessage() for record in caplog.records if record.name == "musictrain.datamodule"]
    assert line.startswith("wander as VoiceGrid: 17 pieces / ")
    assert "train 12 / " in line
    assert str(datamodule.store.folder) in line


def test_a_config_file_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MusicDataModule, "data")
    tokenizer = {"class_path": "musictrain.data.tokenizers.VoiceGrid", "init_args": {"lowest": 30, "highest": 90}}
    config = parser.parse_object({"data": {"corpus": "ryans", "tokenizer": tokenizer, "transpose": [-3, 3], "window": 512}})
    built = parser.instantiate_classes(config).data
    assert (built.corpus_name, built.transpose, built.window) == ("ryans", (-3, 3), 512)
    assert built.tokenizer.config() == {"lowest": 30, "highest": 90, "steps_per_beat": 4}


def test_a_checkpoint_from_before_there_was_jitter_or_masking_is_no_other_run(
    make: Any, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = torch.load(checkpoint, weights_only=True)
    for name in ("velocity_jitter", "tempo_jitter", "mask_notes", "mask_bars"):
        del old["MusicDataModule"]["batches"][name]
    torch.save(old, tmp_path / "old.ckpt")
    assert fit(make(), ckpt_path=tmp_path / "old.ckpt", max_steps=4).numbers == [2, 3]
    assert "Resumed with" not in caplog.text
    fit(make(mask_notes=0.2), ckpt_path=tmp_path / "old.ckpt", max_steps=4)
    assert "Resumed with mask_notes=0.2 (was 0.0)" in caplog.text
