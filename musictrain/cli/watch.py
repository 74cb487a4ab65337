"""``watch``: a run, or all of them, live in a terminal. Reads files alone: any run on any disk that this machine sees."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from musictrain.cli.exits import FINISHED, CommandError
from musictrain.cli.options import CommandParser
from musictrain.cli.watch_view import Line, as_text, table_view, view
from musictrain.cli.watched_run import WatchedRun
from musictrain.runs import RunNotFoundError, find_run, list_runs
from musictrain.runs.records import plain
from musictrain.runs.status import ACTIVE, Status, read_status
from musictrain.suggestions import did_you_mean

LATEST = "latest"
NARROWEST, PLAIN_COLUMNS = 20, 120
ENDED_SHOWN = 8  # of all runs those that go on, and so many others


def run(command: str, arguments: list[str]) -> int:
    """Show it until the run ends or somebody presses Ctrl-C; gives back the exit status.

    Raises:
        RunNotFoundError: if there is no such run.
        UsageError: for options that do not fit.
        CommandError: if a metric is wanted that the run has not logged.
    """
    options = parser().parse_args(arguments)
    looking = All(options) if options.all else One(options)
    if options.json:
        looking.read()
        print(json.dumps(plain(looking.as_json()), indent=1))
    elif options.once or not sys.stdout.isatty():
        looking.read()
        looking.check()
        print(as_text(looking.lines(time.time(), shutil.get_terminal_size((PLAIN_COLUMNS, 24)).columns)))
    else:
        live(looking, options.every)
    return FINISHED


def parser() -> CommandParser:
    """The options."""
    parser = CommandParser("watch", "Watch a run while it trains: progress, time left, losses, alerts. Ctrl-C leaves; the run goes on.")
    parser.add_argument(
        "run", metavar="RUN", nargs="?", default=LATEST, help="a folder, a name, a unique part of one, 'latest' (default) or 'best'"
    )
    parser.add_argument("--all", action="store_true", help="a table of all runs that go on, and of those that ended last")
    parser.add_argument("--metric", action="append", default=[], metavar="NAME", help="show its curve, too; may be given several times")
    parser.add_argument("--every", type=seconds, default=1.0, metavar="SECONDS", help="how often to look (1)")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--json", action="store_true", help="the same for programs, once")
    return parser


def seconds(text: str) -> float:
    """A number of seconds of at least a tenth, for argparse's ``type``.

    Raises:
        argparse.ArgumentTypeError: otherwise.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds between 0.1 and 86400, got {text!r}")
    return value


class One:
    """One run; of ``latest`` the one that is the latest at each moment."""

    def __init__(self, options: Any) -> None:
        self._options = options
        self.watched = self._found()

    def _found(self) -> WatchedRun:
        return WatchedRun(find_run(self._options.run, self._options.runs), tuple(self._options.metric))

    def read(self) -> None:
        """Take what is new."""
        if self._options.run == LATEST:
            runs = list_runs(self._options.runs)
            if runs and runs[-1].name != self.watched.run.name:
                self.watched = self._found()
        self.watched.read()

    def check(self) -> None:
        """Refuse metrics that the run does not have.

        Raises:
            CommandError: if one was asked for.
        """
        for name in self._options.metric:
            if name not in self.watched.curves:
                hint = did_you_mean(name, self.watched.values) or f"It has: {', '.join(sorted(self.watched.values)) or 'none yet'}."
                raise CommandError(f"{self.watched.run.name} has logged no {name!r}. {hint}")

    def is_over(self, now: float) -> bool:
        """Whether nothing more is to come."""
        return self.watched.is_over(now)

    def lines(self, now: float, width: int) -> list[Line]:
        """What to show."""
        return view(self.watched, now, max(width, NARROWEST))

    def as_json(self) -> Any:
        """What is known."""
        return self.watched.as_json()


class All:
    """All runs that go on, newest first, then those that ended last."""

    def __init__(self, options: Any) -> None:
        self._runs_dir = options.runs
        self._runs: list[WatchedRun] = []
        if not list_runs(self._runs_dir):
            raise RunNotFoundError(f"{self._runs_dir} holds no runs. Start one with `musictrain fit`, or name the folder with --runs.")

    def read(self) -> None:
        """Look at the status of each: their rows may be many."""
        now, found = time.time(), []
        for folder in reversed(list_runs(self._runs_dir)):
            watched = WatchedRun(folder)
            watched.status = read_status(folder.status) or Status(folder.name, state="unknown")
            found.append(watched)
        going_on = [watched for watched in found if watched.state(now) in ACTIVE]
        others = [watched for watched in found if watched not in going_on]
        self._runs = [*going_on, *others[:ENDED_SHOWN]]

    def check(self) -> None:
        """Nothing to refuse."""

    def is_over(self, now: float) -> bool:
        """Never: another run may begin."""
        return False

    def lines(self, now: float, width: int) -> list[Line]:
        """What to show."""
        return table_view(self._runs, now, max(width, NARROWEST))

    def as_json(self) -> Any:
        """What is known."""
        return [watched.as_json() for watched in self._runs]


def live(looking: One | All, every: float, pause: Callable[[float], None] = time.sleep) -> None:
    """Show it again and again until it is over, or until Ctrl-C; the last view stays."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, emoji=False)
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:
            while True:
                looking.read()
                now = time.time()
                screen.update(rich_text(looking.lines(now, console.width - 1)), refresh=True)
                if looking.is_over(now):
                    break
                pause(every)
    except KeyboardInterrupt:
        return


def rich_text(lines: list[Line]) -> Any:
    """The lines in their styles."""
    from rich.text import Text

    return Text("\n", no_wrap=True, overflow="crop").join(Text.assemble(*line, no_wrap=True, overflow="crop") for line in lines)
