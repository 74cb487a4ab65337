"""Which commands there are, and the way from ``musictrain COMMAND`` to the one that was meant.

Nothing here imports torch or lightning: help, mistakes and the light commands answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from musictrain.cli.exits import FAILED, FINISHED, INTERRUPTED, WRONG_USAGE, CommandError, UsageError
from musictrain.runs import RunNotFoundError
from musictrain.runs.secrets import hide
from musictrain.suggestions import did_you_mean


@dataclass(frozen=True)
class Command:
    """One line of the help text, and the module whose ``run(command, arguments) -> exit status`` does the work."""

    name: str
    group: str
    summary: str
    home: str


COMMANDS = (
    Command("doctor", "Start", "check machine, devices, disk, fonts and packages", "musictrain.cli.doctor"),
    Command("fit", "Train", "train a model; every option of Lightning's CLI", "musictrain.cli.training"),
    Command("resume", "Train", "go on with a run", "musictrain.cli.resume"),
    Command("stages", "Train", "several trainings as one; goes on wherever it was killed", "musictrain.cli.stages"),
    Command("search", "Train", "hyper-parameters by whole runs; goes on wherever it was killed", "musictrain.cli.search"),
    Command("validate", "Train", "the likelihood on the validation split", "musictrain.cli.training"),
    Command("test", "Train", "the likelihood on the test split", "musictrain.cli.training"),
    Command("predict", "Train", "run the model's predict step over the data", "musictrain.cli.training"),
    Command("tune", "Train", "find a learning rate and a batch size to begin with", "musictrain.cli.tune"),
    Command("sample", "Train", "make music from a checkpoint", "musictrain.cli.sample"),
    Command("distill-corpus", "Train", "a corpus of a run's own music, to train another network on", "musictrain.cli.distill_corpus"),
    Command("verify-resume", "Train", "prove on your own configuration that a resume is exact", "musictrain.cli.verify_resume"),
    Command("replay", "Look", "one step of a run again: hear and see its batch", "musictrain.cli.replay"),
    Command("runs", "Look", "list, show, compare, best, overview, tags, notes; filters, sorting, SQL", "musictrain.cli.runs"),
    Command("report", "Look", "a run's page as one file that stands alone", "musictrain.cli.report"),
    Command("watch", "Look", "watch a run, or all of them, live in the terminal", "musictrain.cli.watch"),
    Command("notify", "Look", "what a run tells whom; --test sends one mail now", "musictrain.cli.notify"),
    Command("checkpoints", "Keep", "list, verify, average, export, pin, prune and restore versions", "musictrain.cli.checkpoints"),
)

HELP = """\
usage: musictrain COMMAND [options]      (or: python -m musictrain COMMAND [options])

{commands}

RUN anywhere is a folder, a name, a unique part of one, 'latest' or 'best'.
Every command takes --runs DIR: where runs are kept (default ./runs, or $MUSICTRAIN_RUNS).

  musictrain COMMAND --help                                  all options of a command
  musictrain fit --config chorales                           train on Bach's chorales
  musictrain fit --config folder --data.corpus FOLDER        train on your own folder of MIDI files
  musictrain sample latest --n 8                             hear what it learned
"""


def help_text() -> str:
    """The commands in their groups, in the order of the table."""
    width = max(len(command.name) for command in COMMANDS) + 2
    lines, group = [], ""
    for command in COMMANDS:
        heading = command.group if command.group != group else ""
        lines.append(f"  {heading:<7}{command.name:<{width}}{command.summary}")
        group = command.group
    return HELP.format(commands="\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give back its exit status: 0 finished, 1 failed, 2 wrong usage, 3 stopped by a rule, 130/143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except (UsageError, RunNotFoundError) as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        return WRONG_USAGE
    except CommandError as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        return FAILED
    except SystemExit as stop:
        # argparse's --help ends the program; here the caller does.
        return stop.code if isinstance(stop.code, int) else FINISHED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Somebody's `| head` has seen enough; without this the interpreter complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return FINISHED if words else WRONG_USAGE
    if words[0] == "--version":
        print(f"musictrain {_version()}")
        return FINISHED
    command = _find(words[0])
    return int(importlib.import_module(command.home).run(command.name, words[1:]))


def _find(name: str) -> Command:
    by_name = {command.name: command for command in COMMANDS}
    if name not in by_name:
        hint = did_you_mean(name, by_name) or f"There are: {', '.join(by_name)}."
        raise UsageError(f"Unknown command {name!r}. {hint} See `musictrain --help`.")
    return by_name[name]


def _version() -> str:
    from musictrain.runs.environment import package_versions

    return package_versions(["musictrain"])["musictrain"] or "(not installed)"
