"""What the page over all runs shows, in at most a megabyte: a table, the settings that differ, metrics, and thin curves.

Conventions:

- Everything comes from the index over the runs; no metrics file is read.
- Runs stand in columns, one list a fact, all in the order of ``name``: newest first. What nobody knows is null.
- What does not fit is left out from the end (the oldest runs, the last metrics), and the page says so.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from musictrain.dashboard.page_files import script_json
from musictrain.runs.config_changes import ELSEWHERE
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.index import RunIndex

SCHEMA = 1
MOST_BYTES = 1_000_000
BYTES_OF_TABLE = 480_000
BYTES_OF_METRICS = 240_000
BYTES_OF_SETTINGS = 130_000
SPARE_BYTES = 4_000
MOST_METRICS = 24
MOST_SETTINGS = 24
MOST_KINDS = 24
LONGEST_TEXT = 200
FACTS = (
    "name",
    "state",
    "step",
    "total",
    "created",
    "elapsed_seconds",
    "best_metric",
    "best_value",
    "best_step",
    "model",
    "corpus",
    "note",
)
FIRST_METRICS = (BEST_METRIC, "train/loss")

Row = Mapping[str, Any]


def overview_data(index: RunIndex, rows: Sequence[Row], title: str, *, live: bool = False) -> dict[str, Any]:
    """The content of ``overview_data.js``.

    Args:
        index: of the runs.
        rows: of the runs to show, newest first, as the index gives them.
        title: what the page is called.
        live: whether somebody keeps the file up to date.
    """
    left_out: list[str] = []
    kept = _that_fit(rows, lambda some: _table(index, some), BYTES_OF_TABLE)
    if len(kept) < len(rows):
        left_out.append(f"the {len(rows) - len(kept):,} oldest of {len(rows):,} runs")
    data: dict[str, Any] = {
        **{"schema": SCHEMA, "title": title[:LONGEST_TEXT], "written": round(time.time(), 1), "live": live, "num_runs": len(rows)},
        "table": _table(index, kept),
        "metrics": _limited(_metrics(index, kept), BYTES_OF_METRICS, MOST_METRICS, "metrics", left_out),
        "settings": _limited(_settings(index, kept), BYTES_OF_SETTINGS, MOST_SETTINGS, "settings", left_out),
        **{"curves": {}, "left_out": left_out},
    }
    data["search_pages"] = _search_pages(index, data["table"]["search"])
    room = MOST_BYTES - SPARE_BYTES - len(script_json(data))
    data["curves"] = _curves(index, kept, room, left_out)
    return data


def _that_fit(rows: Sequence[Row], made: Callable[[Sequence[Row]], Any], most_bytes: int) -> Sequence[Row]:
    """As many of the first rows as fit."""
    while rows and (size := len(script_json(made(rows)))) > most_bytes:
        rows = rows[: min(len(rows) - 1, int(len(rows) * most_bytes / size))]
    return rows


def _table(index: RunIndex, rows: Sequence[Row]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {fact: [_shown(row[fact]) for row in rows] for fact in FACTS}
    tags: dict[int, list[str]] = {}
    for row in index.select("SELECT run_id, tag FROM run_tags ORDER BY tag"):
        tags.setdefault(row["run_id"], []).append(row["tag"][:LONGEST_TEXT])
    columns["tags"] = [tags.get(row["id"], []) for row in rows]
    searches = index.searches()
    columns["search"] = [searches.get(row["id"], "")[:LONGEST_TEXT] for row in rows]
    columns["alerts"] = [row["num_alerts"] or 0 for row in rows]
    columns["page"] = [int(Path(row["path"], "dashboard.html").is_file()) for row in rows]
    return columns


def _search_pages(index: RunIndex, searches: Iterable[str]) -> list[str]:
    """The searches that have a page of their own."""
    return [name for name in sorted(set(filter(None, searches))) if Path(index.runs_dir, name, "dashboard.html").is_file()]


def _shown(value: Any) -> Any:
    if isinstance(value, float):
        # Times to the second; everything else in five digits.
        return None if not math.isfinite(value) else round(value) if abs(value) >= 1e6 else float(f"{value:.5g}")
    return value[:LONGEST_TEXT] if isinstance(value, str) else value


def _limited(entries: Iterable[dict[str, Any]], most_bytes: int, most: int, what: str, left_out: list[str]) -> list[dict[str, Any]]:
    """The first entries, as many as fit."""
    kept: list[dict[str, Any]] = []
    num = size = 0
    for entry in entries:
        num += 1
        size += len(script_json(entry))
        if size <= most_bytes and len(kept) < most:
            kept.append(entry)
    if len(kept) < num:
        left_out.append(f"{num - len(kept):,} of {num:,} {what}")
    return kept


def _metrics(index: RunIndex, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Last, lowest and highest value of each metric by run; those of most runs first, the validation loss before all."""
    place = {row["id"]: number for number, row in enumerate(rows)}
    by_key: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for found in index.select("SELECT run_id, key, last, min, max FROM metric_values"):
        if (number := place.get(found["run_id"])) is None:
            continue
        key = found["key"]
        if key not in by_key:
            by_key[key] = {"key": key[:LONGEST_TEXT], **{part: [None] * len(rows) for part in ("last", "min", "max")}}
        counts[key] = counts.get(key, 0) + 1
        for part in ("last", "min", "max"):
            by_key[key][part][number] = _shown(found[part])
    return [by_key[key] for key in sorted(by_key, key=lambda key: (*_rank(key), -counts[key], key))]


