"""``runs overview``: a page over all runs, and its data kept up to date while somebody watches."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.runs_list import selected
from musictrain.cli.runs_query import Row, Runs
from musictrain.dashboard.overview import OVERVIEW, write_overview, write_overview_data
from musictrain.dashboard.overview_data import overview_data
from musictrain.runs.index import RunIndex
from musictrain.runs.status import ACTIVE
from musictrain.runs.summary import shown


def overview_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Write the page; with ``--watch`` go on until no run does.

    Raises:
        UsageError: if there are no runs, or the page could not find its data by that name.
        CommandError: if nothing can be written.
    """
    page = options.out if options.out is not None else options.runs / OVERVIEW
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out expects a file that ends in .html, got {page}.")
    rows = _rows(options, index)
    try:
        write_overview(page, options.runs, _data(options, index, rows))
        print(f"{len(rows):,} run{'s' if len(rows) != 1 else ''} in {shown(page)}. Open it in a browser.", flush=True)
        return _watch(options, index, page, rows) if options.watch else FINISHED
    except OSError as error:
        raise CommandError(f"The page cannot be written: {error}. Name another place with --out.") from error


def _watch(options: argparse.Namespace, index: RunIndex, page: Path, rows: list[Row]) -> int:
    while any(row["state"] in ACTIVE for row in rows):
        time.sleep(options.every)
        index.refresh()
        rows = _rows(options, index)
        write_overview_data(page, _data(options, index, rows))
    print("No run goes on any more.")
    return FINISHED


def _rows(options: argparse.Namespace, index: RunIndex) -> list[Row]:
    runs = Runs(index)
    if not runs.rows:
        raise UsageError(f"{shown(options.runs)} holds no runs. Start one with `musictrain fit`, or name the folder with --runs.")
    return selected(runs, options)


def _data(options: argparse.Namespace, index: RunIndex, rows: list[Row]) -> dict[str, object]:
    return overview_data(index, rows, f"Runs in {options.runs.resolve().name}", live=bool(options.watch))
