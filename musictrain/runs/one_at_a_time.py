"""A small file that several processes change is changed by one at a time, so that no change is lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None  # type: ignore[assignment]

WAIT_SECONDS = 10.0
POLL_SECONDS = 0.01
_one_thread = threading.Lock()


@contextmanager
def one_at_a_time(path: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Within it, no other process or thread is within it for the same ``path``.

    The lock is a record lock on ``.NAME.lock`` beside the file, which the system gives back however a process ends. File systems without
    locks, and Windows, do without: there the last of two changes in the same moment wins.

    Raises:
        TimeoutError: if somebody else has held it for ``wait_seconds``.
        OSError: if nothing can be written beside the file.
    """
    # Record locks belong to the process: its own threads need another one.
    if not _one_thread.acquire(timeout=wait_seconds):
        raise TimeoutError(f"{path} has been changed by another thread for {wait_seconds:g} s. Try again.")
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _take(descriptor, path, wait_seconds)
            yield
        finally:
            os.close(descriptor)
    finally:
        _one_thread.release()


def _take(descriptor: int, path: Path, wait_seconds: float) -> None:
    until = time.monotonic() + wait_seconds
    while fcntl is not None:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > until:
                raise TimeoutError(f"{path} has been held by another process for {wait_seconds:g} s. Try again.") from None
            time.sleep(POLL_SECONDS)
        except OSError:
            return  # a file system without locks
        else:
            return
