"""How far apart two sets of pieces are in one measure: overlapping area and divergence of distances within and between the sets.

Conventions: a set is one value of a measure for each piece, (pieces,), or one vector, (pieces, features). Pieces whose value has a nan are
left out. The distance of two pieces is the difference of their values, for vectors the Euclidean length of it. Distances within a set are
those of each pair; between two sets those of each piece of one to each of the other. Densities are Gaussian kernel densities (Scott's
bandwidth), both on one common grid that holds all of both, tails included. Under two distances there is no density, and the result is nan.

Two samples of one source reach an overlap of about 0.9 with 50 pieces each; below 30 pieces the value depends on which ones were drawn.

Source: Yang & Lerch, On the evaluation of generative models in music (Neural Computing and Applications, 2018). Differs from mgeval's
``kl_dist``: there each density is read on a grid of its own, and the divergence of N(0, 1) from N(100, 1) comes out as 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from musictrain.metrics.barred_notes import Floats
from musictrain.metrics.metric_states import OwnState

GRID_POINTS = 513
TAILS = 4.0  # bandwidths beyond the outermost distance
LEAST_BANDWIDTH = 4.0  # grid points, so that even one repeated distance has a density


class SetComparison(NamedTuple):
    """What :func:`compare_sets` found."""

    overlap: float
    divergence: float


def distances_within(values: ArrayLike) -> Floats:
    """The distance of each pair of pieces of a set, (pairs,); empty for fewer than two pieces.

    >>> distances_within([1.0, 2.0, 4.0]).tolist()
    [1.0, 3.0, 2.0]
    """
    points = _points(values)
    first, second = np.triu_indices(len(points), k=1)
    return _length(points[first] - points[second])


def distances_between(values: ArrayLike, others: ArrayLike) -> Floats:
    """The distance of each piece of one set to each of another, (pieces * other pieces,).

    >>> distances_between([1.0, 2.0], [4.0]).tolist()
    [3.0, 2.0]
    """
    points, other_points = _points(values), _points(others)
    if len(points) and len(other_points) and points.shape[1] != other_points.shape[1]:
        raise ValueError(
            f"The pieces of one set have {points.shape[1]} values each, those of the other {other_points.shape[1]}: "
            "both sets need the same measure."
        )
    if not len(points) or not len(other_points):
        return np.zeros(0)
    return _length(points[:, None] - other_points[None, :]).reshape(-1)


def overlapping_area(samples: ArrayLike, others: ArrayLike) -> float:
    """The area under both kernel densities, in [0, 1]: 1 for the same samples, 0 for samples far apart.

    Nan with fewer than two of either.
    """
    return _overlap(*_log_densities(samples, others))


def kernel_divergence(samples: ArrayLike, others: ArrayLike) -> float:
    """Kullback-Leibler divergence of the second kernel density from the first, in nats, at least 0; 0 for the same samples.

    Nan with fewer than two of either. It is not symmetric: it asks how badly ``others`` explain ``samples``.
    """
    return _divergence(*_log_densities(samples, others))


def compare_sets(reference: ArrayLike, generated: ArrayLike) -> SetComparison:
    """Distances within ``reference`` against distances from ``generated`` to it: how well ``generated`` fits in.

    Args:
        reference: values of the reference pieces, (pieces,) or (pieces, features).
        generated: values of the generated ones.

    Raises:
        ValueError: if the two have other numbers of features.
    """
    densities = _log_densities(distances_within(reference), distances_between(generated, reference))
    return SetComparison(_overlap(*densities), _divergence(*densities))


def _points(values: ArrayLike) -> Floats:
    """(pieces, features) without those that hold a nan."""
    points = np.asarray(values, np.float64)
    points = points.reshape(len(points), -1) if points.size else np.zeros((0, 1))
    return points[~np.isnan(points).any(axis=1)]


def _length(differences: Floats) -> Floats:
    return np.sqrt((differences**2).sum(axis=-1))


def _log_densities(samples: ArrayLike, others: ArrayLike) -> tuple[Floats, Floats, float]:
    """The logarithms of both densities on one grid, (points,) each, and the grid's step; nan where there are too few samples."""
    pair = [np.asarray(values, np.float64).reshape(-1) for values in (samples, others)]
    pair = [values[~np.isnan(values)] for values in pair]
    if min(map(len, pair)) < 2:
        return np.full(1, math.nan), np.full(1, math.nan), 1.0
    low, high = min(values.min() for values in pair), max(values.max() for values in pair)
    scott = [float(values.std(ddof=1)) * len(values) ** -0.2 for values in pair]
    # All distances alike, in both sets: any width will do, the densities are the same.
    span = (high - low) + 2 * TAILS * max(scott) or 1.0
    # A grid wide enough for the tails of the least bandwidth too, which itself is some of the grid's steps.
    step = span / (GRID_POINTS - 1 - 2 * TAILS * LEAST_BANDWIDTH)
    middle = (low + high) / 2
    grid = middle + step * (np.arange(GRID_POINTS) - (GRID_POINTS - 1) / 2)
    first, second = (
        _log_density(values, grid, step, max(width, LEAST_BANDWIDTH * step)) for values, width in zip(pair, scott, strict=True)
    )
    return first, second, step


