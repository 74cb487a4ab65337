"""From what a person types to the stored version they mean: ``last``, ``best``, a number, a name, or the path of a file."""

from __future__ import annotations

import logging
from pathlib import Path

from musictrain.checkpoints.catalog import NAME, Version, best_good, last_good, list_versions
from musictrain.runs import RunFolder, find_run
from musictrain.runs.folder import BEST_METRIC
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)


class NoSuchVersionError(ValueError):
    """There is no version of that name; the message says which there are."""


def find_version(text: str, runs_dir: str | Path, otherwise: str = "best") -> tuple[RunFolder | None, Path]:
    """The run and the version that a text such as ``calm-fugue@best`` means.

    Args:
        text: ``RUN``, whatever ``find_run`` takes; ``RUN@VERSION``, with what ``chosen_version`` takes; or the path of a version or of
            another checkpoint.
        runs_dir: the folder of all runs.
        otherwise: the version that is meant where none is named.

    Returns:
        The run, None for a file outside of any, and the path of the version.

    Raises:
        RunNotFoundError: if there is no such run, or more than one.
        NoSuchVersionError: if the run has no such version.
        NoGoodVersionError: if it has versions and none can be used.
    """
    path = Path(text).expanduser()
    if path.is_file() or (path.is_dir() and NAME.fullmatch(path.name)):
        run = RunFolder(path.resolve().parent.parent)
        return run if run.is_run() else None, path
    name, at, which = text.rpartition("@")
    if not at or RunFolder(path).is_run():
        name, which = text, otherwise
    run = find_run(str(Path(name).expanduser()), runs_dir)
    return run, chosen_version(run, which or otherwise)


def chosen_version(run: RunFolder, text: str = "last") -> Path:
    """The file of a run's version.

    Args:
        run: an existing run.
        text: ``last``: the highest step that verifies; ``best``: the lowest val/loss, or the last if none was validated, or all that
            were are vetoed, which is said; a number; a name such as ``v000012_step000450``; or the path of a checkpoint file anywhere.

    Raises:
        NoSuchVersionError: if there is no such version, naming those that are.
        NoGoodVersionError: if there are versions and none can be used.
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
    raise NoSuchVersionError(f"There is no version or file {text!r}. {hint}")


def _last_or_best(run: RunFolder, text: str) -> Path:
    found = best_good(run.checkpoints, BEST_METRIC) if text == "best" else None
    if text == "best" and found is None:
        _say_if_vetoed(run)
    found = found or last_good(run.checkpoints)
    if found is None:
        raise NoSuchVersionError(f"Run {run.name} has no checkpoint: it has not saved any yet.")
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
