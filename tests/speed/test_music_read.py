"""How much music a batch is."""

from __future__ import annotations

import pytest
import torch

from musictrain.speed.music_read import MOST_COUNTS, MusicRead, mean_tokens_per_piece, tokens_in

BATCH = {
    "tokens": torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0], [0, 0, 0, 0]]),
    "notes": torch.tensor([2.0, 1.0, 0.0]),
    "piece": torch.tensor([3, 4, -1]),
}


def test_targets_notes_and_pieces_without_padding():
    read = MusicRead(pad_id=0)
    read.add(BATCH)
    read.add(BATCH)
    assert read.known == ("tokens", "notes", "pieces")
    assert dict(read.rows_of_length) == {3: 6}
    assert read.flush() == {"tokens": 8.0, "notes": 6.0, "pieces": 4.0}
    assert read.flush() == {"tokens": 0.0, "notes": 0.0, "pieces": 0.0}
    assert read.rows_of_length == {}


def test_without_a_padding_token_every_target_counts():
    read = MusicRead()
    read.add(BATCH["tokens"])
    assert read.known == ("tokens",)
    assert read.flush()["tokens"] == 9.0


def test_pieces_by_their_mean_length():
    read = MusicRead(pad_id=0, tokens_per_piece=2.0)
    read.add(BATCH)
    assert read.flush()["pieces"] == 4.0 / 2.0


@pytest.mark.parametrize(
    "batch", [torch.randn(2, 8), torch.ones(2, 8) > 0, torch.zeros(2, 3, 4, dtype=torch.int64), {"x": 1}, None, (1, 2)]
)
def test_what_holds_no_tokens_is_not_counted(batch):
    read = MusicRead()
    read.add(batch)
    assert (read.known, tokens_in(batch)) == ((), None)


def test_tokens_are_found_in_every_shape_a_batch_has():
    tokens = BATCH["tokens"]
    assert all(tokens_in(batch) is tokens for batch in (tokens, [tokens], (tokens,), {"tokens": tokens}))


def test_the_mean_length_of_a_piece_comes_from_a_store():
    class Store:
        def pieces(self, split: str) -> list[int]:
            return {"train": [0, 1, 2, 3], "valid": []}[split]

        def num_tokens(self, split: str) -> int:
            return {"train": 100, "valid": 0}[split]

    assert mean_tokens_per_piece(Store()) == 25.0
    assert mean_tokens_per_piece(None) is None


def test_many_batches_without_a_flush_are_added_up_on_the_way():
    read = MusicRead(pad_id=0)
    for _ in range(2 * MOST_COUNTS + 3):
        read.add(BATCH)
    assert len(read._on_device["tokens"]) <= MOST_COUNTS
    assert read.flush()["tokens"] == 4 * (2 * MOST_COUNTS + 3)
