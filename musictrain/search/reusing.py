"""Runs that are there already and are what a trial would be: earlier fits, and trials of other searches.

A run is taken as a trial if it has ended by itself, or rests and was a trial before; one that was interrupted or failed is somebody's to
go on with. The identities of runs are remembered beside them, by size and time of their ``config.yaml``: reading ten thousand of those
takes minutes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder
from musictrain.runs.lineage import parents_of
from musictrain.runs.status import read_status
from musictrain.search.identity import identity_of

log = logging.getLogger(__name__)

REMEMBERED = ".identities.json"
USEFUL = ("finished", "stopped", "paused")  # the most useful first


def runs_to_reuse(
    runs_dir: Path, wanted: Collection[str], read_config: Callable[[Path], Any], besides: Collection[str] = ()
) -> dict[str, str]:
    """Names of runs by the identity that is wanted; of several the one that has come furthest.

    Args:
        runs_dir: where runs are kept.
        wanted: identities.
        read_config: reads a ``config.yaml``.
        besides: names of runs that are not looked at, such as the search's own trials.
    """
    known = identities_of_runs(runs_dir, read_config, besides) if wanted else {}
    found: dict[str, tuple[tuple[int, int, str], str]] = {}
    for name, identity in known.items():
        if identity in wanted and (rank := _use_of(RunFolder(runs_dir / name))) is not None:
            found[identity] = max(found.get(identity, ((-len(USEFUL) - 1, 0, ""), "")), ((*rank, name), name))
    return {identity: name for identity, (_, name) in found.items()}


def _use_of(run: RunFolder) -> tuple[int, int] | None:
    """How useful a run is, more for more; None if it is nothing to take."""
    status = read_status(run.status)
    if status is None or status.state not in USEFUL:
        return None
    if status.state == "paused" and not any(parent.relation == "trial of" for parent in parents_of(run)):
        return None
    return -USEFUL.index(status.state), status.step


def identities_of_runs(runs_dir: Path, read_config: Callable[[Path], Any], besides: Collection[str] = ()) -> dict[str, str]:
    """The identity of every run but some, by its name; runs without a readable configuration have none."""
    path, passed_over = runs_dir / REMEMBERED, set(besides)
    before = _remembered(path)
    now = {name: told for name, told in before.items() if name in passed_over}
    for path_of_run in sorted(runs_dir.iterdir()) if runs_dir.is_dir() else ():
        run = RunFolder(path_of_run)
        if run.name in passed_over or (seen := _seen(run)) is None:
            continue
        told = before.get(run.name)
        now[run.name] = told if told is not None and told[:2] == seen else [*seen, _identity(run, read_config)]
    if now != before:
        try:
            atomic_write(path, json.dumps(now) + "\n", durable=False)
        except OSError as error:
            log.info("What runs are could not be remembered: %s", error)
    return {name: told[2] for name, told in now.items() if told[2] and name not in passed_over}


def _seen(run: RunFolder) -> list[Any] | None:
    try:
        seen = run.config.stat()
    except OSError:
        return None
    return [seen.st_mtime_ns, seen.st_size]


def _identity(run: RunFolder, read_config: Callable[[Path], Any]) -> str:
    try:
        config = read_config(run.config)
        return identity_of(config) if isinstance(config, Mapping) else ""
    except Exception as error:  # whatever a YAML reader raises: such a run is nobody's trial
        log.info("%s cannot be understood: %s", run.config, error)
        return ""


def _remembered(path: Path) -> dict[str, list[Any]]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: each for name, each in told.items() if isinstance(each, list) and len(each) == 3 and isinstance(each[2], str)}
    except (OSError, ValueError, AttributeError):
        return {}
