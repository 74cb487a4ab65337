"""Bach's own chorales lie where he does, and the same notes at the wrong time far outside: what the benchmark claims, and how it shifts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bach_and_shifted import BETWEEN_VOICES, by_drawn_16ths, by_half_beats, measures_of, rules_of, shifted, summary_of
from musictrain.data import load_corpus
from musictrain.metrics import MEASURES, bands, measure_all
from musictrain.notes import Notes


def four_lines(seed: int) -> Notes:
    """Four voices of quarters that move by step."""
    pitch = np.array([72, 67, 60, 48])[:, None] + np.random.default_rng(seed).integers(-1, 2, (4, 32)).cumsum(axis=1)
    return Notes(np.tile(np.arange(32.0), 4), np.ones(128), pitch.reshape(-1), track=np.repeat(np.arange(4), 32))


@given(st.integers(0, 50), st.lists(st.integers(0, 200), min_size=4, max_size=4))
def test_a_shift_keeps_every_line_but_for_where_it_begins(seed: int, sixteenths: list[int]) -> None:
    piece = four_lines(seed)
    moved = shifted(piece, np.array(sixteenths) / 4)
    for track in range(4):
        before, after = (notes.select(notes.track == track) for notes in (piece, moved))
        by = int(np.searchsorted(after.onset, after.onset[np.argmin((after.onset - sixteenths[track] / 4) % piece.end)]))
        assert np.roll(after.pitch, -by).tolist() == before.pitch.tolist()
        assert sorted((after.onset - sixteenths[track] / 4) % piece.end) == sorted(before.onset)


def test_what_does_not_look_between_voices_does_not_see_a_shift() -> None:
    piece = four_lines(0)
    before, after = measure_all(piece), measure_all(by_half_beats([piece])[0])
    for name in ("pitch_class_entropy", "scale_consistency", "pitch_range", "notes_per_beat", "mean_note_length", "empty_bar_rate"):
        assert after[name] == pytest.approx(before[name]), name
    assert after["mean_inter_onset_interval"] < 0.6 < before["mean_inter_onset_interval"]


@pytest.mark.corpus
def test_bachs_chorales_lie_inside_and_their_voices_shifted_in_time_far_outside() -> None:
    corpus = load_corpus("chorales", progress=False)
    reference = bands(piece.notes for piece in corpus.split("train"))
    held_out = [piece.notes for split in ("valid", "test") for piece in corpus.split(split)]
    bach, drawn, halves = (
        (measures_of(pieces, reference), rules_of(pieces)) for pieces in (held_out, by_drawn_16ths(held_out), by_half_beats(held_out))
    )
    told = {name: summary_of(*each) for name, each in (("bach", bach), ("drawn", drawn), ("halves", halves))}
    # Of a corpus' own pieces four in five lie in its 10-90 % band.
    assert min(told["bach"]["in_band"].values()) > 0.75, told
    assert min(bach[0][name]["in_band"] for name in MEASURES) > 0.6
    assert told["bach"]["rules_in_band"] == 5
    for name in ("drawn", "halves"):
        assert told[name]["in_band"]["between_voices"] < 0.3, told
        assert abs(told[name]["in_band"]["others"] - told["bach"]["in_band"]["others"]) < 0.05, told
    assert told["drawn"]["rules_in_band"] == 0
    for rule, least in {
        "parallel_fifths": 0.7,
        "parallel_octaves": 1.0,
        "direct_intervals": 0.1,
        "voice_crossing": 10,
        "wide_spacing": 4,
    }.items():
        assert drawn[1][rule]["outside"] > least, rule
    assert all(halves[0][name]["in_band"] < 0.5 for name in BETWEEN_VOICES)
