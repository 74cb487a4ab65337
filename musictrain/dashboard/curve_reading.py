"""From ``metrics.jsonl`` to curves, reading each line once however often the page is drawn."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import Any

from musictrain.dashboard.charts import MAIN
from musictrain.dashboard.downsampling import MOST_POINTS, Point, RunningCurve
from musictrain.dashboard.event_reading import clean
from musictrain.runs.folder import RunFolder, number
from musictrain.runs.rows import VETOED, RowReader, is_marker, step_of, values_of

MOST_KEYS = 5_000
LONGEST_KEY = 200
LONGEST_REASON = 160
BLOCK_BYTES = 1 << 20
TOKENS = "train/tokens"
NOT_FINITE = {"NaN", "Infinity", "-Infinity"}


class CurveReader:
    """The curves of a run, kept up to date by :meth:`read`.

    ``curves`` are by key, without control characters and cut to 200. ``seconds`` and ``tokens`` tell for a step how long the run had
    been training (the time between two attempts does not count) and how many tokens it had read; ``tokens`` is empty if nobody logged
    them. ``vetoed`` says of which steps the music was vetoed, and why. ``num_dropped_keys`` counts keys beyond the first 5,000.

    Args:
        run: need not have recorded anything yet.
    """

    def __init__(self, run: RunFolder) -> None:
        self._reader = RowReader(run.metrics)
        self._restarts = 0
        self._forget()

    def _forget(self) -> None:
        self.curves: dict[str, RunningCurve] = {}
        self._by_name: dict[str, RunningCurve] = {}
        self.seconds = RunningCurve(MOST_POINTS // 2)
        self.attempts: list[dict[str, Any]] = []
        self.vetoed: dict[int, str] = {}
        self.last_step = 0
        self.last_time = math.nan
        self._dropped: set[str] = set()
        # Of the attempt that is being read: when it began, and how long the run had been training by then.
        self._began = math.nan
        self._trained = 0.0

    @property
    def tokens(self) -> RunningCurve:
        """Tokens read by step."""
        return self.curves.get(TOKENS) or RunningCurve()

    @property
    def num_dropped_keys(self) -> int:
        """How many further keys there were."""
        return len(self._dropped)

    def read(self, most_blocks: float = math.inf) -> bool:
        """Take in what has been written since the last time; whether that was all of it.

        Args:
            most_blocks: megabytes after which to stop, to go on at the next call.
        """
        blocks = 0
        while rows := self._reader.read_new(BLOCK_BYTES):
            if self._reader.restarts != self._restarts:
                self._restarts = self._reader.restarts
                self._forget()
            for row in rows:
                self._begin(row) if is_marker(row) else self._add(row)
            blocks += 1
            if blocks >= most_blocks:
                return False
        return True

    def _begin(self, marker: Mapping[str, Any]) -> None:
        from_step = int(marker["from_step"])
        for curve in self.curves.values():
            curve.cut_after(from_step)
        self.seconds.cut_after(from_step)
        self.vetoed = {step: why for step, why in self.vetoed.items() if step <= from_step}
        self._trained = self.seconds.last[1] if self.seconds.last is not None else 0.0
        self._began = number(marker.get("time"))
        self.attempts.append({"attempt": marker.get("attempt"), "step": from_step, "time": self._began})
        self.last_step = min(self.last_step, from_step)

    def _add(self, row: Mapping[str, Any]) -> None:
        step = step_of(row)
        if step is None:
            return
        self.last_step = max(self.last_step, step)
        self._note_time(step, number(row.get("time")))
        if VETOED in row:
            self._note_veto(step, clean(row[VETOED] or "", LONGEST_REASON))
        for key, value in values_of(row).items():
            if not isinstance(value, int | float) and value not in NOT_FINITE:
                continue
            curve = self._by_name.get(key) or self._found(key)
            if curve is not None:
                curve.add(step, float(value))

    def _note_veto(self, step: int, why: str) -> None:
        self.vetoed.pop(step, None)
        if why:
            self.vetoed[step] = why

    def _found(self, name: str) -> RunningCurve | None:
        """The curve of a name that was not seen before; None if there are too many."""
        if len(self._by_name) >= MOST_KEYS and name not in MAIN:
            self._dropped.add(clean(name, LONGEST_KEY))
            return None
        curve = self._by_name[name] = self.curves.setdefault(clean(name, LONGEST_KEY), RunningCurve())
        return curve

    def _note_time(self, step: int, time: float) -> None:
        if not math.isfinite(time):
            return
        if not math.isfinite(self._began):
            self._began = time
        self.last_time = time
        last = self.seconds.last
        if last is None or step > last[0]:
            self.seconds.add(step, max(self._trained + time - self._began, last[1] if last is not None else 0.0))


def at_step(points: list[Point], step: float) -> float:
    """The value of a rising curve at any step, by straight lines between its points; nan for a curve without points.

    >>> at_step([(0, 0.0), (10, 5.0)], 4)
    2.0
    """
    if not points:
        return math.nan
    place = bisect.bisect_right(points, step, key=lambda point: point[0])
    if place in (0, len(points)):
        return points[min(place, len(points) - 1)][1]
    (one, low), (other, high) = points[place - 1], points[place]
    return low + (high - low) * (step - one) / (other - one)
