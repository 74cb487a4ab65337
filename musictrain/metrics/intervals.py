"""How sure a mean over pieces is, and where the pieces of a corpus lie.

Conventions: one value for each piece, (pieces,); nan is left out. Pieces are drawn, never notes: the notes of a piece are not independent.
Everything is a pure function of its arguments, the seed included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from musictrain.metrics.barred_notes import Floats
from musictrain.metrics.measures import MEASURES, measure_pieces

RESAMPLES = 1_000
MOST_DRAWN_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """A mean with the bounds it lies between."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: ArrayLike, *, level: float = 0.9, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean over pieces and the bounds that hold it in ``level`` of all drawings with replacement (percentile bootstrap).

    One piece alone says nothing of the others: its bounds are nan. No piece gives nan for all three. With fewer than about ten pieces
    the bounds are too narrow.

    Args:
        values: of one measure, (pieces,).
        level: share of drawings between the bounds, in (0, 1).
        resamples: drawings.
        seed: of the drawings; the same seed gives the same bounds.

    Raises:
        ValueError: if ``level`` is no share or ``resamples`` not positive.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}: expected a share between 0 and 1, such as 0.9.")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}: at least one drawing is needed, 1000 are usual.")
    known = np.asarray(values, np.float64).reshape(-1)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return Interval(float(known[0]) if len(known) else math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed)
    at_once = max(1, MOST_DRAWN_AT_ONCE // len(known))
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate([known[random.integers(len(known), size=(size, len(known)))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(known.mean()), float(low), float(high))


def bootstrap_intervals(
    values: Mapping[str, ArrayLike], *, level: float = 0.9, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """:func:`bootstrap_interval` of each measure, such as :func:`measure_pieces` gives; the same pieces are drawn for each."""
    return {name: bootstrap_interval(each, level=level, resamples=resamples, seed=seed) for name, each in values.items()}


def band(values: ArrayLike, *, low: float = 10.0, high: float = 90.0) -> tuple[float, float]:
    """Where the middle of some pieces lies: their ``low`` and ``high`` percentile; nan and nan if there is no value.

    Raises:
        ValueError: unless 0 <= low <= high <= 100.

    >>> band([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    (1.0, 9.0)
    """
    if not 0.0 <= low <= high <= 100.0:
        raise ValueError(f"A band from {low} to {high} percent cannot be: expected 0 <= low <= high <= 100.")
    known = np.asarray(values, np.float64).reshape(-1)
    known = known[~np.isnan(known)]
    if not len(known):
        return math.nan, math.nan
    bounds = np.percentile(known, (low, high))
    return float(bounds[0]), float(bounds[1])


def bands(pieces: Iterable[Any], *, low: float = 10.0, high: float = 90.0, means_of: int | None = None) -> dict[str, tuple[float, float]]:
    """Where a corpus lies in each measure of a piece: ``{name: (low, high)}``, percentiles over its pieces, each of equal weight.

    Args:
        pieces: ``Notes``, or pieces of a corpus.
        low: percentile.
        high: percentile; four pieces of five lie in the default band.
        means_of: the bands are for means over sets of so many pieces, and hold those too (two standard errors around the mean). Where
            nearly all pieces are alike, as four voices that never rest, percentiles alone leave out the corpus' own mean.

    Raises:
        TypeError: if ``pieces`` are neither.
        ValueError: unless 0 <= low <= high <= 100, or if ``means_of`` is not positive.
    """
    if means_of is not None and means_of < 1:
        raise ValueError(f"means_of is {means_of}: expected how many pieces a mean is taken over, or None for single pieces.")
    measured = measure_pieces(pieces)
    found = {name: band(values, low=low, high=high) for name, values in measured.items()}
    return found if means_of is None else {name: _with_means(found[name], values, name, means_of) for name, values in measured.items()}


def _with_means(edges: tuple[float, float], values: Floats, name: str, num: int) -> tuple[float, float]:
    """A band that holds what means of ``num`` pieces usually are, within the measure's range."""
    known = values[~np.isnan(values)]
    if not len(known):
        return edges
    mean, error = float(known.mean()), float(known.std()) / math.sqrt(num)
    lowest, highest = MEASURES[name].low, MEASURES[name].high
    return max(lowest, min(edges[0], mean - 2 * error)), min(highest, max(edges[1], mean + 2 * error))
