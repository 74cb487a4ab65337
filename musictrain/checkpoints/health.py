"""Whether training looks healthy at the moment of a save: a version from inside a loss spike must not push a good one out.

A rule in plain Python on the losses of the last batches; the callback that knows what to do about a spike is another matter.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from typing import Any

WINDOW = 64
LEAST = 16
RECENT = 3


class LossWatch:
    """Remembers the losses of the last batches and says whether they stand in a spike.

    A spike: the mean of the last 3 lies above the median of those before by more than ``threshold`` robust standard deviations (1.4826
    times the median absolute deviation, at least 2 % of the median). With fewer than 16 losses there is none. A loss that is not finite
    among the last 3 is no spike by itself: its update may have been left out, and if not, the weights say so; three are.

    Args:
        threshold: in robust standard deviations.

    Raises:
        ValueError: if the threshold is not positive.
    """

    def __init__(self, threshold: float = 6.0) -> None:
        if not threshold > 0:
            raise ValueError(f"LossWatch got threshold={threshold}; it needs a positive number of robust standard deviations.")
        self.threshold = threshold
        self._losses: deque[Any] = deque(maxlen=WINDOW)

    def add(self, loss: Any) -> None:
        """Take the loss of a batch: a float, or a tensor on any device, which is not waited for; None is passed over."""
        if loss is not None:
            self._losses.append(loss)

    def losses(self) -> list[float]:
        """The remembered losses; here a device is waited for."""
        values = [float(loss) for loss in self._losses]
        self.restore(values)
        return values

    def restore(self, losses: Iterable[float]) -> None:
        """Take back what ``losses`` gave."""
        self._losses = deque(map(float, losses), maxlen=WINDOW)

    def spike(self) -> str:
        """What is wrong, in words, empty if nothing is."""
        losses = self.losses()
        recent, earlier = (list(filter(math.isfinite, some)) for some in (losses[-RECENT:], losses[:-RECENT]))
        if losses and not recent:
            return f"the loss is {losses[-1]}"
        if len(losses) < LEAST or len(earlier) < LEAST - RECENT:
            return ""
        level = statistics.median(earlier)
        spread = 1.4826 * statistics.median(abs(loss - level) for loss in earlier)
        height = (statistics.fmean(recent) - level) / max(spread, 0.02 * abs(level), 1e-12)
        if height <= self.threshold:
            return ""
        return f"inside a loss spike: {statistics.fmean(recent):.4g} against a median of {level:.4g}"
