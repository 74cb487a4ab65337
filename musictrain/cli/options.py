"""Options of the commands that are ours: no abbreviations, short errors, the nearest option for a misspelled one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from musictrain.cli.exits import UsageError
from musictrain.suggestions import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """argparse, except that every mistake is a UsageError of one or two lines."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"musictrain {command}", description=description, allow_abbrev=False)
        self.add_argument(
            "--runs", type=Path, default=default_runs_dir(), metavar="DIR", help=f"where runs are kept ({default_runs_dir()})"
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like argparse's.

        Raises:
            UsageError: for anything that does not fit.
        """
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(unknown_option(unknown[0], self._option_string_actions, self.prog))
        return known

    def error(self, message: str) -> NoReturn:
        """Every complaint of argparse ends here."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def unknown_option(word: str, options: Iterable[str], command: str) -> str:
    """What to say to an option that does not exist.

    >>> unknown_option("--temprature", ["--temperature", "--top-k"], "musictrain sample")
    "Unknown option --temprature. Did you mean '--temperature'? See `musictrain sample --help`."
    """
    word = word.partition("=")[0]
    kind = "Unknown option" if word.startswith("-") else "Unexpected argument"
    hint = f" {found}" if (found := did_you_mean(word, options)) else ""
    return f"{kind} {word}.{hint} See `{command} --help`."


def default_runs_dir() -> Path:
    """Where runs are kept: ``$MUSICTRAIN_RUNS``, else ``runs`` in the working directory."""
    return Path(os.environ.get("MUSICTRAIN_RUNS") or "runs")


def positive(text: str) -> int:
    """A whole number above 0, for argparse's ``type``.

    Raises:
        argparse.ArgumentTypeError: otherwise.
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)
