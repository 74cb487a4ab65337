"""Learning-rate schedules: from the number of optimizer steps taken so far to a factor in [0, 1] on the optimizer's learning rate.

A schedule is a frozen dataclass and a pure function of the step, so that it needs no state and a resumed run is on the same curve. All warm
up linearly, from ``1 / (warmup_steps + 1)`` before the first step to 1 after ``warmup_steps``: no step is wasted on a rate of 0.
Where ``total_steps`` is None, the run's own length is filled in by :meth:`Schedule.over`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["Constant", "InverseSquareRoot", "Schedule", "WarmupCosine", "WarmupStableDecay"]


class Schedule(ABC):
    """The protocol: call it with a step to get the factor. Derive from it, as a dataclass, for a schedule of your own."""

    warmup_steps: int
    total_steps: int | None = None

    @abstractmethod
    def __call__(self, step: float) -> float:
        """The factor, in [0, 1], for the optimizer step that follows ``step`` steps.

        Raises:
            ValueError: if the schedule needs ``total_steps`` and has none.
        """

    @property
    def needs_total_steps(self) -> bool:
        """Whether the run's length must be filled in before the schedule can be called."""
        return False

    def over(self, total_steps: int) -> Schedule:
        """The same schedule with the run's length filled in where it was left open."""
        return self

    def _warmup(self, step: float) -> float:
        return min(1.0, (step + 1) / (self.warmup_steps + 1))


@dataclass(frozen=True)
class _Ending(Schedule):
    """A schedule that knows where it ends: ``final_fraction`` at ``total_steps`` and ever after."""

    warmup_steps: int = 100
    total_steps: int | None = None
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_warmup(self)
        check_share(self, "final_fraction")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(
                f"{type(self).__name__} got total_steps={self.total_steps}, expected at least 1, or None for the run's length."
            )

    @property
    def needs_total_steps(self) -> bool:
        return self.total_steps is None

    def over(self, total_steps: int) -> Schedule:
        return self if self.total_steps is not None else replace(self, total_steps=total_steps)

    def _progress(self, step: float, start: float) -> float:
        """Share of the way from ``start`` to the end, in [0, 1]."""
        if self.total_steps is None:
            raise ValueError(f"{type(self).__name__} has no total_steps yet: give it one, or call over(total_steps) first.")
        if step >= self.total_steps:
            return 1.0
        return (step - start) / (self.total_steps - start) if step > start else 0.0

    def _falling(self, height: float) -> float:
        """``height`` in [0, 1] laid between final_fraction and 1."""
        return self.final_fraction + (1.0 - self.final_fraction) * height


@dataclass(frozen=True)
class WarmupCosine(_Ending):
    """Warm up, then fall along half a cosine.

    Args:
        warmup_steps: optimizer steps until the full rate.
        total_steps: optimizer steps until the end; None takes the run's own length. A run that is no longer than the warm-up ends in it.
        final_fraction: factor at the end and after it, in [0, 1].

    Raises:
        ValueError: if an argument is out of its range.

    Source: Loshchilov & Hutter, SGDR (ICLR 2017), without restarts.
    """

    def __call__(self, step: float) -> float:
        progress = self._progress(step, self.warmup_steps)
        return self._warmup(step) if step < self.warmup_steps else self._falling(0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class WarmupStableDecay(_Ending):
    """Warm up, stay, and decay at the end ("WSD"): the stable part can be lengthened without having planned for it.

    Args:
        warmup_steps: optimizer steps until the full rate.
        total_steps: optimizer steps until the end; None takes the run's own length. A run that is no longer than the warm-up ends in it.
        final_fraction: factor at the end and after it, in [0, 1].
        decay_fraction: share of all steps spent in the decay, in [0, 1]; the warm-up is never cut.
        shape: ``linear``, or ``sqrt`` for one minus the square root of the progress, which falls fast at first.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Hu et al., MiniCPM (2024); the shapes as compared by Hägele et al. (NeurIPS 2024), who found ``sqrt`` best.
    """

    decay_fraction: float = 0.2
    shape: Literal["linear", "sqrt"] = "sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self, "decay_fraction")
        if self.shape not in ("linear", "sqrt"):
            raise ValueError(f"WarmupStableDecay got shape={self.shape!r}, expected 'linear' or 'sqrt'.")

    def __call__(self, step: float) -> float:
        total_steps = self.total_steps or 0
        progress = self._progress(step, max(self.warmup_steps, total_steps - self.decay_fraction * total_steps))
        if step < self.warmup_steps:
            return self._warmup(step)
        return self._falling(1.0 - (math.sqrt(progress) if self.shape == "sqrt" else progress))


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """Warm up, then fall with one over the square root of the step, without an end: for runs of unknown length.

    Args:
        warmup_steps: optimizer steps until the full rate; the longer, the slower the fall.

    Raises:
        ValueError: if ``warmup_steps`` is negative.

    Source: Vaswani et al., Attention Is All You Need (2017), section 5.3, with the factor scaled to peak at 1.
    """

    warmup_steps: int = 100

    def __post_init__(self) -> None:
        check_warmup(self)

    def __call__(self, step: float) -> float:
        return min(self._warmup(step), math.sqrt((self.warmup_steps + 1) / (step + 1)))


@dataclass(frozen=True)
class Constant(Schedule):
    """Warm up, then stay.

    Args:
        warmup_steps: optimizer steps until the full rate.

    Raises:
        ValueError: if ``warmup_steps`` is negative.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        check_warmup(self)

    def __call__(self, step: float) -> float:
        return self._warmup(step)


def check_warmup(schedule: Schedule) -> None:
    """Refuse a negative warm-up with a ValueError."""
    if schedule.warmup_steps < 0:
        raise ValueError(f"{type(schedule).__name__} got warmup_steps={schedule.warmup_steps}, expected 0 or more optimizer steps.")


def check_share(schedule: Any, name: str) -> None:
    """Refuse a value outside [0, 1] with a ValueError."""
    if not 0.0 <= getattr(schedule, name) <= 1.0:
        raise ValueError(f"{type(schedule).__name__} got {name}={getattr(schedule, name)}, expected a share in [0, 1].")


def no_limit(schedule: Schedule) -> str:
    """The message for a schedule that needs the run's length and a trainer that has none."""
    return (
        f"{type(schedule).__name__} needs the number of optimizer steps, and this trainer has none: neither max_steps, nor max_epochs "
        "over a loader of known length. Set trainer.max_steps or the schedule's total_steps, or take InverseSquareRoot or Constant."
    )
