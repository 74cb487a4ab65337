"""A teacher's opinions on disk: what is kept is what it says, made once, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musictrain.checkpoints.stored_network import stored_network
from musictrain.datamodule import MusicDataModule
from musictrain.distillation import Distillation, keeping
from musictrain.distillation.keeping import Work, check_keepable, open_or_build
from musictrain.distillation.kept_opinions import KeptOpinions, OpinionsError
from musictrain.distillation.teacher import Teacher
from tests.cli.tiny import write_corpus
from tests.distillation.teachers import store_teacher

SETTINGS = Distillation("somebody", temperature=2.0, top_k=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opinions")
    write_corpus(folder / "frames.json", pieces=3, frames=8)
    return folder


@pytest.fixture(scope="module")
def taught(folder: Path) -> Teacher:
    return Teacher(stored_network(None, store_teacher(folder / "teacher.ckpt", vocab_size=359)))


def data(folder: Path, **options: Any) -> MusicDataModule:
    """Three training pieces of 8 steps: 40 tokens each, begin and end included."""
    defaults = {"packing": False, "window": 40, "batch_size": 3, "transpose": (0, 0)}
    module = MusicDataModule(str(folder / "frames.json"), **{**defaults, **options})
    assert module.store.length.max() == 40
    return module


def likeliest(taught: Teacher, tokens: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Log-probabilities of the likeliest at temperature 2 and of all others together, (time, k + 1)."""
    values = (taught.logits(tokens[None])[0] / 2.0).log_softmax(-1).sort(-1, descending=True).values
    return torch.cat((values[:, :k], values[:, k:].logsumexp(-1, keepdim=True)), -1)


@pytest.mark.parametrize("transpose", [(0, 0), (-2, 3)])
def test_what_is_kept_is_what_the_teacher_says_of_every_row_in_its_key(folder, taught, tmp_path, transpose):
    datamodule = data(folder, transpose=transpose)
    opinions = open_or_build(Work.of(taught, datamodule, SETTINGS), tmp_path, shown=False)
    shifts = set()
    for number in range(4):
        batch = datamodule.train_plan().batch(number)
        told = opinions.of(batch["piece"], batch["start"], batch["transpose"], 40)
        shifts |= set(batch["transpose"].tolist())
        for row, tokens in enumerate(batch["tokens"]):
            expected = likeliest(taught, tokens[:39])
            found = torch.cat((told.log_probabilities[row, :39], told.rest[row, :39, None]), -1)
            torch.testing.assert_close(found, expected, atol=4e-3, rtol=0)
            logits = (taught.logits(tokens[None, :39])[0] / 2.0).log_softmax(-1)
            torch.testing.assert_close(logits.gather(1, told.tokens[row, :39]), expected[:, :5], atol=1e-5, rtol=0)
    assert len(shifts) > 1 or transpose == (0, 0)


def test_a_row_from_the_middle_of_a_piece_gets_the_opinions_of_who_has_read_it_from_the_beginning(folder, taught, tmp_path):
    datamodule = data(folder, window=12, valid_window=40)
    opinions = open_or_build(Work.of(taught, datamodule, SETTINGS), tmp_path, shown=False)
    batch = datamodule.train_plan().batch(1)
    assert batch["start"].any()
    told = opinions.of(batch["piece"], batch["start"], batch["transpose"], 12)
    for row, (piece, start) in enumerate(zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True)):
        whole = likeliest(taught, torch.from_numpy(datamodule.store.piece(piece))[:-1])
        count = min(12, len(whole) - start)
        torch.testing.assert_close(told.log_probabilities[row, :count], whole[start : start + count, :5], atol=4e-3, rtol=0)


def test_the_outcomes_of_every_place_add_up_to_one(folder, taught, tmp_path):
    opinions = open_or_build(Work.of(taught, data(folder), SETTINGS), tmp_path, shown=False)
    pieces = torch.from_numpy(data(folder).store.pieces("train"))
    told = opinions.of(pieces, torch.zeros_like(pieces), torch.zeros_like(pieces), 50)
    torch.testing.assert_close(told.log_probabilities.exp().sum(-1) + told.rest.exp(), torch.ones(3, 50))


