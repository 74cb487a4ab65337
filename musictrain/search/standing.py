"""What the run of a trial has come to, read from its folder: by its own words, its rows and its versions."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.runs.folder import RunFolder
from musictrain.runs.rows import read_rows, step_of, values_of
from musictrain.runs.status import Status, read_status

FULL_DISK = (f"[Errno {errno.ENOSPC}]", f"[Errno {errno.EDQUOT}]", "No space left on device", "Disk quota exceeded")
MOST_READ = 1 << 16
LONGEST_REASON = 400


@dataclass(frozen=True)
class TrialStanding:
    """Where the run of a trial stands; the folder need not exist.

    Args:
        step: of the last version that it can go on from, 0 without one.
        resumable: whether there is one.
        state: its own word, empty if it has said none; ``stale`` of one that died before it could say another.
        ended: whether it is done, or was stopped by a rule of its own; then ``step`` is where.
        by_guard: whether a guard has stopped it, for its health.
        reason: why it ended, if it did not simply finish.
    """

    step: int = 0
    resumable: bool = False
    state: str = ""
    ended: bool = False
    by_guard: bool = False
    reason: str = ""

    def has_reached(self, step: int) -> bool:
        """Whether nothing has to be trained up to a step."""
        return self.ended or (self.state == "paused" and self.step >= step)


def standing_of(run: RunFolder, last_step: int | None = None) -> TrialStanding:
    """What a run's folder tells.

    Args:
        run: of the trial.
        last_step: its ``trainer.max_steps``: with a version of that step it is done, whatever it came to say of it.
    """
    versions = [version for version in list_versions(run.checkpoints) if version.resumable]
    step = max((version.step for version in versions), default=0)
    status = read_status(run.status)
    if status is None:
        return TrialStanding(step, bool(versions))
    # The status may be written a moment before the last version is.
    done = status.state in ("finished", "stopped") and step >= status.step
    over = last_step is not None and versions != [] and step >= last_step and not _lives(status)
    return TrialStanding(step, bool(versions), status.shown_state(), done or over, done and status.by_guard, status.reason)


def _lives(status: Status) -> bool:
    return status.is_active() and status.shown_state() == status.state


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    """The rows that count, by step; what a kill kept from the file and a version knows is there too."""
    rows = read_rows(run.metrics)
    known: dict[int | None, set[str]] = {}
    for row in rows:
        known.setdefault(step_of(row), set()).update(values_of(row))
    for version in list_versions(run.checkpoints):
        missing = _sealed(version, known.get(version.step, set()))
        if missing:
            rows.append({"step": version.step, **missing})
            known.setdefault(version.step, set()).update(missing)
    return sorted(rows, key=lambda row: step_of(row) or 0)


def _sealed(version: Version, known: set[str]) -> dict[str, float]:
    metrics: Mapping[str, float] = version.seal.metrics if version.seal is not None else {}
    return {name: value for name, value in metrics.items() if name.startswith("val/") and name not in known}


def why_it_failed(exit_status: int, standing: TrialStanding, log: Path, place: int = 0) -> str:
    """Why a process that has ended by itself did not do what it was asked to, in a sentence.

    Args:
        exit_status: of the process, negative for a signal.
        standing: what its run says.
        log: what it has printed.
        place: where in that file it began.
    """
    if standing.by_guard:
        return f"stopped for its health: {standing.reason}"
    if exit_status < 0:
        return killed_by(-exit_status)
    if standing.state == "failed" and standing.reason:
        return shortened(standing.reason)
    return shortened(last_words(log, place) or f"it ended with status {exit_status} and said nothing")


def killed_by(number: int) -> str:
    """What a signal that ended a process was, and what it may mean.

    >>> killed_by(9)
    'killed by signal 9 (SIGKILL): out of memory?'
    """
    name = signal.Signals(number).name if number in [each.value for each in signal.Signals] else "unknown"
    return f"killed by signal {number} ({name})" + (": out of memory?" if number == signal.SIGKILL else "")


def disk_is_full(reason: str) -> bool:
    """Whether that is what a reason says."""
    return any(words in reason for words in FULL_DISK)


def last_words(log: Path, place: int = 0) -> str:
    """The error that a process has ended with by what it printed, else its last line; empty if it said nothing."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(place, size - MOST_READ))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line for line in lines if re.match(r"error: |[A-Za-z.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or [""])[-1].removeprefix("error: ")


def shortened(text: str) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
