"""Each measure of a piece on a few notes, worked out by hand; and the cases on which other libraries go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from musictrain.metrics import (
    bar_repetition,
    bits_per_note,
    empty_bar_rate,
    groove_similarity,
    groove_similarity_adjacent,
    in_bars,
    inter_onset_histogram,
    inter_onset_intervals,
    mean_inter_onset_interval,
    mean_note_length,
    motif_repetition,
    note_length_histogram,
    notes_per_bar,
    notes_per_beat,
    pitch_class_entropy,
    pitch_class_transition_entropy,
    pitch_class_transitions,
    pitch_range,
    polyphony,
    polyphony_rate,
    scale_consistency,
)
from musictrain.metrics.note_lengths import LENGTHS
from musictrain.notes import Notes


def line(*pitches: int, beats: float = 1.0) -> Notes:
    """A melody of even notes."""
    return Notes.from_rows([(number * beats, beats, pitch) for number, pitch in enumerate(pitches)])


def rhythm(*bars: tuple[float, ...]) -> Notes:
    """One pitch on some beats of each 4/4 bar."""
    return Notes.from_rows([(4 * bar + beat, 0.25, 60) for bar, beats in enumerate(bars) for beat in beats])


def test_entropy_of_the_piece_and_of_its_windows() -> None:
    # C C C C | D E D E: the bars have 0 and 1 bit, the piece C 1/2, D 1/4, E 1/4 has 1.5.
    notes = line(60, 72, 48, 60, 62, 64, 62, 64)
    assert pitch_class_entropy(notes) == pytest.approx(1.5)
    assert pitch_class_entropy(notes, window_bars=1) == pytest.approx(0.5)
    assert pitch_class_entropy(notes, window_bars=4) == pytest.approx(1.5)
    assert pitch_class_entropy(line(*range(60, 72))) == pytest.approx(math.log2(12))
    with pytest.raises(ValueError, match="window_bars is 0"):
        pitch_class_entropy(notes, window_bars=0)


def test_windows_overlap_and_empty_ones_are_left_out() -> None:
    notes = Notes.from_rows([(0, 1, 60), (1, 1, 62), (12, 1, 60)])  # bars: 1 bit, empty, empty, 0 bits
    assert pitch_class_entropy(notes, window_bars=1) == pytest.approx(0.5)
    assert pitch_class_entropy(notes, window_bars=2) == pytest.approx(0.5)


def test_scale_consistency_knows_the_leading_tones_of_minor() -> None:
    a_harmonic_minor = line(69, 71, 72, 74, 76, 77, 80, 81)
    a_melodic_minor = line(69, 71, 72, 74, 76, 78, 80, 81)
    assert scale_consistency(a_harmonic_minor) == scale_consistency(a_melodic_minor) == 1.0
    # With the two scales muspy 0.5 knows, G sharp is foreign: 7 of 8, as muspy says.
    assert scale_consistency(a_harmonic_minor, scales=("major", "natural minor")) == 0.875
    assert scale_consistency(line(*range(60, 72))) == pytest.approx(7 / 12)
    with pytest.raises(ValueError, match=r"'melodic minr'.*melodic minor"):
        scale_consistency(a_harmonic_minor, scales=["melodic minr"])
    with pytest.raises(ValueError, match="scales is empty"):
        scale_consistency(a_harmonic_minor, scales=[])


def test_transitions_stay_within_a_track_and_follow_its_highest_notes() -> None:
    # Track 0: C E C under nothing; track 1: G, then the chord D B, of which B counts.
    notes = Notes([0, 1, 2, 0, 1, 1], [1] * 6, [60, 64, 60, 67, 62, 71], track=[0, 0, 0, 1, 1, 1])
    matrix = pitch_class_transitions(notes)
    assert {tuple(map(int, pair)): matrix[tuple(pair)] for pair in np.argwhere(matrix)} == {(0, 4): 1 / 3, (4, 0): 1 / 3, (7, 11): 1 / 3}
    assert pitch_class_transition_entropy(notes) == 0.0
    # C goes to D and to E, D and E always to C: 0.5 of the transitions are uncertain by 1 bit.
    assert pitch_class_transition_entropy(line(60, 62, 60, 64, 60, 62, 60, 64, 60)) == pytest.approx(0.5)
    assert math.isnan(pitch_class_transition_entropy(line(60)))


def test_groove_similarity_of_all_pairs_and_of_adjacent_bars() -> None:
    notes = rhythm((0, 1, 2, 3), (0, 2), (0, 1, 2, 3))  # XOR of 2, 0 and 2 of 16 steps
    assert groove_similarity(notes) == pytest.approx((14 / 16 + 1 + 14 / 16) / 3)
    assert groove_similarity_adjacent(notes) == pytest.approx(14 / 16)
    assert math.isnan(groove_similarity(rhythm((0, 1))))


def test_bars_of_other_lengths_are_not_compared() -> None:
    notes = Notes.from_rows([(0, 1, 60), (1, 1, 60), (5, 1, 60), (7, 1, 60)], time_signatures=[(0, 1, 4), (1, 4, 4)])
    assert groove_similarity(notes) == groove_similarity_adjacent(notes) == pytest.approx(15 / 16)


def test_groove_similarity_does_not_saturate_as_on_ticks() -> None:
    random = np.random.default_rng(0)
    bars = [tuple(random.choice(16, 4, replace=False) / 4) for _ in range(8)]
    assert groove_similarity_adjacent(in_bars(rhythm(*bars), steps_per_beat=480)) > 0.996
    assert groove_similarity_adjacent(rhythm(*bars)) < 0.65


def test_drums_count_in_a_rhythm_where_they_are_asked_for() -> None:
    beat = Notes([0, 2, 4, 5], [0.25] * 4, [36] * 4, drum=[True] * 4)
    assert math.isnan(groove_similarity(beat))
    with_drums = in_bars(beat, drums=True)
    assert groove_similarity(with_drums) == pytest.approx(14 / 16)
    assert (empty_bar_rate(with_drums), notes_per_bar(with_drums), notes_per_beat(with_drums)) == (0.0, 2.0, 0.5)
    assert math.isnan(pitch_range(with_drums))
    assert math.isnan(pitch_class_entropy(with_drums))


def test_a_bar_is_empty_when_no_note_starts_in_it() -> None:
    # muspy 0.5 gives 0.0 for both: there a bar is filled by what sounds in it, or ends on its line.
    every_second_bar = Notes.from_rows([(8 * number, 4, 60) for number in range(4)])
    assert empty_bar_rate(every_second_bar) == pytest.approx(3 / 7)
    held = Notes.from_rows([(0, 12, 60), (12, 4, 62)])
    assert empty_bar_rate(held) == pytest.approx(0.5)


def test_inter_onset_intervals_are_between_onsets_of_whatever_voice() -> None:
    notes = Notes([0, 0, 1, 1.5, 3.5], [1] * 5, [60, 64, 62, 62, 60], track=[0, 1, 1, 0, 0])
    assert inter_onset_intervals(notes).tolist() == [1.0, 0.5, 2.0]
    assert mean_inter_onset_interval(notes) == pytest.approx(3.5 / 3)
    histogram = inter_onset_histogram(notes)
    assert {LENGTHS[k]: histogram[k] for k in np.flatnonzero(histogram)} == {0.5: 1 / 3, 1.0: 1 / 3, 2.0: 1 / 3}
    spread = Notes.from_rows([(0, 1, 60), (0.03, 1, 64), (1.02, 1, 60)])  # a chord as hands play it is one onset
    assert inter_onset_intervals(spread).tolist() == [1.02]


def test_two_voices_that_never_pause_are_polyphonic_all_the_time() -> None:
    voices = Notes.from_rows([(0, 4, 60), (0, 4, 64)])
    assert (polyphony(voices), polyphony_rate(voices)) == (2.0, 1.0)  # muspy 0.5: a rate of 0.0
    one_then_three = Notes.from_rows([(0, 4, 60), (3, 1, 64), (3, 1, 67), (10, 2, 60)])  # 5 beats of one, 1 beat of three
    assert polyphony(one_then_three) == pytest.approx(8 / 6)
    assert polyphony_rate(one_then_three) == pytest.approx(1 / 6)
    assert math.isnan(polyphony(Notes.from_rows([(0, 0, 60)])))


def test_the_range_of_drums_alone_is_nan() -> None:
    assert math.isnan(pitch_range(Notes([0], [1], [36], drum=[True])))  # muspy 0.5: -127
    assert pitch_range(Notes([0, 0, 1], [1] * 3, [60, 48, 36], drum=[False, False, True])) == 12.0
    assert pitch_range(line(60)) == 0.0


def test_density_is_over_whole_bars_from_the_first_onset_to_the_last() -> None:
    waltz = Notes.from_rows([(3, 1, 60), (4, 1, 60), (6, 1, 60)], time_signatures=[(0, 3, 4)])
    assert (notes_per_bar(waltz), notes_per_beat(waltz)) == (1.5, 0.5)


def test_note_lengths_have_two_bins_an_octave() -> None:
    notes = Notes.from_rows([(0, 1, 60), (1, 1.5, 62), (3, 0.01, 64), (4, 100, 60)])
    assert mean_note_length(notes) == pytest.approx(102.51 / 4)
    histogram = note_length_histogram(notes)
    assert {round(LENGTHS[k], 3): histogram[k] for k in np.flatnonzero(histogram)} == {0.062: 0.25, 1.0: 0.25, 1.414: 0.25, 16.0: 0.25}


def test_a_bar_returns_note_for_note_or_not_at_all() -> None:
    a, b, a_higher = [(0, 60), (1, 64)], [(0, 60), (1, 65)], [(0, 62), (1, 66)]
    bars = [a, b, a, a_higher, [], a]
    notes = Notes.from_rows([(4 * bar + beat, 1, pitch) for bar, content in enumerate(bars) for beat, pitch in content])
    assert bar_repetition(notes) == pytest.approx(2 / 5)  # the empty bar is none of the five


def test_a_turn_returns_at_any_pitch_and_in_any_track() -> None:
    turn = [0, 2, 4, 5, 7]
    sequence = line(*(60 + step for step in turn), *(67 + step for step in turn))
    assert motif_repetition(sequence) == pytest.approx(1 / 6)  # six turns: the first and the last are alike
    canon = Notes([0, 1, 2, 3, 4, 8, 9, 10, 11, 12], [1] * 10, [60 + step for step in turn] * 2, track=[0] * 5 + [1] * 5)
    assert motif_repetition(canon) == pytest.approx(1 / 2)
    augmented = Notes([0, 1, 2, 3, 4, 8, 10, 12, 14, 16], [1] * 10, [60 + step for step in turn] * 2, track=[0] * 5 + [1] * 5)
    assert motif_repetition(augmented) == 0.0
    assert math.isnan(motif_repetition(line(60, 62, 64, 65)))


def test_turns_of_many_kinds_are_counted_exactly() -> None:
    # 2^22 kinds of steps: as digits of one number of 64 bits the first step of a turn would be lost, and it alone is different here.
    far = 32_767 / 4
    onset = [0, far, far + 0.25, far + 0.5, far + 0.75, 0, 0.25, 0.5, 0.75, 1]
    pitch = [0, 63, 64, 65, 66, 100, 36, 37, 38, 39]
    assert motif_repetition(Notes(onset, [0.25] * 10, pitch, track=[0] * 5 + [1] * 5)) == 0.0
    again = Notes(onset * 2, [0.25] * 20, pitch * 2, track=[0] * 5 + [1] * 5 + [2] * 5 + [3] * 5)
    assert motif_repetition(again) == pytest.approx(0.5)


def test_bits_per_note_is_over_all_notes() -> None:
    assert bits_per_note(math.log(2.0) * 6, 3) == pytest.approx(2.0)
    assert bits_per_note([math.log(2.0), math.log(2.0) * 8], [1, 2]) == pytest.approx(3.0)
    assert math.isnan(bits_per_note(1.0, 0))
