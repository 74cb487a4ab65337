"""Records written by a thread: whoever hands one over never waits for a disk.

Conventions:

- Records reach the file in the order in which they were handed over, a moment later. Each is one write, so that a kill leaves whole lines
  and at most one torn one, at the end.
- What the disk does not take (it is full, or hangs) waits in memory and is tried again. Once ``most`` records wait, the oldest gives way:
  what a person looks for is how it ended. Vital records stay. How many were lost is said when the disk takes records again.
- Records that a power cut could still take are known by name, so that a checkpoint can carry them.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.runs.records import Records

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.25
RETRY_SECONDS = 1.0
SYNC_SECONDS = 5.0
CLOSE_SECONDS = 10.0


@dataclass
class _Waiting:
    record: Mapping[str, Any]
    vital: bool


class RecordWriter:
    """The writing end of a JSON-lines file, for a thread that must not wait.

    A process that was forked off writes nothing: the file stays its parent's. What still waits when the program ends is written then,
    if the disk takes it within seconds.

    Args:
        path: the file; made at the first record.
        most: so many records wait at most.
        on_loss: told how many records were lost, once others are written again; by default a warning is logged.
        sync_seconds: how often what was written is secured against a power cut.
        retry_seconds: how long to wait after a failure.

    Raises:
        ValueError: if ``most`` is not positive.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        most: int = 10_000,
        on_loss: Callable[[int], None] | None = None,
        sync_seconds: float = SYNC_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        if most < 1:
            raise ValueError(f"RecordWriter got most={most}; it needs room for 1 record or more.")
        self.path, self.most = Path(path), most
        self.lost = 0
        self._on_loss, self._sync_seconds, self._retry_seconds = on_loss or self._warn_of_loss, sync_seconds, retry_seconds
        self._file = Records(self.path)
        self._waiting: deque[_Waiting] = deque()
        self._unsynced: deque[Mapping[str, Any]] = deque(maxlen=most)
        self._changed = threading.Condition()
        self._hurry = self._securing = self._busy = self._closing = self._failing = False
        self._untold = 0
        self._synced = time.monotonic()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def append(self, record: Mapping[str, Any], *, vital: bool = False) -> None:
        """Hand over a record, which nobody must change any more; never waits and never fails. After ``close`` it begins anew.

        Args:
            record: tensors and arrays in it are turned into numbers by the thread.
            vital: whether it stays when others must give way.
        """
        if os.getpid() != self._pid:  # before anything is locked: the lock may have been held at the fork
            return
        with self._changed:
            if len(self._waiting) >= self.most:
                self._make_room()
            self._waiting.append(_Waiting(record, vital))
            if self._is_crowded():
                self._changed.notify_all()
            if self._thread is None:
                self._start()

    def unsynced(self) -> list[Mapping[str, Any]]:
        """The records that a power cut now could take, oldest first: those that wait, and those not yet secured."""
        with self._changed:
            return [*self._unsynced, *(waiting.record for waiting in self._waiting)]

    def flush(self, timeout: float = CLOSE_SECONDS, *, sync: bool = False) -> bool:
        """Wait until everything handed over so far is with the operating system; gives back whether it is.

        Args:
            timeout: seconds to wait at most.
            sync: whether to wait until a power cut cannot take it either.
        """
        if os.getpid() != self._pid:
            return False
        with self._changed:
            self._hurry, self._securing = True, self._securing or sync
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._settled(sync), timeout)
            self._hurry, self._securing = False, self._securing and not sync
        return done

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Write what waits, within ``timeout`` seconds, and give the file back; gives back whether nothing is left."""
        if os.getpid() != self._pid or self._thread is None:
            return True
        done = self.flush(timeout, sync=True)
        with self._changed:
            thread, self._closing = self._thread, True
            self._changed.notify_all()
        if done and thread is not None:
            thread.join(timeout)
        return done

    def _settled(self, sync: bool) -> bool:
        return not (self._waiting or self._busy or (sync and self._unsynced))

    def _is_crowded(self) -> bool:
        return 2 * len(self._waiting) > self.most

    def _make_room(self) -> None:
        being_written = int(self._busy)
        place = next((place for place, waiting in enumerate(self._waiting) if place >= being_written and not waiting.vital), None)
        if place is not None:
            del self._waiting[place]
            self.lost += 1
            self._untold += 1

    def _start(self) -> None:
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name=f"writer of {self.path.name}", daemon=True)
        self._thread.start()
        atexit.register(_close_at_exit, weakref.ref(self))

    # What the thread does.

    def _write_all(self) -> None:
        while self._await_records():
            if not self._write_waiting():
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, self._retry_seconds)
            self._sync_if_due()

    def _await_records(self) -> bool:
        """Rest until there is something to do; False if it is time to end."""
        with self._changed:
            # Not woken by each record: a thread that is would take the interpreter from the training every time.
            self._changed.wait_for(lambda: self._closing or self._hurry or self._is_crowded(), LINGER_SECONDS)
            if self._closing:
                self._file.close()
                self._thread = None
            return not self._closing

    def _write_waiting(self) -> bool:
        while True:
            with self._changed:
                if not self._waiting:
                    break
                self._busy, next_one = True, self._waiting[0]
            written = self._write(next_one.record)
            with self._changed:
                self._busy = False
                if written:
                    self._unsynced.append(self._waiting.popleft().record)
                self._changed.notify_all()
            if not written:
                return False
        self._tell_loss()
        return True

    def _write(self, record: Mapping[str, Any]) -> bool:
        try:
            self._file.append(record)
        except OSError as error:
            if not self._failing:
                log.warning("%s cannot be written, it will be tried again: %s", self.path, error)
            self._failing = True
            return False
        except Exception:
            # What cannot be written at all must not keep back what can.
            log.exception("A record of %s could not be written. It had %s.", self.path, ", ".join(map(str, record)))
        self._failing = False
        return True

    def _sync_if_due(self) -> None:
        with self._changed:
            due = self._securing or time.monotonic() - self._synced > self._sync_seconds
            num_written = len(self._unsynced) if due and not self._waiting else 0
        if num_written:
            secured = self._file.sync()
            with self._changed:
                num_written *= secured
                for _ in range(min(num_written, len(self._unsynced))):
                    self._unsynced.popleft()
                self._synced = time.monotonic()
                self._changed.notify_all()

    def _tell_loss(self) -> None:
        with self._changed:
            lost, self._untold = self._untold, 0
        if lost:
            try:
                self._on_loss(lost)
            except Exception:
                log.exception("%d records of %s were lost, and whoever should be told of it failed.", lost, self.path)

    def _warn_of_loss(self, lost: int) -> None:
        log.warning("%s: %d records were lost, since the disk took none for too long. It does again.", self.path, lost)


def _close_at_exit(writer: weakref.ref[RecordWriter]) -> None:
    if (open_one := writer()) is not None:
        open_one.close()
