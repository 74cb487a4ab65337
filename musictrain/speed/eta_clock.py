"""What an Eta is told, from the moments of a training, and the plan of its pauses, from a Lightning Trainer.

    clock = EtaClock(Eta())
    listen(clock)                  # samplings and savings, from musictrain.speed.phases
    clock.start(trainer.global_step)
    clock.step(trainer.global_step)                  # after each batch
    clock.enter("validation"); clock.leave("validation")
    clock.eta.left(step, total, plan, clock.running())

Cost: some microseconds a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from musictrain.runs.eta import PAUSES, Eta, Plan

FORWARD_SHARE = 1 / 3  # of a batch's training time: backward takes twice as long


class EtaClock:
    """Tells an Eta what each step and each pause took, pauses inside one another by their own part.

    Args:
        eta: who is told; None keeps only what is running and what has elapsed.
        now: seconds that never go back.
    """

    def __init__(self, eta: Eta | None, now: Callable[[], float] = time.monotonic) -> None:
        self.eta = eta
        self._now = now
        self._carried = 0.0
        self._began: float | None = None
        self._step, self._last, self._aside = 0, 0.0, 0.0
        self._pauses: list[list[Any]] = []  # kind, since when, seconds of those inside it

    @property
    def elapsed_seconds(self) -> float:
        """Of training, over all attempts; it stands still before ``start`` and after ``stop``."""
        return self._carried + (0.0 if self._began is None else self._now() - self._began)

    def start(self, step: int) -> None:
        """Training begins after so many optimizer steps."""
        self._began = self._last = self._now()
        self._step, self._aside, self._pauses = step, 0.0, []

    def stop(self) -> None:
        """Training is over; a later start goes on counting."""
        self._carried, self._began, self._pauses = self.elapsed_seconds, None, []

    def step(self, step: int) -> None:
        """So many optimizer steps are done; nothing happens while a step is still gathering batches."""
        if self._began is None or step <= self._step:
            return
        now = self._now()
        self._tell("step", now - self._last - self._aside, step - self._step)
        self._step, self._last, self._aside = step, now, 0.0

    def enter(self, phase: str) -> None:
        """A pause begins; other phases, and a pause inside its own kind, belong to what they stand in."""
        if phase in PAUSES and self._began is not None:
            self._pauses.append([phase, self._now(), 0.0])

    def leave(self, phase: str) -> None:
        """It ends; nothing happens if it was never entered."""
        if not self._pauses or self._pauses[-1][0] != phase:
            return
        _, since, inside = self._pauses.pop()
        seconds = self._now() - since
        if self._pauses and self._pauses[-1][0] == phase:
            return
        if self._pauses:
            self._pauses[-1][2] += seconds
        else:
            self._aside += seconds
        self._tell(phase, seconds - inside)

    def running(self) -> tuple[str, float]:
        """What is being done, and for how many seconds: a pause, or the step that was begun last."""
        pauses = self._pauses[-1:]  # one look: another thread may be asking
        if pauses:
            return pauses[0][0], self._now() - pauses[0][1] - pauses[0][2]
        return "step", 0.0 if self._began is None else max(self._now() - self._last - self._aside, 0.0)

    def _tell(self, kind: str, seconds: float, steps: int = 1) -> None:
        if self.eta is not None:
            self.eta.tell(kind, max(seconds, 0.0), steps)

    def state_dict(self) -> dict[str, Any]:
        """Elapsed seconds and what the Eta knows, in plain values."""
        return {"elapsed_seconds": self.elapsed_seconds, **({} if self.eta is None else {"eta": self.eta.state_dict()})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, at the next start."""
        self._carried = float(state_dict["elapsed_seconds"])
        if self.eta is not None and "eta" in state_dict:
            self.eta.load_state_dict(state_dict["eta"])


def plan_of(trainer: Any, *, batches_per_step: int = 1, steps_per_epoch: int | None = None) -> Plan:
    """The pauses that a Lightning Trainer will make, once its loaders are there, and its limit of time.

    Args:
        trainer: about to train, or training.
        batches_per_step: how many an optimizer step gathers.
        steps_per_epoch: None without an end of epochs.

    Returns:
        Validations by ``val_check_interval`` or ``check_val_every_n_epoch`` (unknown where they go by the clock), what callbacks with a
        method ``pauses(validation_every) -> Plan`` say, and the least time that Lightning's ``Timer`` leaves.
    """
    every = _validation_every(trainer, batches_per_step, steps_per_epoch)
    batches = sum(count for count in _listed(trainer.num_val_batches) if math.isfinite(count))
    plans = [callback.pauses(every) for callback in trainer.callbacks if callable(getattr(callback, "pauses", None))]
    return Plan(
        every={**({"validation": every} if every else {}), **{kind: steps for plan in plans for kind, steps in plan.every.items()}},
        at_end={kind: count for plan in plans for kind, count in plan.at_end.items()},
        guesses={"validation": batches / batches_per_step * FORWARD_SHARE},
        limit_seconds=time_limit(trainer),
    )


def _validation_every(trainer: Any, batches_per_step: int, steps_per_epoch: int | None) -> float | None:
    """Optimizer steps between two validations; infinite if there is none, None if nobody knows."""
    if not any(_listed(trainer.num_val_batches)):
        return math.inf
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        return None
    batches, epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if epochs is None:
        return batches / batches_per_step if batches and math.isfinite(batches) else None
    if steps_per_epoch is None:
        return None
    within = max(int(trainer.num_training_batches // batches), 1) if batches and math.isfinite(batches) else 1
    return max(epochs * steps_per_epoch / within, 1e-9)


def _listed(count: Any) -> list[float]:
    return list(count) if isinstance(count, list | tuple) else [count]


def time_limit(trainer: Any) -> float | None:
    """The least number of seconds that a callback with a ``time_remaining()``, such as Lightning's ``Timer``, leaves; None without."""
    asked = [callback.time_remaining() for callback in trainer.callbacks if callable(getattr(callback, "time_remaining", None))]
    return min((max(seconds, 0.0) for seconds in asked if seconds is not None), default=None)
