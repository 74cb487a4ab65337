"""Batch k is a pure function of (seed, k), an epoch covers the corpus, and a row's notes are its share of its pieces'."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musictrain.data.batches import BatchPlan
from musictrain.data.evaluation_batches import EvaluationPlan
from musictrain.data.loading import batch_loader
from musictrain.data.packed_windows import PackedWindows
from musictrain.data.piece_windows import PieceWindows
from musictrain.data.shuffling import Purpose, permutation, random_words, uniforms
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers import VoiceGrid
from musictrain.data.transposition import Transposer
from musictrain.notes import Notes
from musictrain.runs.alerts import alert_of

STEP = 4
PAD = -9


def store_of(lengths: list[int], splits: str | None = None, tokens: Any = None) -> TokenStore:
    """Pieces of these lengths whose tokens are their own places in the store, so that every token tells where it came from."""
    length = np.array(lengths)
    split = np.array(["tvx".index(s) for s in splits or "t" * len(lengths)], np.int8)
    everything = np.arange(length.sum()) if tokens is None else tokens
    names = tuple(map(str, range(len(lengths))))
    counts = {"num_notes": length * 10, "num_beats": length * 0.25}
    return TokenStore(
        Path(), everything, split, np.cumsum(length) - length, length, **counts, names=names, sources=names, rejected=(), meta={}
    )


class Plain:
    """What a plan needs of a tokenizer, over the tokens of ``store_of``."""

    name, vocab_size, tokens_per_step, pad_id = "Plain", 10_000, STEP, PAD


def plan_of(store: TokenStore, **options: Any) -> BatchPlan:
    return BatchPlan.of(store, Plain(), **{"window": 16, "batch_size": 3, **options})  # type: ignore[arg-type]


LENGTHS = [24, 60, 16, 100, 36, 8, 44, 200, 28]
STORE = store_of(LENGTHS)


def batches(plan: Any, count: int) -> list[dict[str, Any]]:
    return [plan.batch(k) for k in range(count)]


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(torch.as_tensor(first[key]), torch.as_tensor(second[key])) for key in first)


@pytest.fixture(params=[True, False], ids=["packed", "by_piece"])
def packing(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Chance


def test_a_draw_depends_on_its_key_alone() -> None:
    assert np.array_equal(random_words(5, Purpose.PIECES, 1, 2), random_words(9, Purpose.PIECES, 1, 2)[:5])
    keys = [(Purpose.PIECES, 1, 2), (Purpose.WINDOWS, 1, 2), (Purpose.PIECES, 2, 1), (Purpose.PIECES, 1, 3), (Purpose.PIECES, 0, 2)]
    assert len({int(random_words(1, *key)[0]) for key in keys}) == len(keys)


def test_draws_stay_what_they_are_from_one_version_to_the_next() -> None:
    # A resumed run would go on with other music if these ever changed.
    assert random_words(2, Purpose.WINDOWS, 3, 5).tolist() == [8179341779850283246, 12495625870208568183]
    assert permutation(6, Purpose.PIECES, 0, 1).tolist() == [3, 5, 4, 1, 2, 0]


def test_uniforms_fill_the_unit_interval() -> None:
    drawn = uniforms(20_000, Purpose.PHASES, 0, 0)
    assert 0 <= drawn.min() < 0.001
    assert 0.999 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01


# One batch


def test_a_batch_is_a_function_of_its_number(packing: bool) -> None:
    plan = plan_of(STORE, packing=packing)
    in_order = batches(plan, 40)
    other = plan_of(STORE, packing=packing)
    assert all(same(other.batch(k), in_order[k]) for k in reversed(range(40)))


def test_another_seed_is_another_order(packing: bool) -> None:
    first, second = (torch.cat([b["tokens"] for b in batches(plan_of(STORE, packing=packing, seed=seed), 8)]) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_the_batch_has_the_promised_shapes(packing: bool) -> None:
    batch = plan_of(STORE, packing=packing).batch(7)
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items() if key != "number"} == {
        "tokens": (torch.int64, (3, 17)),
        "piece": (torch.int64, (3,)),
        "start": (torch.int64, (3,)),
        "transpose": (torch.int64, (3,)),
        "notes": (torch.float32, (3,)),
        "beats": (torch.float32, (3,)),
    }
    assert batch["number"] == 7


def test_piece_and_start_say_where_a_row_begins(packing: bool) -> None:
    for batch in batches(plan_of(STORE, packing=packing), 60):
        expected = torch.from_numpy(STORE.offset)[batch["piece"]] + batch["start"]
        assert torch.equal(batch["tokens"][:, 0], expected)
        assert not (batch["start"] % STEP).any()


@pytest.mark.parametrize("size", [1, 5, 15])
def test_batch_size_changes_neither_the_order_of_the_rows_nor_their_key(packing: bool, size: int) -> None:
    options: dict[str, Any] = {"window": 16, "packing": packing, "transpose": (-5, 6)}
    whole = batches(BatchPlan.of(GRID_STORE, GRID, batch_size=30, **options), 4)
    parts = batches(BatchPlan.of(GRID_STORE, GRID, batch_size=size, **options), 4 * 30 // size)
    for key in whole[0].keys() - {"number"}:
        assert torch.equal(torch.cat([b[key] for b in parts]), torch.cat([b[key] for b in whole])), key


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_ranks_and_accumulated_batches_together_hold_one_large_batch(packing: bool, world_size: int, accumulation: int) -> None:
    options: dict[str, Any] = {"window": 16, "packing": packing, "transpose": (-5, 6)}
    whole = BatchPlan.of(GRID_STORE, GRID, batch_size=16, **options)
    parts = BatchPlan.of(GRID_STORE, GRID, batch_size=16 // accumulation, **options)
    for k in (0, 1, 7):
        numbers = range(k * accumulation, (k + 1) * accumulation)
        dealt = [[parts.batch(number, rank, world_size) for rank in range(world_size)] for number in numbers]
        for key in ("tokens", "transpose"):
            rows = [torch.stack([part[key] for part in ranks], dim=1).flatten(0, 1) for ranks in dealt]
            assert torch.equal(torch.cat(rows), whole.batch(k)[key])


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_hold_the_rows_of_one(packing: bool, world_size: int) -> None:
    plan = BatchPlan.of(GRID_STORE, GRID, window=16, batch_size=6, packing=packing, transpose=(-5, 6))
    for k in (0, 3, 11):
        whole = plan.batch(k)
        parts = [plan.batch(k, rank, world_size) for rank in range(world_size)]
        for key in whole.keys() - {"number"}:
            assert torch.equal(torch.stack([part[key] for part in parts], dim=1).flatten(0, 1), whole[key]), key


def test_rows_that_do_not_divide_by_the_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 rows cannot be dealt out to 2 ranks.*such as 4"):
        plan_of(STORE).batch(0, 0, 2)


# One epoch


def epoch_rows(plan: BatchPlan, epoch: int = 0) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """The rows of one epoch, asked for one by one."""
    single = BatchPlan(plan.windows, 1, plan.seed, plan.pad_id)
    numbers = range(epoch * plan.windows.num_windows, (epoch + 1) * plan.windows.num_windows)
    return [(batch["tokens"][0], batch) for batch in map(single.batch, numbers)]


@pytest.mark.parametrize("epoch", [0, 1, 7])
@pytest.mark.parametrize("window", [4, 8, 16, 64, 100, 200])
def test_by_piece_every_target_comes_exactly_once_an_epoch(window: int, epoch: int) -> None:
    targets = torch.cat([row[1:] for row, _ in epoch_rows(plan_of(STORE, packing=False, window=window), epoch)])
    targets = targets[targets != PAD]
    first_tokens = set(STORE.offset.tolist())
    assert sorted(targets.tolist()) == [token for token in range(len(STORE.tokens)) if token not in first_tokens]


@pytest.mark.parametrize("window", [4, 8, 16, 64, 100, 200])
def test_by_piece_a_row_is_one_piece_and_then_padding(window: int) -> None:
    for row, batch in epoch_rows(plan_of(STORE, packing=False, window=window)):
        music = row[row != PAD]
        assert len(music) > 1
        assert torch.equal(row[: len(music)], music)
        assert torch.equal(music, torch.arange(int(music[0]), int(music[0]) + len(music)))
        piece = int(batch["piece"])
        assert int(music[-1]) < STORE.offset[piece] + STORE.length[piece]


def test_by_piece_rows_start_where_a_network_that_counts_from_the_start_expects_them() -> None:
    plan = plan_of(STORE, packing=False, window=32, align=16)
    starts = torch.cat([batch["start"] for batch in batches(plan, 40)])
    assert not (starts % 16).any()
    assert (starts % 32).any()


def test_by_piece_the_start_of_a_piece_is_always_the_start_of_a_window() -> None:
    plan = plan_of(STORE, packing=False)
    for epoch in range(5):
        assert sorted(int(b["piece"]) for _, b in epoch_rows(plan, epoch) if b["start"] == 0) == list(range(len(STORE)))


@pytest.mark.parametrize("align", [8, 16, 32])
def test_by_piece_windows_can_start_on_a_coarser_grid(align: int) -> None:
    plan = plan_of(STORE, packing=False, window=32, align=align)
    for epoch in range(4):
        rows = epoch_rows(plan, epoch)
        assert not any(int(batch["start"]) % align for _, batch in rows)
        assert sum(int((row[1:] != PAD).sum()) for row, _ in rows) == len(STORE.tokens) - len(STORE)


def test_by_piece_the_cuts_move_from_epoch_to_epoch() -> None:
    plan = plan_of(STORE, packing=False, window=40)
    cuts = {epoch: {int(b["start"]) for _, b in epoch_rows(plan, epoch) if b["piece"] == 7} for epoch in range(12)}
    assert len({frozenset(c) for c in cuts.values()}) > 2


def test_by_piece_short_pieces_stay_whole_and_padding_is_bounded() -> None:
    windows = PieceWindows(STORE, np.arange(len(STORE)), 40, STEP, 0)
    assert windows.counts[np.array(LENGTHS) <= 41].tolist() == [1] * 5
    spare = windows.counts * 40 - windows.targets
    assert spare[windows.counts > 1].max() < 40 + 10


@pytest.mark.parametrize("window", [8, 16, 64, 300])
def test_packed_rows_have_no_padding_and_run_on_where_pieces_meet(window: int) -> None:
    ends, begins = STORE.offset + STORE.length - 1, STORE.offset
    for row, _ in epoch_rows(plan_of(STORE, window=window)):
        assert (row != PAD).all()
        for one, following in pairwise(row.tolist()):
            assert following == one + 1 or (one in ends and following in begins)


@pytest.mark.parametrize("window", [8, 16, 64])
def test_packed_an_epoch_covers_the_stream_without_a_gap(window: int) -> None:
    windows = PackedWindows(STORE, np.arange(len(STORE)), window, STEP, 0)
    for epoch in range(4):
        order = windows.order(epoch)
        assert sorted(order.pieces.tolist()) == list(range(len(STORE)))
        steps = np.diff(order.starts)
        assert order.starts[0] == 0
        assert steps.max() <= window
        assert steps.min() >= window - window // 8
        # A window that begins early begins with a piece.
        assert set(order.starts[1:][steps < window]) <= set(order.begins.tolist())


def test_packed_nearly_every_target_comes_once_an_epoch() -> None:
    store = store_of([int(n) * STEP for n in np.random.default_rng(0).integers(100, 300, 200)])
    plan = plan_of(store, window=512, batch_size=8)
    counts = np.bincount(torch.cat([row[1:] for row, _ in epoch_rows(plan)]).numpy(), minlength=len(store.tokens))
    assert counts.max() <= 2
    assert (counts == 1).mean() > 0.97


def test_packed_every_piece_opens_a_window_in_about_one_epoch_of_eight() -> None:
    store = store_of([int(n) * STEP for n in np.random.default_rng(1).integers(100, 300, 100)])
    plan = plan_of(store, window=512)
    openings = sum(int(b["start"]) == 0 for epoch in range(10) for _, b in epoch_rows(plan, epoch))
    assert 0.09 < openings / (10 * 100) < 0.18


@pytest.mark.parametrize("steps", [4, 8, 32, 128])
def test_packed_short_pieces_open_windows_and_cost_little(steps: int) -> None:
    lengths = np.random.default_rng(2).integers(steps // 2, 3 * steps // 2, 4000) * STEP
    windows = PackedWindows(store_of(lengths.tolist()), np.arange(4000), 1024, STEP, 0)
    order = windows.order(0)
    assert order.starts[-1] + 1024 > 0.94 * windows.num_tokens
    assert np.isin(order.starts, order.begins).mean() > 0.2


def test_an_epoch_follows_the_last_without_loss(packing: bool) -> None:
    plan = plan_of(STORE, packing=packing, batch_size=7)
    num_windows = plan.windows.num_windows
    assert num_windows % 7
    rows = torch.cat([b["tokens"] for b in batches(plan, -(-3 * num_windows // 7))])
    for epoch in range(3):
        expected = torch.stack([row for row, _ in epoch_rows(plan, epoch)])
        assert torch.equal(rows[epoch * num_windows : (epoch + 1) * num_windows], expected)
    assert plan.num_batches == -(-num_windows // 7)


def test_fewer_windows_than_rows_can_be_trained_on() -> None:
    batch = plan_of(store_of([20]), batch_size=6).batch(0)
    assert batch["tokens"].shape == (6, 17)


def test_epochs_differ_in_order(packing: bool) -> None:
    plan = plan_of(STORE, packing=packing)
    first, second = ([int(row[0]) for row, _ in epoch_rows(plan, epoch)] for epoch in (0, 1))
    assert first != second


# Notes and beats


@pytest.mark.parametrize("window", [8, 16, 40, 200])
def test_by_piece_notes_and_beats_of_an_epoch_are_those_of_the_corpus(window: int) -> None:
    rows = [batch for _, batch in epoch_rows(plan_of(STORE, packing=False, window=window))]
    assert sum(float(b["notes"]) for b in rows) == pytest.approx(STORE.num_notes.sum(), rel=1e-5)
    assert sum(float(b["beats"]) for b in rows) == pytest.approx(STORE.num_beats.sum(), rel=1e-5)


def test_packed_notes_follow_the_tokens() -> None:
    # Ten notes and a quarter beat a token in every piece of the store.
    for batch in batches(plan_of(STORE, window=64), 20):
        assert batch["notes"].tolist() == pytest.approx([640.0] * 3, rel=1e-5)
        assert batch["beats"].tolist() == pytest.approx([16.0] * 3, rel=1e-5)


# Windows that cannot be


def test_a_window_longer_than_every_piece_is_refused_by_piece() -> None:
    with pytest.raises(ValueError, match=r"204 tokens is longer than every training piece: the longest has 200.*window=200.*packing=True"):
        plan_of(STORE, window=204, packing=False)
    assert plan_of(STORE, window=200, packing=False).batch(0)["tokens"].shape == (3, 201)
    assert plan_of(STORE, window=224, packing=False, align=32).batch(0)["tokens"].shape == (3, 225)
    assert plan_of(STORE, window=204).batch(0)["tokens"].shape == (3, 205)


def test_a_window_longer_than_all_pieces_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"longer than all 9 training pieces together \(516 tokens\).*window=512 at most"):
        plan_of(STORE, window=516)
    assert plan_of(STORE, window=512).batch(0)["tokens"].shape == (3, 513)


def test_a_store_without_training_pieces_is_refused() -> None:
    with pytest.raises(ValueError, match="No training piece is left of 2"):
        plan_of(store_of([20, 20], "vx"))


def test_only_training_pieces_are_trained_on(packing: bool) -> None:
    store = store_of(LENGTHS, "tvxtvxtvx")
    pieces = {int(piece) for batch in batches(plan_of(store, packing=packing), 30) for piece in batch["piece"]}
    assert pieces == {0, 3, 6}


# Transposition

GRID = VoiceGrid(lowest=50, highest=79)


def grid_store(pitch: int = 60, pieces: int = 6) -> TokenStore:
    frames = [np.array([[pitch + 12, pitch + 7, pitch + 4, -1]] * (8 + piece)) for piece in range(pieces)]
    encoded = [np.concatenate([GRID.begin, GRID.encode_frames(f), GRID.end]) for f in frames]
    return store_of([len(tokens) for tokens in encoded], tokens=np.concatenate(encoded))


GRID_STORE = grid_store()


def test_transposed_rows_are_the_transposed_music(packing: bool) -> None:
    options: dict[str, Any] = {"window": 16, "batch_size": 4, "packing": packing}
    plain, moved = (BatchPlan.of(GRID_STORE, GRID, transpose=t, **options) for t in ((0, 0), (-5, 6)))
    for k in range(10):
        for before, after, semitones in zip(
            plain.batch(k)["tokens"], *(moved.batch(k)[key] for key in ("tokens", "transpose")), strict=True
        ):
            assert np.array_equal(GRID.transposition(int(semitones))[before.numpy()], after.numpy())
            notes: Notes = GRID.decode(before.numpy())
            assert GRID.decode(after.numpy()).same_notes(notes.transposed(int(semitones)))


def test_every_shift_that_fits_comes_equally_often() -> None:
    # Pitches 64 to 72 in a table from 50 to 79.
    plan = BatchPlan.of(GRID_STORE, GRID, window=16, batch_size=8, transpose=(-20, 20))
    drawn = torch.cat([plan.batch(k)["transpose"] for k in range(400)])
    shifts, counts = drawn.unique(return_counts=True)
    assert shifts.tolist() == list(range(-14, 8))
    assert counts.min() > 0.7 * counts.float().mean()
    assert counts.max() < 1.3 * counts.float().mean()


def test_no_row_leaves_the_vocabulary(packing: bool) -> None:
    plan = BatchPlan.of(GRID_STORE, GRID, window=16, batch_size=8, packing=packing, transpose=(-24, 24))
    assert all(int(plan.batch(k)["tokens"].min()) >= 0 for k in range(20))


def test_music_that_fits_nowhere_in_the_range_stays_as_it_is() -> None:
    plan = BatchPlan.of(GRID_STORE, GRID, window=16, batch_size=4, transpose=(12, 15))
    assert not plan.batch(0)["transpose"].any()
    assert int(plan.batch(0)["tokens"].min()) >= 0


def test_within_the_corpus_no_new_pitch_appears() -> None:
    frames = np.array([[72 + up, 67 + up, 64 + up, -1] for up in range(4) for _ in range(8)])
    tokens = np.concatenate([GRID.begin, GRID.encode_frames(frames), GRID.end])
    store = store_of([len(tokens)], tokens=tokens)
    plan = BatchPlan.of(store, GRID, window=16, batch_size=8, packing=False, transpose=(-5, 6), transpose_within="corpus")
    seen = torch.cat([plan.batch(k)["tokens"].flatten() for k in range(30)]).unique()
    assert set(seen.tolist()) <= {*tokens.tolist(), GRID.pad_id}
    assert {int(s) for k in range(30) for s in plan.batch(k)["transpose"]} >= {-2, -1, 0, 1, 2}


def test_drums_and_rests_allow_every_shift() -> None:
    transposer = Transposer.of(GRID, -5, 6)
    rests = GRID.encode_frames(np.full((3, 4), -1))
    assert int(transposer.allowed(rests)) == 2**12 - 1


@pytest.mark.parametrize(("low", "high", "reason"), [(3, -3, "the lowest shift comes first"), (-40, 40, "at most 64")])
def test_a_range_without_sense_is_refused(low: int, high: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Transposer.of(GRID, low, high)


# Measuring


def evaluation(store: TokenStore, **options: Any) -> EvaluationPlan:
    options = {"pieces": np.arange(len(store)), "window": 40, "batch_size": 4, "tokens_per_step": STEP, "pad_id": PAD, **options}
    return EvaluationPlan(store, **options)


@pytest.mark.parametrize("window", [4, 40, 400])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_measuring_meets_every_target_once(window: int, batch_size: int) -> None:
    plan = evaluation(STORE, window=window, batch_size=batch_size)
    targets = torch.cat([b["tokens"][:, 1:].flatten() for b in batches(plan, plan.num_batches)])
    first_tokens = set(STORE.offset.tolist())
    assert sorted(targets[targets != PAD].tolist()) == [token for token in range(len(STORE.tokens)) if token not in first_tokens]


def test_measuring_starts_at_the_start_of_each_piece_and_goes_on() -> None:
    plan = evaluation(STORE)
    starts: dict[int, list[int]] = {}
    for batch in batches(plan, plan.num_batches):
        for piece, start in zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True):
            starts.setdefault(piece, []).append(start)
        assert not batch["transpose"].any()
    assert {piece: sorted(s) for piece, s in starts.items()} == {piece: list(range(0, n - 1, 40)) for piece, n in enumerate(LENGTHS)}


def test_measuring_wastes_little_padding() -> None:
    plan = evaluation(STORE)
    widths = [b["tokens"].shape[1] - 1 for b in batches(plan, plan.num_batches)]
    assert widths == sorted(widths, reverse=True)
    assert all(width % STEP == 0 for width in widths)
    padding = sum(int((b["tokens"] == PAD).sum()) for b in batches(plan, plan.num_batches))
    assert padding < 0.15 * len(STORE.tokens)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_measured_notes_and_beats_are_those_of_the_corpus_whatever_the_ranks(world_size: int) -> None:
    plan = evaluation(STORE, window=16)
    parts = [plan.batch(k, rank, world_size) for k in range(plan.num_batches) for rank in range(world_size)]
    assert sum(float(p["notes"].sum()) for p in parts) == pytest.approx(STORE.num_notes.sum(), rel=1e-5)
    assert sum(float(p["beats"].sum()) for p in parts) == pytest.approx(STORE.num_beats.sum(), rel=1e-5)
    assert len({(p["number"], p["tokens"].shape) for p in parts}) == plan.num_batches


def test_rows_of_nothing_but_padding_fill_the_last_batch() -> None:
    plan = evaluation(store_of([20, 20, 20]), window=16)
    [last] = [plan.batch(plan.num_batches - 1, rank, 4) for rank in (3,)]
    assert last["piece"].tolist() == [-1]
    assert (last["tokens"] == PAD).all()
    assert float(last["notes"]) == float(last["beats"]) == 0.0


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_of_a_damaged_store_are_not_measured_which_is_told_once(world_size: int, caplog: pytest.LogCaptureFixture) -> None:
    whole, damaged = evaluation(STORE, vocab_size=10_000), replace(STORE, tokens=STORE.tokens.copy())
    damaged.tokens[[damaged.offset[2] + 7, damaged.offset[4] + 1]] = 10_003
    plan, lost = evaluation(damaged, vocab_size=10_000), {(2, 0), (4, 0)}
    kept = {}
    for number in range(plan.num_batches):
        for rank in range(world_size):
            before, after = (each.batch(number, rank, world_size) for each in (whole, plan))
            for row, place in enumerate(zip(before["piece"].tolist(), before["start"].tolist(), strict=True)):
                equal = [torch.equal(before[name][row], after[name][row]) for name in ("tokens", "piece", "start", "notes", "beats")]
                kept[place] = all(equal)
                nothing = (after["tokens"][row] == PAD).all() and after["piece"][row] == -1
                assert all(equal) or (bool(nothing) and float(after["notes"][row]) == float(after["beats"][row]) == 0.0)
    assert {place for place, equal in kept.items() if not equal} == lost
    (told,) = [found for record in caplog.records if (found := alert_of(record))]
    assert told["kind"] == "data"
    assert told["pieces"] in ([damaged.names[2]], [damaged.names[4]])


def test_there_is_no_batch_past_the_last_to_measure_on() -> None:
    plan = evaluation(STORE)
    with pytest.raises(IndexError, match=f"no number {plan.num_batches}"):
        plan.batch(plan.num_batches)
    assert evaluation(STORE, pieces=np.array([], np.int64)).num_batches == 0


# Loading


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_do_not_change_the_batches(num_workers: int, packing: bool) -> None:
    plan = plan_of(STORE, packing=packing)
    position = [5]
    loader = batch_loader(plan, first=lambda: position[0], num_workers=num_workers)
    for first in (5, 9):
        position[0] = first
        loaded = list(loader)
        assert [b["number"] for b in loaded] == list(range(first, first + plan.num_batches))
        assert all(same(b, plan.batch(b["number"])) for b in loaded)
    assert len(loader) == plan.num_batches


def test_loading_leaves_the_random_numbers_of_the_run_alone() -> None:
    before = torch.get_rng_state()
    next(iter(batch_loader(plan_of(STORE))))
    assert torch.equal(torch.get_rng_state(), before)
