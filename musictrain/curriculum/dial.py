"""Dial: how hard, how long and from which corpora the rows of a batch are; the one thing a curriculum says to a data module."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Dial:
    """What a batch may be made of. ``Dial()`` is everything, whole: the batches are those of a training without a curriculum.

    Args:
        difficulty: share of the windows, easiest first, that are drawn from, in (0, 1].
        length: share of a window's targets that a row keeps, in (0, 1].
        mixture: pairs of a corpus' name and its share of the rows; the shares sum to 1. () leaves the corpora as they are: each window
            once an epoch.

    Raises:
        ValueError: for a share outside its range, a corpus named twice, or a mixture that does not sum to 1.

    >>> Dial(difficulty=0.25).is_whole, Dial().is_whole
    (False, True)
    """

    difficulty: float = 1.0
    length: float = 1.0
    mixture: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("difficulty", "length"):
            if not 0.0 < (value := float(getattr(self, name))) <= 1.0:
                raise ValueError(f"Dial got {name}={value}, expected a share above 0 and at most 1, which is everything.")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "mixture", _checked_mixture(self.mixture))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out, shortened or mixed."""
        return self == WHOLE


def _checked_mixture(mixture: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    pairs = tuple((str(name), float(share)) for name, share in mixture)
    shares = [share for _, share in pairs]
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError(f"Dial got mixture={pairs}, expected each corpus once.")
    if pairs and (not all(share >= 0.0 for share in shares) or not math.isclose(math.fsum(shares), 1.0, abs_tol=1e-6)):
        raise ValueError(f"Dial got mixture={pairs}: the shares sum to {math.fsum(shares):g}, expected 1, and each at least 0.")
    return pairs


WHOLE = Dial()
