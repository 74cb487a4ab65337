"""Chorale rules: counted by hand, planted faults are found with bar and voices, Bach lies in his band and shifted voices outside."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.data import load_corpus
from musictrain.data.tokenizers.voice_frames import frames_from_notes, notes_from_frames
from musictrain.metrics.chorale_rules import (
    BACH,
    RULES,
    Fault,
    RuleCounts,
    chorale_counts,
    chorale_faults,
    chorale_rates,
    is_four_part,
    sonorities,
)
from musictrain.notes import Notes
from tests.metrics.slow_chorale_rules import four_voices, slow_chorale_counts

FRAMES = st.lists(st.tuples(*[st.one_of(st.just(-1), st.integers(40, 79))] * 4), min_size=1, max_size=12)
CHANGES = {"parallel_fifths", "parallel_octaves", "direct_intervals"}


def chords(*rows: tuple[int, int, int, int], signatures=()) -> Notes:
    """One sonority a beat, soprano first; -1 is a rest."""
    return replace(notes_from_frames(rows, steps_per_beat=1), time_signatures=signatures)


def found(*rows: tuple[int, int, int, int]) -> dict[str, int]:
    """The rules that are broken, and how often."""
    return {rule: counts.faults for rule, counts in chorale_counts(chords(*rows)).items() if counts.faults}


# C major, every voice in its place: c' e' g' c''.
TONIC = (72, 67, 64, 48)


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        ((71, 67, 62, 55), {}),  # I to V as it should be
        ((74, 69, 65, 50), {"parallel_fifths": 1, "parallel_octaves": 1}),  # soprano and bass in octaves, alto and bass in fifths
        ((72, 69, 65, 53), {}),  # the soprano stays: no parallels
        ((74, 67, 62, 43), {}),  # contrary motion to a fifth
        ((77, 71, 65, 50), {}),  # a leap to a tenth
        ((81, 72, 65, 50), {"direct_intervals": 1}),  # both up, the soprano by a leap, to a fifth
        ((74, 67, 62, 55), {}),  # both up to a fifth, the soprano by step
        ((76, 67, 64, 52), {"parallel_octaves": 1}),  # a leap from octave to octave is parallel, not direct
        ((72, 64, 67, 48), {"voice_crossing": 1}),
        ((72, 59, 55, 48), {"wide_spacing": 1}),
        ((72, 67, 54, 36), {"wide_spacing": 1}),  # 13 semitones from alto to tenor
        ((72, 67, 55, 36), {}),  # an octave is allowed, and the bass may be as far as it likes
    ],
)
def test_one_change_of_sonority_by_hand(after, broken):
    assert found(TONIC, after) == broken


def test_parallel_fifths_of_each_pair_of_voices_count():
    assert found((79, 72, 65, 50), (81, 74, 67, 40)) == {"parallel_fifths": 2}  # soprano-alto and alto-tenor


def test_compound_intervals_are_parallel_too():
    assert found((79, 67, 64, 48), (81, 70, 61, 50)) == {"parallel_fifths": 1}  # two octaves and a fifth, soprano over bass
    assert found((72, 67, 64, 48), (74, 66, 62, 38)) == {}  # the bass moves against the soprano


def test_crossed_voices_have_fifths_where_they_are_a_fifth_apart_and_not_a_fourth():
    assert found((67, 72, 64, 48), (69, 74, 64, 48)) == {"voice_crossing": 2}  # alto a fourth over the soprano, both a step up
    assert found((65, 72, 64, 48), (67, 74, 64, 48)) == {"voice_crossing": 2, "parallel_fifths": 1}
    bass_on_top = (76, 67, 64, 80)  # the outer voices go down together by leaps, to a fourth and to a fifth
    assert found(bass_on_top, (60, 57, 55, 65)) == {"voice_crossing": 2}
    assert found(bass_on_top, (60, 57, 55, 67)) == {"voice_crossing": 2, "direct_intervals": 1}


@given(four_voices())
def test_counts_equal_those_of_listening_tick_by_tick(piece):
    assert {rule: tuple(counts) for rule, counts in chorale_counts(piece).items()} == slow_chorale_counts(piece)


def test_rates_are_per_hundred():
    piece = chords(TONIC, (74, 69, 65, 50), TONIC, (72, 64, 67, 48))
    counts = chorale_counts(piece)
    assert counts["parallel_octaves"] == RuleCounts(2, 3)
    assert counts["voice_crossing"] == RuleCounts(1, 4)
    assert chorale_rates(piece)["parallel_octaves"] == pytest.approx(200 / 3)
    assert chorale_rates(piece)["voice_crossing"] == 25.0


def test_a_sonority_crossed_twice_counts_once_and_is_listed_twice():
    piece = chords((60, 64, 67, 48))
    assert chorale_counts(piece)["voice_crossing"].faults == 1
    assert [fault.voices for fault in chorale_faults(piece)] == [("soprano", "alto"), ("alto", "tenor")]


def test_striking_again_is_no_change():
    struck_again = Notes([0, 1, 0, 0, 0], [1, 1, 2, 2, 2], [72, 72, 67, 64, 48], track=[0, 0, 1, 2, 3])
    assert len(sonorities(struck_again).onset) == 1
    assert chorale_counts(struck_again)["parallel_octaves"].chances == 0


def test_a_resting_voice_breaks_no_rule():
    assert found(TONIC, (74, 69, 65, 50)) == {"parallel_fifths": 1, "parallel_octaves": 1}
    assert found(TONIC, (72, -1, 64, 48), (74, -1, 65, 50)) == {"parallel_octaves": 1}
    assert found(TONIC, (-1, 67, 64, 48), (74, 69, 65, 50)) == {"parallel_fifths": 1}
    assert found(TONIC, (-1, 67, 64, 48), (-1, -1, 40, 48)) == {"voice_crossing": 1}


def test_a_sonority_between_two_others_counts_though_it_is_short():
    slow = chords((72, 67, 64, 48), (74, 69, 65, 50))
    passing = replace(slow, duration=np.where((slow.track == 3) & (slow.onset == 0), 0.5, slow.duration))
    assert chorale_counts(passing)["parallel_octaves"] == RuleCounts(0, 2)  # the bass falls silent before it moves


def test_a_planted_fault_is_told_with_bar_and_voices():
    rows = [TONIC, (71, 67, 62, 55), TONIC, (72, 69, 65, 53), (74, 67, 62, 55), TONIC]
    piece = chords(*rows, signatures=[(0.0, 1, 4), (1.0, 3, 4)])
    assert chorale_faults(piece) == [Fault("parallel_fifths", 3, 4.0, ("soprano", "bass"), (74, 55))]
    assert str(chorale_faults(piece)[0]) == "bar 3, beat 4: parallel fifths of soprano and bass"


@given(FRAMES)
def test_faults_and_counts_tell_the_same(rows):
    piece = chords(*rows)
    if not is_four_part(piece):
        return
    listed = chorale_faults(piece)
    for rule, counts in chorale_counts(piece).items():
        places = [fault.beat for fault in listed if fault.rule == rule]
        assert counts.faults == (len(places) if rule in CHANGES else len(set(places)))
        assert counts.faults <= counts.chances * (6 if rule in CHANGES else 1)


@given(FRAMES, st.integers(-12, 12))
def test_key_and_tempo_do_not_matter(rows, semitones):
    piece = chords(*rows)
    slower = replace(piece, onset=piece.onset * 3, duration=piece.duration * 3)
    assert chorale_counts(piece.transposed(semitones + 12)) == chorale_counts(piece) == chorale_counts(slower)


@given(FRAMES)
def test_sonorities_are_the_frames_without_their_repetitions(rows):
    piece = chords(*rows)
    if not is_four_part(piece):
        return
    frames = frames_from_notes(piece, steps_per_beat=1)
    changes = np.append(True, (np.diff(frames, axis=0) != 0).any(axis=1)) & (frames != -1).any(axis=1)
    heard = sonorities(piece)
    assert heard.pitch.tolist() == frames[changes].tolist()
    assert heard.onset.tolist() == np.flatnonzero(changes).tolist()


def test_overlap_within_a_voice_ends_with_its_next_note():
    legato = Notes([0, 1, 0, 0, 0], [1.5, 1, 2, 2, 2], [72, 74, 67, 64, 48], track=[0, 0, 1, 2, 3])
    assert sonorities(legato).pitch[:, 0].tolist() == [72, 74]


@pytest.mark.parametrize(
    "notes",
    [
        Notes.empty(),
        Notes([0.0], [1.0], [60]),
        Notes([0.0] * 5, [1.0] * 5, [72, 67, 64, 48, 36], track=range(5)),
        Notes([0.0] * 4, [1.0] * 4, [72, 67, 64, 48], track=range(4), drum=[False, False, False, True]),
        Notes([0.0] * 8, [1.0] * 8, range(60, 68), track=[0, 0, 1, 1, 2, 2, 3, 3]),
    ],
    ids=["empty", "one voice", "five voices", "drums", "chords in the voices"],
)
def test_what_is_not_four_part_is_not_judged(notes):
    assert not is_four_part(notes)
    assert all(math.isnan(rate) for rate in chorale_rates(notes).values())
    with pytest.raises(ValueError, match="four voices of one note at a time"):
        chorale_faults(notes)


def shifted(notes: Notes) -> Notes:
    """Alto, tenor and bass later by some beats and quarters of the piece, around its end."""
    by = np.array([0.0, notes.end // 4 + 1.75, notes.end // 2 + 3.25, 3 * notes.end // 4 + 7.25])
    return replace(notes, onset=(notes.onset + by[notes.track]) % notes.end)


def rates_of(pieces: list[Notes]) -> dict[str, float]:
    counts = [chorale_counts(piece) for piece in pieces]
    return {rule: RuleCounts(*map(sum, zip(*(each[rule] for each in counts), strict=True))).rate for rule in RULES}


@pytest.mark.corpus
def test_bachs_chorales_lie_in_his_band_and_shifted_voices_far_outside():
    corpus = load_corpus("chorales", progress=False)
    bach = rates_of([piece.notes for piece in corpus.pieces])
    expected = {"parallel_fifths": 0.16, "parallel_octaves": 0.07, "direct_intervals": 0.54, "voice_crossing": 2.47, "wide_spacing": 1.44}
    assert bach == pytest.approx(expected, abs=0.006)
    valid = [piece.notes for piece in corpus.split("valid")]
    for rule, rate in rates_of(valid).items():
        assert BACH[rule][0] <= rate <= BACH[rule][1], rule
    broken = rates_of([shifted(piece) for piece in valid])
    assert broken["parallel_fifths"] > 2 * BACH["parallel_fifths"][1]
    assert broken["parallel_octaves"] > 4 * BACH["parallel_octaves"][1]
    assert broken["direct_intervals"] < BACH["direct_intervals"][0]
    assert broken["voice_crossing"] > 4 * BACH["voice_crossing"][1]
    assert broken["wide_spacing"] > 3 * BACH["wide_spacing"][1]
