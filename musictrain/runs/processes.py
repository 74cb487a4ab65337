"""A training in a process and a session of its own: found again by whoever comes after a driver that died, told of signals.

What it prints goes to a file, not to the driver, whose death it survives. It holds a file for as long as it lives, so that nobody
starts a second one beside it. The stages of a protocol and the trials of a search are such processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from musictrain.runs.status import process_start

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows)
    fcntl = None  # type: ignore[assignment]

BEGIN_IN = "MUSICTRAIN_RUN_FOLDER"
"""The variable that tells ``fit`` in which folder its run is to be."""
ASKED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Process(Protocol):
    """What a driver needs of one: ``subprocess.Popen`` is such."""

    pid: int

    def poll(self) -> int | None:
        """The exit status, None while it runs."""


Launch = Callable[..., Process]
"""Starts ``musictrain`` with these words: what it prints is added to a file, these variables are set, it inherits these descriptors."""


def launch(words: Sequence[str], log: Path, variables: Mapping[str, str], *descriptors: int) -> Process:
    """A process of the same interpreter, in a session of its own: Ctrl-C reaches it through the driver alone.

    A variable that is set to nothing is taken away.
    """
    environment = {name: value for name, value in {**os.environ, **variables}.items() if value or name not in variables}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "musictrain", *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=descriptors,
        )


class Slot:
    """The file that such a process holds. Record locks would end with the driver; this lock is the process's own, and ends with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> int | None:
        """Take it for a process that is about to be started; gives back the descriptor, None while another process lives."""
        if self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:  # a file system without locks
                pass
            self._descriptor = descriptor
        return self._descriptor

    def give(self, pid: int | None = None) -> None:
        """Leave it to the process that was started, if any, and note which that is."""
        if self._descriptor is None:
            return
        if pid is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{pid} {process_start(pid)}\n".encode(), 0)
        os.close(self._descriptor)
        self._descriptor = None

    def owner(self) -> int | None:
        """The process that was started last, if it still lives on this machine."""
        try:
            pid, _, started = self.path.read_text(encoding="utf-8").strip().partition(" ")
            return int(pid) if started and process_start(int(pid)) == started else None
        except (OSError, ValueError):
            return None


class Signals:
    """What a driver was asked to, and passes on to the process it has started."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.pid: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        """The handler: everything is passed on, a second time too."""
        self.asked = number
        self.pass_on()

    def pass_on(self) -> None:
        """Tell it: of Ctrl-C all its processes, as a terminal does; of anything else the first one, which tells the others."""
        if self.pid is None or self.asked is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.asked == signal.SIGINT and os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, signal.SIGINT)
            else:
                os.kill(self.pid, signal.SIGINT if self.asked == signal.SIGINT else signal.SIGTERM)


@contextmanager
def passing_on() -> Iterator[Signals]:
    """Within it signals end nothing here: they are passed on, and remembered."""
    signals = Signals()
    earlier = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        earlier = {number: signal.signal(number, signals) for number in ASKED}
    try:
        yield signals
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
