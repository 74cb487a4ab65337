"""Laws every measure of a piece keeps, on drawn pieces."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.metrics import (
    MEASURES,
    in_bars,
    inter_onset_histogram,
    inter_onset_intervals,
    measure_all,
    measure_named,
    measure_pieces,
    note_length_histogram,
    pitch_class_transitions,
)
from musictrain.notes import Notes, TimeSignature
from tests.metrics.drawn_pieces import of_rows, pieces
from tests.metrics.slow_measures import slow_measures

VECTORS = (note_length_histogram, inter_onset_histogram, pitch_class_transitions)
OF_PITCH_CLASSES = [name for name in MEASURES if name.startswith("pitch_class")] + ["scale_consistency"]


def same(values: dict[str, float], expected: dict[str, float]) -> None:
    assert values == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@given(pieces())
def test_measures_equal_the_slow_reference(notes: Notes) -> None:
    same(measure_all(notes), slow_measures(notes) or dict.fromkeys(MEASURES, math.nan))


@given(pieces())
def test_each_measure_alone_is_what_all_together_give(notes: Notes) -> None:
    same({name: measure.function(notes) for name, measure in MEASURES.items()}, measure_all(notes))


@given(pieces(), st.integers(-30, 30))
def test_transposition_changes_nothing(notes: Notes, semitones: int) -> None:
    same(measure_all(notes.transposed(semitones)), measure_all(notes))


@given(pieces(), st.lists(st.integers(-2, 2), min_size=24, max_size=24))
def test_octaves_of_single_notes_leave_what_is_about_pitch_classes(notes: Notes, octaves: list[int]) -> None:
    moved = replace(notes, pitch=notes.pitch + 12 * np.asarray(octaves[: len(notes)], np.int64))
    # Which note is the highest of its track may change, and so may the transitions.
    names = [name for name in OF_PITCH_CLASSES if "transition" not in name]
    before, after = measure_all(notes), measure_all(moved)
    same({name: after[name] for name in names}, {name: before[name] for name in names})


@given(pieces(constant_meter=True), st.integers(1, 5))
def test_a_shift_by_whole_bars_changes_nothing(notes: Notes, bars: int) -> None:
    beats_per_bar = notes.time_signatures[0].beats_per_bar if notes.time_signatures else 4.0
    same(measure_all(replace(notes, onset=notes.onset + bars * beats_per_bar)), measure_all(notes))


@given(pieces(), st.randoms(use_true_random=False))
def test_the_order_of_notes_does_not_matter(notes: Notes, random: object) -> None:
    order = list(range(len(notes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rows = [(notes.onset[i], notes.duration[i], notes.pitch[i], notes.track[i], notes.drum[i]) for i in order]
    shuffled = of_rows(rows, time_signatures=notes.time_signatures)
    same(measure_all(shuffled), measure_all(notes))
    for vector in VECTORS:
        np.testing.assert_allclose(vector(shuffled), vector(notes))


@given(pieces())
def test_values_lie_in_the_declared_range(notes: Notes) -> None:
    for name, value in measure_all(notes).items():
        assert math.isnan(value) or MEASURES[name].low - 1e-12 <= value <= MEASURES[name].high + 1e-12, name


@given(pieces())
def test_histograms_and_transitions_sum_to_one_or_are_nan(notes: Notes) -> None:
    for vector in VECTORS:
        values = vector(notes)
        assert np.isnan(values).all() or values.sum() == pytest.approx(1.0)


@given(pieces(drums=False), pieces(drums=False))
def test_drums_leave_every_measure_as_it_is(notes: Notes, beat: Notes) -> None:
    columns = [np.concatenate((getattr(notes, name), getattr(beat, name))) for name in ("onset", "duration", "pitch")]
    drum = np.arange(len(notes) + len(beat)) >= len(notes)
    track = np.concatenate((notes.track, beat.track))
    both = Notes(*columns, track=track, drum=drum, time_signatures=notes.time_signatures)
    same(measure_all(both), measure_all(notes))


@pytest.mark.parametrize(
    "notes",
    [
        Notes.empty(),
        Notes([0.0, 1.0], [1.0, 1.0], [36, 38], drum=[True, True]),
        replace(Notes.empty(), time_signatures=(TimeSignature(0.0, 3, 4),)),
    ],
    ids=["no notes", "only drums", "only a time signature"],
)
def test_a_piece_without_pitched_notes_is_nan_and_warns_of_nothing(notes: Notes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isnan(value) for value in measure_all(notes).values())
        assert all(np.isnan(vector(notes)).all() for vector in VECTORS)
        assert len(inter_onset_intervals(notes)) == 0


@pytest.mark.parametrize(
    "notes",
    [
        Notes.from_rows([(0, 1, 60)]),
        Notes.from_rows([(0, 0, 60), (0, 0, 60)]),
        Notes.from_rows([(5, -1, 60), (-3, 2, 64)]),
        Notes.from_rows([(1e7, 1, 60), (0, 1, 0), (0.001, 1e9, 200)]),
        replace(Notes.from_rows([(0, 1, 60), (3, 1, 60)]), time_signatures=(TimeSignature(0, 0, 4), TimeSignature(1, 1, 64))),
    ],
    ids=["one note", "no length", "before the beginning", "far apart", "odd meters"],
)
def test_odd_pieces_neither_raise_nor_warn(notes: Notes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = measure_all(notes)
    assert values["notes_per_bar"] > 0
    assert all(math.isnan(value) or math.isfinite(value) for value in values.values())


def test_the_grid_comes_from_the_time_signature() -> None:
    jig = Notes.from_rows([(0, 1, 60), (2.75, 0.25, 62), (3, 1, 60)], time_signatures=[(0, 6, 8)])
    barred = in_bars(jig)
    assert (barred.steps_in_bar.tolist(), barred.bar.tolist(), barred.position.tolist()) == ([12, 12], [0, 0, 1], [0, 11, 0])
    upbeat = Notes.from_rows([(0, 1, 60), (1, 1, 62), (5, 1, 60)], time_signatures=[(0, 1, 4), (1, 4, 4)])
    assert (in_bars(upbeat).steps_in_bar.tolist(), in_bars(upbeat).bar.tolist()) == ([4, 16, 16], [0, 1, 2])


def test_a_time_signature_after_the_last_note_still_cuts_its_bar() -> None:
    notes = Notes.from_rows([(0, 1, 60)], time_signatures=[(0, 4, 4), (2, 3, 4)])
    assert in_bars(notes).lines.tolist() == [0.0, 2.0]


def test_a_note_just_before_the_bar_line_belongs_to_the_next_bar() -> None:
    barred = in_bars(Notes.from_rows([(0, 1, 60), (3.95, 1, 62), (4.02, 1, 64)]))
    assert (barred.bar.tolist(), barred.position.tolist()) == ([0, 1, 1], [0, 0, 0])


def test_a_grid_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps_per_beat is 0"):
        in_bars(Notes.empty(), steps_per_beat=0)


def test_measures_of_pieces_are_columns() -> None:
    columns = measure_pieces([Notes.from_rows([(0, 1, 60), (1, 1, 67)]), Notes.empty()])
    assert list(columns) == list(MEASURES)
    np.testing.assert_array_equal(columns["pitch_range"], [7.0, math.nan])
    assert measure_pieces([])["polyphony"].shape == (0,)
    with pytest.raises(TypeError, match="Expected Notes or pieces of a corpus, got int"):
        measure_pieces([1])  # type: ignore[list-item]


def test_an_unknown_name_is_told_what_was_meant() -> None:
    assert measure_named("bits_per_note").direction == "lower is better"
    assert measure_named("groove_similarity").direction == "two-sided"
    with pytest.raises(ValueError, match=r"'groove_similarty'.*groove_similarity"):
        measure_named("groove_similarty")
