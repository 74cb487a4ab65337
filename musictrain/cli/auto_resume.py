"""``fit --ckpt_path last|best|auto``: go on with the newest run of the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from musictrain.cli.exits import UsageError
from musictrain.cli.resume import max_steps_of, read_config, step_of
from musictrain.cli.version_choice import version_of
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.config_changes import config_fingerprint

WHICH = ("last", "best", "auto")


def version_to_go_on_from(which: str, runs_dir: Path, config: dict[str, Any]) -> tuple[RunFolder, Path] | None:
    """The run and its version; None if ``auto`` finds nothing to go on with.

    Args:
        which: ``last`` or ``best`` of the newest run of this configuration; ``auto``: its last version, if the run was interrupted.
        runs_dir: where runs are kept.
        config: fully resolved. Where runs are kept and what they are called does not count.

    Raises:
        UsageError: if ``last`` or ``best`` is asked for and there is no such run.
        CommandError: if it has versions and none can be used.
    """
    same = [run for run in list_runs(runs_dir) if fingerprint_of(run) == config_fingerprint(config)]
    if which == "auto":
        same = [run for run in same if any(run.checkpoints.glob("v*.ckpt*"))][-1:]
        return next(((run, version) for run in same if not _done(run, version := version_of(run))), None)
    if not same:
        raise UsageError(
            f"--ckpt_path {which}: no run in {runs_dir} has this configuration, so there is nothing to go on with. "
            "Leave it out to begin, or say --ckpt_path auto, which begins where nothing was interrupted."
        )
    return same[-1], version_of(same[-1], which)


def fingerprint_of(run: RunFolder) -> str:
    """Of a run's configuration; empty if it has none that can be read."""
    try:
        return config_fingerprint(read_config(run))
    except UsageError:
        return ""


def _done(run: RunFolder, version: Path) -> bool:
    total = max_steps_of(run)
    return total is not None and 0 <= total <= step_of(version)
