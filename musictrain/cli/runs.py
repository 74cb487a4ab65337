"""``runs``: what all runs came to. Reads the run folders through their index, and needs neither torch nor lightning."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import NamedTuple

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.dashboard.settings import read_config
from musictrain.runs.index import RunIndex, run_folders
from musictrain.runs.status import ACTIVE, ENDED, STALE
from musictrain.suggestions import did_you_mean


class Action(NamedTuple):
    """What an action does, and the function that does it: ``module:function`` under ``musictrain.cli``, taking options and index."""

    summary: str
    home: str


ACTIONS = {
    "list": Action("a line for each run, newest first (also `musictrain runs` alone)", "runs_list:list_command"),
    "show": Action("one run: state, progress, best values, alerts, descent, files, what to do next", "runs_show:show_command"),
    "compare": Action("two or more runs: the settings that differ, and their metrics side by side", "runs_compare:compare_command"),
    "best": Action("the run with the best value of a metric", "runs_list:best_command"),
    "overview": Action("write a page over all runs: table, curves, settings against metrics", "runs_overview:overview_command"),
    "tag": Action("give a run tags", "runs_labels:tag_command"),
    "untag": Action("take tags away", "runs_labels:tag_command"),
    "note": Action("write a note to a run (an empty one removes it)", "runs_labels:note_command"),
    "archive": Action("put runs out of sight; nothing is deleted", "runs_labels:archive_command"),
    "unarchive": Action("bring them back", "runs_labels:archive_command"),
    "reindex": Action("make the index again from the run folders", "runs_labels:reindex_command"),
}
DELETING = ("rm", "remove", "delete", "del", "purge", "prune")
RUN = "a folder, a name, a unique part of one, 'latest' or 'best'"
WHERE = """\
Conditions: --where 'val/loss<0.5' --where 'model=Decoder' --where 'created>2025-01-31'; signs: < <= > >= = != ~ (contains).
Values go by the name of a fact (state, step, created, best, model, corpus, ...), of a metric (val/loss is the last value;
val/loss.min and val/loss.max the lowest and highest, vetoed steps left out), or of a setting (its dotted key, or the end of one: lr).
"""


def run(command: str, arguments: list[str]) -> int:
    """Do one of the actions; gives back the exit status.

    Raises:
        UsageError: if the action, a run or a value does not exist.
        CommandError: if it cannot be done.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(help_text(), end="")
        return FINISHED
    action, words = (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("list", arguments)
    if action not in ACTIONS:
        raise UsageError(f"runs cannot {action!r}. {_hint(action, _runs_dir(words))} See `musictrain runs --help`.")
    options = parser(action).parse_intermixed(words)
    options.action = action
    home, _, function = ACTIONS[action].home.partition(":")
    with RunIndex(options.runs, read_config, tell=_tell) as index:
        if action != "reindex":
            index.refresh()
        return int(getattr(importlib.import_module(f"musictrain.cli.{home}"), function)(options, index))


def _hint(action: str, runs_dir: Path) -> str:
    if action in DELETING:
        return "Nothing here deletes a run: `musictrain runs archive RUN` puts it out of sight; its folder is yours to remove."
    if found := did_you_mean(action, ACTIONS):
        return found
    if any(action in name for name, _ in run_folders(runs_dir)):
        return f"To see that run: `musictrain runs show {action}`."
    return f"There are: {', '.join(ACTIONS)}."


def _runs_dir(words: list[str]) -> Path:
    known, _ = parser("list").parse_known_args(words)
    return Path(known.runs)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def help_text() -> str:
    """The actions, one a line."""
    lines = [f"  {name:<10} {action.summary}" for name, action in ACTIONS.items()]
    usage = "usage: musictrain runs [ACTION] [options]\n\n"
    return usage + "\n".join(lines) + "\n\n  musictrain runs ACTION --help   the options of an action\n"


class RunsParser(CommandParser):
    """A parser that takes options before, after and between the names of runs."""

    def parse_intermixed(self, words: list[str]) -> argparse.Namespace:
        """Like ``parse_args``."""
        found, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            self.parse_args(words)  # complains
            raise UsageError(f"Unexpected argument {unknown[0]}. See `{self.prog} --help`.")
        return found


def parser(action: str) -> RunsParser:
    """The options of one action."""
    parser = RunsParser(f"runs {action}", ACTIONS[action].summary[:1].upper() + ACTIONS[action].summary[1:] + ".")
    if action in ("list", "best", "overview"):
        _add_filters(parser)
        parser.epilog, parser.formatter_class = WHERE, argparse.RawDescriptionHelpFormatter
    if action in ("show", "tag", "untag", "note"):
        parser.add_argument("run", metavar="RUN", help=RUN)
    if action in ("compare", "archive", "unarchive"):
        parser.add_argument("run", metavar="RUN", nargs="+", help=RUN)
    _ADD.get(action, lambda parser: None)(parser)
    if action != "overview":
        parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def _add_filters(parser: CommandParser) -> None:
    parser.add_argument("--where", action="append", metavar="CONDITION", help="only runs that meet it; may be given several times")
    parser.add_argument("--tag", action="append", metavar="TAG", help="only runs with this tag; may be given several times")
    states = (*ACTIVE, *ENDED, STALE)
    parser.add_argument("--state", action="append", choices=states, metavar="STATE", help=f"only these: {', '.join(states)}")
    parser.add_argument("--name", metavar="TEXT", help="only runs whose name contains it")
    which = {"nargs": "?", "const": "too", "default": "no", "choices": ("too", "only")}
    parser.add_argument("--archived", help="show archived runs too, or only them (--archived only)", **which)  # type: ignore[arg-type]


def _add_list(parser: CommandParser) -> None:
    parser.add_argument("--sort", metavar="VALUE", help="lowest value first, runs without it last (newest first)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--columns", metavar="A,B,...", help="which values to show, such as state,val/loss.min,lr")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most N runs")
    parser.add_argument("--trials", action="store_true", help="each trial of a search, not one line for all")
    parser.add_argument("--sql", metavar="QUERY", help="ask the index in SQL instead (reading only)")


def _add_best(parser: CommandParser) -> None:
    parser.add_argument("--metric", default="val/loss", help="what counts (val/loss)")
    parser.add_argument("--mode", choices=("min", "max"), default="min", help="whether the lowest or the highest is best (min)")
    parser.add_argument("--limit", type=positive, default=1, metavar="N", help="how many, best first (1)")


def _add_compare(parser: CommandParser) -> None:
    parser.add_argument("--all", action="store_true", help="settings that are the same and metrics of machine and health, too")


def _add_overview(parser: CommandParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the page (overview.html in the folder of runs)")
    parser.add_argument("--watch", action="store_true", help="keep its data up to date until interrupted, or no run goes on any more")
    parser.add_argument("--every", type=positive, default=5, metavar="SECONDS", help="how often --watch looks (5)")


def _add_tags(parser: CommandParser) -> None:
    parser.add_argument("tag", metavar="TAG", nargs="+", help="one or more words")


_ADD = {
    "list": _add_list,
    "best": _add_best,
    "show": lambda parser: parser.add_argument("--all", action="store_true", help="metrics of machine and health, too"),
    "compare": _add_compare,
    "overview": _add_overview,
    "tag": _add_tags,
    "untag": _add_tags,
    "note": lambda parser: parser.add_argument("note", metavar="TEXT", help="in quotes"),
}
