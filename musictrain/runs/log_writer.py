"""Log records written by a thread, to one file for people and one for programs: whoever logs never waits for a disk."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

from musictrain.runs.log_lines import EventFormatter, LineFormatter

MOST_WAITING = 10_000
CLOSE_SECONDS = 5.0


class ForgivingFile:
    """A file of lines on a disk that may be full: what it cannot take is lost, and nobody's training ends for it.

    Lines are only added, each in one write.

    Args:
        path: made if missing.

    Raises:
        OSError: if it cannot be opened for writing.
    """

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._torn = False

    def write(self, line: str) -> None:
        """Add a line, or lines that belong together."""
        left = ("\n" * self._torn + line + "\n").encode("utf-8", "backslashreplace")
        self._torn = True
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]
            self._torn = False

    def close(self) -> None:
        """Give the file back, whether or not its last lines fit."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class LogWriter:
    """Writes records in the order in which they were handed over, a moment later.

    If the disk hangs, the newest 10,000 records wait and the others are lost; how many is said when it goes on. In a process that was
    forked off, records are written at once: the thread is its parent's.

    Args:
        path: the log for people, every record.
        events: the log for programs, warnings and worse; None for none.

    Raises:
        OSError: if one cannot be opened for writing.
    """

    def __init__(self, path: Path, events: Path | None = None) -> None:
        self._lines = ForgivingFile(path)
        self._events = ForgivingFile(events) if events is not None else None
        self._line_formatter, self._event_formatter = LineFormatter(), EventFormatter()
        self._waiting: deque[logging.LogRecord] = deque()
        self._changed = threading.Condition()
        self._busy = self._closing = False
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def put(self, record: logging.LogRecord) -> None:
        """Hand over a record that nobody changes any more."""
        if os.getpid() != self._pid:  # before anything is locked: the lock may have been held at the fork
            self._write(record)
            return
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="train log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Wait until everything handed over so far is written; gives back whether it is, ``timeout`` seconds later at most."""
        if os.getpid() != self._pid:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Write what waits, within ``timeout`` seconds, and give the files back."""
        if not self.flush(timeout):
            return  # the thread hangs in a write: its files stay its own
        if os.getpid() == self._pid:
            with self._changed:
                self._closing, thread = True, self._thread
                self._changed.notify_all()
            if thread is not None and thread is not threading.current_thread():
                thread.join(timeout)
        for file in (self._lines, self._events):
            if file is not None:
                file.close()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._busy, record = True, self._waiting.popleft()
                lost, self._lost = self._lost, 0
            if lost:
                self._write(_lost_record(lost))
            self._write(record)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _write(self, record: logging.LogRecord) -> None:
        # Whatever is wrong with one record must not keep back the next.
        with contextlib.suppress(Exception):
            self._lines.write(self._line_formatter.format(record))
        if self._events is not None and record.levelno >= logging.WARNING:
            with contextlib.suppress(Exception):
                self._events.write(self._event_formatter.format(record))


def _lost_record(lost: int) -> logging.LogRecord:
    told = {"msg": "%d log records were lost, since the disk took none for too long.", "args": (lost,), "created": time.time()}
    return logging.makeLogRecord({"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", **told})
