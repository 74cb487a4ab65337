"""The heartbeat of a run: a thread that writes ``status.json`` every few seconds, even while nothing else happens."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from musictrain.runs.atomic import atomic_write
from musictrain.runs.status import HEARTBEAT_SECONDS, Status

log = logging.getLogger(__name__)

LEAST_SECONDS = 0.5  # between two beats, however often something changes
STOP_SECONDS = 5.0


class Heartbeat:
    """Writes what it is given, again and again. A disk that fails or hangs holds nobody up: the next beat tries anew.

    Args:
        path: of ``status.json``.
        status: asked by the thread for what to write, whose time of day is then filled in.
        seconds: between two beats.

    Raises:
        ValueError: if ``seconds`` is not positive.
    """

    def __init__(self, path: str | Path, status: Callable[[], Status], seconds: float = HEARTBEAT_SECONDS) -> None:
        if not seconds > 0:
            raise ValueError(f"The heartbeat got seconds={seconds}; it needs a positive number of seconds between two beats.")
        self.path, self.seconds = Path(path), seconds
        self._status = status
        self._changed = threading.Condition()
        self._soon = self._stopping = False
        self._last = True
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def start(self) -> None:
        """Begin, with a beat at once; nothing happens if it goes already."""
        if self._thread is None:
            self._stopping, self._last, self._pid = False, True, os.getpid()
            self._sweep()
            self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)
            self._thread.start()

    def _sweep(self) -> None:
        """Take away what a beat left behind that was killed in the middle."""
        with contextlib.suppress(OSError):
            for torn in self.path.parent.glob(f".{self.path.name}.*.tmp"):
                torn.unlink()

    def beat(self) -> None:
        """Something has changed: do not wait for the next beat. Never waits."""
        self._soon = True

    def stop(self, timeout: float = STOP_SECONDS, *, last: bool = True) -> bool:
        """Write a last time, if ``last``, and end; gives back whether that was done in so many seconds. A forked process does nothing."""
        thread, self._thread = self._thread, None
        if thread is None or os.getpid() != self._pid:
            return True
        with self._changed:
            self._stopping, self._last = True, last
            self._changed.notify_all()
        thread.join(timeout)
        return not thread.is_alive()

    def _go_on(self) -> None:
        while not self._stopping:
            self._write()
            self._rest()
        if self._last:
            self._write()

    def _rest(self) -> None:
        # Looked for, not waked: whoever says that something has changed must not stand in line for a lock.
        end = time.monotonic() + self.seconds
        with self._changed:
            while not (self._stopping or self._soon) and (left := end - time.monotonic()) > 0:
                self._changed.wait_for(lambda: self._stopping, min(left, LEAST_SECONDS))

    def _write(self) -> None:
        self._soon = False
        try:
            status = self._status()
            status.updated = round(time.time(), 3)
            atomic_write(self.path, status.as_json(), durable=self._stopping)
        except Exception as error:  # it is tried again in a moment, and says less than what it watches
            log.debug("No heartbeat in %s: %s", self.path, error)
