"""The stored version that is meant on a command line."""

from __future__ import annotations

from pathlib import Path

from musictrain.checkpoints.catalog import NoGoodVersionError
from musictrain.checkpoints.chosen_version import NoSuchVersionError, chosen_version
from musictrain.cli.exits import CommandError, UsageError
from musictrain.runs import RunFolder


def version_of(run: RunFolder, text: str = "last") -> Path:
    """The file of a run's version; ``text`` is what ``chosen_version`` takes.

    Raises:
        UsageError: if there is no such version, naming those that are.
        CommandError: if there are versions and none can be used.
    """
    try:
        return chosen_version(run, text)
    except NoSuchVersionError as error:
        raise UsageError(str(error)) from error
    except NoGoodVersionError as error:
        raise CommandError(str(error)) from error
