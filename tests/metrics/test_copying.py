"""Copying: planted copies are found with their bars, near-copies are not, and what the hashes say is compared note by note."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.data import MidiTokTokenizer, VoiceGrid, load_corpus
from musictrain.data.tune_groups import skyline
from musictrain.metrics import copying_passages
from musictrain.metrics.copying import copy_counts, copy_rate, corpus_copy_rate, longest_match
from musictrain.metrics.copying_index import CopyIndex, as_tokens_hold
from musictrain.notes import COLUMNS, Notes

FEW_NOTES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8), st.integers(50, 62)), max_size=30)


def music(seed: int, bars: int = 8) -> Notes:
    """Four voices on a grid of eighths, at random: two such pieces share nothing but by chance."""
    generator = np.random.default_rng(seed)
    onset = np.tile(np.arange(bars * 8) / 2, 4)
    track = np.repeat(np.arange(4), bars * 8)
    return Notes(onset, np.full(len(onset), 0.5), generator.integers(48, 72, len(onset)) + 0 * track, track=track)


def shifted(notes: Notes, beats: float) -> Notes:
    return replace(notes, onset=notes.onset + beats)


def joined(*pieces: Notes) -> Notes:
    return Notes(*(np.concatenate([getattr(piece, column) for piece in pieces]) for column in COLUMNS))


def indexed(*pieces: Notes) -> CopyIndex:
    return CopyIndex.build((f"piece {number}", notes) for number, notes in enumerate(pieces))


TRAINING = [music(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def index() -> CopyIndex:
    return indexed(*TRAINING)


def test_a_training_piece_is_all_copied(index):
    for bars in (1, 2, 4, 8):
        assert copy_rate(TRAINING[1], index, bars=bars) == 1.0
    match = longest_match(TRAINING[1], index)
    assert (match.source, match.source_bars, match.own_bars, match.semitones) == ("piece 1", (1, 8), (1, 8), 0)
    assert (match.bars, match.beats, match.notes) == (8.0, 32.0, len(set(zip(TRAINING[1].onset, TRAINING[1].pitch, strict=True))))


def test_other_music_is_not_copied(index):
    assert copy_rate(music(99), index, bars=1) == 0.0
    assert longest_match(music(99), index) is None


@pytest.mark.parametrize("semitones", [-7, 0, 5])
@pytest.mark.parametrize("beats", [0.0, 4.0, 1.0, 1 / 3, 0.125])
def test_a_passage_planted_in_other_music_is_found_with_its_bars(index, semitones, beats):
    passage = TRAINING[2].between(8, 20)  # bars 3 to 5
    own = music(99, bars=12)
    start, stop = 16 + beats, 28 + beats
    before, after = own.between(0, 16), shifted(own.between(28, 48), beats)
    sample = joined(before, shifted(passage, start - 8).transposed(semitones), after)
    match = longest_match(sample, index)
    assert (match.source, match.source_bars, match.semitones) == ("piece 2", (3, 5), semitones)
    assert match.source_beat == 8.0
    assert match.own_beat == pytest.approx(start, abs=0.05)
    assert match.beats == 12.0
    assert match.bars == pytest.approx(3.0)
    assert match.own_bars == (1 + int(start // 4), math.ceil(stop / 4))
    if beats in (0.0, 4.0):
        assert copy_counts(sample, index, bars=1).copied == 3
        assert copy_counts(sample, index, bars=2).copied == 2
        assert copy_counts(sample, index, bars=3).copied == 1
        assert copy_counts(sample, index, bars=4).copied == 0


def test_tracks_programs_and_velocities_do_not_hide_a_copy(index):
    piece = TRAINING[0]
    disguised = replace(piece, track=3 - piece.track, program=np.full(len(piece), 48), velocity=np.full(len(piece), 33))
    assert copy_rate(disguised, index, bars=4) == 1.0


def test_a_near_copy_is_not_a_copy(index):
    piece = TRAINING[0]
    for column, changed in (("pitch", piece.pitch + 1), ("onset", piece.onset + 0.25), ("duration", piece.duration + 0.25)):
        near = replace(piece, **{column: np.where(piece.onset % 4 == 2.0, changed, getattr(piece, column))})
        assert copy_rate(near, index, bars=1) == 0.0, column
        assert longest_match(near, index).bars < 1.0, column


def test_a_tune_under_other_chords_is_found_among_top_lines(index):
    tune, other = TRAINING[0].select(TRAINING[0].track == 0).transposed(24), music(60)
    sung = joined(tune, other.select(other.track > 0))
    assert longest_match(sung, indexed(tune)) is None
    tunes = CopyIndex.build([("a hymn", skyline(joined(tune, TRAINING[0].select(TRAINING[0].track > 0))))])
    match = longest_match(skyline(sung), tunes)
    assert (match.source, match.bars, match.semitones) == ("a hymn", 8.0, 0)


def test_what_one_changed_note_leaves_is_found_on_both_sides():
    training = music(5, bars=12)
    piece = replace(training, pitch=np.where((training.onset == 16.0) & (training.track == 0), training.pitch + 1, training.pitch))
    index = indexed(training)
    assert copy_counts(piece, index, bars=1) == (11, 12)
    match = longest_match(piece, index)
    assert (match.own_beat, match.beats) == (16.5, 31.5)
    assert (match.source_bars, match.own_bars) == ((5, 12), (5, 12))


def test_a_prompt_does_not_count(index):
    sample = joined(TRAINING[0].between(0, 16), shifted(music(99), 16))
    assert copy_counts(sample, index, bars=2).copied == 3
    assert copy_counts(sample, index, bars=2, from_beat=16.0) == (0, 7)
    assert longest_match(sample, index, from_beat=16.0) is None
    half_a_bar_on = copy_counts(TRAINING[0], index, bars=2, from_beat=14.0)
    assert half_a_bar_on == (3, 3)  # bars 5 to 8: the bar that the prompt began is the prompt's
    assert longest_match(TRAINING[0], index, from_beat=14.0).own_beat == 14.0


def test_a_piece_is_judged_without_itself(index):
    assert copy_rate(TRAINING[0], index, but_not_in=["piece 0"]) == 0.0
    twins = indexed(TRAINING[0], music(50), TRAINING[0].transposed(3))
    match = longest_match(TRAINING[0], twins, but_not_in=["piece 0"])
    assert (match.source, match.semitones, match.bars) == ("piece 2", -3, 8.0)


def test_bars_follow_the_time_signatures_and_a_pickup_is_bar_one():
    signatures = [(0.0, 1, 4), (1.0, 3, 4)]
    training = replace(music(1, bars=4), time_signatures=signatures)
    match = longest_match(shifted(training.between(4, 10), 4), indexed(training))
    assert match.source_bars == (3, 4)
    assert match.source_beat == 4.0
    assert match.own_bars == (4, 6)
    assert match.bars == pytest.approx(2.0)


def test_windows_with_fewer_than_two_chords_are_left_out(index):
    slow = Notes([0, 4, 8, 9, 12], [4, 4, 1, 3, 4], [60, 62, 64, 65, 67])
    assert copy_counts(slow, index, bars=1).windows == 1
    assert copy_counts(slow, index, bars=2).windows == 3


@pytest.mark.parametrize("notes", [Notes.empty(), Notes([0.0, 1.0], [1, 1], [36, 38], drum=[True, True]), Notes([0.0], [1.0], [60])])
def test_what_has_no_passage_has_no_rate(index, notes):
    assert math.isnan(copy_rate(notes, index))
    assert longest_match(notes, index) is None


def test_drums_do_not_hide_a_copy_and_are_none():
    beat = Notes(np.arange(32.0), np.full(32, 0.25), np.full(32, 36), drum=np.ones(32, bool))
    with_drums = joined(TRAINING[0], beat)
    assert copy_rate(with_drums, indexed(TRAINING[0])) == 1.0
    assert longest_match(beat, indexed(with_drums)) is None


def test_an_empty_training_set_is_copied_from_by_nobody():
    assert copy_rate(TRAINING[0], indexed()) == 0.0
    assert copy_rate(TRAINING[0], indexed(Notes.empty())) == 0.0
    assert longest_match(TRAINING[0], indexed(Notes.empty(), Notes([0], [1], [60]))) is None


@given(FEW_NOTES, FEW_NOTES, st.integers(-12, 12), st.integers(0, 20))
def test_key_place_and_list_order_do_not_matter(rows, others, semitones, eighths):
    pieces = [Notes.from_rows([(o / 2, d / 2, p) for o, d, p in each]) for each in (rows, others)]
    index = indexed(*pieces)
    moved = shifted(pieces[0].transposed(semitones), eighths / 2)
    found, in_place = longest_match(moved, index), longest_match(pieces[0], index)
    assert (found is None) == (in_place is None)
    if found is not None:
        assert (found.beats, found.notes) == (in_place.beats, in_place.notes)
        assert longest_match(moved, indexed(*pieces[::-1])).beats == found.beats


def content(notes: Notes, start: float, stop: float) -> list[tuple[float, float, int]]:
    """The notes that start in [start, stop), from the first of them and its lowest note on."""
    rows = sorted({(o, p, d) for o, p, d in zip(notes.onset, notes.pitch, notes.duration, strict=True) if start <= o < stop})
    return [(o - rows[0][0], d, p - rows[0][1]) for o, p, d in rows]


@given(FEW_NOTES, FEW_NOTES, st.sampled_from([1, 2, 3]), st.integers(0, 30), st.integers(0, 5))
def test_windows_are_those_that_looking_everywhere_finds(rows, others, bars, copied_to, eighths):
    piece, other = (Notes.from_rows([(o / 2, d / 2, p) for o, d, p in each]) for each in (rows, others))
    training = joined(shifted(piece.between(0, copied_to / 2).transposed(2), eighths / 2), shifted(other, 8))
    copied = windows = 0
    for bar in range(math.ceil(piece.end / 4) - bars + 1):
        start, stop = 4.0 * bar, 4.0 * (bar + bars)
        wanted = content(piece, start, stop)
        filled = all(len(content(piece, line, line + 4)) for line in (start, stop - 4))
        if len({o for o, _, _ in wanted}) < 2 or not filled:
            continue
        windows += 1
        length = wanted[-1][0] + 0.25
        copied += any(content(training, first, first + length) == wanted for first in training.onset)
    assert copy_counts(piece, indexed(training), bars=bars) == (copied, windows)


@given(FEW_NOTES, FEW_NOTES)
def test_a_match_is_true_note_by_note(rows, others):
    piece, training = (Notes.from_rows([(o / 2, d / 2, p) for o, d, p in each]) for each in (rows, others))
    match = longest_match(piece, indexed(training))
    if match is None:
        return
    own, source = (
        {(o - start, d, p) for o, d, p in zip(notes.onset, notes.duration, notes.pitch, strict=True) if o >= start}
        for notes, start in ((piece, match.own_beat), (training, match.source_beat))
    )
    same = own & {(o, d, p + match.semitones) for o, d, p in source}
    last = max(o for o, _, _ in sorted(same)[: match.notes])
    assert len({n for n in own if n[0] <= last}) == len({n for n in source if n[0] <= last}) == match.notes


def test_hashes_that_lie_are_found_out(monkeypatch):
    training, honest = music(3), joined(TRAINING[0].between(0, 8), shifted(music(3).between(8, 24), 0))
    monkeypatch.setattr(copying_passages, "_mixed", lambda values: np.full_like(values, 7))
    index = indexed(training)
    match = longest_match(honest, index)
    assert match is None or match.source == "piece 0"
    assert longest_match(music(4), index) is None


def test_a_saved_index_answers_the_same_from_disk(tmp_path: Path, index):
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    loaded = CopyIndex.load(tmp_path / "index")
    assert isinstance(loaded.symbols, np.memmap)
    assert not list(tmp_path.glob(".*"))
    sample = joined(TRAINING[1].between(4, 20), shifted(music(99), 20))
    assert longest_match(sample, loaded) == longest_match(sample, index)
    assert copy_counts(sample, loaded, bars=1) == copy_counts(sample, index, bars=1)


def test_an_index_of_another_version_is_refused(tmp_path: Path, index, monkeypatch):
    monkeypatch.setattr("musictrain.metrics.copying_index.VERSION", 0)
    index.save(tmp_path / "index")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="version 0; here it is 1"):
        CopyIndex.load(tmp_path / "index")


def test_misuse_is_named(index):
    with pytest.raises(ValueError, match="Two pieces are called 'a'"):
        CopyIndex.build([("a", TRAINING[0]), ("b", TRAINING[1]), ("a", TRAINING[2])])
    with pytest.raises(ValueError, match=r"No piece of the index is called 'piece 9'. Did you mean"):
        copy_rate(TRAINING[0], index, but_not_in=["piece 9"])
    with pytest.raises(ValueError, match="bars is 0"):
        copy_rate(TRAINING[0], index, bars=0)
    with pytest.raises(ValueError, match="ticks_per_beat is 0"):
        CopyIndex.build([], ticks_per_beat=0)
    with pytest.raises(ValueError, match=r"the broken one cannot be indexed\. A time of inf beats"):
        CopyIndex.build([("a", TRAINING[0]), ("the broken one", Notes([0.0], [np.inf], [60]))])
    with pytest.raises(ValueError, match="A time of -1 beats"):
        longest_match(Notes([0.0, 0.0], [-1.0, 1.0], [60, 62]), index)
    with pytest.raises(ValueError, match="pitches from 60 to 200"):
        longest_match(Notes([0.0, 0.0], [1.0, 1.0], [60, 200]), index)


def test_a_match_reads_as_a_sentence(index):
    match = longest_match(shifted(TRAINING[2].between(8, 12), -8).transposed(-1), index)
    assert str(match) == f"bar 1 (4 beats, {match.notes} notes) are bar 3 of piece 2, 1 semitone lower"


@pytest.mark.parametrize("tokenizer", [VoiceGrid(), MidiTokTokenizer("REMI")], ids=lambda tokenizer: tokenizer.name)
def test_what_a_tokenizer_holds_of_a_piece_is_found_again(tokenizer):
    rows = [(0, 1, 72), (1, 1, 72), (2, 1, 71), (3, 1, 72), (0, 2, 60), (2, 2, 59)]
    struck_again = Notes.from_rows(rows, track=[0, 0, 0, 0, 3, 3], time_signatures=[(0, 2, 4)])
    held = as_tokens_hold(struck_again, tokenizer)
    assert held.time_signatures == struck_again.time_signatures
    assert copy_rate(held, indexed(held)) == 1.0


@pytest.mark.corpus
def test_chorales_in_validation_are_hardly_in_training():
    corpus = load_corpus("chorales", progress=False)
    index = CopyIndex.build((piece.name, piece.notes) for piece in corpus.split("train"))
    own = [corpus_copy_rate((piece.notes for piece in corpus.split("valid")), index, bars=bars) for bars in (1, 2, 4)]
    assert 0.01 < own[0] < 0.08
    assert own[0] > own[1] >= own[2]
    assert own[1] < 0.01  # pieces on one tune stand in one split
    longest = [longest_match(piece.notes, index).beats for piece in corpus.split("valid") + corpus.split("test")]
    assert 2.0 <= np.median(longest) <= 4.0
    assert np.quantile(longest, 0.95) <= 5.0
    trained = corpus.split("train")[7]
    assert longest_match(trained.notes.transposed(2), index).source == trained.name
