"""Jitter and masking: what moves, what is hidden and how often; of the row's number alone; and off is off."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from musictrain.data.batches import BatchPlan
from musictrain.data.masking import Masker, held_notes
from musictrain.data.shuffling import Purpose, uniforms
from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid
from musictrain.data.value_jitter import jitter_of, values_of
from musictrain.datamodule import MusicDataModule
from musictrain.notes import Notes
from tests.data.test_batches import LENGTHS, store_of

GRID = VoiceGrid(48, 72)
EVERYTHING = {"velocity_jitter": 3, "tempo_jitter": 2, "mask_notes": 0.3, "mask_bars": 0.2}


@pytest.fixture(scope="module")
def remi() -> MidiTokTokenizer:
    return MidiTokTokenizer("REMI")


def piece(tokenizer: Any, bars: int = 40) -> np.ndarray:
    """Quarter notes that grow louder bar by bar, some of drums, with a tempo."""
    count = 4 * bars
    notes = Notes(
        onset=np.arange(count, dtype=float),
        duration=np.full(count, 1.0),
        pitch=60 + np.arange(count) % 7,
        velocity=40 + np.arange(count) // 4,
        drum=np.arange(count) % 8 == 7,
    )
    return np.concatenate([tokenizer.begin, tokenizer.encode(notes), tokenizer.end]).astype(np.int64)


def plan_of(tokenizer: Any, **options: Any) -> BatchPlan:
    tokens = piece(tokenizer)
    store = store_of([len(tokens)], tokens=tokens)
    return BatchPlan.of(store, tokenizer, **{"window": 64, "batch_size": 4, "packing": False, **options})


def named(tokenizer: Any, tokens: Any) -> list[str]:
    return [tokenizer.token_name(int(token)) for token in tokens]


# Off is off


@pytest.mark.parametrize(("packing", "expected"), [(True, "bfcdc7216e085c31"), (False, "98dd84f6f279679e")])
def test_without_any_of_it_batches_are_what_they_were_before_it_was_there(packing: bool, expected: str) -> None:
    frames = 60 + (np.arange(sum(LENGTHS) // 4)[:, None] * np.array([5, 3, 2, 7])) % 9 - 4
    store = store_of(LENGTHS, tokens=GRID.encode_frames(frames))
    plan = BatchPlan.of(store, GRID, window=16, batch_size=3, seed=4, packing=packing, transpose=(-3, 3))
    digest = hashlib.sha256()
    for batch in map(plan.batch, range(30)):
        assert "hidden" not in batch
        for name in ("tokens", "piece", "start", "transpose"):
            digest.update(batch[name].numpy().tobytes())
    assert digest.hexdigest()[:16] == expected


# Jitter


@pytest.mark.parametrize(("kind", "key"), [("Velocity", "velocity_jitter"), ("Tempo", "tempo_jitter")])
def test_a_row_is_moved_as_a_whole_and_nothing_else_of_it(remi: Any, kind: str, key: str) -> None:
    plain, moved = plan_of(remi), plan_of(remi, **{key: 2})
    values = values_of(remi, kind)
    order = {token: place for place, token in enumerate(sorted(values, key=values.__getitem__))}
    seen = set()
    for k in range(40):
        for before, after in zip(plain.batch(k)["tokens"].tolist(), moved.batch(k)["tokens"].tolist(), strict=True):
            moves = {order[new] - order[old] for old, new in zip(before, after, strict=True) if old in order}
            assert len(moves) <= 1
            assert all(old == new for old, new in zip(before, after, strict=True) if old not in order)
            seen |= moves
    assert seen == {-2, -1, 0, 1, 2}


def test_a_move_that_would_leave_the_vocabulary_is_not_made(remi: Any) -> None:
    jitter = jitter_of(remi, "Velocity", 31)
    values = values_of(remi, "Velocity")
    ends = np.array([[min(values, key=values.__getitem__), max(values, key=values.__getitem__)]])
    drawn = jitter.draw(jitter.allowed(ends), np.array([0.9]))
    assert jitter.semitones(drawn).tolist() == [0]


# Masking


def test_notes_are_hidden_whole_and_as_often_as_asked(remi: Any) -> None:
    plan = plan_of(remi, mask_notes=0.3)
    whole = []
    for k in range(60):
        batch = plan.batch(k)
        for tokens, hidden in zip(batch["tokens"], batch["hidden"], strict=True):
            names = named(remi, tokens[:-1])
            assert not any(
                hidden[i] for i, name in enumerate(names) if name.split("_")[0] in ("PAD", "BOS", "EOS", "Bar", "Program", "Tempo")
            )
            for i, name in enumerate(names[:-2]):
                if name.startswith("Pitch") and names[i + 2].startswith("Duration"):
                    assert hidden[i] == hidden[i + 1] == hidden[i + 2], names[i : i + 3]
                    whole.append(float(hidden[i]))
    assert np.mean(whole) == pytest.approx(0.3, abs=0.03)


def test_bars_are_hidden_whole_but_for_their_beginning(remi: Any) -> None:
    plan = plan_of(remi, mask_bars=0.4)
    whole = []
    for k in range(60):
        batch = plan.batch(k)
        for tokens, hidden in zip(batch["tokens"], batch["hidden"], strict=True):
            bar: list[bool] = []
            for name, gone in zip(named(remi, tokens[:-1]), hidden.tolist(), strict=True):
                kind = name.split("_")[0]
                if kind in ("Bar", "PAD", "BOS", "EOS", "TimeSig", "Tempo"):
                    assert not gone
                    whole += [bar[0]] if bar else []
                    bar = [] if kind == "Bar" else bar
                else:
                    bar.append(gone)
                    assert len(set(bar)) == 1
    assert np.mean(whole) == pytest.approx(0.4, abs=0.08)


def test_on_a_grid_a_note_is_hidden_as_long_as_it_is_held() -> None:
    frames = np.array([[60, 55, -1, 48], [60, 57, -1, 48], [62, 57, -1, 48], [60, 57, -1, 50]])
    tokens = GRID.encode_frames(frames)
    assert held_notes(tokens, 4).reshape(4, 4).tolist() == [[0, 1, 2, 3], [0, 5, 2, 3], [8, 5, 2, 3], [12, 5, 2, 15]]
    masker = Masker.of(GRID, "notes", 0.5)
    assert masker is not None
    chance = np.ones(17)
    chance[[2, 3, 5]] = 0.0
    assert masker.hidden(tokens, chance).reshape(4, 4).astype(int).tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 0]]


def test_on_a_grid_begin_end_and_padding_are_never_hidden() -> None:
    masker = Masker.of(GRID, "notes", 0.999)
    assert masker is not None
    special = np.array([*GRID.begin, *GRID.end, *[GRID.pad_id] * 4])
    assert not masker.hidden(special, np.zeros(13)).any()


# Of the row's number alone


@pytest.mark.parametrize("packing", [True, False])
def test_neither_ranks_nor_the_batch_size_change_a_row(remi: Any, packing: bool) -> None:
    small = plan_of(remi, batch_size=2, packing=packing, **EVERYTHING)
    large = plan_of(remi, batch_size=6, packing=packing, **EVERYTHING)
    for key in ("tokens", "hidden"):
        together = torch.cat([small.batch(k)[key] for k in range(9)])
        assert torch.equal(torch.cat([large.batch(k)[key] for k in range(3)]), together)
        dealt = torch.stack([large.batch(1, rank=rank, world_size=2)[key] for rank in (0, 1)], 1).flatten(0, 1)
        assert torch.equal(dealt, large.batch(1)[key])


def test_a_batch_is_a_function_of_its_number_in_every_process(remi: Any) -> None:
    plan = plan_of(remi, **EVERYTHING)
    last = plan.batch(30)
    jitters, maskers = pickle.loads(pickle.dumps((plan.jitters, plan.maskers)))
    other = dataclasses.replace(plan_of(remi, **EVERYTHING), jitters=jitters, maskers=maskers)
    assert all(torch.equal(last[key], other.batch(30)[key]) for key in ("tokens", "hidden", "transpose"))
    another_seed = plan_of(remi, seed=1, **EVERYTHING).batch(30)
    assert not torch.equal(last["hidden"], another_seed["hidden"])


def test_masks_differ_from_row_to_row_and_from_epoch_to_epoch() -> None:
    drawn = [uniforms(5, Purpose.MASKED_NOTES, 0, window).tolist() for window in range(3)]
    assert len({tuple(each) for each in [*drawn, uniforms(5, Purpose.MASKED_BARS, 0, 0).tolist()]}) == 4


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"velocity_jitter": 2}, r"velocity_jitter=2, but VoiceGrid writes no velocity: leave it at 0, or take"),
        ({"tempo_jitter": 1}, r"tempo_jitter=1, but VoiceGrid writes no tempo"),
        ({"velocity_jitter": -1}, r"velocity_jitter=-1, expected 0 \(off\) to 31"),
        ({"tempo_jitter": 32}, r"tempo_jitter=32, expected 0 \(off\) to 31"),
        ({"mask_notes": 1.0}, r"mask_notes=1.0, expected a probability of at least 0 \(off\) and below 1"),
        ({"mask_bars": float("nan")}, r"mask_bars=nan, expected a probability"),
        ({"mask_bars": 0.1}, r"mask_bars=0.1, but VoiceGrid writes no bar lines: leave it at 0, use mask_notes"),
    ],
)
def test_what_cannot_be_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MusicDataModule(tokenizer=GRID, **options)


def test_a_tokenizer_that_tells_no_notes_is_refused() -> None:
    class Words:
        name, vocab_size, tokens_per_step, pad_id, begin, end = "Words", 3, 1, 0, (1,), (2,)

        def token_name(self, token: int) -> str:
            return f"Word_{token}"

    with pytest.raises(ValueError, match=r"mask_notes=0\.1, but Words has neither Pitch tokens nor voices on a grid"):
        Masker.of(Words(), "notes", 0.1)  # type: ignore[arg-type]
