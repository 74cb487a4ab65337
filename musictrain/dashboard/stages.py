"""The page of a protocol: all its stages behind one another, their curves on one axis, and what each of them plays.

Like a run's own page it is opened by a double click and loads its data again while somebody writes them. Everything but the plan is read
from the folders of the stages' runs, which lie beside the protocol's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musictrain.dashboard.curve_reading import CurveReader
from musictrain.dashboard.downsampling import thinned
from musictrain.dashboard.event_reading import clean
from musictrain.dashboard.page_files import PAGE, fill, script_json, share_plotly
from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder
from musictrain.runs.status import read_status

SCHEMA = 1
PAGE_NAME, DATA_NAME = "dashboard.html", "dashboard_data.js"
STYLES = ("theme.css", "page.css", "overview.css", "stages.css")
SCRIPTS = ("base.js", "overview_curves.js", "stages.js")
FIRST_METRICS = ("val/loss", "val/nats_per_note", "train/loss", "train/lr")
MOST_METRICS = 16
MOST_POINTS = 600
MOST_SAMPLES = 4
LONGEST_TEXT = 300


class StagesData:
    """The content of ``dashboard_data.js``, each line of the runs' records read once however often it is asked for.

    Args:
        folder: of the protocol, beside the runs.
        name: of the protocol.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._readers: dict[str, CurveReader] = {}

    def read(self, told: Mapping[str, Any], *, going_on: bool) -> dict[str, Any]:
        """What the page shows now.

        Args:
            told: ``stages`` (each with ``name``, ``run`` and what else is known of it), ``replaced``, ``left``, ``share``.
            going_on: whether somebody keeps the page up to date.
        """
        stages, curves, offset = [], [], 0
        for stage in told["stages"]:
            run = RunFolder(self._folder.parent / stage["run"]) if stage["run"] else None
            stages.append({**_cleaned(stage), "offset": offset, **({} if run is None else _facts(run))})
            found, last = ({}, 0) if run is None else self._curves(run, offset)
            curves.append(found)
            offset += last
        keys = sorted({key for found in curves for key in found}, key=_rank)[:MOST_METRICS]
        return {
            **{"schema": SCHEMA, "title": self._name, "written": round(time.time(), 1), "live": going_on},
            **{"stages": stages, "replaced": [_cleaned(each) for each in told["replaced"]], "left": told["left"], "share": told["share"]},
            "curves": {key: {place: found[key] for place, found in enumerate(curves) if key in found} for key in keys},
        }

    def _curves(self, run: RunFolder, offset: int) -> tuple[dict[str, list[str]], int]:
        """Steps and values of each curve of a stage, joined by commas, behind those of the stages before; and its last step."""
        reader = self._readers.setdefault(run.name, CurveReader(run))
        reader.read()
        found = {}
        for key, curve in reader.curves.items():
            if key in FIRST_METRICS or key.startswith("val/"):
                points = thinned(curve.points(), MOST_POINTS)
                steps, values = (",".join(f"{point[0] + offset:.0f}" for point in points), ",".join(f"{point[1]:.6g}" for point in points))
                found[key] = [steps, values]
        return found, reader.last_step


def _rank(key: str) -> tuple[int, str]:
    return FIRST_METRICS.index(key) if key in FIRST_METRICS else len(FIRST_METRICS), key


def _cleaned(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: clean(value, LONGEST_TEXT) if isinstance(value, str) else value for key, value in told.items()}


def _facts(run: RunFolder) -> dict[str, Any]:
    """What the run's own files tell of it."""
    facts: dict[str, Any] = {"page": run.dashboard.is_file(), "samples": _samples(run)}
    if (status := read_status(run.status)) is not None:
        facts |= {"doing": status.shown_state(), "step": status.step, "total": status.total, "elapsed": round(status.elapsed_seconds)}
        facts |= {"best": status.best, "alerts": status.num_alerts}
    return facts


def _samples(run: RunFolder) -> list[dict[str, Any]]:
    """The pieces of the last step that has any."""
    for folder in sorted(run.samples.glob("step_*"), reverse=True):
        if pieces := sorted(folder.glob("*.wav"))[:MOST_SAMPLES]:
            return [{"step": int(folder.name.rpartition("_")[2]), "file": f"{folder.name}/{piece.stem}"} for piece in pieces]
    return []


def write_stages_data(folder: Path, data: Mapping[str, Any]) -> None:
    """``dashboard_data.js``: whole at any moment, without waiting for the disk.

    Raises:
        OSError: if it cannot be written.
    """
    atomic_write(folder / DATA_NAME, f"musictrain.stages({script_json(data)});\n", durable=False)


def write_stages_page(folder: Path, name: str) -> None:
    """``dashboard.html``, and plotly.js beside the runs.

    Raises:
        OSError: if the folder cannot be written.
    """
    settings = {"plotly": share_plotly(folder.parent), "data": DATA_NAME}
    atomic_write(folder / PAGE_NAME, stages_html(name, settings), durable=False)


def stages_html(title: str, settings: Mapping[str, Any]) -> str:
    """The page with its styles and scripts inside."""
    scripts = [f"window.musictrainSettings = {script_json(settings)};", *map(_content, SCRIPTS)]
    return fill(_content("stages.html"), title=title, styles="\n".join(map(_content, STYLES)), scripts=scripts)


def _content(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
