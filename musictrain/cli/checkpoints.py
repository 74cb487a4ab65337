"""``checkpoints``: look at the versions of runs, and keep them. Looking reads seals alone and needs neither torch nor lightning."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from musictrain.cli import checkpoint_keeping as keeping
from musictrain.cli import checkpoint_looking as looking
from musictrain.cli.exits import FINISHED, WRONG_USAGE, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.suggestions import did_you_mean

ACTIONS: dict[str, tuple[str, Callable[[argparse.Namespace], int]]] = {
    "list": ("the versions of a run, from their seals alone", looking.list_command),
    "show": ("everything the seal of one version says", looking.show_command),
    "verify": ("read every byte and hold it against the seals; exit status 1 if one is bad", looking.verify_command),
    "average": ("the mean of the weights of several versions, as a further version", keeping.average_command),
    "export": ("write a version, a sharded one put together, as .ckpt or .safetensors", keeping.export_command),
    "pin": ("keep a version whatever the rules say", keeping.pin_command),
    "unpin": ("leave it to the rules again", keeping.pin_command),
    "prune": ("remove what the rules do not keep; --dry-run only says what", keeping.prune_command),
    "restore": ("bring a version back that was set aside, or from the mirror", keeping.restore_command),
}


def run(command: str, arguments: list[str]) -> int:
    """Do one of the actions; gives back the exit status.

    Raises:
        UsageError: if the action, the run or the version does not exist.
        CommandError: if it cannot be done.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(), end="")
        return FINISHED if arguments else WRONG_USAGE
    action = arguments[0]
    if action not in ACTIONS:
        hint = did_you_mean(action, ACTIONS) or f"There are: {', '.join(ACTIONS)}."
        raise UsageError(f"checkpoints cannot {action!r}. {hint} See `musictrain checkpoints --help`.")
    options = parser(action).parse_args(arguments[1:])
    options.action = action
    return ACTIONS[action][1](options)


def help_text() -> str:
    """The actions, one a line."""
    lines = [f"  {name:<9}{text}" for name, (text, _) in ACTIONS.items()]
    usage = "usage: musictrain checkpoints ACTION RUN [options]\n\n"
    return usage + "\n".join(lines) + "\n\n  musictrain checkpoints ACTION --help   the options of an action\n"


def parser(action: str) -> CommandParser:
    """The options of one action."""
    parser = CommandParser(f"checkpoints {action}", ACTIONS[action][0][:1].upper() + ACTIONS[action][0][1:] + ".")
    takes_file = action in ("show", "verify", "export")
    meaning = "a folder, a name, a unique part of one, 'latest' or 'best'" + ("; or the path of a checkpoint file" if takes_file else "")
    parser.add_argument("run", metavar="RUN-or-FILE" if takes_file else "RUN", help=meaning)
    _ADD[action](parser)
    if action in ("list", "show", "verify", "prune"):
        parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def _version(parser: CommandParser, default: str | None) -> None:
    what = "which version: last, best, a number or a name" + (f" ({default})" if default else "")
    if default:
        parser.add_argument("version", nargs="?", default=default, metavar="V", help=what)
    else:
        parser.add_argument("version", metavar="V", help=what)


def _add_average(parser: CommandParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--last", type=positive, metavar="N", help="the newest N healthy versions")
    which.add_argument("--best", type=positive, metavar="N", help="the N best by --metric")
    which.add_argument("--steps", type=step_range, metavar="A:B", help="all healthy versions of steps A to B")
    parser.add_argument("--metric", default="val/loss", help="what --best goes by (val/loss)")
    parser.add_argument("--mode", choices=("min", "max"), default="min", help="whether the lowest or the highest is best (min)")


def step_range(text: str) -> tuple[int, int]:
    """Two numbers of steps as ``A:B``, for argparse's ``type``.

    >>> step_range("100:900")
    (100, 900)

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected two numbers of steps such as 100:900, got {text!r}")
    return int(first), int(last)


def _add_export(parser: CommandParser) -> None:
    _version(parser, "best")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="ends in .ckpt or .safetensors")
    parser.add_argument("--weights-only", action="store_true", help="leave out optimizer, loops and callbacks (.safetensors always does)")
    parser.add_argument("--dtype", choices=("bf16", "fp16"), help="write the weights in 16 bits")
    parser.add_argument("--replace", action="store_true", help="overwrite FILE if it is there")


def _add_prune(parser: CommandParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="change nothing; say what would go and why the rest stays")
    parser.add_argument("--newest", type=int, metavar="N", help="keep the newest N good versions (as the run's configuration says)")
    parser.add_argument("--best", type=int, metavar="N", help="keep the best N of each metric (as the run's configuration says)")


def _add_restore(parser: CommandParser) -> None:
    parser.add_argument("version", nargs="?", metavar="V", help="which version: a number or a name; leave it out to see which there are")
    parser.add_argument("--from", dest="source", metavar="URL", help="the mirror (as the run's configuration says)")


_ADD: dict[str, Callable[[CommandParser], None]] = {
    "list": lambda parser: None,
    "show": lambda parser: _version(parser, "last"),
    "verify": lambda parser: None,
    "average": _add_average,
    "export": _add_export,
    "pin": lambda parser: _version(parser, None),
    "unpin": lambda parser: _version(parser, None),
    "prune": _add_prune,
    "restore": _add_restore,
}


def as_json(value: object) -> str:
    """For programs."""
    return json.dumps(value, indent=2)
