"""Which windows of an epoch are easy: orderings of stretches become ranks of windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.data.orderings.stretches import Floats, Ordering, Stretches
from musictrain.data.windows import Running, Windows


@dataclass(frozen=True, eq=False)
class Difficulty:
    """How hard windows are, by one ordering or by several together.

    A window's value in an ordering is the weighted mean over the stretches it covers. Several orderings count by the ranks that the windows
    have in each, so that no unit matters: the mean of the ranks, weighed.

    Args:
        stretches: of the store that the windows lie in.
        orderings: by name.
        weights: of the orderings, by name; above 0.
    """

    stretches: Stretches
    orderings: Mapping[str, Ordering]
    weights: Mapping[str, float]

    @cached_property
    def _running(self) -> dict[str, tuple[Floats, Floats]]:
        """Of each ordering, the sums of value times weight and of weight up to each edge, (stretches + 1,)."""
        return {name: (_running(each.value * each.weight), _running(each.weight)) for name, each in self.orderings.items()}

    def values(self, name: str, windows: Windows, epoch: int) -> Floats:
        """What an ordering says of every window of an epoch, (windows,); the mean of all where it knows nothing."""
        sums, weights = (windows.totals(epoch, self._up_to(running)) for running in self._running[name])
        whole, weight = (float(running[-1]) for running in self._running[name])
        known = weights > 1e-9
        return np.where(known, sums / np.where(known, weights, 1.0), whole / weight if weight else 0.0)

    def _up_to(self, running: Floats) -> Running:
        return lambda token: np.interp(token, self.stretches.edges, running)

    def order(self, windows: Windows, epoch: int, shuffled: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows of an epoch, easiest first, (windows,); equal ones in the order of ``shuffled``, a permutation of the epoch."""
        every = {name: self.values(name, windows, epoch) for name in self.weights}
        if len(every) > 1:
            hardness = np.sum([self.weights[name] * ranks(values) for name, values in every.items()], axis=0)
        else:
            (hardness,) = every.values()
        return shuffled[np.argsort(np.round(hardness[shuffled], 9), kind="stable")]


def easiest(share: float, count: int) -> int:
    """How many of ``count`` windows the easiest share of them are: rounded up, at least one.

    >>> easiest(0.25, 10), easiest(0.7, 10), easiest(1.0, 10)
    (3, 7, 10)
    """
    return max(1, math.ceil(round(share * count, 6)))


def ranks(values: Floats) -> Floats:
    """Rank of each value from 0 to 1, equal values sharing the mean of theirs.

    >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [0.75, 0.0, 0.75]
    """
    _, place, counts = np.unique(np.round(values, 9), return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return middle[place.reshape(-1)] / max(1, len(values) - 1)


def _running(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])
