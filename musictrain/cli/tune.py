"""``tune``: a learning rate and a batch size to begin with, found by Lightning's Tuner on the user's own configuration; no run is made."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.cli.recipes import with_recipes
from musictrain.runs.atomic import atomic_write
from musictrain.runs.summary import shown

log = logging.getLogger(__name__)


def run(command: str, arguments: list[str]) -> int:
    """Look for what is asked for; gives back the exit status.

    Raises:
        UsageError: for wrong options, or a module or data module that Lightning's Tuner cannot work with.
        CommandError: if nothing could be found, saying why.
    """
    options, words = parser().parse_known_args(arguments)
    check(options, words)
    words = [*with_recipes(words), "--runs", str(options.runs)]
    if not options.lr and not options.batch_size:
        options.lr = options.batch_size = True
    # Lightning takes seconds to import: mistakes are answered before.
    from musictrain.cli.tuning import tuned

    found = tuned(words, options)
    if options.lr:
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(options.picture, found["lr"].pop("drawn"))
        found["lr"]["picture"] = str(options.picture)
    print(json.dumps(found) if options.json else "\n".join(told(found)), flush=True)
    return FINISHED


def parser() -> CommandParser:
    """The options of ``tune``; everything else is passed on as to ``fit``."""
    parser = CommandParser(
        "tune", "Find a learning rate and a batch size to begin with, on one device, with your own configuration. Leaves no run behind."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "--config NAME-or-FILE is needed, and every other option of `musictrain fit` can be added, --init_from too.\n"
        "Without --lr and --batch-size both are looked for, the learning rate with the batch size that was found.\n"
        "Callbacks are not at work while it looks; a step gathers as many batches as it does in a run's first step."
    )
    parser.add_argument("--lr", action="store_true", help="look for a learning rate: it grows, step by step, until the loss does")
    parser.add_argument("--batch-size", action="store_true", help="look for the most rows that fit into memory, undivided, by doubling")
    parser.add_argument("--steps", type=positive, default=100, metavar="N", help="learning rates to try, one a step (100)")
    parser.add_argument("--min-lr", type=float, default=1e-6, metavar="R", help="the first learning rate (1e-6)")
    parser.add_argument("--max-lr", type=float, default=1.0, metavar="R", help="the last learning rate (1)")
    parser.add_argument("--max-batch-size", type=positive, default=512, metavar="N", help="the most rows to try (512)")
    parser.add_argument("--picture", type=Path, default=Path("lr_find.png"), metavar="FILE", help="where the curve is drawn (lr_find.png)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, every point of the curve too")
    return parser


def check(options: argparse.Namespace, words: list[str]) -> None:
    """Refuse what cannot work before anything is imported.

    Raises:
        UsageError: saying what.
    """
    if "--config" not in words and not any(word.startswith("--config=") for word in words):
        raise UsageError("tune needs a configuration: musictrain tune --config NAME-or-FILE.")
    if not 0 < options.min_lr < options.max_lr:
        raise UsageError(f"Learning rates from {options.min_lr:g} to {options.max_lr:g}: the first must be above 0 and below the last.")
    if options.lr and options.steps < FEWEST_STEPS:
        raise UsageError(f"--steps {options.steps}: of so few learning rates none can be suggested. Try {FEWEST_STEPS} or more.")
    if any(word.partition("=")[0] == "--ckpt_path" for word in words):
        raise UsageError("tune begins anew: with --init_from RUN it begins with the weights of a stored version, --ckpt_path has no place.")


FEWEST_STEPS = 20
"""Lightning leaves the first ten out, whose losses have not settled, and the last one."""


def told(found: dict[str, Any]) -> list[str]:
    """What was found, and the lines that put it into a configuration."""
    lines = []
    if (size := found.get("batch_size")) is not None:
        lines.append(f"batch size     {size['found']:,} rows: {size['why']}")
    if (rate := found.get("lr")) is not None:
        lines.append(
            f"learning rate  {rate['suggestion']:.2g}: where the loss of {rate['rows']} fell fastest; lowest at {rate['lowest_at']:.2g}"
        )
        lines.append(f"               {shown(Path(rate['picture']))} shows all {len(rate['lr']):,} of them")
        lines += [f"               {rate['note']}"] if rate["note"] else []
    if found["config"]:
        lines += ["", "For your configuration:", "", *found["config"].rstrip().splitlines()]
    return lines


def not_found(what: str, why: str) -> CommandError:
    """Nothing was found."""
    return CommandError(f"No {what} was found: {why}")
