"""REMI, TSD and Structured: what goes in comes out, and the grammar lies between what the encoder writes and the decoder reads."""

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musictrain.data.midi import notes_from_score
from musictrain.data.tokenizers import Grammar, MidiTokTokenizer, Tokenizer
from musictrain.data.tokenizers.event_grammar import EventGrammar
from musictrain.notes import Notes, Tempo, TimeSignature

DATA = Path(os.environ.get("MUSICTRAIN_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
VARIANTS = {
    "REMI": ("REMI", {}),
    "REMI with rests": ("REMI", {"use_rests": True}),
    "REMI, notes only, rests": ("REMI", {"use_rests": True, "use_tempos": False, "use_time_signatures": False}),
    "REMI of one program": ("REMI", {"use_programs": False, "use_velocities": False}),
    "TSD": ("TSD", {}),
    "TSD with rests": ("TSD", {"use_rests": True}),
    "TSD of one program": ("TSD", {"use_programs": False}),
    "Structured": ("Structured", {}),
    "Structured of one program": ("Structured", {"use_programs": False}),
}
laws = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tokenizers():
    return {name: MidiTokTokenizer(*arguments) for name, arguments in VARIANTS.items()}


@pytest.fixture(params=VARIANTS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


@st.composite
def pieces(draw):
    """Pieces on the grid: 12ths of a beat, gaps under 32 beats, signatures at bar lines, all kinds of players."""
    row = st.tuples(st.integers(0, 180), st.integers(1, 24), st.integers(27, 88), st.sampled_from([-1, 0, 0, 24, 73]), st.integers(1, 127))
    rows = sorted(draw(st.lists(row, max_size=20)))
    onset, duration, pitch, program, velocity = np.array(rows, np.int64).reshape(-1, 5).T
    signatures, bar_line = [], 0.0
    for meter in draw(st.lists(st.sampled_from([(4, 4), (3, 4), (6, 8), (7, 8), (5, 4)]), max_size=3)):
        signatures.append(TimeSignature(bar_line, *meter))
        bar_line += signatures[-1].beats_per_bar * draw(st.integers(1, 3))
    tempos = {draw(st.integers(0, 15)): draw(st.sampled_from([40, 85, 250])) for _ in range(draw(st.integers(0, 2)))}
    return Notes(
        onset / 12,
        duration / 12,
        pitch,
        velocity=velocity,
        program=np.maximum(program, 0),
        drum=program == -1,
        time_signatures=tuple(signatures),
        tempos=tuple(Tempo(*t) for t in sorted(tempos.items())),
    )


def fit_for(tokenizer, notes):
    return notes if tokenizer.params["use_programs"] else notes.pitched()


def content(notes, tokenizer):
    """What every variant holds of each note."""
    player = np.where(notes.drum, 128, notes.program) * tokenizer.params["use_programs"]
    rows = np.stack([notes.onset * 24, notes.duration * 24, notes.pitch, player])
    return sorted(map(tuple, np.rint(rows).astype(int).T.tolist()))


def sample(tokenizer, length, batch, seed, end=False):
    """Tokens drawn uniformly from the allowed ones after BOS, (batch, length); the end only where nothing else is allowed."""
    random, grammar = np.random.default_rng(seed), tokenizer.grammar()
    state, drawn = grammar.advance(grammar.start(batch), np.full(batch, tokenizer.begin[0])), []
    for _ in range(length):
        allowed = grammar.allowed(state)
        assert allowed.any(axis=1).all()
        if not end:
            allowed[:, tokenizer.end[0]] &= allowed.sum(axis=1) == 1
        drawn.append(np.argmax(random.random(allowed.shape) * allowed, axis=1))
        state = grammar.advance(state, drawn[-1])
    return np.stack(drawn, axis=1)


def assert_the_grammar_allows(tokenizer, tokens):
    grammar = tokenizer.grammar()
    state = grammar.start(1)
    for at, token in enumerate([*tokenizer.begin, *tokens, *tokenizer.end]):
        assert grammar.allowed(state)[0, token], [tokenizer.token_name(t) for t in tokens[max(0, at - 8) : at]]
        state = grammar.advance(state, np.array([token]))
    assert np.nonzero(grammar.allowed(state)[0])[0].tolist() == [2]


def token_errors(tokenizer, tokens):
    """MidiTok's own measure of grammatical errors (TSE), a share."""
    ids = tokens.tolist()
    return np.max(tokenizer._miditok.tokens_errors(ids if tokenizer.params["use_programs"] else [ids]))


def real_pieces(folder, count):
    import symusic

    paths = sorted((DATA / "midi" / folder).rglob("*.mid"))[:count]
    if not paths:
        pytest.skip(f"no MIDI files in {DATA / 'midi' / folder}")
    return [notes_from_score(symusic.Score(str(path))) for path in paths]


def test_it_keeps_both_protocols(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(tokenizer.grammar(), Grammar)


def test_token_names_are_unique_and_begin_with_the_special_ones(tokenizer):
    names = [tokenizer.token_name(t) for t in range(tokenizer.vocab_size)]
    assert len(set(names)) == len(names)
    assert names[:3] == ["PAD", "BOS", "EOS"]
    assert (tokenizer.pad_id, tokenizer.begin, tokenizer.end, tokenizer.tokens_per_step) == (0, (1,), (2,), 1)


@laws
@given(notes=pieces())
def test_decoding_what_was_encoded_gives_the_notes_back_on_the_grid(tokenizer, notes):
    notes = fit_for(tokenizer, notes)
    assert content(tokenizer.decode(tokenizer.encode(notes)), tokenizer) == content(notes, tokenizer)


@laws
@given(notes=pieces())
def test_the_grammar_allows_every_token_of_every_piece(tokenizer, notes):
    assert_the_grammar_allows(tokenizer, tokenizer.encode(fit_for(tokenizer, notes)))


@laws
@given(notes=pieces())
def test_what_was_decoded_is_encoded_as_before(tokenizer, notes):
    tokens = tokenizer.encode(fit_for(tokenizer, notes))
    assert np.array_equal(tokenizer.encode(tokenizer.decode(tokens)), tokens)


@laws
@given(seed=st.integers(0, 2**32))
def test_a_sequence_of_allowed_tokens_decodes_without_a_loss(tokenizer, seed):
    for tokens in sample(tokenizer, 60, 2, seed):
        num_notes = sum(tokenizer.token_name(t).startswith("Duration") for t in tokens)
        assert len(tokenizer.decode(tokens)) == num_notes
        assert token_errors(tokenizer, tokens) == 0


@laws
@given(seed=st.integers(0, 2**32))
def test_begin_and_padding_are_never_allowed_after_the_start_and_the_end_is_final(tokenizer, seed):
    tokens = sample(tokenizer, 30, 4, seed, end=True)
    assert (tokens >= 2).all()
    ended = np.cumsum(tokens == 2, axis=1) > 0
    assert (tokens[ended] == 2).all()


@laws
@given(seed=st.integers(0, 2**32), at=st.integers(0, 39), token=st.integers(0, 10**6))
def test_reading_a_whole_sequence_at_once_agrees_with_reading_token_by_token(tokenizer, seed, at, token):
    tokens = sample(tokenizer, 40, 1, seed)[0]
    tokens[at] = token % tokenizer.vocab_size
    grammar = tokenizer.grammar()
    state, allowed = grammar.start(1), True
    for t in tokens:
        allowed &= bool(grammar.allowed(state)[0, t])
        state = grammar.advance(state, np.array([t]))
    walks_only = tokenizer.kind == "REMI" and tokenizer.params["use_rests"]
    assert grammar.keeps(tokens) == (allowed and not walks_only)


@laws
@given(tokens=st.lists(st.integers(-5, 800), max_size=60))
def test_any_token_sequence_decodes(tokenizer, tokens):
    assert len(tokenizer.decode(np.array(tokens, np.int64))) <= len(tokens) // 2


@laws
@given(notes=pieces(), data=st.data())
def test_a_damaged_piece_decodes_and_keeps_to_the_grammar(tokenizer, notes, data):
    tokens = tokenizer.encode(fit_for(tokenizer, notes))
    for _ in range(4 if len(tokens) else 0):
        tokens[data.draw(st.integers(0, len(tokens) - 1))] = data.draw(st.integers(0, tokenizer.vocab_size - 1))
    kept = tokenizer._grammatical(tokens)
    lenient = EventGrammar(tokenizer._vocabulary, tokenizer.kind, tokenizer.params, lenient=True)
    state = lenient.start(1)
    for token in kept:
        assert lenient.allowed(state)[0, token]
        state = lenient.advance(state, token[None])
    assert len(tokenizer.decode(tokens)) == sum(tokenizer.token_name(t).startswith("Duration") for t in kept)


def test_a_note_cut_short_is_dropped_and_its_neighbours_stay(tokenizers):
    tokenizer = tokenizers["REMI"]
    tokens = tokenizer.encode(Notes.from_rows([(0, 1, 60), (1, 1, 62), (2, 1, 64)]))
    velocity_of_the_second = [t for t in range(len(tokens)) if tokenizer.token_name(tokens[t]).startswith("Velocity")][1]
    decoded = tokenizer.decode(np.delete(tokens, velocity_of_the_second))
    assert list(zip(decoded.onset, decoded.pitch, strict=True)) == [(0, 60), (2, 64)]


def test_a_fragment_decodes_from_its_first_whole_note(tokenizers):
    tokenizer = tokenizers["REMI"]
    tokens = tokenizer.encode(Notes.from_rows([(i, 1, 60 + i) for i in range(8)]))
    assert tokenizer.decode(tokens[5:]).pitch.tolist() == [60 + i for i in range(1, 8)]


def test_padding_and_other_special_tokens_are_skipped(tokenizer):
    notes = Notes.from_rows([(0, 1, 60), (1, 1, 62)])
    tokens = tokenizer.encode(notes)
    padded = np.array([1, *tokens, 2, 0, 0])
    assert tokenizer.decode(padded).same_notes(tokenizer.decode(tokens))


def test_a_grammar_state_is_never_changed_in_place(tokenizer):
    grammar = tokenizer.grammar()
    state = grammar.advance(grammar.start(2), np.array([1, 1]))
    before = state.copy()
    grammar.advance(state, np.argmax(grammar.allowed(state), axis=1))
    assert np.array_equal(state, before)


def test_padding_leaves_a_grammar_state_as_it_is(tokenizer):
    grammar = tokenizer.grammar()
    state = grammar.advance(grammar.start(2), np.array([1, 1]))
    assert np.array_equal(grammar.advance(state, np.array([0, 2]))[0], state[0])


@pytest.mark.parametrize(("folder", "count"), [("js_fakes", 3), ("pop909", 1)])
@pytest.mark.parametrize("kind", ["REMI", "TSD", "Structured"])
def test_real_pieces_keep_to_the_grammar_and_are_encoded_again_as_before(tokenizers, kind, folder, count):
    tokenizer = tokenizers[kind]
    for notes in real_pieces(folder, count):
        notes = notes.between(0, 60)
        tokens = tokenizer.encode(notes)
        assert_the_grammar_allows(tokenizer, tokens)
        assert tokenizer.grammar().keeps(tokens)
        decoded = tokenizer.decode(tokens)
        assert len(decoded) == len(notes)
        assert np.array_equal(tokenizer.encode(decoded), tokens)


def test_onsets_of_real_performances_move_by_half_a_position_at_most(tokenizers):
    for notes in real_pieces("pop909", 1):
        decoded = tokenizers["REMI"].decode(tokenizers["REMI"].encode(notes))
        assert np.abs(np.sort(decoded.onset) - np.sort(notes.onset)).max() <= 0.5 / 12 + 1e-9


@laws
@given(notes=pieces(), semitones=st.integers(-6, 6))
def test_transposing_tokens_is_transposing_notes_but_for_drums(tokenizer, notes, semitones):
    tokens = tokenizer.encode(fit_for(tokenizer, notes))
    moved = tokenizer.transposition(semitones)[tokens]
    assert (moved >= 0).all()
    assert content(tokenizer.decode(moved), tokenizer) == content(tokenizer.decode(tokens).transposed(semitones), tokenizer)


def test_transposition_marks_what_leaves_the_vocabulary(tokenizer):
    table = tokenizer.transposition(2)
    assert sorted(tokenizer.token_name(t) for t in np.nonzero(table == -1)[0]) == ["Pitch_107", "Pitch_108"]
    assert all(tokenizer.token_name(t).startswith("Pitch_") for t in np.nonzero(table != np.arange(tokenizer.vocab_size))[0])


def test_tempos_and_time_signatures_come_back(tokenizers):
    notes = Notes([0, 6], [1, 1], [60, 62], time_signatures=((0, 3, 4), (3, 6, 8)), tempos=((0, 90), (6, 120)))
    for name in ("REMI", "TSD"):
        decoded = tokenizers[name].decode(tokenizers[name].encode(notes))
        assert decoded.time_signatures == notes.time_signatures
        assert decoded.tempos == notes.tempos


def test_a_tokenizer_without_tempos_and_signatures_makes_none_up(tokenizers):
    notes = Notes([0], [1], [60], time_signatures=((0, 3, 4),), tempos=((0, 90),))
    for name in ("REMI, notes only, rests", "Structured"):
        decoded = tokenizers[name].decode(tokenizers[name].encode(notes))
        assert (decoded.time_signatures, decoded.tempos) == ((), ())


def test_a_signature_without_a_token_is_written_as_one_of_the_same_length(tokenizers):
    for meter, twin in [((2, 2), (4, 4)), ((3, 2), (6, 4)), ((12, 16), (6, 8)), ((6, 8), (6, 8))]:
        notes = Notes([0], [1], [60], time_signatures=((0, *meter),))
        assert tokenizers["REMI"].decode(tokenizers["REMI"].encode(notes)).time_signatures == ((0, *twin),)


def test_velocities_come_back_in_bins_of_four_or_as_the_default(tokenizers):
    notes = Notes([0, 1, 2], [1, 1, 1], [60, 62, 64], velocity=[1, 64, 127])
    decoded = tokenizers["REMI"].decode(tokenizers["REMI"].encode(notes))
    assert np.abs(decoded.velocity - notes.velocity).max() <= 2
    one = tokenizers["REMI of one program"]
    assert one.decode(one.encode(notes)).velocity.tolist() == [80, 80, 80]


def test_each_program_is_a_track_and_drums_are_the_last(tokenizers):
    notes = Notes([0, 0, 0, 1], [1] * 4, [40, 50, 60, 62], program=[0, 73, 5, 5], drum=[True, False, False, False], track=[0, 1, 2, 3])
    decoded = tokenizers["TSD"].decode(tokenizers["TSD"].encode(notes))
    assert sorted(zip(decoded.track, decoded.program, decoded.drum, strict=True)) == [
        (0, 5, False),
        (0, 5, False),
        (1, 73, False),
        (2, 0, True),
    ]


def test_a_chord_is_written_from_the_lowest_pitch_up_however_it_was_played(tokenizers):
    played = Notes.from_rows([(0.02, 1, 60), (0.01, 1, 64), (0, 1, 67)])
    exact = Notes.from_rows([(0, 1, 60), (0, 1, 64), (0, 1, 67)])
    assert np.array_equal(tokenizers["REMI"].encode(played), tokenizers["REMI"].encode(exact))


def test_an_empty_piece_encodes_and_decodes(tokenizer):
    tokens = tokenizer.encode(Notes.empty())
    assert_the_grammar_allows(tokenizer, tokens)
    assert len(tokenizer.decode(tokens)) == 0
    assert len(tokenizer.decode(np.zeros(0, np.int64))) == 0


def test_a_few_notes_out_of_range_are_left_out_and_many_are_refused(tokenizers):
    within = [(i, 1, 60) for i in range(19)]
    assert len(tokenizers["REMI"].decode(tokenizers["REMI"].encode(Notes.from_rows([*within, (19, 1, 120)])))) == 19
    with pytest.raises(ValueError, match=r"would leave out 2 of 20 notes.*pitch_range=\[21, 108\]"):
        tokenizers["REMI"].encode(Notes.from_rows([*within[1:], (19, 1, 120), (20, 1, 5)]))


def test_drums_need_programs(tokenizers):
    with pytest.raises(ValueError, match="use_programs=False holds no drums"):
        tokenizers["TSD of one program"].encode(Notes([0], [1], [36], drum=[True]))


def test_structured_refuses_a_gap_it_would_shorten(tokenizers):
    with pytest.raises(ValueError, match=r"at most 32 beats between two onsets; this piece has 33\. Give beat_res"):
        tokenizers["Structured"].encode(Notes.from_rows([(0, 1, 60), (33, 1, 60)]))


@pytest.mark.parametrize("onset", [-1.0, np.nan, np.inf, 1e6])
def test_impossible_times_are_refused(tokenizers, onset):
    with pytest.raises(ValueError, match="from 0 to 65536"):
        tokenizers["REMI"].encode(Notes([onset], [1], [60]))


@pytest.mark.parametrize("bpm", [0.0, -1.0, np.nan])
def test_impossible_tempos_are_refused(tokenizers, bpm):
    with pytest.raises(ValueError, match="needs a positive number"):
        tokenizers["REMI"].encode(Notes([0], [1], [60], tempos=((0, bpm),)))


def test_whatever_miditok_raises_becomes_a_value_error(tokenizers, monkeypatch):
    tokenizer = copy.copy(tokenizers["REMI"])
    monkeypatch.setattr(tokenizer._miditok, "preprocess_score", lambda score: 1 // 0)
    with pytest.raises(ValueError, match=r"MidiTok's REMI cannot hold this piece \(1 notes\): ZeroDivisionError"):
        tokenizer.encode(Notes([0], [1], [60]))


def test_a_pickled_tokenizer_and_a_copy_are_the_same(tokenizer):
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert twin.fingerprint == tokenizer.fingerprint
        assert repr(twin) == repr(tokenizer)
