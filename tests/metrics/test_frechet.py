"""Frechet distance: closed forms, laws, what few pieces look like, and music that moves away step by step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import oas

from musictrain.data import load_corpus
from musictrain.metrics.frechet import (
    FeatureScale,
    Gaussian,
    chance_distances,
    frechet_distance,
    frechet_excess,
    gaussian_distance,
    gaussian_of,
    shrunk_covariance,
)
from musictrain.metrics.frechet_features import FEATURES, feature_matrix, features
from musictrain.metrics.frechet_metrics import FrechetDistance
from musictrain.notes import Notes
from tests.metrics.two_ranks import values_of_two_ranks

SEEDS = st.integers(0, 10_000)


def points(seed: int, pieces: int = 40, num_features: int = 5, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (pieces, num_features))


def covariance_of(seed: int, num_features: int = 4) -> np.ndarray:
    factor = points(seed, num_features, num_features)
    return factor @ factor.T


def music(seed: int, transposed: int = 0) -> Notes:
    """Two voices of eighths and quarters, in C major or near it."""
    random = np.random.default_rng(seed)
    scale = np.array([0, 2, 4, 5, 7, 9, 11])
    duration = random.choice([0.5, 1.0], 64)
    onset = np.concatenate([np.cumsum(each) - each for each in duration.reshape(2, 32)])
    degree = np.clip(np.cumsum(random.integers(-2, 3, (2, 32)), axis=1) + 7, 0, 20).reshape(-1)
    track = np.repeat([0, 1], 32)
    return Notes(onset, duration, 60 - 12 * track + scale[degree % 7] + 12 * (degree // 7) + transposed, track=track)


@given(SEEDS, SEEDS)
def test_commuting_gaussians_have_the_closed_form(one, other):
    random = np.random.default_rng((one, other))
    basis = np.linalg.qr(random.normal(size=(4, 4)))[0]
    variances, means = random.uniform(0, 4, (2, 4)), random.normal(size=(2, 4))
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(variances[0]) - np.sqrt(variances[1])) ** 2).sum()
    gaussians = [Gaussian(mean, basis @ np.diag(variance) @ basis.T) for mean, variance in zip(means, variances, strict=True)]
    assert gaussian_distance(*gaussians) == pytest.approx(expected, abs=1e-9)


@given(SEEDS, SEEDS)
def test_gaussians_that_do_not_commute_have_the_trace_formula(one, other):
    first, second = covariance_of(one), covariance_of(other + 1)
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    expected = np.trace(first) + np.trace(second) - 2 * overlap
    zero = np.zeros(4)
    assert gaussian_distance(Gaussian(zero, first), Gaussian(zero, second)) == pytest.approx(expected, abs=1e-6)


def test_many_draws_come_to_the_distance_of_their_gaussians():
    wide, narrow = points(0, 20_000, 3) * 2.0 + 1.0, points(1, 20_000, 3)
    assert frechet_distance(wide, narrow) == pytest.approx(3 * (1.0 + 1.0), rel=0.03)


@given(SEEDS, st.integers(2, 30), st.integers(2, 30))
def test_it_is_zero_for_a_set_and_itself_and_the_same_both_ways(seed, pieces, others):
    one, other = points(seed, pieces), points(seed + 1, others, shift=0.5)
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(one, one[::-1]) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)
    assert frechet_distance(one, other) > 0.0


@given(SEEDS)
def test_the_order_of_features_and_any_rotation_of_them_do_not_matter(seed):
    one, other = points(seed), points(seed + 1, 15, shift=0.3)
    rotation = np.linalg.qr(points(seed + 2, 5))[0]
    expected = frechet_distance(one, other)
    assert frechet_distance(one[:, ::-1], other[:, ::-1]) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one @ rotation, other @ rotation) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(one + 7.0, other + 7.0) == pytest.approx(expected, rel=1e-9)


def test_a_set_that_moves_away_is_ever_farther():
    distances = [frechet_distance(points(0), points(1, shift=shift)) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert distances == sorted(distances)
    assert distances[-1] == pytest.approx(5 * 16, rel=0.2)


@given(SEEDS, st.integers(2, 30), st.integers(1, 8))
def test_shrinkage_is_scikit_learns(seed, pieces, num_features):
    each = points(seed, pieces, num_features)
    expected, _ = oas(each)
    if num_features > 1:  # of a single feature scikit-learn gives the same variance by another way
        assert gaussian_of(each).covariance == pytest.approx(expected, abs=1e-9)
    assert np.trace(gaussian_of(each).covariance) == pytest.approx(np.trace(gaussian_of(each, shrunk=False).covariance))


def test_constant_features_and_hardly_any_pieces_are_safe():
    constant = np.ones((5, 6))
    assert frechet_distance(constant, constant) == 0.0
    assert frechet_distance(constant, constant + 2.0) == pytest.approx(24.0)
    assert math.isfinite(frechet_distance(points(0, 2, 31), points(1, 300, 31)))
    assert shrunk_covariance(np.zeros((3, 3)), 5).tolist() == np.zeros((3, 3)).tolist()
    for few in (np.zeros((0, 5)), points(0, 1)):
        assert math.isnan(frechet_distance(few, points(1)))
        assert math.isnan(frechet_excess(points(1), few))


def test_few_pieces_look_far_away_and_the_excess_takes_that_off():
    by_size = [np.mean([frechet_distance(points(s, n), points(s + 500, n)) for s in range(20)]) for n in (10, 40, 160)]
    assert by_size == sorted(by_size, reverse=True)
    assert by_size[0] > 4 * by_size[2]
    excess = [frechet_excess(points(s, 12), points(s + 500, 12), draws=20) for s in range(30)]
    assert abs(np.mean(excess)) < 3 * np.std(excess) / math.sqrt(len(excess))
    assert frechet_excess(points(0, 12), points(1, 12, shift=2.0), draws=20) > 5.0


def test_chance_is_a_function_of_its_seed_and_ignores_the_labels():
    one, other = points(0), points(1, shift=1.0)
    assert chance_distances(one, other, draws=5, seed=3).tolist() == chance_distances(one, other, draws=5, seed=3).tolist()
    assert chance_distances(one, other, draws=50)[-1] < 0.5 * frechet_distance(one, other)
    relabelled = chance_distances(other, one, draws=50)
    assert np.median(relabelled) == pytest.approx(np.median(chance_distances(one, other, draws=50)), rel=0.3)


def test_scale_keeps_a_feature_that_hardly_varies():
    scale = FeatureScale.of([[1.0, 5.0], [3.0, 5.0]])
    assert scale.deviation.tolist() == [1.0, 0.005]
    assert scale.of_points([[4.0, 5.0]]).tolist() == [[2.0, 0.0]]


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(pieces, features\)"):
        frechet_distance(np.zeros(3), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="One set has 3 features, the other 4"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ValueError, match="draws is 0"):
        chance_distances(points(0), points(1), draws=0)
    with pytest.raises(ValueError, match="A reference of 1 pieces"):
        FrechetDistance([music(0)])


def test_features_by_hand():
    piece = Notes([0, 1, 2, 3, 0, 2], [1, 1, 1, 1, 2, 2], [64, 65, 65, 72, 60, 53], track=[0, 0, 0, 0, 1, 1])
    value = dict(zip(FEATURES, features(piece).tolist(), strict=True))
    assert value["mean_pitch"] == pytest.approx(379 / 6)
    assert value["pitch_range"] == 19
    # soprano: a step up, a repetition, a fifth up; bass: a fifth down
    assert [value[name] for name in ("repeated_pitches", "steps", "thirds", "fourths_and_fifths", "leaps")] == [0.25, 0.25, 0, 0.5, 0]
    assert value["rising"] == pytest.approx(2 / 3)
    assert value["thirds_and_sixths_above_bass"] == 0.5  # e' over c'
    assert value["octaves_above_bass"] == 0.5  # f' over f
    assert value["quarter_onset_gaps"] == 1.0
    assert (value["quarter_notes"], value["long_notes"]) == pytest.approx((4 / 6, 2 / 6))
    assert (value["on_the_beat"], value["polyphony"], value["log_notes_per_beat"], value["bar_repetition"]) == (
        1.0,
        2.0,
        math.log2(1.5),
        0.0,
    )


def test_the_fifth_harmonic_is_high_in_one_key_and_all_are_zero_for_all_classes_alike():
    scale = Notes.from_rows([(i, 1, 60 + p) for i, p in enumerate((0, 2, 4, 5, 7, 9, 11))])
    chromatic = Notes.from_rows([(i, 1, 60 + i) for i in range(12)])
    harmonics = slice(FEATURES.index("pitch_class_harmonic_1"), FEATURES.index("pitch_class_harmonic_6") + 1)
    assert np.argmax(features(scale)[harmonics]) == 4
    assert features(chromatic)[harmonics] == pytest.approx(np.zeros(6), abs=1e-12)


@given(SEEDS, st.integers(-12, 12))
def test_only_the_mean_pitch_changes_with_the_key(seed, semitones):
    change = features(music(seed, semitones)) - features(music(seed))
    expected = np.zeros(len(FEATURES))
    expected[0] = semitones
    assert change == pytest.approx(expected, abs=1e-9)


def test_pieces_without_pitched_notes_are_left_out():
    drums = Notes([0.0, 1.0], [1, 1], [36, 38], drum=[True, True])
    assert feature_matrix([Notes.empty(), drums, music(0)]).shape == (1, len(FEATURES))
    assert feature_matrix([]).shape == (0, len(FEATURES))
    assert np.isfinite(feature_matrix([Notes.from_rows([(0, 0, 60)]), Notes.from_rows([(5, 1, 60)])])).all()


CORPUS = [music(seed) for seed in range(30)]
SAMPLES = [music(seed, transposed=5) for seed in range(100, 116)]


def updated(metric: FrechetDistance, samples: list[Notes]) -> FrechetDistance:
    metric.update(samples)
    return metric


def distance_of_all() -> float:
    reference = feature_matrix(CORPUS)
    scale = FeatureScale.of(reference)
    return frechet_distance(scale.of_points(reference), scale.of_points(feature_matrix(SAMPLES)))


def test_the_metric_is_the_distance_of_all_pieces_in_the_corpus_deviations():
    metric = updated(FrechetDistance(CORPUS), SAMPLES[:5])
    updated(metric, [*SAMPLES[5:], Notes.empty()])
    assert float(metric.compute()) == pytest.approx(distance_of_all(), rel=1e-4)
    assert float(updated(FrechetDistance(CORPUS), CORPUS).compute()) == pytest.approx(0.0, abs=1e-3)
    assert metric.higher_is_better is False


def test_state_goes_through_a_checkpoint_and_merges():
    first, rest = updated(FrechetDistance(CORPUS), SAMPLES[:7]), FrechetDistance(CORPUS)
    rest.load_state_dict(first.state_dict())
    assert float(updated(rest, SAMPLES[7:]).compute()) == pytest.approx(distance_of_all(), rel=1e-4)
    merged = updated(FrechetDistance(CORPUS), SAMPLES[7:])
    merged.merge_state(first)
    assert float(merged.compute()) == pytest.approx(distance_of_all(), rel=1e-4)


def test_fewer_than_two_samples_give_nan():
    assert torch.isnan(updated(FrechetDistance(CORPUS), [SAMPLES[0], Notes.empty()]).compute())


def values_on_rank(rank: int) -> float:
    return float(updated(FrechetDistance(CORPUS), SAMPLES[:3] if rank == 0 else SAMPLES[3:]).compute())


@pytest.mark.slow
def test_two_ranks_agree_on_all_pieces(repository: Path, tmp_path: Path):
    assert values_of_two_ranks(repository, tmp_path, __name__, "values_on_rank") == pytest.approx((distance_of_all(),) * 2, rel=1e-4)


@pytest.mark.corpus
def test_chorales_transposed_ever_farther_are_ever_farther():
    corpus = load_corpus("chorales", progress=False)
    reference = feature_matrix(piece.notes for piece in corpus.split("train")[:100])
    scale = FeatureScale.of(reference)
    valid = [piece.notes for piece in corpus.split("valid")]
    distances = [
        frechet_distance(scale.of_points(reference), scale.of_points(feature_matrix(notes.transposed(semitones) for notes in valid)))
        for semitones in (0, 1, 2, 3, 6, 12)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 5 * distances[0]