def test_what_was_killed_goes_on_where_it_was_and_ends_in_the_same_bytes(folder, taught, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "LOGITS_AT_ONCE", 1)
    work = Work.of(taught, data(folder, transpose=(-1, 1)), SETTINGS)
    assert work.num_parts == 9
    whole = open_or_build(work, tmp_path / "whole", shown=False)
    ask, asked = Work.ask, []

    def ask_and_die(self: Work, part: int) -> Any:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(part)
        return ask(self, part)

    monkeypatch.setattr(Work, "ask", ask_and_die)
    with pytest.raises(KeyboardInterrupt):
        open_or_build(work, tmp_path / "killed", shown=False)
    torn = sorted((tmp_path / "killed" / f".{work.key}.parts").iterdir())[0]
    torn.write_bytes(torn.read_bytes()[:-40])
    again: list[int] = []
    monkeypatch.setattr(Work, "ask", lambda self, part: (again.append(part), ask(self, part))[1])
    killed = open_or_build(work, tmp_path / "killed", shown=False)
    assert len(again) == 9 - 4 + 1
    for name in ("tokens.bin", "values.bin", "index.npz", "meta.json"):
        assert (killed.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [work.key]
    open_or_build(work, tmp_path / "killed", shown=False)
    assert len(again) == 6, "made anew what was there"


def test_who_publishes_first_wins_and_the_other_takes_it(folder, taught, tmp_path, monkeypatch):
    work = Work.of(taught, data(folder), SETTINGS)
    ask = Work.ask

    def ask_while_another_is_done(self: Work, part: int) -> Any:
        monkeypatch.setattr(Work, "ask", ask)
        open_or_build(work, tmp_path, shown=False)
        return ask(self, part)

    monkeypatch.setattr(Work, "ask", ask_while_another_is_done)
    assert open_or_build(work, tmp_path, shown=False).folder == tmp_path / work.key
    assert [path.name for path in tmp_path.iterdir()] == [work.key]


@pytest.mark.parametrize("fault", ["bit", "torn", "no meta"])
def test_a_damaged_folder_is_made_again_and_said(folder, taught, tmp_path, caplog, fault):
    work = Work.of(taught, data(folder), SETTINGS)
    before = open_or_build(work, tmp_path, shown=False)
    content = (before.folder / "values.bin").read_bytes()
    if fault == "no meta":
        (before.folder / "meta.json").unlink()
    else:
        (before.folder / "values.bin").write_bytes(content[:-2] if fault == "torn" else bytes([content[0] ^ 1]) + content[1:])
    after = open_or_build(work, tmp_path, shown=False)
    assert (after.folder / "values.bin").read_bytes() == content
    assert "It is made again." in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [work.key]


def test_everything_they_depend_on_is_in_their_key(folder, taught, tmp_path):
    other = Teacher(stored_network(None, store_teacher(tmp_path / "other.ckpt", seed=9, vocab_size=359)))
    precise = Teacher(stored_network(None, folder / "teacher.ckpt"), "64-true")
    works = [
        *(Work.of(each, data(folder), SETTINGS) for each in (taught, other, precise)),
        *(Work.of(taught, data(folder, **each), SETTINGS) for each in ({"transpose": (-1, 1)}, {"window": 20})),
        *(Work.of(taught, data(folder), Distillation("somebody", **each)) for each in ({"top_k": 4}, {"top_k": 5, "temperature": 1.0})),
    ]
    assert len({work.key for work in works}) == len(works)
    assert Work.of(Teacher(stored_network(None, folder / "teacher.ckpt")), data(folder), SETTINGS).key == works[0].key


def test_opinions_on_the_tokens_of_another_tokenizer_are_refused(folder, taught, tmp_path):
    opinions = open_or_build(Work.of(taught, data(folder), SETTINGS), tmp_path, shown=False)
    assert KeptOpinions.open(opinions.folder, data(folder).tokenizer.fingerprint).meta == opinions.meta
    with pytest.raises(OpinionsError, match=r"on the tokens of the tokenizer \w{16}, and yours is another"):
        KeptOpinions.open(opinions.folder, "another")
    meta = json.loads((opinions.folder / "meta.json").read_text())
    (opinions.folder / "meta.json").write_text(json.dumps({**meta, "places": 1}))
    with pytest.raises(OpinionsError, match=r"meta\.json has changed since it was written"):
        KeptOpinions.open(opinions.folder)


def test_a_key_that_was_not_asked_about_is_named(folder, taught, tmp_path):
    opinions = open_or_build(Work.of(taught, data(folder), SETTINGS), tmp_path, shown=False)
    piece = torch.from_numpy(data(folder).store.pieces("train")[:1])
    with pytest.raises(ValueError, match="holds no opinion of piece 0 moved by 4 semitones"):
        opinions.of(piece, torch.zeros(1, dtype=torch.int64), torch.full((1,), 4), 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": True, "window": 36}, "with packing=True a row holds several pieces: set data.packing to false"),
        ({"window": 12, "transpose": (-1, 1)}, r"the longest training piece has 39. Set data.transpose to \[0, 0\], or data.window to 40"),
    ],
)
def test_data_whose_places_cannot_be_kept_is_refused_with_what_would_do(folder, options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        check_keepable(data(folder, **options))
    assert "Or leave top_k out" in str(refusal.value)


def test_more_tokens_than_there_are_is_all_of_them(folder, taught, tmp_path):
    work = Work.of(taught, data(folder), Distillation("somebody", top_k=1000))
    opinions = open_or_build(work, tmp_path, shown=False)
    assert opinions.tokens.shape[1] == 359
    assert np.isneginf(opinions.values[:, -1]).all()
