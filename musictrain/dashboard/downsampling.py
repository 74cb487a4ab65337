"""A curve of any length in about 2,000 points, grown row by row and never read again.

Conventions:

- Points lie in buckets of equally many rows. A bucket keeps its lowest and its highest point and the first that is no finite number: a
  spike of one step among a million is still seen, and so is a gap.
- When there are too many points, buckets merge two by two. What is kept is always a point that was given, never a mean.
- The first and the last point of a curve are kept whatever they are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

MOST_POINTS = 2_000

Point = tuple[int, float]


@dataclass(slots=True)
class Bucket:
    """Some rows that follow one another: how many, where they begin, and the points of them that are kept."""

    start: int
    num_rows: int = 0
    low: Point | None = None
    high: Point | None = None
    gap: Point | None = None

    def add(self, step: int, value: float) -> None:
        """Take one more row."""
        self.num_rows += 1
        if not math.isfinite(value):
            if self.gap is None:
                self.gap = (step, value)
            return
        if self.low is None or value < self.low[1]:
            self.low = (step, value)
        if self.high is None or value >= self.high[1]:
            self.high = (step, value)

    def points(self) -> list[Point]:
        """What is kept, by step."""
        return sorted({point[0]: point for point in (self.low, self.high, self.gap) if point is not None}.values())

    def merged(self, later: Bucket) -> Bucket:
        """This bucket and the one after it as one."""
        return self._with([*self.points(), *later.points()], self.num_rows + later.num_rows)

    def without(self, steps: range) -> Bucket:
        """The points that are not at these steps; the number of rows stays what it was, so that the bucket fills up when it would have."""
        return self._with([point for point in self.points() if point[0] not in steps], self.num_rows)

    def _with(self, points: list[Point], num_rows: int) -> Bucket:
        bucket = Bucket(self.start)
        for point in points:
            bucket.add(*point)
        bucket.num_rows = num_rows
        return bucket


class RunningCurve:
    """A curve that keeps about ``most_points`` points however many it is given.

    ``changes`` counts what happened to it, so that whoever drew it knows whether to draw it again.

    Args:
        most_points: 8 or more.

    Raises:
        ValueError: for fewer.
    """

    def __init__(self, most_points: int = MOST_POINTS) -> None:
        if most_points < 8:
            raise ValueError(f"RunningCurve got most_points={most_points}; a curve needs 8 or more to keep its ends and extremes.")
        self.most_points = most_points
        self.num_rows = 0
        self.changes = 0
        self._width = 1
        self._num_gaps = 0
        self._buckets: list[Bucket] = []
        self._first: Point | None = None
        self._last: Point | None = None

    @property
    def last(self) -> Point | None:
        """The point of the highest step; None before the first."""
        return self._last

    def add(self, step: int, value: float) -> None:
        """Take one row. One of a step that was there already replaces it; one of an earlier step is put where it belongs."""
        self.changes += 1
        if self._last is not None and step <= self._last[0]:
            self._amend(step, value)
            return
        self.num_rows += 1
        self._last = (step, value)
        if self._first is None:
            self._first = self._last
        if not self._buckets or self._buckets[-1].num_rows >= self._width:
            self._buckets.append(Bucket(step))
            self._make_room()
        self._buckets[-1].add(step, value)
        if not math.isfinite(value) and self._buckets[-1].gap == (step, value):
            self._num_gaps += 1
            self._make_room()

    def cut_after(self, step: int) -> None:
        """Withdraw every point above a step: those steps are done again."""
        if self._last is None or self._last[0] <= step:
            return
        self.changes += 1
        beyond = range(step + 1, self._last[0] + 1)
        self._buckets = [bucket.without(beyond) for bucket in self._buckets if bucket.start <= step]
        left = [point for bucket in self._buckets for point in bucket.points()]
        self._first = self._first if self._first is not None and self._first[0] <= step else None
        self._last = left[-1] if left else self._first
        self.num_rows = sum(bucket.num_rows for bucket in self._buckets)

    def points(self) -> list[Point]:
        """What is kept, by step; each step once."""
        kept = {point[0]: point for bucket in self._buckets for point in bucket.points()}
        kept.update({end[0]: end for end in (self._first, self._last) if end is not None})
        return [kept[step] for step in sorted(kept)]

    def _amend(self, step: int, value: float) -> None:
        if self._last is not None and step == self._last[0]:
            self._last = (step, value)
        if self._first is not None and step <= self._first[0]:
            self._first = (step, value)
        place = max(bisect_right(self._buckets, step, key=lambda bucket: bucket.start) - 1, 0)
        bucket = self._buckets[place].without(range(step, step + 1))
        bucket.start = min(bucket.start, step)
        bucket.add(step, value)
        # Counted as a row of its bucket only if it is new there, which is not known any more once rows were dropped: it is not.
        bucket.num_rows = self._buckets[place].num_rows
        self._buckets[place] = bucket
        if self._width == 1:
            self._spread(place)

    def _spread(self, place: int) -> None:
        """As long as every row is kept, each has a bucket of its own, also one that came late."""
        points = self._buckets[place].points()
        if len(points) > 1:
            fresh = []
            for point in points:
                bucket = Bucket(point[0])
                bucket.add(*point)
                fresh.append(bucket)
            self._buckets[place : place + 1] = fresh
            self.num_rows += len(points) - 1

    def _make_room(self) -> None:
        while len(self._buckets) > 1 and self._most_kept() > self.most_points - 2:
            pairs = zip(self._buckets[::2], self._buckets[1::2], strict=False)
            odd = self._buckets[-1:] if len(self._buckets) % 2 else []
            self._buckets = [*(first.merged(second) for first, second in pairs), *odd]
            self._width *= 2
            self._num_gaps = sum(bucket.gap is not None for bucket in self._buckets)

    def _most_kept(self) -> int:
        return len(self._buckets) * min(self._width, 2) + (self._num_gaps if self._width > 1 else 0)


def thinned(points: list[Point], most_points: int) -> list[Point]:
    """A curve that was made already, in fewer points; the very same list if it is short enough."""
    if len(points) <= most_points:
        return points
    curve = RunningCurve(max(most_points, 8))
    for step, value in points:
        curve.add(step, value)
    return curve.points()
