"""Which state a run is in while it goes on: what the training does, or the pause that it makes for something else."""

from __future__ import annotations

from collections.abc import Callable

from musictrain.runs.status import ACTIVE

PAUSES = {"validation": "validating", "sampling": "sampling", "saving": "saving"}


class States:
    """The present state of ``musictrain.runs.status``, from what is told; listens to the phases of ``musictrain.speed``.

    Args:
        changed: called whenever it is another one.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._driven = "starting"
        self._pauses: list[str] = []

    @property
    def state(self) -> str:
        """The innermost pause, else what the training does."""
        pauses = self._pauses[-1:]  # one look: another thread may be asking
        return PAUSES[pauses[0]] if pauses else self._driven

    def drive(self, state: str) -> None:
        """The training does something else from now on; pauses that were left open are over.

        Raises:
            ValueError: if that is no state of a run that goes on.
        """
        if state not in ACTIVE:
            raise ValueError(f"There is no active state {state!r} of a run: {', '.join(ACTIVE)}.")
        if state != self._driven or self._pauses:
            self._driven, self._pauses = state, []
            self._changed()

    def enter(self, phase: str) -> None:
        """A pause begins; other phases are none."""
        if phase in PAUSES:
            self._pauses.append(phase)
            self._changed()

    def leave(self, phase: str) -> None:
        """It ends; nothing happens if it was never entered."""
        if self._pauses and self._pauses[-1] == phase:
            self._pauses.pop()
            self._changed()
