"""``fit --ckpt_path last|best|auto``: go on with the newest run of the same configuration."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from musictrain.cli.exits import UsageError
from musictrain.cli.one_decision import first_decides
from musictrain.cli.resume import finish_going_back, max_steps_of, read_config, step_of
from musictrain.cli.version_choice import version_of
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.config_changes import ELSEWHERE, config_changes, config_fingerprint, known_to, without_new_defaults

WHICH = ("last", "best", "auto")


def version_to_go_on_from(which: str, runs_dir: Path, config: dict[str, Any]) -> tuple[RunFolder, Path] | None:
    """The run and its version; None if ``auto`` finds nothing to go on with. Of several processes the first one looks, for all.

    Args:
        which: ``last`` or ``best`` of the newest run of this configuration; ``auto``: its last version, if the run was interrupted.
        runs_dir: where runs are kept.
        config: fully resolved. Where runs are kept and what they are called does not count.

    Raises:
        UsageError: if ``last`` or ``best`` is asked for and there is no such run.
        CommandError: if it has versions and none can be used.
    """
    return agreed(f"ckpt_path {which}", lambda: _found(which, runs_dir, config))


def agreed(topic: str, find: Callable[[], tuple[RunFolder, Path] | None]) -> tuple[RunFolder, Path] | None:
    """The run and the version that the first process finds, in every process.

    Raises:
        UsageError: in a process that does not see that version.
    """

    def decide() -> list[str] | None:
        found = find()
        return None if found is None else [str(found[0].path), str(found[1])]

    told = first_decides(topic, decide)
    if told is None:
        return None
    folder, version = (Path(path) for path in told)
    if not version.exists():
        raise UsageError(
            f"On {socket.gethostname()}, {version} is not there, from which the first process of this run goes on. All machines must see "
            f"the folder of the runs, under the same path (this process is in {Path.cwd()}): put it on a disk that they share."
        )
    return RunFolder(folder), version


def _found(which: str, runs_dir: Path, config: dict[str, Any]) -> tuple[RunFolder, Path] | None:
    same = [run for run in list_runs(runs_dir) if has_configuration(run, config)]
    if which == "auto":
        same = [run for run in same if any(run.checkpoints.glob("v*.ckpt*"))][-1:]
        for run in same:
            finish_going_back(run)
        return next(((run, version) for run in same if not _done(run, version := version_of(run))), None)
    if not same:
        raise UsageError(
            f"--ckpt_path {which}: no run in {runs_dir} has this configuration, so there is nothing to go on with. "
            "Leave it out to begin, or say --ckpt_path auto, which begins where nothing was interrupted."
        )
    finish_going_back(same[-1])
    return same[-1], version_of(same[-1], which)


def has_configuration(run: RunFolder, config: dict[str, Any]) -> bool:
    """Whether a run was begun with this configuration. Keys that musictrain did not know then do not count where they are as by default."""
    try:
        began = read_config(run)
    except UsageError:
        return False
    new = [
        path
        for path, was, _ in config_changes(began, without_new_defaults(began, config))
        if was is None and (".init_args." in path or path == "init_from")
    ]
    if any(path not in ELSEWHERE for path in new):
        return False
    return config_fingerprint(known_to(began, config)) == config_fingerprint(began)


def _done(run: RunFolder, version: Path) -> bool:
    total = max_steps_of(run)
    return total is not None and 0 <= total <= step_of(version)
