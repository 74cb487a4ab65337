"""A thread that does slow work in order, and the buffers that keep what it may hold bounded.

Saves and removals share one queue, so that nothing is removed before what came first is durable. Training waits only where all buffers are
still being written from.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from musictrain.checkpoints.snapshot import Buffers

log = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs jobs one after the other in a thread of its own, which ends with the program.

    Args:
        slots: copies of a checkpoint that may wait or be written at the same time.
    """

    def __init__(self, slots: int = 2) -> None:
        self._idle: queue.Queue[Buffers] = queue.Queue()
        for _ in range(slots):
            self._idle.put(Buffers())
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._submitted = self._done = 0
        self._waited_at, self._waiting_since = -1, 0.0
        self._thread: threading.Thread | None = None

    def buffers(self, timeout: float) -> Buffers | None:
        """Buffers for one copy, to be handed in with ``submit``; None if none got free in ``timeout`` seconds."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        try:
            patience = self._patience(timeout)
            return self._idle.get(timeout=patience) if patience > 0 else None
        except queue.Empty:
            return None

    def _patience(self, timeout: float) -> float:
        """What is left of ``timeout`` seconds. A disk that hangs is waited for once, whoever waits and how often, until a job is done."""
        if self._waited_at != self._done:
            self._waited_at, self._waiting_since = self._done, time.monotonic()
        return self._waiting_since + timeout - time.monotonic()

    def give_back(self, buffers: Buffers) -> None:
        """Buffers that were not handed in after all."""
        buffers.release()
        self._idle.put(buffers)

    def submit(self, job: Callable[[], Any], buffers: Buffers | None = None) -> None:
        """Run ``job`` after all before it, then free its buffers. What it raises is logged: a job reports its failures itself."""

        def run() -> None:
            try:
                job()
            except BaseException:  # SystemExit too: who submits next finds a thread that is alive
                log.exception("A job of the checkpoint writer failed.")
            finally:
                if buffers is not None:
                    self.give_back(buffers)

        with self._changed:
            self._submitted += 1
        self._jobs.put(run)
        if self._thread is None or not self._thread.is_alive():
            # A daemon: a hung disk must not keep the program from ending. Who wants its work done waits for it.
            self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            finally:
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()

    @property
    def on_its_thread(self) -> bool:
        """Whether the caller is one of the jobs."""
        return threading.current_thread() is self._thread

    def wait(self, timeout: float | None = None) -> bool:
        """Until everything submitted so far is done; False if that took longer than ``timeout`` seconds, of which those count in which
        somebody has waited for the same job before.
        """
        with self._changed:
            goal = self._submitted
            if self._done >= goal:
                return True
            deadline = None if timeout is None else time.monotonic() + self._patience(timeout)
            while self._done < goal:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                # In short spells: a signal's handler runs between them.
                self._changed.wait(0.2 if left is None else min(0.2, left))
        return True
