"""A run folder as one dictionary of plain values: everything the live page shows, at most 1 MB of it whatever the run holds.

Conventions:

- Nothing that came from a file, a name or a configuration is a key of the dictionary: names are values in lists, so that no name can
  mean anything to the page.
- Texts are cut to some hundred characters and hold no terminal escapes. Numbers that are not finite are the texts "NaN", "Infinity" and
  "-Infinity".
- What does not fit is left out in this order, and ``left_out`` says so in words: alerts beyond the newest 300 different ones, events
  beyond 150, lines of the log beyond 400, settings beyond 2,000, versions beyond 500; what is still longer than its share of the
  megabyte loses its oldest; then curves get fewer points, those nobody looks at first (single ranks, what has no place of its own),
  down to 40; then whole curves, from the end of the same list.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import time
from dataclasses import asdict
from typing import Any

from musictrain.dashboard.charts import MAIN, charts_of, is_musical
from musictrain.dashboard.curve_reading import TOKENS, CurveReader
from musictrain.dashboard.event_reading import EventReader, clean, last_lines
from musictrain.dashboard.listen import replays_of
from musictrain.dashboard.page_budget import MOST_BYTES, columns, fit_curves, fit_newest, size_of
from musictrain.dashboard.settings import Settings
from musictrain.runs.folder import RunFolder, number
from musictrain.runs.records import plain
from musictrain.runs.status import ENDED, Status, read_status

log = logging.getLogger(__name__)

SCHEMA = 1
BANDS = "corpus_bands.json"
# Shares of the megabyte; the curves get what the others leave.
SHARES = {
    **{"alerts": 0.12, "versions": 0.06, "vetoed": 0.03, "events": 0.05, "actions": 0.03, "log": 0.10},
    **{"settings": 0.12, "changes": 0.05, "environment": 0.03},
}
LISTEN_SHARE = 0.2


class PageData:
    """Reads a run again and again, each time only what is new.

    Args:
        run: need not have recorded anything yet.
        inline: take the samples along whole, as the report does, which knows no limit.
        most_bytes: of the dictionary as JSON.
    """

    def __init__(self, run: RunFolder, *, inline: bool = False, most_bytes: int = MOST_BYTES) -> None:
        self.run = run
        self._inline = inline
        self._most_bytes = most_bytes
        self._curves = CurveReader(run)
        self._events = EventReader(run)
        self._settings = Settings(run)

    def read(self, most_blocks: float = math.inf) -> dict[str, Any]:
        """The dictionary; its ``schema`` counts up whenever its form changes.

        Nothing here fails for what a run lacks: that part is then empty.

        Args:
            most_blocks: megabytes of metrics to read now; the rest at the next calls, and ``left_out`` says so until then.
        """
        left_out: list[str] = []
        if not self._curves.read(most_blocks):
            left_out.append(f"curves after step {self._curves.last_step:,}, which are still being read")
        self._events.read()
        told = {
            "schema": SCHEMA,
            "written": round(time.time(), 3),
            **self._header(),
            **self._lists(left_out),
            "bands": self._bands(),
            "listen": self._listen(left_out),
            # A page that stands alone has no other files beside it.
            "replays": [] if self._inline else replays_of(self.run),
        }
        room = self._most_bytes - (size_of({key: value for key, value in told.items() if key != "listen"}))
        room -= 0 if self._inline else size_of(told["listen"])
        told |= self._drawn(room, left_out)
        told["left_out"] = left_out
        plain_told: dict[str, Any] = plain(told)
        return plain_told

    def _header(self) -> dict[str, Any]:
        status = read_status(self.run.status)
        return {
            "run": clean(self.run.name, 300),
            "state": self._state(status),
            "status": None if status is None else _short(status),
            "step": max(self._curves.last_step, status.step if status is not None else 0),
            "first_time": self._events.first_time,
            "last_time": self._curves.last_time if math.isfinite(self._curves.last_time) else None,
            "best": self._best(status),
        }

    def _state(self, status: Status | None) -> str:
        # A run that was recorded without a heartbeat may have ended long ago: only its last word is known.
        if status is not None:
            return clean(status.shown_state(), 40)
        return self._events.last_state if self._events.last_state in ENDED else "unknown"

    def _best(self, status: Status | None) -> dict[str, Any]:
        told = (status.best if status is not None else {}) or self._events.best
        if told:
            return {key: clean(value, 200) if isinstance(value, str) else value for key, value in told.items()}
        curve = self._curves.curves.get("val/loss")
        points = curve.points() if curve is not None else []
        finite = [point for point in points if math.isfinite(point[1]) and point[0] not in self._curves.vetoed]
        if not finite:
            return {}
        step, value = min(finite, key=lambda point: point[1])
        return {"metric": "val/loss", "value": value, "step": step}

    def _lists(self, left_out: list[str]) -> dict[str, Any]:
        """What has a share of its own, each list without what does not fit."""
        settings = self._settings.read()
        told: dict[str, Any] = {
            "alerts": self._events.alerts[::-1],
            "versions": self._events.versions,
            "vetoed": [[step, why] for step, why in sorted(self._curves.vetoed.items())],
            "events": self._events.events,
            "actions": self._events.actions,
            "log": last_lines(self.run.log),
            **{key: settings[key][::-1] for key in ("settings", "changes", "environment")},
        }
        for key, share in SHARES.items():
            told[key], num_dropped = fit_newest(told[key], int(share * self._most_bytes))
            if num_dropped:
                left_out.append(f"{num_dropped:,} of {num_dropped + len(told[key]):,} {WORDS[key]}")
        for key in ("alerts", "settings", "changes", "environment"):
            told[key].reverse()
        shown_alerts = sum(alert["count"] for alert in told["alerts"])
        if self._events.num_alerts > shown_alerts:
            left_out.append(f"{self._events.num_alerts - shown_alerts:,} of {self._events.num_alerts:,} alerts: all are in events.jsonl")
        if settings["num_settings"] > len(told["settings"]):
            left_out.append(f"{settings['num_settings'] - len(told['settings']):,} of {settings['num_settings']:,} settings")
        return {**told, "num_alerts": self._events.num_alerts, **{key: settings[key] for key in ("parent", "parents", "tags", "note")}}

    def _bands(self) -> list[list[Any]]:
        """Where the middle four fifths of the corpus lie, by score: [key, low, high]; from a file that somebody else may write."""
        try:
            told = json.loads((self.run.path / BANDS).read_text(encoding="utf-8"))
            pairs = [(key, number(band[0]), number(band[1])) for key, band in told.items() if len(band) == 2]
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return []
        return [[clean(key, 200), low, high] for key, low, high in pairs[:500] if math.isfinite(low) and math.isfinite(high)]

    def _listen(self, left_out: list[str]) -> Any:
        try:
            offer = importlib.import_module("musictrain.dashboard.listen").listen_data
            told = plain(offer(self.run, inline=True) if self._inline else offer(self.run))
        except Exception as error:  # the page is to be seen even if one sample file of it cannot be understood
            log.debug("No samples on the page of %s: %s", self.run.name, error)
            return None
        if not self._inline and size_of(told) > LISTEN_SHARE * self._most_bytes:
            left_out.append("the samples: there are too many for a page that is loaded again and again. They are in the folder samples")
            return None
        return told

    def _drawn(self, room: int, left_out: list[str]) -> dict[str, Any]:
        charts = charts_of(self._curves.curves)
        keys = [key for chart in charts for key, _ in chart.curves if key != TOKENS]
        axes = {"seconds": columns(self._curves.seconds.points(), 12), "tokens": columns(self._curves.tokens.points(), 12)}
        room -= size_of(axes) + 12_000  # and the sentences on scores
        every = [(key, self._curves.curves[key].points(), self._curves.curves[key].num_rows) for key in keys]
        kept, words = fit_curves(every, room, rank_of)
        left_out += words
        if self._curves.num_dropped_keys:
            left_out.append(f"curves beyond the first {len(self._curves.curves):,}: {self._curves.num_dropped_keys:,} more were logged")
        names = {told["key"] for told in kept}
        shown = [chart for chart in charts if any(key in names for key, _ in chart.curves)]
        for chart in shown:
            chart.curves = [curve for curve in chart.curves if curve[0] in names]
        return {"axes": axes, "curves": kept, "charts": [chart.as_data() for chart in shown], "attempts": self._curves.attempts[-100:]}


WORDS = {
    "alerts": "different alerts: all are in events.jsonl",
    "versions": "versions: all are in checkpoints",
    "events": "events: all are in events.jsonl",
    "actions": "marks of what was done about alerts: all are in events.jsonl",
    "log": "last lines of the log: all are in train.log",
    "settings": "settings: all are in config.yaml",
    "changes": "changed settings",
    "vetoed": "vetoed steps: all are in metrics.jsonl",
    "environment": "facts of the machine: all are in env.json",
}


def rank_of(key: str) -> int:
    """How gladly a curve is looked at: 0 first, 3 last."""
    if key in MAIN:
        return 0
    if is_musical(key) or key.startswith("val"):
        return 1
    return 3 if "/rank_" in key else 2


def _short(status: Status) -> dict[str, Any]:
    told = asdict(status)
    values = told.pop("values")
    told["values"] = [[clean(key, 200), value] for key, value in list(values.items())[:50]] if isinstance(values, dict) else []
    told["best"] = {}
    told["last_alert"] = {}
    return {key: clean(value, 400) if isinstance(value, str) else value for key, value in told.items()}
