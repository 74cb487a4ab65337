"""Distances within and between sets, and what their densities have in common."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from musictrain.metrics import compare_sets, distances_between, distances_within, kernel_divergence, overlapping_area

RANDOM = np.random.default_rng(0)
# Distances that a shift does not lose among the last digits.
samples = st.lists(st.floats(-5.0, 5.0).map(lambda value: round(value, 6)), min_size=2, max_size=12)


def test_distances_are_those_of_each_pair() -> None:
    assert distances_within([1.0, math.nan, 4.0, 0.0]).tolist() == [3.0, 1.0, 4.0]
    assert distances_within([[0.0, 0.0], [3.0, 4.0]]).tolist() == [5.0]
    assert distances_within([1.0]).tolist() == []
    assert distances_between([[0.0, 0.0], [0.0, 4.0]], [[3.0, 4.0]]).tolist() == [5.0, 3.0]
    assert distances_between([], [1.0]).tolist() == []
    with pytest.raises(ValueError, match="2 values each, those of the other 1"):
        distances_between([[1.0, 2.0]], [1.0])


@given(samples)
def test_identical_samples_overlap_wholly_and_do_not_diverge(values: list[float]) -> None:
    assert overlapping_area(values, values) == pytest.approx(1.0)
    assert kernel_divergence(values, values) == pytest.approx(0.0, abs=1e-12)


@given(samples, samples, st.floats(-10.0, 10.0))
def test_overlap_is_symmetrical_in_range_and_indifferent_to_a_shift(values: list[float], others: list[float], shift: float) -> None:
    overlap = overlapping_area(values, others)
    assert 0.0 <= overlap <= 1.0
    assert overlapping_area(others, values) == pytest.approx(overlap)
    assert overlapping_area(np.add(values, shift), np.add(others, shift)) == pytest.approx(overlap, abs=1e-3)
    assert kernel_divergence(values, others) >= 0.0


@pytest.mark.parametrize(("shift", "spread"), [(0.0, 1.0), (0.7, 1.0), (2.0, 0.4), (0.0, 3.0), (5.0, 1.0)])
def test_overlap_and_divergence_are_those_of_scipys_densities(shift: float, spread: float) -> None:
    first, second = RANDOM.normal(size=60), shift + spread * RANDOM.normal(size=90)
    p, q = stats.gaussian_kde(first), stats.gaussian_kde(second)
    grid = np.linspace(-25.0, 25.0, 20_001)
    assert overlapping_area(first, second) == pytest.approx(integrate.trapezoid(np.minimum(p(grid), q(grid)), grid), abs=2e-3)
    log_ratio = p.logpdf(grid) - q.logpdf(grid)
    divergence = integrate.trapezoid(np.where(p(grid) > 0, p(grid) * log_ratio, 0.0), grid)
    assert kernel_divergence(first, second) == pytest.approx(divergence, rel=0.02, abs=1e-3)


def test_densities_far_apart_are_far_apart_where_mgeval_sees_none() -> None:
    near = RANDOM.normal(size=200)
    far = near + 100.0
    # kl_dist of mgeval reads each density on a grid of its own.
    p, q = (stats.gaussian_kde(each)(np.linspace(each.min(), each.max(), 1000)) for each in (near, far))
    assert stats.entropy(p, q) < 1e-10
    assert kernel_divergence(near, far) > 1_000.0
    assert overlapping_area(near, far) == pytest.approx(0.0, abs=1e-9)


def test_one_repeated_distance_has_a_density_too() -> None:
    assert overlapping_area([1.0, 1.0], [1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert overlapping_area([0.0, 0.0], [1.0, 1.0]) == pytest.approx(0.0, abs=1e-6)
    assert kernel_divergence([0.0, 0.0], [1.0, 1.0]) > 100.0


def test_sets_of_one_source_fit_and_sets_of_another_do_not() -> None:
    ours, more, others = RANDOM.normal(size=50), RANDOM.normal(size=50), 4.0 + RANDOM.normal(size=50)
    assert compare_sets(ours, more).overlap > 0.85
    assert compare_sets(ours, others).overlap < 0.3
    assert compare_sets(ours, others).divergence > 10 * compare_sets(ours, more).divergence
    # All generated pieces alike, in the middle of the reference: as far from it as its own pieces are, but on average nearer.
    assert compare_sets(ours, np.zeros(50)).overlap < compare_sets(ours, more).overlap


@pytest.mark.parametrize(("reference", "generated"), [([], []), ([1.0, 2.0, 3.0], []), ([1.0, 2.0, 3.0], [math.nan]), ([1.0], [1.0])])
def test_too_few_pieces_are_nan_and_warn_of_nothing(reference: list[float], generated: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isnan(value) for value in compare_sets(reference, generated))


def test_many_distances_cost_no_more_memory_than_few() -> None:
    values = RANDOM.normal(size=200_000)
    assert overlapping_area(values, values[:100]) > 0.8
