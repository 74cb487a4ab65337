"""Which of several points are better than others, where more than one thing is to be made small.

Conventions: worth is (points, objectives), lower for better, all finite. One point dominates another if it is nowhere worse and somewhere
better; equal points do not dominate one another.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Worth = NDArray[np.float64]


def fronts(worth: ArrayLike) -> NDArray[np.intp]:
    """The front on which each point lies, (points,): 0 if no point dominates it, 1 if only points of front 0 do, and so on.

    With one objective these are the places of its different values.

    Source: the efficient non-dominated sort with binary search (ENS-BS) of Zhang et al. (IEEE Transactions on Evolutionary Computation,
    2015): in the order of the first objective a point is only dominated by those before it.
    """
    points = np.asarray(worth, dtype=np.float64)
    if not points.size:
        return np.zeros(len(points), dtype=np.intp)
    if points.shape[1] == 1:
        return np.unique(points[:, 0], return_inverse=True)[1].reshape(-1)
    result = np.zeros(len(points), dtype=np.intp)
    found: list[_Front] = []
    for place in np.lexsort(points.T[::-1]):
        number = _first_that_holds(found, points[place])
        if number == len(found):
            found.append(_Front(points.shape[1]))
        found[number].add(points[place])
        result[place] = number
    return result


class _Front:
    """Points that do not dominate one another."""

    def __init__(self, objectives: int) -> None:
        self._points = np.empty((8, objectives))
        self._count = 0

    def add(self, point: Worth) -> None:
        if self._count == len(self._points):
            self._points = np.concatenate([self._points, np.empty_like(self._points)])
        self._points[self._count] = point
        self._count += 1

    def dominates(self, point: Worth) -> bool:
        members = self._points[: self._count]
        return bool(((members <= point).all(axis=1) & (members < point).any(axis=1)).any())


def _first_that_holds(found: list[_Front], point: Worth) -> int:
    """The first front of which no point dominates this one; if one does so on a front, one does so on each front before it."""
    low, high = 0, len(found)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if found[middle].dominates(point) else (low, middle)
    return low


def crowding(worth: ArrayLike) -> Worth:
    """How far the neighbours of each point of one front are apart, (points,): infinite at the ends of each objective.

    Source: Deb et al., NSGA-II (IEEE Transactions on Evolutionary Computation, 2002).
    """
    points = np.asarray(worth, dtype=np.float64)
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        if span == 0:
            continue
        # Equal points are told apart by nothing here: each of those at an end is at the end.
        distance[(column == column[order[0]]) | (column == column[order[-1]])] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance


def fronts_and_room(worth: ArrayLike) -> tuple[list[int], list[float]]:
    """The front of each point, and how much room it has on it; with one objective no point has any."""
    points = np.asarray(worth, dtype=np.float64)
    front = fronts(points)
    room = np.zeros(len(points))
    if points.ndim == 2 and points.shape[1] > 1:
        for number in np.unique(front):
            members = np.flatnonzero(front == number)
            room[members] = crowding(points[members])
    return front.tolist(), room.tolist()


def ties(keys: Sequence[Hashable]) -> list[int]:
    """The places of a ranking, the same for neighbours of equal worth.

    >>> ties([(0.5,), (0.7,), (0.7,), (0.9,)])
    [0, 1, 1, 3]
    """
    found: list[int] = []
    for place, key in enumerate(keys):
        found.append(found[-1] if place and key == keys[place - 1] else place)
    return found
