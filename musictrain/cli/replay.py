"""``replay RUN --step N``: do one optimizer step of a run again, and hear and see the music it learned from."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.runs import RunFolder, find_run
from musictrain.runs.status import ACTIVE, read_status

log = logging.getLogger(__name__)


def run(command: str, arguments: list[str]) -> int:
    """List, write and do again what was asked for; gives back the exit status.

    Raises:
        RunNotFoundError: if there is no such run, or more than one.
        UsageError: if the run has no such step, or is not one that can be done again.
        CommandError: if corpus or tokenizer have changed since, or the step cannot be reached.
    """
    options = parser().parse_args(arguments)
    found = find_run(options.run, options.runs)
    from musictrain.replay.chosen import ReplayError

    try:
        from musictrain.cli.replaying import Replaying

        replaying = Replaying(found, options.step, options.attempt, keep=options.keep)
    except ReplayError as error:
        raise UsageError(str(error)) from error
    say = (lambda line: None) if options.json else (lambda line: print(line, flush=True))
    folder = options.output or replaying.folder
    told = replaying.tell(folder, run_again=not options.no_run, most_rows=options.rows, say=say)
    if folder == replaying.folder:
        link(found)
    print_told(told, folder, as_json=options.json)
    return FINISHED


def link(run: RunFolder) -> None:
    """Let the run's page know of the replay; that of a run that trains looks for it by itself."""
    from musictrain.dashboard.page_data import PageData
    from musictrain.dashboard.page_files import write_data, write_page

    status = read_status(run.status)
    if not run.dashboard.is_file() or (status is not None and status.shown_state() in ACTIVE):
        return
    try:
        write_page(run)
        write_data(run, PageData(run).read())
    except OSError as error:
        log.warning("The replay could not be linked from %s: %s", run.dashboard, error)


def parser() -> CommandParser:
    """The options of ``replay``."""
    parser = CommandParser(
        "replay",
        "Do one optimizer step of a run again, from the nearest version before it: hear and see its batch, worst row first, the loss of "
        "every token and piece, the gradient of every layer, the first tensor that is not finite. Of the run only its page changes, which "
        "links to the replay.",
    )
    parser.add_argument("run", metavar="RUN", help="a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument(
        "--step", type=positive, required=True, metavar="N", help="the optimizer step, from 1: that after which the run's step was N"
    )
    parser.add_argument("--no-run", action="store_true", help="only list the batch's pieces and write its music; nothing is computed")
    parser.add_argument("--rows", type=positive, metavar="K", help="write the K worst rows only (all)")
    parser.add_argument(
        "--attempt", type=positive, metavar="A", help="the step as this start of the run did it, before a resume or a rollback"
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="CALLBACK",
        help="wake this callback of the run's too, by its class name (repeatable)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (RUN/replay/step_N)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    return parser


def print_told(told: Any, folder: Path, *, as_json: bool) -> None:
    """What was found, in some lines or all of it as JSON."""
    from musictrain.replay.writing import as_record, lines_for_terminal
    from musictrain.runs.summary import shown

    if as_json:
        print(json.dumps({**as_record(told), "folder": str(folder)}, indent=1))
        return
    print("\n".join(lines_for_terminal(told)))
    print(f"In {shown(folder)}: index.html to listen and look, report.md to read, .wav .mid .png of every row.")
