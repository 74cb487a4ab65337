"""What asks a run to save or to stop between two steps: signals, the clock, the job's time limit; agreed on by all processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from musictrain.checkpoints.interruption import Signals
from musictrain.checkpoints.triggers import Rhythm, SaveTriggers, time_limit


class Lookout:
    """Looked out of after each optimizer step. Several processes tell each other about once a second what they have heard.

    Args:
        triggers: of which the clock is read here.
        margin_minutes: so long before the time limit the run is stopped.
    """

    def __init__(self, triggers: SaveTriggers, margin_minutes: float) -> None:
        self.triggers, self.margin_minutes = triggers, margin_minutes
        self.pausing = False
        """Whether the run is to rest here, as if a SIGTERM had come: all processes know without telling each other."""
        self._stop = 0
        self._signals = Signals()
        self._rhythm = Rhythm()
        self._time_limit: float | None = None

    @property
    def stop(self) -> int:
        """Number of the signal that asks all processes to stop, 0 for none."""
        return self._stop or (signal.SIGTERM if self.pausing else 0)

    def begin(self) -> None:
        """A fit begins."""
        self._stop, self.pausing, self._rhythm, self._time_limit = 0, False, Rhythm(), time_limit()
        self.triggers.last_save = time.monotonic()

    def listen(self, trainer: Trainer) -> None:
        """Take signals until ``end``. A SIGTERM from before, while the fit was loading, is obeyed after the first step."""
        lightnings: Any = trainer._signal_connector
        self._signals.install(signal.SIGTERM if lightnings.received_sigterm else 0)
        lightnings.received_sigterm = False

    def end(self) -> None:
        """Leave signals to who had them before."""
        self._signals.restore()

    def look(self, trainer: Trainer, step: int) -> Iterator[str]:
        """The reasons to save that all processes know of after ``step``; ``stop`` may be set too."""
        if trainer.world_size > 1 and not self._rhythm.due(step):
            return
        stop, save, clock, late = self._agreed(trainer, step, self._heard())
        self._stop = stop or (signal.SIGTERM if late else 0)
        self._signals.save = False
        yield from (reason for reason, holds in (("signal", save), ("time", clock)) if holds)

    def look_alone(self, trainer: Trainer) -> None:
        """Between the steps, such as after a validation, a single process need not wait for the next one."""
        if trainer.world_size == 1:
            self._stop = self._stop or self._signals.stop

    def reasons_to_leave(self, ends: bool) -> list[str]:
        """Why the run leaves here, if it does; one that ends anyway does not rest."""
        self.pausing = self.pausing and not ends
        return ["pause"] if self.pausing else ["signal"] if self.stop else []

    def _heard(self) -> list[int]:
        late = self._time_limit is not None and time.time() >= self._time_limit - 60 * self.margin_minutes
        return [self._signals.stop, int(self._signals.save), int(self.triggers.by_clock(time.monotonic())), int(late)]

    def _agreed(self, trainer: Trainer, step: int, heard: list[int]) -> list[int]:
        if trainer.world_size == 1:
            return heard
        # Clocks differ: the first process's counts.
        mine = [*heard, self._rhythm.proposal(step)] if trainer.is_global_zero else [*heard[:2], 0, 0, 0]
        common = trainer.strategy.reduce(torch.tensor(mine, device=trainer.strategy.root_device), reduce_op="max")
        *heard, steps = [int(value) for value in cast(Tensor, common).tolist()]
        self._rhythm.agreed(step, steps)
        return heard
