"""How sure a mean over seeds is: Student's t, which knows how little a few values say of their spread.

Plain Python, so that a table of a search needs no scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

LEVEL = 0.9


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, the bounds it lies between, and of how many values it is."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """What stands behind ``±``; nan where one value alone says nothing of the others."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean, and the bounds that hold the true one in ``level`` of all cases, if the values are drawn from a normal distribution.

    >>> interval = t_interval([1.0, 2.0, 3.0])
    >>> f"{interval.mean:g} ± {interval.half:.3f}"
    '2 ± 1.686'

    One value alone gives bounds of nan, no value nan for all; a value that is not finite makes everything nan.

    Args:
        values: of one point, one for each seed.
        level: in (0, 1).

    Raises:
        ValueError: for a level outside of that.
    """
    count = len(values)
    if count == 1 and math.isfinite(values[0]):
        return Interval(values[0], math.nan, math.nan, 1)
    if not count or not all(math.isfinite(value) for value in values):
        return Interval(math.nan, math.nan, math.nan, count)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(level, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


@lru_cache(maxsize=256)
def t_quantile(level: float, freedom: int) -> float:
    """How many standard errors either side hold ``level`` of Student's t distribution.

    Args:
        level: in (0, 1).
        freedom: degrees of it, from 1 on.

    Raises:
        ValueError: for a level or degrees outside of that.

    Source: the distribution in closed form for whole degrees of freedom (Abramowitz & Stegun 26.7.3 and 26.7.4), inverted by bisection.
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"A t interval needs a level between 0 and 1 and a degree of freedom, got {level} and {freedom}.")
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom), since t itself has no bound
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < level else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _share_within(angle: float, freedom: int) -> float:
    """How much of the distribution lies within t standard errors of 0."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for power in range(3, freedom - 1, 2):
            term *= cosine**2 * (power - 1) / power
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for power in range(2, freedom - 1, 2):
        term *= cosine**2 * (power - 1) / power
        total += term
    return sine * total
