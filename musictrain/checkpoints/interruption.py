"""Signals that ask a run to stop or to save: noted when they come, obeyed between two steps."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)

STOPPING = ("SIGTERM", "SIGINT")
SAVING = ("SIGUSR1",)


class Interrupted(SIGTERMException):
    """A signal ended the run after everything was saved. The program's exit status is 128 plus the signal's number: 143 or 130."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """Handlers that only take note, from ``install`` to ``restore``.

    SIGTERM and SIGINT ask to stop; the second one stops at once, without saving. SIGUSR1 asks to save and go on, unless somebody
    else (Lightning under SLURM) listens to it already.
    """

    def __init__(self) -> None:
        self.stop: int = 0
        self.save = False
        self._before: dict[int, Any] = {}

    def install(self, stop: int = 0) -> None:
        """Listen; outside the main thread Python has no signals. ``stop`` is one that somebody else has taken before."""
        self.stop, self.save = stop, False
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for name in (*STOPPING, *SAVING):
            signum = getattr(signal, name, None)
            if signum is None or (name in SAVING and signal.getsignal(signum) not in (None, signal.SIG_DFL)):
                continue
            self._before[signum] = signal.signal(signum, self._on_save if name in SAVING else self._on_stop)

    def restore(self) -> None:
        """Put back what listened before, where nobody has done so: Lightning puts back what listened before itself, first or last."""
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._before.items():
                if signal.getsignal(signum) in (self._on_stop, self._on_save):
                    signal.signal(signum, signal.SIG_DFL if handler is None else handler)
            self._before = {}

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop:
            raise Interrupted(signum)
        self.stop = signum

    def _on_save(self, signum: int, frame: FrameType | None) -> None:
        self.save = True
