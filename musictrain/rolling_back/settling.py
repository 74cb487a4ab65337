"""Carrying out what was decided: what lies beyond the version is set aside. Done again after a kill, it comes to the same."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import NoGoodVersionError, Version, first_that_verifies, list_versions
from musictrain.checkpoints.retention import Retention
from musictrain.checkpoints.version_folder import VersionFolder
from musictrain.rolling_back.choosing import last_trusted
from musictrain.runs import RunFolder
from musictrain.runs.records import Records, read_records
from musictrain.runs.rollbacks import FILE_NAME, Rollback, read_rollbacks, settle

log = logging.getLogger(__name__)


def settle_rollbacks(folder: str | Path) -> list[Rollback]:
    """Let a folder of versions hold only what the run goes on from, if a going back was cut off; gives back all goings back of the run.

    Only for who is about to train there.

    Args:
        folder: of the versions; ``rollbacks.jsonl`` and ``events.jsonl`` lie beside it.

    Raises:
        FolderInUseError: if another process is training there.
        NoGoodVersionError: if the version to go back to is broken, and there is no other from before it.
        OSError: if the disk refuses.
    """
    folder = Path(folder)
    place = folder.parent / FILE_NAME
    pending = [rollback for rollback in read_rollbacks(place) if not rollback.settled]
    # One after the other, since none is asked for before the last one is settled.
    for rollback in pending:
        carry_out(folder, rollback)
    return read_rollbacks(place)


def carry_out(folder: Path, rollback: Rollback) -> Rollback:
    """Set aside what lies beyond the version, and write down that it is done."""
    tell = lambda event, **details: _record(folder, {"time": round(time.time(), 3), "event": event, **details})  # noqa: E731
    versions = VersionFolder(folder, Retention(), record=tell)
    versions.open()
    try:
        version = _version_of(folder, rollback)
        versions.go_on_from(version.path, version.step)
        done = replace(rollback, version=version.name, to=version.step, settled=True)
        _record(folder, done.as_event())
        settle(folder.parent / FILE_NAME, done)
    finally:
        versions.close(0.0)
    log.info("%s", done.sentence())
    return done


def _version_of(folder: Path, rollback: Rollback) -> Version:
    named = [version for version in list_versions(folder) if version.name == rollback.version]
    whole, _ = first_that_verifies(named)
    found = whole or last_trusted(folder, min(rollback.to, rollback.trusted))
    if found is None:
        raise NoGoodVersionError(
            f"The run was to go back to {rollback.version}, which cannot be used any more, and {folder} holds no other version of "
            f"{rollback.to:,} steps or fewer that can. Bring one back with `musictrain checkpoints restore`, or start a new run."
        )
    return found


def _record(folder: Path, event: dict[str, Any]) -> None:
    """Add an event to those of the run, if it has some, and not twice."""
    run = RunFolder(folder.parent)
    if not run.events.is_file():
        return
    known = ("event", "number")
    if event["event"] == "rolled_back" and any(all(old.get(key) == event[key] for key in known) for old in read_records(run.events)):
        return
    file = Records(run.events)
    try:
        file.append(event)
    except OSError as error:
        log.warning("The event %r could not be recorded: %s", event["event"], error)
    finally:
        file.close()