def _rank(key: str) -> tuple[int, bool, bool]:
    place = FIRST_METRICS.index(key) if key in FIRST_METRICS else len(FIRST_METRICS)
    return place, not key.startswith("val/"), key.startswith("speed/")


def _settings(index: RunIndex, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The settings in which runs differ: numbers as they are, texts as places in a list of ``kinds``; numbers of many values first."""
    place = {row["id"]: number for number, row in enumerate(rows)}
    elsewhere = tuple(f"{key}." for key in ELSEWHERE)
    by_key: dict[str, list[Any]] = {}
    for found in index.select("SELECT run_id, key, value FROM config_values"):
        if (number := place.get(found["run_id"])) is None or f"{found['key']}.".startswith(elsewhere):
            continue
        by_key.setdefault(found["key"], [None] * len(rows))[number] = found["value"]
    entries = [entry for key, values in by_key.items() if (entry := _setting(key, values)) is not None]
    return sorted(entries, key=lambda entry: ("kinds" in entry, -len(set(entry["values"])), entry["key"]))


def _setting(key: str, values: list[Any]) -> dict[str, Any] | None:
    """One setting of all runs; None if it does not differ, or is another text in every run, such as a path."""
    different = set(values)
    if len(different) < 2:
        return None
    told = different - {None}
    if all(isinstance(value, int | float) for value in told):
        return {"key": key[:LONGEST_TEXT], "values": [_shown(value) for value in values]}
    if len(told) > MOST_KINDS:
        return None
    kinds = sorted(str(value) for value in told)
    places = {kind: number for number, kind in enumerate(kinds)}
    shown = [None if value is None else places[str(value)] for value in values]
    return {"key": key[:LONGEST_TEXT], "kinds": [kind[:LONGEST_TEXT] for kind in kinds], "values": shown}


def _curves(index: RunIndex, rows: Sequence[Row], room: int, left_out: list[str]) -> dict[str, dict[int, list[str]]]:
    """Steps and values of each metric and run, joined by commas; the best and the newest runs first, until there is no more room."""
    best = sorted(
        (number for number, row in enumerate(rows) if row["best_value"] is not None), key=lambda number: rows[number]["best_value"]
    )
    curves: dict[str, dict[int, list[str]]] = {}
    done = 0
    for number in dict.fromkeys([*best[:40], *range(len(rows))]):
        found = index.select("SELECT key, curve_steps, curve_values FROM metric_values WHERE run_id = ?", (rows[number]["id"],))
        found.sort(key=lambda each: (*_rank(each["key"]), each["key"]))
        told = {each["key"][:LONGEST_TEXT]: _joined(each) for each in found[:MOST_METRICS] if each["curve_steps"]}
        room -= sum(len(steps) + len(values) + 24 for steps, values in told.values())
        if room < 0:
            break
        done += 1
        for key, curve in told.items():
            curves.setdefault(key, {})[number] = curve
    if done < len(rows):
        left_out.append(f"the curves of {len(rows) - done:,} runs (each run's own page has them)")
    return dict(sorted(curves.items(), key=lambda item: (*_rank(item[0]), -len(item[1]), item[0])))


def _joined(row: Row) -> list[str]:
    steps, values = array("d", row["curve_steps"]), array("d", row["curve_values"])
    if len(values) > 2 and min(values) == max(values):
        steps, values = array("d", (steps[0], steps[-1])), values[:2]
    return [",".join(f"{step:.0f}" for step in steps), ",".join(f"{value:.5g}" for value in values)]
