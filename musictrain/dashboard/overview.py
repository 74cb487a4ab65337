"""The page over all runs: ``overview.html`` beside them, its data in ``overview_data.js``, plotly once for all pages.

Like a run's own page it is opened by a double click, runs no script but its own and asks no network for anything. It loads its data again
every few seconds while a run goes on, for as long as somebody writes them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musictrain.dashboard.page_files import PAGE, fill, script_json, share_plotly
from musictrain.runs.atomic import atomic_write

log = logging.getLogger(__name__)

OVERVIEW = "overview.html"
STYLES = ("theme.css", "page.css", "overview.css")
SCRIPTS = ("base.js", "overview_curves.js", "overview_parallel.js", "overview.js")


def write_overview(page: Path, runs_dir: Path, data: Mapping[str, Any]) -> None:
    """Page and data.

    Args:
        page: the file to write; its data and plotly.js go beside it.
        runs_dir: where the runs' own pages are.
        data: see ``overview_data``.

    Raises:
        OSError: if nothing can be written there.
    """
    write_overview_data(page, data)
    base = os.path.relpath(runs_dir, page.parent)
    settings = {
        "plotly": share_plotly(page.parent),
        "data": data_file(page).name,
        "base": "" if base == "." else base.replace(os.sep, "/"),
    }
    atomic_write(page, overview_html(str(data["title"]), settings), durable=False)


def write_overview_data(page: Path, data: Mapping[str, Any]) -> None:
    """The data alone, for a page that is there.

    Raises:
        OSError: if nothing can be written there.
    """
    atomic_write(data_file(page), f"musictrain.overview({script_json(data)});\n", durable=False)


def data_file(page: Path) -> Path:
    """Where a page's data are: ``overview_data.js`` beside ``overview.html``."""
    return page.with_name(f"{page.stem}_data.js")


def overview_html(title: str, settings: Mapping[str, Any]) -> str:
    """The page with its styles and scripts inside."""
    scripts = [f"window.musictrainSettings = {script_json(settings)};", *(_content(name) for name in SCRIPTS)]
    return fill(_content("overview.html"), title=title, styles="\n".join(map(_content, STYLES)), scripts=scripts)


def _content(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")
