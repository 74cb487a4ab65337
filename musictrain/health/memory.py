"""Memory: a process that keeps growing until it is killed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals

MIB = 2**20
SCALES = 3
LEAST_PACE = 0.7  # of the growth of the second half, in that of the first
LEAST_SHARE = 0.25  # of an average way from block to block, that every one of them must have
WIDER = 4  # looks of a block at one scale, in looks of the scale before


@dataclass(frozen=True, kw_only=True)
class Memory(Settings):
    """Memory that keeps growing.

    Looks at ``memory``. What counts is the lowest of each block of ``block`` looks, so that a peak within a block is no growth. Found when
    of the last ``patience`` steps from block to block all but one go up, each by a fair share, the second half is not much slower than the
    first, and the way without its longest step is ``least_growth`` of where it began and leads higher than memory has been before. The
    same at blocks four and sixteen times as long: a slower leak is found later.

    False alarms: none in 84 simulated runs of 2,000 steps, a look every ten, in which caches fill, values wander by 3 % and one thing more
    is kept from some step on. A leak of 1 % a look was found in 27 looks, 32 at most. The thresholds were chosen with these
    same runs in view: elsewhere there may be some.

    Args:
        block: looks of the shortest block.
        patience: steps from block to block.
        least_growth: share.
        warm_up: looks at the start, when everything is being set up.
    """

    kind: ClassVar[str] = "memory"
    action: Action = "alert"
    block: int = 4
    patience: int = 8
    least_growth: float = 0.05
    warm_up: int = 20
    calm: int = 4

    def detector(self) -> MemoryDetector:
        """A detector that has seen nothing yet."""
        return MemoryDetector(self)


class MemoryDetector(IncidentDetector[Memory]):
    """Finds memory that keeps growing."""

    def __init__(self, settings: Memory) -> None:
        super().__init__(settings)
        self._looks = 0
        self._scale = 0  # at which the incident was found that is open
        self._blocks = [_Lowest(settings.block * WIDER**scale, settings.patience + 1) for scale in range(SCALES)]

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether it grows, as of the blocks that are full now; between two blocks nothing is looked at."""
        size = vitals.values.get("memory")
        if size is None or not math.isfinite(size):
            return None
        self._looks += 1
        if self._looks <= self.settings.warm_up:
            return None
        full = [scale for scale, blocks in enumerate(self._blocks) if blocks.add(vitals.step, size)]
        judged = [scale for scale in full if scale == self._scale or not self._incidents.open]
        for scale in judged:
            if found := self._growth(self._blocks[scale], vitals.step):
                self._scale = scale
                return {"": found}
        return NOTHING if judged else None

    def _growth(self, blocks: _Lowest, step: int) -> Finding | None:
        settings, sizes = self.settings, [size for _, size in blocks.row]
        if len(sizes) <= settings.patience:
            return None
        way = sizes[-1] - sizes[0]
        # What has begun goes on for as long as memory grows at half of the pace, however unevenly.
        goes_on = self._incidents.open and way >= 0.5 * settings.least_growth * sizes[0]
        if not (goes_on or (sizes[-1] > blocks.highest_before and self._is_leak(sizes))):
            return None
        began = blocks.row[0][0]
        a_step = way / max(step - began, 1)
        return Finding(
            *(settings.kind, step, "the memory in use", "", sizes[-1] / MIB, sizes[0] / MIB, way / sizes[0]),
            "Does something keep tensors or lists of a step, such as a callback or a logger? Look at what was added last; detach losses.",
            f"that was at step {began:,}; it grows by {a_step / MIB:.3g} MiB a step",
            "MiB",
            {"since_step": began, "bytes_a_step": a_step},
        )

    def _is_leak(self, sizes: list[float]) -> bool:
        settings, way, ways = self.settings, sizes[-1] - sizes[0], [after - before for before, after in pairwise(sizes)]
        if way - max(ways) < settings.least_growth * sizes[0] or way <= 0:
            return False
        # What fills up slows down: caches, pools, pages of a file that are touched one by one.
        half = sizes[len(sizes) // 2]
        if sizes[-1] - half < LEAST_PACE * (half - sizes[0]):
            return False
        least_way = LEAST_SHARE * way / settings.patience
        return sum(one > least_way for one in ways) >= settings.patience - 1

    def own_state(self) -> dict[str, Any]:
        """The lowest of each block."""
        return {"looks": self._looks, "scale": self._scale, "blocks": [blocks.state_dict() for blocks in self._blocks]}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._looks, self._scale = int(state["looks"]), int(state["scale"])
        for blocks, one in zip(self._blocks, state["blocks"], strict=True):
            blocks.load_state_dict(one)


class _Lowest:
    """The lowest value of each block, with the step at which the block was full."""

    def __init__(self, size: int, keep: int) -> None:
        self._size, self._count, self._lowest = size, 0, math.inf
        self.row: deque[tuple[int, float]] = deque(maxlen=keep)
        self.highest_before = 0.0  # of the blocks that are not in the row any more

    def add(self, step: int, value: float) -> bool:
        """Take a value; whether a block is full with it."""
        self._lowest = min(self._lowest, value)
        self._count += 1
        if self._count < self._size:
            return False
        if len(self.row) == self.row.maxlen:
            self.highest_before = max(self.highest_before, self.row[0][1])
        self.row.append((step, self._lowest))
        self._count, self._lowest = 0, math.inf
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self._count,
            "lowest": self._lowest,
            "highest_before": self.highest_before,
            "row": [list(pair) for pair in self.row],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count, self._lowest, self.highest_before = int(state["count"]), float(state["lowest"]), float(state["highest_before"])
        self.row = deque(((int(step), float(value)) for step, value in state["row"]), maxlen=self.row.maxlen)
