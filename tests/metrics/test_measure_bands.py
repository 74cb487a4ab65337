"""Intervals over pieces, bands of a corpus, and Bach's chorales against the same with their voices shifted in time."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.data import load_corpus
from musictrain.data.corpus import Piece
from musictrain.metrics import (
    MEASURES,
    DistanceToReference,
    OverlappingArea,
    band,
    bands,
    bootstrap_interval,
    bootstrap_intervals,
    distance_to_band,
    measure_pieces,
)
from musictrain.notes import Notes

values_of_pieces = st.lists(st.floats(-100.0, 100.0), min_size=2, max_size=20)


def ranging(*semitones: int) -> list[Notes]:
    """Pieces of two notes so far apart."""
    return [Notes.from_rows([(0, 1, 40), (1, 1, 40 + span)]) for span in semitones]


@given(values_of_pieces)
def test_an_interval_lies_around_its_mean_and_within_the_values(values: list[float]) -> None:
    mean, low, high = bootstrap_interval(values, resamples=100)
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@given(values_of_pieces, st.integers(0, 5))
def test_an_interval_depends_on_its_seed_alone_and_nan_is_no_piece(values: list[float], seed: int) -> None:
    once = bootstrap_interval(values, resamples=50, seed=seed)
    assert bootstrap_interval([math.nan, *values, math.nan], resamples=50, seed=seed) == once
    wider = bootstrap_interval(values, resamples=50, seed=seed, level=0.99)
    assert wider.low <= once.low <= once.high <= wider.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    intervals = [bootstrap_interval(random.exponential(size=40), level=0.8, resamples=300, seed=number) for number in range(300)]
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.72 <= held <= 0.85


def test_the_width_of_an_interval_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(size=400)
    _, low, high = bootstrap_interval(values, level=0.9, resamples=2_000)
    assert high - low == pytest.approx(2 * 1.645 * values.std() / 20, rel=0.06)


def test_drawings_in_several_parts_are_as_many_as_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(10.0)
    whole = bootstrap_interval(values, resamples=25, seed=3)
    monkeypatch.setattr("musictrain.metrics.intervals.MOST_DRAWN_AT_ONCE", 40)
    assert bootstrap_interval(values, resamples=25, seed=3) == whole


def test_one_piece_says_nothing_of_the_others() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval([2.0]) == pytest.approx((2.0, math.nan, math.nan), nan_ok=True)
        assert all(math.isnan(number) for number in bootstrap_interval([math.nan]))
        assert all(math.isnan(number) for number in band([]))
        assert all(math.isnan(edge) for edges in bands([Notes.empty()]).values() for edge in edges)


@pytest.mark.parametrize(("options", "message"), [({"level": 1.0}, "level is 1.0"), ({"resamples": 0}, "resamples is 0")])
def test_an_interval_that_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([1.0, 2.0], **options)  # type: ignore[arg-type]


def test_intervals_of_several_measures_are_each_its_own() -> None:
    measured = measure_pieces(ranging(3, 5, 12))
    intervals = bootstrap_intervals(measured, resamples=20, seed=1)
    assert intervals["pitch_range"] == bootstrap_interval([3.0, 5.0, 12.0], resamples=20, seed=1)
    assert list(intervals) == list(MEASURES)


def test_a_band_holds_four_pieces_of_five() -> None:
    pieces = ranging(*range(11))
    assert bands(pieces)["pitch_range"] == (1.0, 9.0)
    assert bands(pieces, low=0, high=100)["pitch_range"] == (0.0, 10.0)
    of_corpus = bands(Piece(str(number), "", notes) for number, notes in enumerate(pieces))
    np.testing.assert_array_equal(list(of_corpus.values()), list(bands(pieces).values()))
    with pytest.raises(ValueError, match=r"from 90.0 to 10.0 percent"):
        bands(pieces, low=90.0, high=10.0)


def test_a_band_for_means_holds_those_of_pieces_that_are_nearly_all_alike() -> None:
    pieces = ranging(*[12] * 39, 0)
    assert bands(pieces)["pitch_range"] == (12.0, 12.0)
    deviation = 12.0 * math.sqrt(39) / 40
    assert bands(pieces, means_of=16)["pitch_range"] == pytest.approx((11.7 - deviation / 2, 11.7 + deviation / 2))
    assert bands(ranging(*range(11)), means_of=16)["pitch_range"] == (1.0, 9.0), "where percentiles are wider they count"
    assert bands(ranging(*[127] * 9, 0), means_of=1)["pitch_range"] == (pytest.approx(38.1), 127.0), "not beyond what there can be"
    assert all(math.isnan(edge) for edges in bands([Notes.empty()], means_of=16).values() for edge in edges)
    with pytest.raises(ValueError, match="means_of is 0"):
        bands(pieces, means_of=0)


@pytest.fixture(scope="module")
def chorales() -> tuple[list[Notes], list[Notes]]:
    """Training pieces and validation pieces."""
    corpus = load_corpus("chorales", progress=False)
    train, valid = ([piece.notes for piece in corpus.split(split)] for split in ("train", "valid"))
    return train, valid


def shifted(pieces: list[Notes], beats: float) -> list[Notes]:
    """The same with each voice so much later than the one above it."""
    return [replace(notes, onset=notes.onset + beats * notes.track) for notes in pieces]


@pytest.mark.corpus
def test_bach_lies_in_his_own_bands(chorales: tuple[list[Notes], list[Notes]]) -> None:
    train, valid = chorales
    corpus_bands, measured = bands(train), measure_pieces(valid)
    inside = {name: float(np.mean(distance_to_band(measured[name], *corpus_bands[name]) == 0.0)) for name in MEASURES}
    assert min(inside.values()) >= 0.6, inside
    assert float(np.mean(list(inside.values()))) >= 0.8, inside


@pytest.mark.corpus
def test_the_means_of_validation_lie_in_every_band_for_means(chorales: tuple[list[Notes], list[Notes]]) -> None:
    train, valid = chorales
    for_means = bands(train, means_of=16)
    for start in (0, 16):
        for name, values in measure_pieces(valid[start : start + 16]).items():
            low, high = for_means[name]
            assert low <= np.nanmean(values) <= high, name


@pytest.mark.corpus
def test_voices_shifted_in_time_lie_outside(chorales: tuple[list[Notes], list[Notes]]) -> None:
    train, valid = chorales
    corpus_bands, measured = bands(train), measure_pieces(shifted(valid, 0.5))
    for name in ("mean_inter_onset_interval", "groove_similarity", "groove_similarity_adjacent", "polyphony_rate", "polyphony"):
        assert np.mean(distance_to_band(measured[name], *corpus_bands[name]) > 0.0) >= 0.9, name
    # What a shift in time cannot touch stays where it was.
    np.testing.assert_allclose(measured["pitch_range"], measure_pieces(valid)["pitch_range"])


@pytest.mark.corpus
def test_distance_and_overlap_tell_bach_from_shifted_voices(chorales: tuple[list[Notes], list[Notes]]) -> None:
    train, valid = chorales
    reference = measure_pieces(train)["mean_inter_onset_interval"]
    distances, overlaps = [], []
    for pieces in (valid, shifted(valid, 0.75)):
        distance, overlap = DistanceToReference("mean_inter_onset_interval", train), OverlappingArea(reference)
        distance.update(pieces)
        overlap.update(measure_pieces(pieces)["mean_inter_onset_interval"])
        distances.append(float(distance.compute()))
        overlaps.append(float(overlap.compute()))
    assert distances[1] > 20 * distances[0]
    assert overlaps[0] > 0.9
    assert overlaps[1] < 0.4
