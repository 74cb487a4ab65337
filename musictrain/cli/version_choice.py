"""From what a person types to the stored version they mean: ``last``, ``best``, a number, a name, or the path of a file."""

from __future__ import annotations

import logging
from pathlib import Path

from musictrain.checkpoints.catalog import NoGoodVersionError, Version, best_good, last_good, list_versions
from musictrain.cli.exits import CommandError, UsageError
from musictrain.runs import RunFolder
from musictrain.runs.folder import BEST_METRIC
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)


def version_of(run: RunFolder, text: str = "last") -> Path:
    """The file of a run's version.

    Args:
        run: an existing run.
        text: ``last``: the highest step that verifies; ``best``: the lowest val/loss, or the last if none was validated, or all that
            were are vetoed, which is said; a number; a name such as ``v000012_step000450``; or the path of a checkpoint file anywhere.

    Raises:
        UsageError: if there is no such version, naming those that are.
        CommandError: if there are versions and none can be used.
    """
    if text in ("last", "best"):
        return _last_or_best(run, text)
    versions = list_versions(run.checkpoints)
    for version in versions:
        if text in (str(version.number), version.name, version.path.name):
            return version.path
    if Path(text).is_file() or Path(text).is_dir():
        return Path(text)
    hint = did_you_mean(text, ["last", "best", *(version.name for version in versions)]) or _there_are(run, versions)
    raise UsageError(f"There is no version or file {text!r}. {hint}")


def _last_or_best(run: RunFolder, text: str) -> Path:
    try:
        found = best_good(run.checkpoints, BEST_METRIC) if text == "best" else None
        if text == "best" and found is None:
            _say_if_vetoed(run)
        found = found or last_good(run.checkpoints)
    except NoGoodVersionError as error:
        raise CommandError(str(error)) from error
    if found is None:
        raise UsageError(f"Run {run.name} has no checkpoint: it has not saved any yet.")
    return found.path


def _say_if_vetoed(run: RunFolder) -> None:
    vetoed = [version for version in list_versions(run.checkpoints) if version.vetoed]
    if vetoed:
        log.warning(
            "No version of %s is to be called best: those that were validated were vetoed, %s because %s. The last one is taken.",
            *(run.name, vetoed[-1].name, vetoed[-1].vetoed),
        )


def _there_are(run: RunFolder, versions: list[Version]) -> str:
    names = ", ".join(version.name for version in versions[-4:])
    return f"Say last, best, the path of a file, or one of the versions of {run.name}: {names or 'it has none'}."
