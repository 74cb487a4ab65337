"""VoiceGrid: frames and notes are two forms of one thing, and every allowed token sequence is a piece."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from musictrain.data.tokenizers import Grammar, Tokenizer, VoiceGrid
from musictrain.data.tokenizers.voice_frames import frames_from_notes, notes_from_frames
from musictrain.notes import Notes

DATA = Path(os.environ.get("MUSICTRAIN_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
PITCH_OR_REST = st.sampled_from([-1, -1, 21, 59, 60, 61, 108])


def frame_matrices(max_frames=12):
    """Any matrix whose last frame sounds: silence after the last note is no part of the notes."""
    matrices = st.integers(0, max_frames).flatmap(lambda n: arrays(np.int64, (n, 4), elements=PITCH_OR_REST))
    return matrices.map(lambda m: m[: np.max(np.nonzero((m >= 0).any(1))[0], initial=-1) + 1])


def jsb_pieces():
    path = DATA / "jsb16_train_valid.json"
    if not path.exists():
        pytest.skip(f"the JSB chorales on a 16th grid are not at {path}")
    return [np.array(piece) for split in json.loads(path.read_text()).values() for piece in split]


def one_voice(*rows):
    return Notes.from_rows(rows)


def soprano(notes, steps_per_beat=4):
    return frames_from_notes(notes, steps_per_beat)[:, 0].tolist()


def test_token_ids_are_those_of_table_a():
    grid = VoiceGrid()
    assert grid.vocab_size == 359
    assert (grid.pad_id, grid.begin, grid.end, grid.tokens_per_step) == (0, (1,) * 4, (2,) * 4, 4)
    tokens = grid.encode_frames(np.array([[21, 60, -1, 108]]))
    assert tokens.tolist() == [4, 3 + 89 + 1 + 39, 3 + 2 * 89, 358]
    assert [grid.token_name(t) for t in tokens] == ["Soprano_21", "Alto_60", "Tenor_Rest", "Bass_108"]


def test_it_keeps_both_protocols():
    assert isinstance(VoiceGrid(), Tokenizer)
    assert isinstance(VoiceGrid().grammar(), Grammar)


def test_token_names_are_unique():
    names = [VoiceGrid().token_name(t) for t in range(359)]
    assert len(set(names)) == 359


@given(frame_matrices(), st.sampled_from([1, 3, 4, 6, 12]))
def test_frames_to_notes_to_frames_is_the_identity_on_every_grid(frames, steps_per_beat):
    notes = notes_from_frames(frames, steps_per_beat)
    assert np.array_equal(frames_from_notes(notes, steps_per_beat), frames)


@given(frame_matrices())
def test_frames_to_tokens_to_frames_is_the_identity(frames):
    grid = VoiceGrid()
    assert np.array_equal(grid.decode_frames(grid.encode_frames(frames)), frames)


@given(frame_matrices())
def test_decoding_what_was_encoded_gives_the_notes_back(frames):
    grid, notes = VoiceGrid(), notes_from_frames(frames)
    assert grid.decode(grid.encode(notes)).same_notes(notes)


def test_the_jsb_chorales_round_trip_exactly():
    grid = VoiceGrid()
    for frames in jsb_pieces():
        tokens = grid.encode(notes_from_frames(frames))
        assert np.array_equal(grid.decode_frames(tokens), frames)


def test_a_repeated_note_merges_with_its_neighbour_and_a_gap_keeps_it_apart():
    assert len(VoiceGrid().decode(VoiceGrid().encode(one_voice((0, 1, 60), (1, 1, 60))))) == 1
    assert len(VoiceGrid().decode(VoiceGrid().encode(one_voice((0, 0.75, 60), (1, 1, 60))))) == 2


def test_the_latest_onset_is_heard():
    assert soprano(one_voice((0, 1.05, 60), (1, 1, 62)), 2) == [60, 60, 62, 62]
    assert soprano(one_voice((0, 4, 60), (1, 0.25, 62)), 1) == [60, 62, 60, 60]


def test_of_equal_onsets_the_highest_is_heard():
    long_voice = [(i, 1, 60) for i in range(20)]
    assert soprano(one_voice(*long_voice, (20, 1, 64), (20, 1, 67)), 1)[-1] == 67


def test_onsets_and_ends_go_to_the_nearest_step_and_halves_upwards():
    assert soprano(one_voice((0.1, 0.5, 60), (0.875, 0.125, 62))) == [60, 60, -1, -1, 62]
    assert soprano(one_voice((0.1, 0.5, 60), (0.874, 0.3, 62))) == [60, 60, -1, 62, 62]


def test_a_note_shorter_than_half_a_step_holds_one_step():
    assert soprano(one_voice((0.5, 0.01, 60))) == [-1, -1, 60]


def test_a_short_note_vanishes_only_under_a_later_one():
    assert soprano(one_voice((0, 0.05, 60), (0.05, 0.95, 62))) == [62] * 4


def test_thirds_of_a_beat_lie_on_a_grid_of_three():
    assert soprano(one_voice(*[(i / 3, 1 / 3, 60 + i % 2) for i in range(30)]), 3) == [60, 61] * 15


def test_an_empty_piece_is_no_tokens():
    assert VoiceGrid().encode(Notes.empty()).shape == (0,)
    assert len(VoiceGrid().decode(np.zeros(0, np.int64))) == 0


def test_drums_are_refused():
    with pytest.raises(ValueError, match=r"four-part pieces; this one has drums.*MidiTokTokenizer"):
        VoiceGrid().encode(Notes([0], [1], [36], drum=[True]))


def test_a_fifth_track_is_refused():
    with pytest.raises(ValueError, match=r"tracks 0 to 3; this one has tracks \[0, 4\]"):
        VoiceGrid().encode(Notes([0, 0], [1, 1], [60, 64], track=[0, 4]))


def test_chords_in_one_voice_are_refused():
    with pytest.raises(ValueError, match=r"track 0 of this one sounds over itself for 50% of its time"):
        VoiceGrid().encode(one_voice((0, 1, 60), (0, 1, 64)))


def test_pitches_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"pitches 60 to 72; this piece has \[59\]"):
        VoiceGrid(lowest=60, highest=72).encode(one_voice((0, 1, 59), (1, 1, 60)))


@pytest.mark.parametrize("onset", [-1.0, np.nan, np.inf, 1e12])
def test_impossible_times_are_refused(onset):
    with pytest.raises(ValueError, match="timing broken"):
        VoiceGrid().encode(one_voice((onset, 1, 60)))


@pytest.mark.parametrize("arguments", [{"lowest": -1}, {"highest": 128}, {"lowest": 70, "highest": 60}])
def test_impossible_ranges_are_refused(arguments):
    with pytest.raises(ValueError, match="0 <= lowest <= highest <= 127"):
        VoiceGrid(**arguments)


def test_a_beat_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps_per_beat=0"):
        VoiceGrid(steps_per_beat=0)


@given(st.lists(st.integers(-5, 400), max_size=40))
def test_any_token_sequence_decodes(tokens):
    grid = VoiceGrid()
    frames = grid.decode_frames(np.array(tokens, np.int64))
    assert np.isin(frames, [-1, *range(21, 109)]).all()
    assert len(grid.decode(np.array(tokens, np.int64))) >= (frames[:1] >= 0).sum()


def test_an_incomplete_frame_is_dropped():
    grid = VoiceGrid()
    tokens = grid.encode_frames(np.array([[60, 60, 60, 60], [61, 61, 61, 61], [62, 62, 62, 62]]))
    assert grid.decode_frames(np.delete(tokens, 5))[:, 0].tolist() == [60, 62]


@given(frame_matrices())
def test_the_grammar_allows_every_piece(frames):
    grid = VoiceGrid()
    grammar = grid.grammar()
    state = grammar.start(1)
    for token in [*grid.begin, *grid.encode_frames(frames), *grid.end]:
        assert grammar.allowed(state)[0, token]
        state = grammar.advance(state, np.array([token]))
    assert np.nonzero(grammar.allowed(state)[0])[0].tolist() == [2]


def sample(grammar, begin, length, batch, seed):
    """Tokens drawn uniformly from the allowed ones, (batch, length), after ``begin``."""
    random, state, drawn = np.random.default_rng(seed), grammar.start(batch), []
    for token in begin:
        state = grammar.advance(state, np.full(batch, token))
    for _ in range(length):
        allowed = grammar.allowed(state)
        assert allowed.any(axis=1).all()
        drawn.append(np.argmax(random.random(allowed.shape) * allowed, axis=1))
        state = grammar.advance(state, drawn[-1])
    return np.stack(drawn, axis=1)


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_every_sequence_of_allowed_tokens_is_whole_frames_and_then_the_end(seed):
    grid = VoiceGrid(60, 62)
    for tokens in sample(grid.grammar(), grid.begin, 40, 8, seed):
        music = tokens[tokens > 2]
        assert (tokens[len(music) :] == 2).all()
        assert np.array_equal(grid.encode_frames(grid.decode_frames(music)), music)


def test_the_grammar_reads_a_new_piece_after_the_end_of_another():
    grid = VoiceGrid()
    grammar, state = grid.grammar(), grid.grammar().start(1)
    for token in [*grid.begin, *grid.end, *grid.begin]:
        state = grammar.advance(state, np.array([token]))
    assert grammar.allowed(state)[0, grid.encode_frames(np.array([[60, 60, 60, 60]]))[0]]


def test_grammar_states_are_never_changed_in_place():
    grammar = VoiceGrid().grammar()
    state = grammar.start(2)
    grammar.advance(state, np.array([1, 5]))
    assert state.tolist() == grammar.start(2).tolist()


@given(frame_matrices(), st.integers(-12, 12))
def test_transposing_tokens_is_transposing_notes(frames, semitones):
    grid = VoiceGrid()
    tokens = grid.encode_frames(frames)
    moved = grid.transposition(semitones)[tokens]
    notes = grid.decode(tokens).transposed(semitones)
    outside = (notes.pitch < 21) | (notes.pitch > 108)
    assert (moved < 0).any() == outside.any()
    if not outside.any():
        assert grid.decode(moved).same_notes(notes)


def test_special_tokens_and_rests_are_not_transposed():
    grid = VoiceGrid()
    still = [t for t in range(359) if grid.transposition(1)[t] == t]
    assert [grid.token_name(t) for t in still] == ["PAD", "BOS", "EOS", "Soprano_Rest", "Alto_Rest", "Tenor_Rest", "Bass_Rest"]


def test_the_fingerprint_is_pinned_and_knows_the_arguments():
    assert VoiceGrid().fingerprint == "47ccbd05ac170244"
    others = [VoiceGrid(), VoiceGrid(20), VoiceGrid(highest=107), VoiceGrid(steps_per_beat=8)]
    assert len({grid.fingerprint for grid in others}) == 4


def test_config_makes_the_same_tokenizer_and_so_do_copies():
    grid = VoiceGrid(lowest=30, highest=90, steps_per_beat=6)
    for twin in (VoiceGrid(**json.loads(json.dumps(grid.config()))), pickle.loads(pickle.dumps(grid)), copy.deepcopy(grid)):
        assert twin.fingerprint == grid.fingerprint
        assert repr(twin) == "VoiceGrid(lowest=30, highest=90, steps_per_beat=6)"


def test_it_needs_neither_miditok_nor_torch():
    code = """
import sys
from musictrain.data.tokenizers import VoiceGrid
VoiceGrid().grammar()
print(sorted({"miditok", "symusic", "torch"} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
