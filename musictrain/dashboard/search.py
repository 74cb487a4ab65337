"""The page of a search: its best points, lines through settings to results, what mattered, curves by rung, and what failed and why.

Like a run's own page it is opened by a double click and loads its data again while somebody writes them. What the search knows is told by
whoever drives it; curves are read from the folders of the trials' runs, which lie beside the search's.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musictrain.dashboard.curve_reading import CurveReader
from musictrain.dashboard.downsampling import thinned
from musictrain.dashboard.event_reading import clean
from musictrain.dashboard.page_files import PAGE, fill, script_json, share_plotly
from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder

SCHEMA = 1
PAGE_NAME, DATA_NAME = "dashboard.html", "dashboard_data.js"
CALL, END = "musictrain.search(", ");\n"
STYLES = ("theme.css", "page.css", "overview.css", "search.css")
SCRIPTS = ("base.js", "overview_curves.js", "overview_parallel.js", "search_points.js", "search_charts.js", "search.js")
MOST_BYTES = 1_000_000
BYTES_OF_POINTS = 520_000
SPARE_BYTES = 4_000
MOST_FAILURES = 200
MOST_CURVES = 150
MOST_STEPS = 120
LONGEST_TEXT = 300


class SearchData:
    """The content of ``dashboard_data.js``, each line of the runs' records read once however often it is asked for.

    Args:
        folder: of the search, beside the runs.
        name: of the search.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._readers: dict[str, CurveReader] = {}

    def read(self, told: Mapping[str, Any], *, going_on: bool) -> dict[str, Any]:
        """What the page shows now, in at most a megabyte; what does not fit is left out from the end, and the page says so.

        Args:
            told: ``objectives`` (each with ``metric``, ``mode`` and ``words``); ``parameters`` (``key``, ``name``, ``told``, ``log``);
                ``points``, best first (``name``, ``values`` by key, ``state``, ``step``, ``rank``, ``front``, ``results``: for each
                objective mean, lower and upper bound and number of seeds, and ``trials`` with ``run``, ``seed``, ``state``); ``failures``
                (``run``, ``words``, ``seed``, ``reason``, ``attempts``); ``importance``; ``rungs``; ``facts``, all that is a number or a
                text: see ``search.js``.
            going_on: whether somebody keeps the page up to date.
        """
        left_out: list[str] = []
        points = self._points(told["points"], left_out)
        failures = [{**each, "page": self._has_page(each["run"])} for each in told["failures"][:MOST_FAILURES]]
        if len(failures) < len(told["failures"]):
            left_out.append(f"{len(told['failures']) - len(failures):,} of {len(told['failures']):,} failures")
        data = {
            **{"schema": SCHEMA, "title": clean(self._name, LONGEST_TEXT), "written": round(time.time(), 1), "live": going_on},
            **{key: cleaned(told[key]) for key in ("objectives", "parameters", "importance", "rungs", "facts")},
            **{"points": points, "failures": cleaned(failures), "curves": {}, "left_out": left_out},
        }
        metrics = list(dict.fromkeys(each["metric"] for each in told["objectives"]))
        data["curves"] = self._curves(points, metrics, MOST_BYTES - SPARE_BYTES - len(script_json(data)), left_out)
        return data

    def _points(self, points: Sequence[Mapping[str, Any]], left_out: list[str]) -> list[Any]:
        """As many of the best as fit, each with the trials that have a page."""
        kept: list[Any] = []
        size = 0
        for point in points:
            trials = [{**trial, "page": self._has_page(trial.get("run", ""))} for trial in point["trials"]]
            shown = cleaned({**point, "trials": trials})
            size += len(script_json(shown))
            if size > BYTES_OF_POINTS:
                left_out.append(f"the last {len(points) - len(kept):,} of {len(points):,} points")
                break
            kept.append(shown)
        return kept

    def _has_page(self, run: str) -> bool:
        return bool(run) and (self._folder.parent / run / PAGE_NAME).is_file()

    def _curves(self, points: Sequence[Mapping[str, Any]], metrics: Sequence[str], room: int, left_out: list[str]) -> dict[str, Any]:
        """Of each objective, by the place of the point: steps and values of each of its trials, joined by commas."""
        found: dict[str, dict[int, list[list[str]]]] = {metric: {} for metric in metrics}
        trials = [(place, trial["run"]) for place, point in enumerate(points) for trial in point["trials"] if trial.get("run")]
        for number, (place, run) in enumerate(trials):
            curves = self._of_run(run, metrics)
            room -= len(script_json(curves))
            if number == MOST_CURVES or room < 0:
                left_out.append(f"the curves of {len(trials) - number:,} of {len(trials):,} trials")
                break
            for metric, curve in curves.items():
                found[metric].setdefault(place, []).append(curve)
        return {metric: curves for metric, curves in found.items() if curves}

    def _of_run(self, name: str, metrics: Sequence[str]) -> dict[str, list[str]]:
        reader = self._readers.setdefault(name, CurveReader(RunFolder(self._folder.parent / name)))
        reader.read()
        found = {}
        for metric in metrics:
            if (curve := reader.curves.get(metric)) is not None:
                points = thinned(curve.points(), MOST_STEPS)
                found[metric] = [",".join(f"{point[0]:.0f}" for point in points), ",".join(f"{point[1]:.5g}" for point in points)]
        return found


def cleaned(told: Any) -> Any:
    """Plain values that a page can hold: texts without control characters and not endless, numbers in five digits, nothing infinite."""
    if isinstance(told, Mapping):
        return {clean(key, LONGEST_TEXT): cleaned(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [cleaned(each) for each in told]
    if isinstance(told, float):
        return float(f"{told:.5g}") if math.isfinite(told) else None
    return told if told is None or isinstance(told, bool | int) else clean(told, LONGEST_TEXT)


def write_search_data(folder: Path, data: Mapping[str, Any]) -> None:
    """``dashboard_data.js``: whole at any moment, without waiting for the disk.

    Raises:
        OSError: if it cannot be written.
    """
    atomic_write(folder / DATA_NAME, f"{CALL}{script_json(data)}{END}", durable=False)


def read_importance(folder: Path) -> dict[str, Any] | None:
    """What mattered, as the page was told it last; None if there is no page, or nobody has found out."""
    try:
        text = (folder / DATA_NAME).read_text(encoding="utf-8")
        found = json.loads(text.removeprefix(CALL).removesuffix(END))["importance"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def write_search_page(folder: Path, name: str) -> None:
    """``dashboard.html``, and plotly.js beside the runs.

    Raises:
        OSError: if the folder cannot be written.
    """
    settings = {"plotly": share_plotly(folder.parent), "data": DATA_NAME}
    atomic_write(folder / PAGE_NAME, search_html(name, settings), durable=False)


def search_html(title: str, settings: Mapping[str, Any]) -> str:
    """The page with its styles and scripts inside."""
    scripts = [f"window.musictrainSettings = {script_json(settings)};", *map(_content, SCRIPTS)]
    return fill(_content("search.html"), title=title, styles="\n".join(map(_content, STYLES)), scripts=scripts)


def _content(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
