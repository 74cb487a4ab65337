"""A teacher's kept opinions under a curriculum: easy windows, short ones and several corpora get what the teacher says of just those."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from musictrain.callbacks import CurriculumSchedule
from musictrain.checkpoints.stored_network import stored_network
from musictrain.datamodule import MusicDataModule
from musictrain.distillation.teacher import Teacher
from musictrain.distillation_loss import TopTokens, distillation_loss
from musictrain.models import Decoder
from tests.data.test_mixed_corpora import frames
from tests.distillation.teachers import store_teacher, student
from tests.tiny_runs import new_trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
TOP, STEPS, VOCAB, PIECE = 5, 8, 359, 168
EASY = {"difficulty": {"until": 6, "start": 0.3}, "orderings": {"note_density": 1.0}}
MIXTURE = {"mixture": {"start": {"folk": 0.9, "bach": 0.1}, "end": {"bach": 1.0}, "until": 6}}
SHORT = {"length": {"until": 6, "start": 0.25}}


class Kept(Callback):
    """Keeps the batches that are trained on."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of six pieces of 40 frames, and a teacher."""
    folder = tmp_path_factory.mktemp("curriculum")
    for seed, name in enumerate(("folk", "bach")):
        frames(folder / f"{name}.json", seed, train=6, valid=1, test=1)
    store_teacher(folder / "teacher.ckpt", vocab_size=VOCAB, max_context=256)
    return folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)


def train(folder: Path, into: Path, curriculum: dict[str, Any], **options: Any) -> tuple[MusicDataModule, list[dict[str, Any]]]:
    """The data of a run that learns from the kept opinions, and its batches."""
    corpus = f"{folder / 'folk.json'}+{folder / 'bach.json'}"
    defaults = {"packing": False, "batch_size": 4, "transpose": (0, 0), "valid_window": PIECE, "cache_dir": str(folder / "cache")}
    datamodule, kept = MusicDataModule(corpus, **{**defaults, **options}), Kept()
    torch.manual_seed(2)
    network = Decoder(VOCAB, d_model=4, num_layers=1, num_heads=2, max_context=256)
    module = student(folder / "teacher.ckpt", network, top_k=TOP, options={"pad_id": datamodule.tokenizer.pad_id})
    trainer = new_trainer(into, max_steps=STEPS, callbacks=[CurriculumSchedule(**curriculum), kept], limit_val_batches=0)
    trainer.fit(module, datamodule=datamodule)
    return datamodule, kept.batches


def top_tokens(logits: torch.Tensor) -> TopTokens:
    """What there is of (rows, time, vocab) logits once the likeliest are kept, unrounded."""
    log_probabilities = (logits / 2.0).log_softmax(-1)
    likeliest = log_probabilities.topk(TOP, dim=-1)
    return TopTokens(likeliest.indices, likeliest.values, log_probabilities.scatter(2, likeliest.indices, -torch.inf).logsumexp(-1))


def soft_sum(told: TopTokens, targets: torch.Tensor, pad_id: int) -> torch.Tensor:
    """By a student that is anybody."""
    logits = torch.randn(*targets.shape, VOCAB, generator=torch.Generator().manual_seed(0))
    return distillation_loss(
        logits, targets, lambda rows: TopTokens(*(each[rows] for each in told)), pad_id=pad_id, temperature=2.0, weight=0.5
    ).soft_sum


def kept_on(batch: dict[str, Any]) -> TopTokens:
    return TopTokens(batch["teacher_tokens"], batch["teacher_log_probabilities"], batch["teacher_rest"])


def test_rows_of_whole_pieces_in_any_key_get_what_the_teacher_says_of_them(folder: Path, tmp_path: Path) -> None:
    datamodule, batches = train(folder, tmp_path, {**EASY, **MIXTURE}, window=PIECE, transpose=(-2, 2))
    teacher = Teacher(stored_network(None, folder / "teacher.ckpt"))
    corpora, shifts = set(), set()
    for batch in batches:
        tokens = batch["tokens"]
        expected = soft_sum(top_tokens(teacher.logits(tokens[:, :-1])), tokens[:, 1:], datamodule.tokenizer.pad_id)
        torch.testing.assert_close(soft_sum(kept_on(batch), tokens[:, 1:], datamodule.tokenizer.pad_id), expected, rtol=1e-3, atol=0)
        corpora |= {datamodule.store.names[piece].partition("/")[0] for piece in batch["piece"].tolist()}
        shifts |= set(batch["transpose"].tolist())
    assert corpora == {"folk", "bach"}
    assert len(shifts) > 2


def test_rows_that_are_cut_short_get_what_the_teacher_says_of_that_place_of_the_piece(folder: Path, tmp_path: Path) -> None:
    datamodule, batches = train(folder, tmp_path, {**EASY, **MIXTURE, **SHORT}, window=64, num_workers=1)
    teacher, pad_id = Teacher(stored_network(None, folder / "teacher.ckpt")), datamodule.tokenizer.pad_id
    said = {
        piece: top_tokens(teacher.logits(torch.from_numpy(datamodule.store.piece(piece))[None, :-1]))
        for piece in datamodule.store.pieces("train").tolist()
    }
    widths, starts, corpora = set(), set(), set()
    for batch in batches:
        targets, places = batch["tokens"][:, 1:], list(zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True))
        for row, (piece, start) in enumerate(places):
            count = int((targets[row] != pad_id).sum())
            expected = TopTokens(*(each[:, start : start + count] for each in said[piece]))
            found = TopTokens(*(each[row : row + 1, :count] for each in kept_on(batch)))
            own = targets[row : row + 1, :count]
            torch.testing.assert_close(soft_sum(found, own, pad_id), soft_sum(expected, own, pad_id), rtol=1e-3, atol=0)
            corpora.add(datamodule.store.names[piece].partition("/")[0])
            starts.add(start)
        widths.add(targets.shape[1])
    assert min(widths) == 16
    assert max(widths) == 64
    assert len(starts) > 4
    assert corpora == {"folk", "bach"}


def test_parts_of_pieces_in_other_keys_are_refused_before_the_teacher_is_asked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a curriculum of `length` cuts rows into parts.* Leave out CurriculumSchedule\.length"):
        train(folder, tmp_path, SHORT, window=PIECE, transpose=(-2, 2), cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache" / "opinions").exists()
