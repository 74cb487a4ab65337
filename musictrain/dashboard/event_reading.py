"""From ``events.jsonl`` and ``train.log`` to what the page tells: alerts, versions, the best score, what happened, the last lines."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from musictrain.runs.folder import RunFolder
from musictrain.runs.rows import RowReader
from musictrain.runs.status import ENDED

BLOCK_BYTES = 1 << 20
MOST_ALERTS = 300
MOST_VERSIONS = 500
MOST_EVENTS = 150
MOST_ACTIONS = 200
MOST_LINES = 400
TAIL_BYTES = 128 << 10
LONGEST_TEXT = 600
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_LINE = re.compile(rf"^(\d{{4}}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\S*)\s+({'|'.join(LEVELS)})\s+(.*)$")
# Whole escape sequences first, then whatever else a terminal would obey; line breaks and tabs stay.
CONTROL = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _went_back(row: Mapping[str, Any]) -> str:
    over = row.get("passed_over")
    return f"Went back to step {row.get('to')}" + (f", passing over {over}" if over else "")


ACTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "skipped": lambda row: "The update was left out",
    "lr_reduced": lambda row: f"Learning rate multiplied by {row.get('factor')} up to step {row.get('until')}",
    "rolled_back": _went_back,
    "unfrozen": lambda row: f"Begins to train: {row.get('patterns')}",
}
"""What callbacks do to a training, AnomalyAlerts above all, in words."""


def clean(text: Any, longest: int = LONGEST_TEXT) -> str:
    r"""A text without terminal escapes and other control characters, cut to a length that can be shown.

    >>> clean("\x1b[31mred\x1b[0m"), clean("abcdef", 3)
    ('red', 'ab…')
    """
    told = CONTROL.sub("", str(text)[: 4 * longest])
    return told if len(told) <= longest else told[: longest - 1] + "…"


class EventReader:
    """What has happened in a run, kept up to date by :meth:`read`.

    Alerts that say the same are one with a ``count``, its newest step and time. ``num_alerts`` counts all.

    Args:
        run: need not have recorded anything yet.
    """

    def __init__(self, run: RunFolder) -> None:
        self._reader = RowReader(run.events)
        self._restarts = 0
        self._forget()

    def _forget(self) -> None:
        self._alerts: dict[tuple[str, str], dict[str, Any]] = {}
        self._versions: dict[str, dict[str, Any]] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._actions: deque[dict[str, Any]] = deque(maxlen=MOST_ACTIONS)
        self.best: dict[str, Any] = {}
        self.first_time: float | None = None
        self.last_state = ""
        self.num_alerts = 0
        self.num_events = 0

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(reversed(self._alerts.values()))

    @property
    def versions(self) -> list[dict[str, Any]]:
        """By time; those that were removed are marked ``removed``."""
        return list(self._versions.values())

    @property
    def events(self) -> list[dict[str, Any]]:
        """The last ones, oldest first."""
        return list(self._events)

    @property
    def actions(self) -> list[dict[str, Any]]:
        """What was done to the training on its way, the last ones, oldest first."""
        return list(self._actions)

    def read(self) -> None:
        """Take in what has been written since the last time."""
        while rows := self._reader.read_new(BLOCK_BYTES):
            if self._reader.restarts != self._restarts:
                self._restarts = self._reader.restarts
                self._forget()
            for row in rows:
                self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        event = str(row.get("event", ""))
        if self.first_time is None and isinstance(row.get("time"), int | float):
            self.first_time = float(row["time"])
        if event == "alert" or (event == "log" and row.get("level") in LEVELS[2:]):
            self._take_alert(row, event)
        elif event == "saved":
            self._versions[clean(row.get("version"), 100)] = _version(row)
            while len(self._versions) > MOST_VERSIONS:
                del self._versions[next(iter(self._versions))]
        elif event == "removed":
            self._versions.get(clean(row.get("version"), 100), {})["removed"] = True
        elif event == "best":
            self.best = {key: clean(row[key], 200) if key == "metric" else row[key] for key in ("metric", "value", "step") if key in row}
        elif event in ACTIONS and isinstance(row.get("step"), int) and (text := ACTIONS[event](row)):
            self._actions.append({"step": row["step"], "event": event, "text": clean(text, 120)})
        if event in ("started", "resumed"):
            self.last_state = "training"
        elif event in ENDED:
            self.last_state = event
        if event not in ("alert", "log"):
            self.num_events += 1
            self._events.append(_told(row, event))

    def _take_alert(self, row: Mapping[str, Any], event: str) -> None:
        self.num_alerts += 1
        kind = clean(row.get("kind") or row.get("logger") or event, 80)
        message = clean(row.get("message", ""))
        earlier = self._alerts.pop((kind, message), None)
        self._alerts[kind, message] = {
            "time": row.get("time"),
            "step": row.get("step") if isinstance(row.get("step"), int) else None,
            "level": row["level"] if row.get("level") in LEVELS else "WARNING",
            "kind": kind,
            "message": message,
            "advice": clean(row.get("advice") or "", 300),
            "rank": row.get("rank") if isinstance(row.get("rank"), int) else None,
            "count": 1 + (earlier["count"] if earlier else 0),
        }
        if len(self._alerts) > MOST_ALERTS:
            del self._alerts[next(iter(self._alerts))]


def _version(row: Mapping[str, Any]) -> dict[str, Any]:
    step = row.get("step")
    size = row.get("bytes")
    return {
        "name": clean(row.get("version"), 100).removesuffix(".ckpt"),
        "step": step if isinstance(step, int) else None,
        "reason": clean(row.get("reason") or "", 60),
        "bytes": size if isinstance(size, int) else None,
        "ill": clean(row.get("ill") or "", 80),
        "vetoed": clean(row.get("vetoed") or "", 80),
    }


def _told(row: Mapping[str, Any], event: str) -> dict[str, Any]:
    facts = [f"{key} {value}" for key, value in row.items() if key not in ("time", "event") and isinstance(value, int | float | str | bool)]
    return {"time": row.get("time"), "event": clean(event, 60), "text": clean(", ".join(facts), 300)}


def last_lines(path: Path) -> list[list[str]]:
    """The last lines of a ``train.log`` as [time, level, text], oldest first; a line that follows another has its level and no time."""
    lines: list[list[str]] = []
    level = "INFO"
    for line in _tail(path).splitlines():
        match = LOG_LINE.match(line)
        level = match[2] if match else level
        lines.append([match[1] if match else "", level, clean(match[3] if match else line)])
    return lines[-MOST_LINES:]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            content = file.read()
    except OSError:
        return ""
    whole = content if size <= TAIL_BYTES else content.partition(b"\n")[2]
    return whole.decode("utf-8", errors="replace")
