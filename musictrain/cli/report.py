"""``musictrain report RUN``: the page of a run as one file that stands alone, to send and to keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from musictrain.cli.exits import FINISHED, CommandError
from musictrain.cli.options import CommandParser
from musictrain.runs import RunFolder, find_run
from musictrain.runs.summary import shown

DESCRIPTION = """Write report.html: curves, alerts, samples, settings and log of a run in one file that needs no other and no network.
The live page (dashboard.html) and curves.png of the run are written anew too, also for runs that never had them."""


def run(command: str, arguments: Sequence[str]) -> int:
    """Write the files and say where they are."""
    parser = CommandParser(command, DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the report (report.html in the run folder)")
    parser.add_argument("--json", action="store_true", help="print the paths as JSON")
    options = parser.parse_args(arguments)
    folder = find_run(options.run, options.runs)
    try:
        written = write(folder, options.out)
    except OSError as error:
        raise CommandError(
            f"The report of {folder.name} cannot be written: {error.strerror or error} ({error.filename or folder.path}). "
            "Make room, or name another place with --out FILE."
        ) from error
    if options.json:
        print(json.dumps({what: str(path) for what, path in written.items()}, indent=2))
    else:
        print("\n".join(f"{what:<10} {shown(path)}" for what, path in written.items()))
    return FINISHED


def write(folder: RunFolder, out: Path | None) -> dict[str, Path]:
    """Everything that is drawn of a run, by what it is. With ``out``, a run folder that cannot be written is left as it is.

    Raises:
        OSError: if the report cannot be written.
    """
    from musictrain.dashboard.curves import write_curves
    from musictrain.dashboard.page_data import PageData
    from musictrain.dashboard.page_files import write_data, write_page
    from musictrain.dashboard.report import write_report

    written = {"report": write_report(folder, out)}
    try:
        write_page(folder)
        write_data(folder, PageData(folder).read())
        written["live page"] = folder.dashboard
        if is_newer(folder.curves, folder.metrics) or write_curves(folder):
            written["curves"] = folder.curves
    except OSError:
        # Somebody else's run, on a disk that is only read: the report elsewhere is what was asked for.
        if out is None:
            raise
    return written


def is_newer(drawn: Path, drawn_from: Path) -> bool:
    """Whether a picture is there already and needs no second drawing."""
    try:
        return drawn.stat().st_mtime > drawn_from.stat().st_mtime
    except OSError:
        return False
