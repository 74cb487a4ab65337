"""What ``watch`` knows of a run: read from its files alone, and read on from where it stopped."""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

from musictrain.runs.eta import TimeLeft
from musictrain.runs.folder import RunFolder, number
from musictrain.runs.rows import RowReader, is_marker, step_of, values_of
from musictrain.runs.standing import LOSS, SCORE, Standing
from musictrain.runs.status import ENDED, STALE, Status, read_status

MOST_POINTS = 4000
READ_WHOLE_BYTES = 4 << 20
SAMPLES, SAMPLE_BYTES = 48, 32 << 10
MOST_EVENTS = 200
QUIET_EVENTS = ("alert", "log")
STATE_AFTER = {state: state for state in ENDED}


class Curve:
    """Values by step, some thousand at most; recording a step again withdraws what came after it."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self._every, self._passed = 1, 0

    def add(self, step: int, value: float) -> None:
        """One more value, in the order of recording; what is no finite number is passed over."""
        self.withdraw(step)
        self._passed += 1
        if math.isfinite(value) and self._passed % self._every == 0:
            self.points.append((step, value))
        if len(self.points) > MOST_POINTS:
            self.points, self._every = self.points[1::2], 2 * self._every

    def withdraw(self, step: int) -> None:
        """Forget this step and those after it."""
        while self.points and self.points[-1][0] >= step:
            self.points.pop()


class WatchedRun:
    """One run, as its files tell.

    Args:
        run: its folder.
        metrics: whose curves are wanted besides the losses.
    """

    def __init__(self, run: RunFolder, metrics: tuple[str, ...] = ()) -> None:
        self.run = run
        self.metrics = metrics
        self._forget()
        self._event_reader = RowReader(run.events)
        self.events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self.alerts: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self.status: Status | None = None
        self.num_alerts = 0
        self._turn: dict[str, Any] = {}

    def _forget(self) -> None:
        self.curves: dict[str, Curve] = {}
        self.values: dict[str, float] = {}
        self.step, self.epoch = 0, 0
        self._rows: RowReader | None = None
        self._restarts = 0

    def read(self) -> None:
        """Take what has been written since the last time."""
        self.status = read_status(self.run.status)
        self._read_rows()
        for event in self._event_reader.read_new():
            kind = event.get("event")
            if kind == "alert":
                self.alerts.append(event)
                self.num_alerts += 1
            elif isinstance(kind, str) and kind not in QUIET_EVENTS:
                self.events.append(event)
                self._turn = event if kind in (*STATE_AFTER, "started", "resumed") else self._turn

    def _read_rows(self) -> None:
        if self._rows is None:
            self._rows = self._open_rows()
        rows = self._rows.read_new()
        if self._rows.restarts != self._restarts:  # another file has taken its place, and has been read from its beginning
            reader, restarts = self._rows, self._rows.restarts
            self._forget()
            self._rows, self._restarts = reader, restarts
        for row in rows:
            self._add(row)

    def _open_rows(self) -> RowReader:
        """From the beginning, or, of a large file, from its last part, after a look at samples of the rest."""
        size = self.run.metrics.stat().st_size if self.run.metrics.exists() else 0
        if size <= READ_WHOLE_BYTES:
            return RowReader(self.run.metrics)
        for sample in range(SAMPLES):
            reader = RowReader(self.run.metrics, start_of_line(self.run.metrics, (size - READ_WHOLE_BYTES // 4) * sample // SAMPLES))
            for row in reader.read_new(SAMPLE_BYTES):
                self._add(row)
        return RowReader(self.run.metrics, start_of_line(self.run.metrics, size - READ_WHOLE_BYTES // 4))

    def _add(self, row: dict[str, Any]) -> None:
        if is_marker(row):
            for curve in self.curves.values():
                curve.withdraw(row["from_step"] + 1)
            self.step = row["from_step"]
            return
        step = step_of(row)
        if step is None:
            return
        self.step = step
        self.epoch = row["epoch"] if isinstance(row.get("epoch"), int) else self.epoch
        for name, value in values_of(row).items():
            self.values[name] = number(value)
            if name in LOSS or name in SCORE or name in self.metrics:
                self.curves.setdefault(name, Curve()).add(step, self.values[name])

    # What is made of it.

    def state(self, now: float) -> str:
        """The state, ``stale`` if it says that it goes on and does not; by its events where there is no status."""
        if self.status is not None:
            return self.status.shown_state(now)
        return STATE_AFTER.get(str(self._turn.get("event")), "unknown")

    def is_over(self, now: float) -> bool:
        """Whether nothing more is to come: it has ended, or its process on this machine is gone."""
        state = self.state(now)
        gone = state == STALE and self.status is not None and self.status.host == socket.gethostname()
        return gone or state in STATE_AFTER

    def standing(self, now: float) -> Standing:
        """Where it stands, in the words of the progress line; what is left goes down with the clock."""
        status = self.status
        if status is None:
            return Standing(self.step, None, 0.0, None, self.values, now=now)
        state = status.shown_state(now)
        goes_on = status.is_active() and state != STALE
        shown = "" if state == "training" else state
        values = {**self.values, **{key: number(value) for key, value in status.values.items()}}
        if status.tokens_per_second is not None:
            values["train/tokens_per_second"] = status.tokens_per_second
        since = max(now - status.updated, 0.0) if goes_on else 0.0
        return Standing(
            max(status.step, self.step) if goes_on else status.step,
            status.total,
            status.elapsed_seconds + since,
            _left(status, since) if goes_on else None,
            values,
            shown,
            now,
        )

    def as_json(self, now: float | None = None) -> dict[str, Any]:
        """All of it, for programs."""
        now = time.time() if now is None else now
        standing, status = self.standing(now), self.status
        left = standing.left
        return {
            "run": self.run.name,
            "path": str(self.run.path),
            "state": self.state(now),
            "step": standing.step,
            "total": standing.total,
            "epoch": self.epoch if status is None else status.epoch,
            "attempt": None if status is None else status.attempt,
            "elapsed_seconds": None if status is None else standing.elapsed_seconds,
            "left_seconds": None if left is None else left.seconds,
            "left_low": None if left is None else left.low,
            "left_high": None if left is None else left.high,
            "ends_at": None if left is None else now + left.seconds,
            "updated": None if status is None else status.updated,
            "values": dict(standing.values),
            "best": {} if status is None else status.best,
            "num_alerts": self.num_alerts,
            "alerts": list(self.alerts)[-10:],
            "events": list(self.events)[-10:],
            "reason": self._reason(),
            "advice": "" if status is None else status.advice,
        }

    def _reason(self) -> str:
        return str((self.status.reason if self.status is not None else "") or self._turn.get("reason") or "")


def _left(status: Status, since: float) -> TimeLeft | None:
    if status.left_seconds is None:
        return None
    low, high = status.left_low, status.left_high
    bounds = (status.left_seconds if low is None else low, status.left_seconds if high is None else high)
    return TimeLeft(*(max(seconds - since, 0.0) for seconds in (status.left_seconds, *bounds)))


def start_of_line(path: Path, offset: int) -> int:
    """Where the first line begins that begins at ``offset`` or after it."""
    if offset <= 0:
        return 0
    with path.open("rb") as file:
        file.seek(offset - 1)
        file.readline()
        return file.tell()
