"""One writer for a folder of versions: a second trainer in the same run is told so instead of interleaving with the first."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".lock"
_held_here: set[Path] = set()
_guard = threading.Lock()


class FolderInUseError(RuntimeError):
    """Another process, or another trainer of this one, is writing versions into the folder."""


class FolderLock:
    """Holds a folder from ``acquire`` to ``release``, or until the process ends, however it ends.

    Record locks, not ``flock``: forked data workers do not inherit them, so that a killed trainer's orphans hold nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            FolderInUseError: if somebody else holds it, saying who.
            OSError: if nothing can be written there.
        """
        if self._descriptor is not None:
            return
        with _guard:
            if self.folder in _held_here:
                raise FolderInUseError(f"Another trainer of this process is saving into {self.folder}. Give each its own dirpath.")
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(self.folder / LOCK, flags, 0o666)
            try:
                self._lock(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            _held_here.add(self.folder)

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise FolderInUseError(
                f"{owner} is training this run: it saves into {self.folder}. Wait until it has ended, or stop it, and try again."
            ) from error
        except OSError:
            return  # a file system without locks
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"Process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def renew(self) -> None:
        """Take the folder again if it was deleted meanwhile and made anew."""
        if self._descriptor is None or self._is_there(self._descriptor):
            return
        self.release()
        try:
            self.acquire()
        except (OSError, FolderInUseError) as error:
            log.error("%s was deleted, and cannot be held again: %s", self.folder, error)

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), (self.folder / LOCK).stat())
        except OSError:
            return False

    def release(self) -> None:
        """Give the folder back."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        _held_here.discard(self.folder)
        # Closing gives a lock back whatever it answers, and a run does not fail for that answer.
        with contextlib.suppress(OSError, MemoryError):
            os.close(descriptor)
