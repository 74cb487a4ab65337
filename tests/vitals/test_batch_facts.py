"""What a batch says of itself: its pieces, tokens that the training set never has, and windows without a note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.vitals import facts_of, tables_of
from tests.cli.tiny import write_corpus


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory: Any) -> MusicDataModule:
    folder: Path = tmp_path_factory.mktemp("corpus")
    return MusicDataModule(str(write_corpus(folder / "frames.json")), window=32, batch_size=4, cache_dir=str(folder), transpose=(-2, 2))


def test_training_batches_hold_nothing_strange(datamodule: MusicDataModule) -> None:
    tables, plan = tables_of(datamodule), datamodule.train_plan()
    for number in range(12):
        batch = plan.batch(number)
        facts = facts_of(batch, tables)
        assert facts.unseen == ()
        assert facts.silent_beats == 0.0
        assert facts.number == number
        assert facts.rows == 4
        assert facts.num_tokens == 4 * 32
        assert list(facts.pieces) == batch["piece"].tolist()
        assert list(facts.starts) == batch["start"].tolist()


def test_a_token_that_no_piece_and_no_transposition_has_is_found(datamodule: MusicDataModule) -> None:
    tables, batch = tables_of(datamodule), datamodule.train_plan().batch(0)
    lowest = VoiceGrid().encode_frames([[21, 21, 21, 21]])[0]
    batch["tokens"][1, 5] = int(lowest)
    assert facts_of(batch, tables).unseen == (int(lowest),)
    batch["tokens"][1, 5] = 10_000
    assert facts_of(batch, tables).unseen == (10_000,)
    batch["tokens"][2, :] = torch.arange(20_000, 20_033)
    assert facts_of(batch, tables).unseen == (10_000, *range(20_000, 20_033))


def test_ids_that_are_no_tokens_become_padding_that_tells_of_itself(tmp_path: Path) -> None:
    data = MusicDataModule(str(write_corpus(tmp_path / "frames.json")), window=32, batch_size=4, cache_dir=str(tmp_path), transpose=(-2, 2))
    tables, plan = tables_of(data), data.train_plan()
    before = plan.batch(0)
    piece, start = int(before["piece"][1]), int(before["start"][1])
    with (data.store.folder / "tokens.bin").open("r+b") as file:
        file.seek(2 * (int(data.store.offset[piece]) + start + 5))
        file.write(bytes([250, 250, 251, 250]))
    batch = plan.batch(0)
    assert batch["strange"].tolist() == [64_250, 64_251]
    assert (batch["tokens"] != before["tokens"]).nonzero().tolist() == [[1, 5], [1, 6]]
    assert batch["tokens"][1, 5:7].tolist() == [data.tokenizer.pad_id] * 2
    assert facts_of(batch, tables).unseen == (64_250, 64_251)
    assert "strange" not in before


def test_a_row_without_a_note_is_silent_for_its_beats(datamodule: MusicDataModule) -> None:
    tables, batch = tables_of(datamodule), datamodule.train_plan().batch(0)
    rest = VoiceGrid().encode_frames([[-1, -1, -1, -1]])
    batch["tokens"][2] = torch.from_numpy(rest).repeat(9)[:33]
    facts = facts_of(batch, tables)
    assert facts.silent_beats == pytest.approx(float(batch["beats"][2]))
    assert facts.window_beats == pytest.approx(float(batch["beats"].max()))


def test_the_facts_of_a_window_are_those_of_its_batches(datamodule: MusicDataModule) -> None:
    plan = datamodule.train_plan()
    both = facts_of(plan.batch(3)) + facts_of(plan.batch(4))
    assert both.number == 3
    assert both.rows == 8
    assert len(both.as_dict()["pieces"]) == 8


@pytest.mark.parametrize("batch", [None, [1, 2], torch.ones(3), torch.ones(2, 2), {"x": 1}, {"tokens": "a"}])
def test_of_what_is_no_batch_of_tokens_nothing_is_known(batch: Any) -> None:
    assert facts_of(batch).as_dict() == {"rows": 0, "unseen_tokens": []}
    assert tables_of(batch).known is None


def test_a_store_that_is_too_large_is_not_read(datamodule: MusicDataModule) -> None:
    tables = tables_of(datamodule, most_tokens=10)
    assert tables.known is None
    assert tables.sounding is not None
