"""The options of ``search``; what is none of them goes to ``fit``, for every trial."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from musictrain.cli.exits import UsageError
from musictrain.cli.options import CommandParser, positive
from musictrain.search.definition import MOST_TRIALS
from musictrain.suggestions import did_you_mean

EPILOG = """\
Whatever else is given, such as --trainer.max_steps 600, goes to fit for every trial. Each trial is a run of its own beside the search.
The same command goes on wherever a search was interrupted; with more values, seeds or draws it trains only what is missing.

A space:
  grid:   {network.num_layers: [1, 2]}       every combination; a list of such mappings for several grids
  random:
    n: 20                                    so many draws, for each combination of the grid if there is one
    seed: 0
    space: {optimizer.lr: "loguniform(1e-4, 1e-2)", network.dropout: "uniform(0, 0.5, digits=2)", network.hidden: [64, 128]}
  when:                                      a part of the space that is there only where other values are so
    - if: {model.optimizer: musictrain.optim.Lion}
      space: {optimizer.weight_decay: "loguniform(0.1, 1)"}
  constraints: ["network.hidden % network.heads == 0"]

uniform(low, high), loguniform(low, high), integers(low, high) and logintegers(low, high) include high; randint(low, high) does not;
norm(mean, sd), lognorm(median, sd), truncnorm(mean, sd, low, high), beta(a, b), and lists of values. A key may be any ending that
is its own: lr for model.init_args.optimizer.init_args.lr.
"""


class SearchParser(CommandParser):
    """As of every command, except that words that are not ours are kept for ``fit``."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Like argparse's, with what is not ours in ``overrides``.

        Raises:
            UsageError: for a word that is neither an option nor an option's value.
        """
        options, rest = self.parse_known_args(args, namespace)
        if rest and not rest[0].startswith("-"):
            raise UsageError(f"Unexpected argument {rest[0]}. See `{self.prog} --help`.")
        options.overrides = rest
        return options


def parser() -> SearchParser:
    """The options."""
    parser = SearchParser("search", "Search over hyper-parameters: every trial is a run of its own, and none is ever trained twice.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    _add_space(parser)
    _add_judging(parser)
    _add_machine(parser)
    _add_looking(parser)
    return parser


def _add_space(parser: CommandParser) -> None:
    add = parser.add_argument_group("what is tried").add_argument
    add("--config", action="append", default=[], metavar="NAME-or-FILE", help="what every trial is trained with; several, in layers")
    add("--space", type=Path, metavar="FILE", help="the space as YAML, see below; it may hold everything else too")
    add("--grid", action="append", nargs="+", default=[], metavar="KEY=A,B", help="every combination of these values")
    add("--random", nargs="+", metavar=("N", "KEY=DIST"), help="N draws, such as --random 20 'lr=loguniform(1e-4, 1e-2)' layers=1,2")
    add("--random-seed", type=int, metavar="N", help="of the draws (0)")
    add("--seeds", metavar="0,1,2", help="of seed_everything; each point is tried with all (the configuration's own)")
    add("--name", metavar="NAME", help="what its folder is called, beside its runs; else after the space's file or the configuration")


def _add_judging(parser: CommandParser) -> None:
    add = parser.add_argument_group("how it is judged").add_argument
    words = "metrics that points are judged by: val/loss, max:val/groove_similarity, val/loss:last (the best so far is usual)"
    add("--objective", nargs="+", metavar="METRIC", help=words)
    add("--halving", nargs="?", const=3.0, type=float, metavar="FACTOR", help="at each rung one of FACTOR points goes on (3)")
    add("--median", action="store_true", help="at each rung those go on that are not worse than its median")
    add("--rungs", metavar="100,300,900", help="optimizer steps at which trials pause; else from max_steps downwards by the factor")
    add("--most-trials", type=positive, metavar="N", help=f"refuse a space of more trials ({MOST_TRIALS}); a trial is a point with a seed")
    add("--most-hours", type=float, metavar="HOURS", help="refuse, or stop, a search that would take longer")


def _add_machine(parser: CommandParser) -> None:
    add = parser.add_argument_group("where it runs").add_argument
    add("--slots", type=positive, metavar="N", help="trials that train at the same time, each with a GPU of its own if there is one (1)")
    add("--threads", type=positive, metavar="N", help="of the processor, for each trial (1)")
    add("--cluster", metavar="ADDRESS", help="a Dask scheduler whose workers share the folder of runs, such as tcp://HOST:8786")
    add("--retry-failed", action="store_true", help="try trials that have failed again")


def _add_looking(parser: CommandParser) -> None:
    add = parser.add_argument_group("what is only shown").add_argument
    add("--dry-run", action="store_true", help="show the points and what they cost; train nothing")
    add("--check", action="store_true", help="ask fit whether it can read the configuration of every point; train nothing")
    add("--show", metavar="NAME", help="the table of a search, as far as it has come; train nothing")
    add("--json", action="store_true", help="with --show, --dry-run or alone: for programs; train nothing")


def misspelled(words: Iterable[str]) -> str:
    """A word on an option of ours that was misspelled, and so was given to ``fit``."""
    ours = list(parser()._option_string_actions)
    for word in words:
        if word.startswith("--") and "." not in word and (hint := did_you_mean(word.partition("=")[0], ours)):
            return f" Or, for {word}: {hint[:1].lower()}{hint[1:]} See `musictrain search --help`."
    return ""
