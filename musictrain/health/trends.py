"""Divergence and Plateau: where the training loss goes over hundreds of steps, by the medians of blocks of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.robust import BlockMedians
from musictrain.health.vitals import Vitals

SURE = 6.0  # standard errors of a block's median


@dataclass(frozen=True, kw_only=True)
class Divergence(Settings):
    """A loss that has been rising for long, or has lost most of what it had gained.

    Looks at ``loss``. Two rules on the medians of blocks of ``block`` looks: ``patience`` blocks in a row, each above
    the one before, and the last above the lowest by ``least_rise``; or ``lost_blocks`` blocks in a row by which more than ``most_lost`` of
    the way from the first block to the lowest is lost again. A rise must also be six standard errors of a block's median. A loss that
    doubles in 400 steps is found in some 125; one that jumps and stays within ``lost_blocks`` + 1 blocks.

    False alarms: none in eleven sound runs of tiny networks (6,700 steps), none in 84 simulated runs of 2,000 steps
    (``benchmarks/false_alarms.py``). The thresholds were chosen with these same runs in view: elsewhere there may be some.

    Args:
        block: looks of a block.
        patience: blocks in a row that rise.
        least_rise: share of the lowest block that the last must lie above it.
        most_lost: share of what had been gained; more is a divergence.
        lost_blocks: blocks in a row with more lost than that.
    """

    kind: ClassVar[str] = "divergence"
    action: Action = "alert"
    block: int = 25
    patience: int = 4
    least_rise: float = 0.1
    most_lost: float = 0.5
    lost_blocks: int = 2
    calm: int = 2

    def detector(self) -> DivergenceDetector:
        """A detector that has seen nothing yet."""
        return DivergenceDetector(self)


@dataclass(frozen=True, kw_only=True)
class Plateau(Settings):
    """A training loss that no longer falls.

    Looks at ``loss``: of blocks of ``block`` looks, ``patience`` in a row whose medians are not below the lowest before them by
    ``least_fall`` of it. The end of most runs is a plateau, which is why it is only logged.

    Args:
        block: looks of a block.
        patience: blocks in a row.
        least_fall: share of the lowest block by which the next must lie below it to be a fall.
    """

    kind: ClassVar[str] = "plateau"
    action: Action = "log"
    block: int = 100
    patience: int = 10
    least_fall: float = 0.005
    calm: int = 1

    def detector(self) -> PlateauDetector:
        """A detector that has seen nothing yet."""
        return PlateauDetector(self)


class DivergenceDetector(IncidentDetector[Divergence]):
    """Finds a loss that has been rising for long."""

    def __init__(self, settings: Divergence) -> None:
        super().__init__(settings)
        self._stage: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._blocks = BlockMedians(self.settings.block, self.settings.patience + 1)
        self._first = self._lowest = math.inf
        self._lowest_step = self._lost = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether it rises, as of the block that is full now; between two blocks nothing is looked at."""
        loss = vitals.values.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        if vitals.values.get("stage") != self._stage:
            self._stage = vitals.values.get("stage")
            self._begin()
        if not self._blocks.add(loss):
            return None
        return self._judge(vitals.step, self._blocks.medians[-1])

    def _judge(self, step: int, median: float) -> Mapping[str, Finding]:
        if math.isinf(self._first):
            self._first = median
        if median <= self._lowest:
            self._lowest, self._lowest_step, self._lost = median, step, 0
            return NOTHING
        settings, medians, rise = self.settings, self._blocks.medians, median - self._lowest
        lost = rise / (self._first - self._lowest) if self._first > self._lowest else math.inf
        is_sure = rise > max(SURE * self._blocks.error, settings.least_rise * abs(self._lowest))
        self._lost = self._lost + 1 if is_sure and lost > settings.most_lost else 0
        rising = len(medians) > settings.patience and all(after > before for before, after in pairwise(medians))
        if not (is_sure and (rising or self._lost >= settings.lost_blocks)):
            return NOTHING
        return {"": self._finding(step, median, rise, lost)}

    def _finding(self, step: int, median: float, rise: float, lost: float) -> Finding:
        score = rise / max(abs(self._lowest), 1e-30)
        share = f", {100 * min(lost, 9.99):.0f} % of what training had gained" if math.isfinite(lost) else ""
        return Finding(
            *(self.settings.kind, step, "the training loss, median of the last steps", "", median, self._lowest, score),
            "Lower the learning rate and go back to the version before it rose; look at what changed at that time.",
            f"that was at step {self._lowest_step:,}, it has risen by {100 * score:.0f} % since{share}",
            details={"lowest_step": self._lowest_step},
        )

    def own_state(self) -> dict[str, Any]:
        """The blocks, the first and the lowest."""
        # A state holds numbers that JSON can hold: no block yet is None.
        first, lowest = (None if math.isinf(value) else value for value in (self._first, self._lowest))
        own = {"first": first, "lowest": lowest, "lowest_step": self._lowest_step, "lost": self._lost, "stage": self._stage}
        return {**own, "blocks": self._blocks.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._first, self._lowest = (math.inf if state[name] is None else float(state[name]) for name in ("first", "lowest"))
        self._lowest_step, self._lost, self._stage = int(state["lowest_step"]), int(state["lost"]), state["stage"]
        self._blocks.load_state_dict(state["blocks"])


class PlateauDetector(IncidentDetector[Plateau]):
    """Finds a loss that no longer falls."""

    def __init__(self, settings: Plateau) -> None:
        super().__init__(settings)
        self._stage: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._blocks = BlockMedians(self.settings.block, 1)
        self._lowest = math.inf
        self._lowest_step = self._waited = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether it has stopped falling, as of the block that is full now."""
        loss = vitals.values.get("loss")
        if loss is None or not math.isfinite(loss):
            return None
        if vitals.values.get("stage") != self._stage:
            self._stage = vitals.values.get("stage")
            self._begin()
        if not self._blocks.add(loss):
            return None
        median = self._blocks.medians[-1]
        if math.isinf(self._lowest) or median < self._lowest - self.settings.least_fall * abs(self._lowest):
            self._lowest, self._lowest_step, self._waited = median, vitals.step, 0
            return NOTHING
        self._waited += 1
        return NOTHING if self._waited < self.settings.patience else {"": self._finding(vitals.step, median)}

    def _finding(self, step: int, median: float) -> Finding:
        waited = step - self._lowest_step
        return Finding(
            *(self.settings.kind, step, "the training loss, median of the last steps", "", median, self._lowest, float(waited)),
            "If it should fall further, raise or lower the learning rate, or take a larger network; otherwise the run may end.",
            f"that was at step {self._lowest_step:,}, and it has not fallen by {100 * self.settings.least_fall:g} % in {waited:,} steps",
            details={"lowest_step": self._lowest_step},
        )

    def own_state(self) -> dict[str, Any]:
        """The block and the lowest one."""
        lowest = None if math.isinf(self._lowest) else self._lowest
        own = {"lowest": lowest, "lowest_step": self._lowest_step, "waited": self._waited, "stage": self._stage}
        return {**own, "blocks": self._blocks.state_dict()}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._lowest = math.inf if state["lowest"] is None else float(state["lowest"])
        self._lowest_step, self._waited, self._stage = int(state["lowest_step"]), int(state["waited"]), state["stage"]
        self._blocks.load_state_dict(state["blocks"])
