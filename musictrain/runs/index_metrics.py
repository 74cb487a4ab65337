"""What the index keeps of a run's metrics: last, lowest and highest value of each, and a thin curve.

Conventions:

- Values that are not finite are never lowest or highest; as the last value they become NULL. Nor are those of vetoed steps: lowest and
  highest are what is called best. ``vetoed`` is a metric of its own, 1 at these steps.
- A metrics file that only grew is read on from where it was left; one that was rewound (a resume) or replaced is read again as a whole.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musictrain.runs.folder import number
from musictrain.runs.rows import ABOUT, BLOCK_BYTES, VETOED, RowReader, is_marker, step_of

CURVE_POINTS = 64
LARGEST_STEP = 2**53


@dataclass
class Series:
    """The values of one metric by ascending step, without doubles. 16 bytes a value."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def put(self, step: int, value: float) -> None:
        """Record a value; of one step, the last one counts."""
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.values.append(value)
            return
        place = bisect_left(self.steps, step)
        if self.steps[place] == step:
            self.values[place] = value
        else:
            self.steps.insert(place, step)
            self.values.insert(place, value)

    def withdraw_above(self, step: int) -> None:
        """Forget what was recorded after ``step``."""
        place = bisect_right(self.steps, step)
        del self.steps[place:], self.values[place:]


@dataclass
class Extent:
    """One metric in short: values with their steps, and a curve of at most 64 points as two arrays."""

    last: float
    last_step: int
    lowest: float | None
    lowest_step: int | None
    highest: float | None
    highest_step: int | None
    steps: array[float]
    values: array[float]


def extent_of(series: Series, vetoed: Collection[int] = ()) -> Extent:
    """A series in short. The first of several equal extremes counts, and none of a vetoed step."""
    finite = array("d", filter(math.isfinite, series.values))
    all_finite = len(finite) == len(series.values)
    places = range(len(finite)) if all_finite else [place for place, value in enumerate(series.values) if math.isfinite(value)]
    low, high = _extremes(series, places, finite, vetoed)
    steps, values = thinned(array("d", series.steps if all_finite else (series.steps[place] for place in places)), finite)
    return Extent(
        last=series.values[-1],
        last_step=series.steps[-1],
        lowest=None if low is None else series.values[low],
        lowest_step=None if low is None else series.steps[low],
        highest=None if high is None else series.values[high],
        highest_step=None if high is None else series.steps[high],
        steps=steps,
        values=values,
    )


def _extremes(series: Series, places: Sequence[int], finite: array[float], vetoed: Collection[int]) -> tuple[int | None, int | None]:
    """Where the lowest and the highest value stand; None without any."""
    if vetoed:
        places = [place for place in places if series.steps[place] not in vetoed]
        finite = array("d", (series.values[place] for place in places))
    return (places[finite.index(min(finite))], places[finite.index(max(finite))]) if finite else (None, None)


def grown(was: Extent, more: Series, vetoed: Collection[int] = ()) -> Extent:
    """The extent after further values, all of them at later steps."""
    new = extent_of(more, vetoed)
    if new.lowest is not None and was.lowest is not None and was.lowest <= new.lowest:
        new.lowest, new.lowest_step = was.lowest, was.lowest_step
    if new.highest is not None and was.highest is not None and was.highest >= new.highest:
        new.highest, new.highest_step = was.highest, was.highest_step
    if new.lowest is None:
        new.lowest, new.lowest_step, new.highest, new.highest_step = was.lowest, was.lowest_step, was.highest, was.highest_step
    new.steps, new.values = thinned(was.steps + new.steps, was.values + new.values)
    return new


def thinned(steps: array[float], values: array[float], most: int = CURVE_POINTS) -> tuple[array[float], array[float]]:
    """A curve of at most ``most`` points (an even number): the first and the last, and between them lowest and highest of even parts."""
    num = len(values)
    if num <= most:
        return steps, values
    kept = {0, num - 1}
    parts = most // 2 - 1
    for part in range(parts):
        start, end = (1 + each * (num - 2) // parts for each in (part, part + 1))
        window = values[start:end]
        kept.update((start + window.index(min(window)), start + window.index(max(window))))
    chosen = sorted(kept)
    return array("d", (steps[place] for place in chosen)), array("d", (values[place] for place in chosen))


@dataclass(frozen=True)
class Place:
    """Where a metrics file was left: bytes read, and the last bytes before, by which it is known again."""

    offset: int = 0
    before: bytes = b""


def read_extents(path: Path, was: Mapping[str, Extent], place: Place) -> tuple[dict[str, Extent], Place]:
    """Every metric of a file in short, reading on from ``place`` if the file only grew.

    Raises:
        OSError: if the file is there and cannot be read.
    """
    reader = RowReader(path, place.offset, place.before)
    if place.offset:
        more = _grown_only(reader, was)
        if more is not None:
            vetoed = _vetoed(more)
            extents = {
                key: grown(was[key], series, vetoed[key]) if key in was else extent_of(series, vetoed[key]) for key, series in more.items()
            }
            return {**was, **extents}, Place(*reader.place)
        reader = RowReader(path)
    found: dict[str, Series] = {}
    while rows := reader.read_new(BLOCK_BYTES):
        collect(rows, found)
    vetoed = _vetoed(found)
    return {key: extent_of(series, vetoed[key]) for key, series in found.items() if series.steps}, Place(*reader.place)


def _vetoed(found: Mapping[str, Series]) -> dict[str, set[int]]:
    """Of each metric the steps whose values are neither lowest nor highest."""
    series = found.get(VETOED, Series())
    steps = {step for step, value in zip(series.steps, series.values, strict=True) if value}
    return {key: set() if key == VETOED else steps for key in found}


def _grown_only(reader: RowReader, was: Mapping[str, Extent]) -> dict[str, Series] | None:
    """What came since; None if something that was read before does not count any more."""
    more: dict[str, Series] = {}
    while rows := reader.read_new(BLOCK_BYTES):
        if reader.restarts or any(is_marker(row) for row in rows):
            return None
        collect(rows, more)
    rewound = any(key in was and series.steps[0] <= was[key].last_step for key, series in more.items())
    return None if rewound or _judged_later(was, more) or reader.restarts else more


def _judged_later(was: Mapping[str, Extent], more: Mapping[str, Series]) -> bool:
    """Whether a veto and a value of its step were not read together."""
    firsts = {key: series.steps[0] for key, series in more.items()}
    late = VETOED in firsts and any(firsts[VETOED] <= extent.last_step for extent in was.values())
    return late or (VETOED in was and any(first <= was[VETOED].last_step for first in firsts.values()))


def collect(rows: Iterable[Mapping[str, Any]], into: dict[str, Series]) -> None:
    """Add the values of rows, in the order of the file, to the series of each metric."""
    for row in rows:
        if is_marker(row):
            for series in into.values():
                series.withdraw_above(row["from_step"])
            continue
        step = step_of(row)
        if step is None or not 0 <= step < LARGEST_STEP:
            continue
        if VETOED in row:
            into.setdefault(VETOED, Series()).put(step, float(bool(row[VETOED])))
        for key, value in row.items():
            if key in ABOUT or not (type(value) is float or _is_number(value)):
                continue
            if key not in into:
                into[key] = Series()
            into[key].put(step, value if type(value) is float else number(value))


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or value in ("NaN", "Infinity", "-Infinity")
