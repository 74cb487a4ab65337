"""Where a run stands: ``status.json``, one small file that is always whole.

Written by the first process of a run every few seconds, even while nothing else happens: the heartbeat. A run whose process is gone, or
whose heart has stopped, is stale, whatever the file says.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from musictrain.runs.records import plain

ACTIVE = ("starting", "training", "validating", "sampling", "saving")
ENDED = ("finished", "stopped", "failed", "interrupted", "paused")
STALE = "stale"
HEARTBEAT_SECONDS = 5.0
# A heartbeat can be late: a disk that is full, a clock that was set, a laptop that slept.
SILENCE_SECONDS = 60.0


@dataclass
class Status:
    """One state of a run.

    Args:
        name: of the run's folder.
        state: one of ``ACTIVE`` or ``ENDED``; ``stopped`` is a run that a rule ended before its time,
            ``paused`` one that was asked to rest after a step and goes on by ``resume``.
        step: optimizer steps done.
        total: steps in all, None without such a limit.
        epoch: from 0.
        attempt: 1, and one more with every resume.
        first_started, attempt_started, updated: seconds since 1970; ``updated`` is the heartbeat.
        ended: seconds since 1970, None while it runs.
        elapsed_seconds: of training over all attempts.
        left_seconds, left_low, left_high: until the end of the whole run and the bounds of it; None if nobody can tell.
        ends_at: seconds since 1970.
        tokens_per_second: None if unknown.
        values: what was logged last, by name.
        best: ``metric``, ``value`` and ``step``; empty before the first.
        last_alert: ``kind``, ``message``, ``advice``, ``step``, ``time``; empty without one.
        num_alerts: so far.
        reason: why it ended, if it did not simply finish.
        advice: what to do about it.
        by_guard: whether a guard has stopped it, for its health; out of patience is no guard.
        pid, host, process_started: who writes this; ``process_started`` tells a process from a later one of the same number.
        world_size: processes of the run.
    """

    name: str
    state: str = "starting"
    step: int = 0
    total: int | None = None
    epoch: int = 0
    attempt: int = 1
    first_started: float = 0.0
    attempt_started: float = 0.0
    updated: float = 0.0
    ended: float | None = None
    elapsed_seconds: float = 0.0
    left_seconds: float | None = None
    left_low: float | None = None
    left_high: float | None = None
    ends_at: float | None = None
    tokens_per_second: float | None = None
    values: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    last_alert: dict[str, Any] = field(default_factory=dict)
    num_alerts: int = 0
    reason: str = ""
    advice: str = ""
    by_guard: bool = False
    pid: int = 0
    host: str = ""
    process_started: str = ""
    world_size: int = 1

    def as_json(self) -> str:
        """The content of ``status.json``."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False) + "\n"

    def is_active(self) -> bool:
        """Whether the run goes on, by its own words."""
        return self.state in ACTIVE

    def shown_state(self, now: float | None = None) -> str:
        """The state, or ``stale`` if it says that it goes on and does not."""
        return STALE if self.is_active() and is_gone(self, time.time() if now is None else now) else self.state


def read_status(path: str | Path) -> Status | None:
    """The content of a ``status.json``; None if there is none, or none that can be understood. Unknown keys are passed over."""
    try:
        told = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {each.name for each in fields(Status)}
        return Status(**{key: value for key, value in told.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def is_gone(status: Status, now: float) -> bool:
    """Whether nobody writes this status any more: its process is gone, or, on another machine, silent for a minute."""
    if status.host == socket.gethostname() and status.pid:
        return process_start(status.pid) != status.process_started if status.process_started else not _lives(status.pid)
    return not math.isfinite(status.updated) or now - status.updated > SILENCE_SECONDS


def process_start(pid: int) -> str:
    """When a process was started: this start of the machine, and ticks since then; empty if there is none or nobody says.

    One that is dead and waits for its parent to take note is none.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return "" if state in "ZX" else f"{boot}/{fields[18]}"
    except (OSError, IndexError, ValueError):
        return ""


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
