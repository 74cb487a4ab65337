"""Copies, transposed twins and settings of one tune belong together; formulas everyone uses glue nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from musictrain.data.tune_groups import skyline, tune_groups, tune_windows, twin_key
from musictrain.notes import Notes


def melody(seed: int, length: int = 64, beats: float = 1.0) -> Notes:
    """A tune of its own: random pitches within an octave and a half."""
    return Notes(np.arange(length) * beats, np.full(length, beats), np.random.default_rng(seed).integers(60, 78, length))


def together(*pieces: Notes) -> list[int]:
    return tune_groups([tune_windows(notes) for notes in pieces], [twin_key(notes) for notes in pieces])


def joined(*pieces: Notes) -> Notes:
    """One piece after the other."""
    starts = np.cumsum([0, *(notes.end for notes in pieces[:-1])])
    moved = [replace(notes, onset=notes.onset + start) for notes, start in zip(pieces, starts, strict=True)]
    return Notes(*(np.concatenate([getattr(notes, name) for notes in moved]) for name in ("onset", "duration", "pitch")))


def test_other_tunes_are_other_groups() -> None:
    assert together(*(melody(seed) for seed in range(30))) == list(range(30))


def test_a_copy_and_a_transposed_twin_join_their_original_however_short() -> None:
    short = Notes.from_rows([(0, 1, 60), (1, 1, 64)])
    other = Notes.from_rows([(0, 1, 60), (1, 1, 63)])
    assert together(short, other, short, short.transposed(5), replace(short, velocity=short.velocity // 2)) == [0, 1, 0, 0, 0]


def test_twins_differ_if_a_drum_differs() -> None:
    drums = Notes.from_rows([(0, 1, 36), (1, 1, 38)], drum=[True, True])
    assert twin_key(drums) != twin_key(replace(drums, pitch=drums.pitch + 2))
    assert twin_key(drums) != twin_key(replace(drums, drum=np.array([False, False])))


@pytest.mark.parametrize("beats", [0.5, 2.0])
def test_a_tune_in_another_key_tempo_and_harmony_is_the_same_tune(beats: float) -> None:
    tune = melody(1)
    faster = replace(melody(1, beats=beats), pitch=tune.pitch + 3)
    rows = [(float(beat), 2.0, 40 + beat % 5) for beat in range(0, int(faster.end), 2)]
    bass = Notes.from_rows(rows)
    setting = Notes(*(np.concatenate([getattr(part, name) for part in (faster, bass)]) for name in ("onset", "duration", "pitch")))
    assert together(tune, melody(2), setting) == [0, 1, 0]


def test_a_quarter_of_the_tune_is_enough_and_a_phrase_of_it_is_not() -> None:
    tune = melody(1, 80)
    half = joined(tune.between(0, 40), melody(2, 40))
    phrase = joined(tune.between(0, 12), melody(3, 68))
    assert together(tune, half, phrase) == [0, 0, 2]


def test_a_common_cadence_glues_nothing() -> None:
    cadence = Notes.from_rows([(beat, 1.0, pitch) for beat, pitch in enumerate([67, 72, 71, 69, 67, 69, 65, 64, 62, 64, 60])])
    pieces = [joined(melody(seed), cadence) for seed in range(60)]
    assert together(*pieces) == list(range(60))


def test_scales_and_trills_are_nobodys_tune() -> None:
    up = Notes.from_rows([(beat, 1.0, 40 + 2 * beat + beat % 3) for beat in range(20)])
    trill = Notes.from_rows([(beat, 1.0, 60 + beat % 2) for beat in range(40)])
    assert len(tune_windows(up)) == len(tune_windows(trill)) == 0
    assert together(up, joined(up, melody(1)), trill, joined(trill, melody(2))) == [0, 1, 2, 3]


def test_many_settings_of_one_tune_are_one_group() -> None:
    settings = [joined(melody(seed, 12), melody(1000), melody(seed + 500, 12)) for seed in range(100)]
    assert together(*settings) == [0] * 100


def test_what_belongs_to_the_same_piece_belongs_together() -> None:
    one, two = melody(1, 60), melody(2, 60)
    assert together(one, two, melody(3), joined(one, two)) == [0, 0, 2, 0]


def test_pieces_without_notes_or_with_drums_alone_do_not_stop_the_others() -> None:
    drums = replace(melody(1), drum=np.ones(64, bool))
    assert together(Notes.empty(), drums, melody(1), melody(1)) == [0, 1, 2, 2]
    assert together() == []


def test_the_skyline_is_the_highest_sounding_note() -> None:
    held_over = Notes.from_rows([(0, 4, 72), (0, 1, 64), (1, 1, 65), (3, 3, 60), (4, 1, 59), (5, 1, 55), (6, 1, 55)])
    assert skyline(held_over).pitch.tolist() == [72, 55]
    crossing = Notes.from_rows([(0, 2, 60), (1, 3, 62), (2, 1, 60), (4, 1, 60)])
    assert skyline(crossing).pitch.tolist() == [60, 62, 60]
    struck_again = Notes.from_rows([(0, 2, 60), (1, 2, 60), (0, 1, 60)], track=[0, 0, 1])
    assert skyline(struck_again).onset.tolist() == [0.0, 1.0]


def test_the_skyline_equals_its_definition_on_random_notes() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        notes = Notes(generator.integers(0, 20, 40), generator.integers(1, 8, 40), generator.integers(50, 70, 40))
        expected = []
        for onset in np.unique(notes.onset):
            sounding = (notes.onset <= onset) & (notes.onset + notes.duration > onset)
            if (notes.pitch[notes.onset == onset]).max() == notes.pitch[sounding].max():
                expected.append((onset, notes.pitch[sounding].max()))
        line = skyline(notes)
        assert list(zip(line.onset, line.pitch, strict=True)) == expected
