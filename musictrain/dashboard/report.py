"""``report.html``: the page of a run as one file that needs no other, to be sent and kept."""

from __future__ import annotations

from pathlib import Path

from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import find_plotly, page_html, script_json
from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder


def report_html(run: RunFolder) -> str:
    """The page with plotly, the data and the samples inside; where plotly is not installed, with the numbers instead of the charts."""
    plotly = find_plotly()
    inside = [plotly.path.read_text(encoding="utf-8")] if plotly is not None else []
    data = script_json(PageData(run, inline=True).read())
    settings = {"run": run.name, "plotly": plotly.name if plotly is not None else "", "live": False}
    return page_html(title=run.name, settings=settings, inlined=[*inside, f"musictrain.update({data});"])


def write_report(run: RunFolder, out: Path | None = None) -> Path:
    """Write ``report.html`` into the run folder, or to ``out``; gives back where it is.

    Raises:
        OSError: if it cannot be written.
    """
    path = run.report if out is None else out
    atomic_write(path, report_html(run))
    return path