def _log_density(values: Floats, grid: Floats, step: float, bandwidth: float) -> Floats:
    """Logarithm of the kernel density, by sums over a fine histogram: a million distances cost no more than a thousand."""
    place = (values - grid[0]) / step
    left = np.minimum(np.floor(place).astype(np.int64), len(grid) - 2)
    weights = np.bincount(left, 1 - (place - left), len(grid)) + np.bincount(left + 1, place - left, len(grid))
    used = weights > 0
    # In logarithms, so that a density far away is small and not zero.
    exponents = -0.5 * ((grid[:, None] - grid[used][None, :]) / bandwidth) ** 2 + np.log(weights[used])
    highest = exponents.max(axis=1, keepdims=True)
    log_density = highest[:, 0] + np.log(np.exp(exponents - highest).sum(axis=1))
    return log_density - math.log(float(np.exp(log_density).sum() * step))


def _overlap(first: Floats, second: Floats, step: float) -> float:
    return float(min(1.0, np.exp(np.minimum(first, second)).sum() * step)) if len(first) > 1 else math.nan


def _divergence(first: Floats, second: Floats, step: float) -> float:
    return float(max(0.0, (np.exp(first) * (first - second)).sum() * step)) if len(first) > 1 else math.nan


class _AgainstReference(OwnState):
    """Collects one value (or vector) of each generated piece; what is made of them is the subclass's.

    Args:
        reference: the values of the reference pieces, (pieces,) or (pieces, features).
        torchmetrics_options: see ``torchmetrics.Metric``.

    Raises:
        ValueError: if the reference has fewer than three pieces without nan: there are no distances to compare with.
    """

    values: list[Tensor]

    def __init__(self, reference: ArrayLike, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        self.reference = _points(reference)
        if len(self.reference) < 3:
            raise ValueError(
                f"The reference has {len(self.reference)} pieces with a value: at least 3 are needed to know how far apart its pieces are, "
                "and 30 for a stable answer."
            )
        self.add_state("values", [], dist_reduce_fx="cat", persistent=True)

    def update(self, values: ArrayLike) -> None:
        """Count the values of some generated pieces, (pieces,) or (pieces, features); those with a nan are left out."""
        points = _points(values)
        if len(points) and points.shape[1] != self.reference.shape[1]:
            raise ValueError(f"Pieces came with {points.shape[1]} values each, the reference has {self.reference.shape[1]}.")
        if len(points):
            # Flat, as torchmetrics gathers an empty list of another rank as an empty vector.
            self.values.append(torch.as_tensor(points.reshape(-1), dtype=torch.float32, device=self.device))

    def _compared(self) -> SetComparison:
        flat = dim_zero_cat(self.values).cpu().numpy() if len(self.values) else np.zeros(0)
        return compare_sets(self.reference, flat.reshape(-1, self.reference.shape[1]))


class OverlappingArea(_AgainstReference):
    """Overlap of the distances within the reference and from the generated pieces to it, see :func:`compare_sets`; nan before any piece."""

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0

    def compute(self) -> Tensor:
        """The overlap, a scalar."""
        return torch.tensor(self._compared().overlap)


class KernelDivergence(_AgainstReference):
    """Divergence of the same two densities in nats, see :func:`compare_sets`; nan before any piece."""

    higher_is_better = False
    plot_lower_bound = 0.0

    def compute(self) -> Tensor:
        """The divergence, a scalar."""
        return torch.tensor(self._compared().divergence)
