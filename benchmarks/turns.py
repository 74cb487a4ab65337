"""Several trainings in one process that take turns, step by step: whatever else the machine does slows all of them alike.

Each runs in a thread of its own, and its loader asks for a turn before it hands out a batch. A step is all the time from getting a turn to
asking for the next: loading, hooks, sums, logging and progress included. No two threads ever compute at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

PATIENCE_SECONDS = 300.0


class TurnsError(RuntimeError):
    """A training ended before its time, or does not come back."""


class Turns:
    """Who may compute, in the order of ``names``, round after round; keeps the seconds of every turn.

    Args:
        names: of the trainings.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._present = list(names)
        self._turn = names[0]
        self._began: float | None = None
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def next(self, name: str) -> None:
        """End this training's turn, if it has one, and wait for its next.

        Raises:
            TurnsError: if another one failed, or does not end its turn.
        """
        now = time.perf_counter()
        with self._changed:
            if self._turn == name and self._began is not None:
                self.seconds[name].append(now - self._began)
                self._pass_on(name)
            if not self._changed.wait_for(lambda: self._turn == name or self._error is not None, PATIENCE_SECONDS):
                self._error = TurnsError(f"{self._turn} has not ended its turn within {PATIENCE_SECONDS:.0f} s.")
            if self._error is not None:
                raise TurnsError("Another training failed.") from self._error
            self._began = time.perf_counter()

    def leave(self, name: str, error: BaseException | None = None) -> None:
        """Take no further turn; an error ends the others too."""
        with self._changed:
            self._error = self._error or error
            if self._turn == name:
                self._pass_on(name)
            if name in self._present:
                self._present.remove(name)
            self._changed.notify_all()

    def _pass_on(self, name: str) -> None:
        position = self._present.index(name)
        self._turn, self._began = self._present[(position + 1) % len(self._present)], None
        self._changed.notify_all()

    def run(self, trainings: dict[str, Callable[[], object]]) -> None:
        """Run them all to their end: the first in this thread (some trainers insist on the main one), each other in its own.

        Raises:
            BaseException: what one of them raised.
        """
        (first, in_main), *others = trainings.items()
        threads = [threading.Thread(target=self._guarded, args=(name, train), daemon=True) for name, train in others]
        for thread in threads:
            thread.start()
        self._guarded(first, in_main)
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        if self._error is not None:
            raise self._error

    def _guarded(self, name: str, train: Callable[[], object]) -> None:
        try:
            train()
        except BaseException as error:
            self.leave(name, error)
        else:
            self.leave(name)

    def rounds(self, skip: int) -> Iterator[dict[str, float]]:
        """Seconds of each training's step, round by round, without the first ``skip``."""
        for steps in list(zip(*self.seconds.values(), strict=False))[skip:]:
            yield dict(zip(self.seconds, steps, strict=True))


ASKED: Turns | None = None
"""The turns that a loader built by somebody else, such as the command line, asks for."""


def take_turn(name: str) -> None:
    """Ask the present turns for one; without any, go on."""
    if ASKED is not None:
        ASKED.next(name)
