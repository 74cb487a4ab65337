"""WarmRestarts: a learning rate that falls along a cosine and springs up again, over and over."""

from __future__ import annotations

import math
from dataclasses import dataclass

from musictrain.optim.schedules import Schedule, check_share, check_warmup


@dataclass(frozen=True)
class WarmRestarts(Schedule):
    """Warm up, then fall along half a cosine in every cycle and begin the next one at the top.

    What it is for: the end of each cycle is a finished model, to be kept or averaged with those of other cycles, and a run may be ended at
    any of them without having planned its length.

    Args:
        warmup_steps: optimizer steps until the full rate; the first cycle begins after them.
        cycle_steps: optimizer steps of the first cycle.
        cycle_growth: each cycle is this many times as long as the one before, a whole number.
        final_fraction: factor a cycle falls to, of its own peak, in [0, 1].
        peak_fraction: peak of each cycle, as a share of the peak before, in [0, 1]; 1 always springs up to the full rate.

    Raises:
        ValueError: if an argument is out of its range.

    Source: Loshchilov & Hutter, SGDR (ICLR 2017). With ``peak_fraction`` 1 the cycles are those of torch's ``CosineAnnealingWarmRestarts``;
    torch has neither the warm-up nor falling peaks.
    """

    warmup_steps: int = 100
    cycle_steps: int = 1000
    cycle_growth: int = 1
    final_fraction: float = 0.1
    peak_fraction: float = 1.0

    def __post_init__(self) -> None:
        check_warmup(self)
        check_share(self, "final_fraction")
        check_share(self, "peak_fraction")
        for name in ("cycle_steps", "cycle_growth"):
            value = getattr(self, name)
            if value < 1 or value != int(value):
                raise ValueError(f"WarmRestarts got {name}={value}, expected a whole number of at least 1.")

    def __call__(self, step: float) -> float:
        if step < self.warmup_steps:
            return self._warmup(step)
        number, progress = self._cycle(step - self.warmup_steps)
        height = self.final_fraction + (1.0 - self.final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return float(height * self.peak_fraction**number)

    def _cycle(self, since: float) -> tuple[int, float]:
        """The number of the cycle ``since`` steps after the warm-up, and the share of it that is over, in [0, 1)."""
        if self.cycle_growth == 1:
            number, passed = divmod(since, self.cycle_steps)
            return int(number), passed / self.cycle_steps
        number, length = 0, self.cycle_steps
        while since >= length:
            number, since, length = number + 1, since - length, length * self.cycle_growth
        return number, since / length
