"""The Frechet distance of two sets of pieces: how far apart Gaussians over their features lie.

Conventions: a set is a matrix (pieces, features), such as ``frechet_features.feature_matrix`` gives, in units in which one feature is as
telling as another: divide by the reference's deviations (``FeatureScale``). The distance is the squared one, as everybody reports it: the
squared length between the means, plus what the covariances differ by. Covariances are shrunk towards their mean variance (OAS), without
which fewer pieces than features give nonsense. It is 0 for a set and itself, the same both ways, and blind to all but means and
covariances.

**Few pieces look far away.** Sets drawn from one source have a distance above 0, and the more so the fewer pieces: two sets of 10, 30, 100
and 180 of the built-in chorales are 14, 6, 4 and 2.6 apart. So compare only sets of one size, and read a distance beside
``chance_distances``, what sets of these sizes give when their pieces are shuffled: that is what "no difference" looks like;
``frechet_excess`` takes it off. Extrapolating to ever more pieces (Chong and Forsyth, "Effectively unbiased FID", CVPR 2020) was tried and
is not offered: of so few pieces in 31 dimensions it left a third of what an unshrunk distance is too large by.

Source: Heusel et al., GANs trained by a two time-scale update rule (NeurIPS 2017). Shrinkage: Chen, Wiesel, Eldar and Hero, "Shrinkage
algorithms for MMSE covariance estimation" (2010). The Frechet Music Distance of Retkowski et al. (2024) is the same on learned features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from musictrain.metrics.barred_notes import Floats

FEWEST_PIECES = 2
SMALLEST_SHARE_OF_DEVIATION = 1e-3


class Gaussian(NamedTuple):
    """Mean (features,) and covariance (features, features) of a set."""

    mean: Floats
    covariance: Floats


class FeatureScale(NamedTuple):
    """Means and deviations of a reference set, by which features become comparable, (features,) each."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, reference: ArrayLike) -> FeatureScale:
        """The scale of a set (pieces, features). A feature that hardly varies in it keeps a deviation: a thousandth of its size, at least.

        Raises:
            ValueError: for fewer than two pieces.
        """
        points = _points(reference)
        if len(points) < FEWEST_PIECES:
            raise ValueError(f"A reference of {len(points)} pieces has no deviations: give it two pieces or more.")
        mean = points.mean(axis=0)
        return cls(mean, np.maximum(points.std(axis=0), SMALLEST_SHARE_OF_DEVIATION * np.maximum(np.abs(mean), 1.0)))

    def of_points(self, points: ArrayLike) -> Floats:
        """A set in deviations from the reference's mean, (pieces, features)."""
        return (_points(points) - self.mean) / self.deviation


def gaussian_of(points: ArrayLike, *, shrunk: bool = True) -> Gaussian:
    """Mean and covariance of a set (pieces, features), the covariance divided by the number of pieces, and shrunk unless told otherwise."""
    each = _points(points)
    mean = each.mean(axis=0)
    covariance = (each - mean).T @ (each - mean) / len(each)
    return Gaussian(mean, shrunk_covariance(covariance, len(each)) if shrunk else covariance)


def shrunk_covariance(covariance: Floats, num_pieces: int) -> Floats:
    """A covariance drawn towards its mean variance in all directions, the more the fewer pieces it is of (OAS).

    Source: Chen et al. (2010), as in scikit-learn's ``oas``.
    """
    num_features = len(covariance)
    mean_variance = np.trace(covariance) / num_features
    mean_square = np.mean(covariance**2)
    most = (num_pieces + 1.0) * (mean_square - mean_variance**2 / num_features)
    share = 1.0 if most <= 0 else min(1.0, (mean_square + mean_variance**2) / most)
    return (1.0 - share) * covariance + share * mean_variance * np.eye(num_features)


def gaussian_distance(one: Gaussian, other: Gaussian) -> float:
    """The squared Frechet (2-Wasserstein) distance of two Gaussians, never negative.

    >>> gaussian_distance(Gaussian(np.array([0.0]), np.array([[1.0]])), Gaussian(np.array([3.0]), np.array([[4.0]])))
    10.0
    """
    # tr((S1 S2)^(1/2)) is the sum of the singular values of A'B for S1 = AA', S2 = BB': no root of a matrix that is nearly singular.
    factors = (_factor(one.covariance), _factor(other.covariance))
    overlap = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    between = float(((one.mean - other.mean) ** 2).sum())
    return max(0.0, between + float(np.trace(one.covariance) + np.trace(other.covariance) - 2.0 * overlap))


def frechet_distance(reference: ArrayLike, generated: ArrayLike, *, shrunk: bool = True) -> float:
    """The squared Frechet distance of two sets (pieces, features) each; nan if either has fewer than two pieces.

    Args:
        reference: features of the corpus' pieces.
        generated: features of the samples.
        shrunk: whether covariances are shrunk.

    Raises:
        ValueError: if the sets have different features.
    """
    points, others = _points(reference), _points(generated)
    if len(points) and len(others) and points.shape[1] != others.shape[1]:
        raise ValueError(f"One set has {points.shape[1]} features, the other {others.shape[1]}: both need the same.")
    if min(len(points), len(others)) < FEWEST_PIECES:
        return math.nan
    return gaussian_distance(gaussian_of(points, shrunk=shrunk), gaussian_of(others, shrunk=shrunk))


def chance_distances(reference: ArrayLike, generated: ArrayLike, *, draws: int = 100, seed: int = 0) -> Floats:
    """Distances of sets of the same sizes whose pieces are drawn from both together, rising, (draws,).

    If the samples were drawn from the corpus' own source, their distance would lie among these. The share of them that are at least as far
    is the p-value of a permutation test.

    Raises:
        ValueError: if ``draws`` is not positive.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}, but at least one is needed; 100 are usual.")
    points = np.concatenate([_points(reference), _points(generated)])
    size, random = len(_points(reference)), np.random.default_rng(seed)
    orders = [random.permutation(len(points)) for _ in range(draws)]
    return np.sort([frechet_distance(points[order[:size]], points[order[size:]]) for order in orders])


def frechet_excess(reference: ArrayLike, generated: ArrayLike, *, draws: int = 100, seed: int = 0) -> float:
    """The distance less the median of ``chance_distances``: about 0 for sets of one source, however few pieces, below 0 by chance.

    Where the sets differ it is a little too small, since then shuffled sets are wider. nan with fewer than two pieces in either set.
    """
    distance = frechet_distance(reference, generated)
    return distance if math.isnan(distance) else distance - float(np.median(chance_distances(reference, generated, draws=draws, seed=seed)))


def _points(values: ArrayLike) -> Floats:
    points = np.asarray(values, np.float64)
    if points.ndim != 2:
        raise ValueError(f"A set of pieces came with the shape {points.shape}, expected (pieces, features).")
    return points


def _factor(covariance: Floats) -> Floats:
    """A with AA' = covariance; what rounding made negative is 0."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
