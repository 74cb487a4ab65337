"""Throughput, DataWait and SlowRank: training that has become slower, waits for data, or for one of its ranks."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.robust import RollingMedian
from musictrain.health.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class Throughput(Settings):
    """Training that has become slower.

    Looks at ``tokens_per_second``: found after ``patience`` looks in a row below ``1 - most_drop`` of the median of the last ``window``
    looks before. What stays slow for ``window`` looks is taken for normal from then on.

    False alarms: none in six runs on a machine that twenty other programs used too, where single looks were at half of the speed; none in
    84 simulated runs of 2,000 steps with a look every ten. The thresholds were chosen with these same runs in view: elsewhere there may
    be some.

    Args:
        most_drop: share, in [0, 1].
        patience: looks in a row.
        window: looks whose median is what is usual.
        least: looks before anything is said.
    """

    kind: ClassVar[str] = "throughput"
    shares: ClassVar[frozenset[str]] = frozenset({"most_drop"})
    action: Action = "alert"
    most_drop: float = 0.5
    patience: int = 5
    window: int = 60
    least: int = 10
    calm: int = 5

    def detector(self) -> ThroughputDetector:
        """A detector that has seen nothing yet."""
        return ThroughputDetector(self)


@dataclass(frozen=True, kw_only=True)
class DataWait(Settings):
    """Training that waits for data.

    Looks at ``data_wait``: found after ``patience`` looks in a row above ``most``, or ``stalled_looks`` above ``stalled``.

    Args:
        most: share of the time, in [0, 1].
        patience: looks in a row.
        stalled: share from which next to nothing but waiting is done.
        stalled_looks: looks in a row.
    """

    kind: ClassVar[str] = "data_wait"
    shares: ClassVar[frozenset[str]] = frozenset({"most", "stalled"})
    action: Action = "alert"
    most: float = 0.3
    patience: int = 5
    stalled: float = 0.9
    stalled_looks: int = 2
    calm: int = 5

    def detector(self) -> DataWaitDetector:
        """A detector that has seen nothing yet."""
        return DataWaitDetector(self)


@dataclass(frozen=True, kw_only=True)
class SlowRank(Settings):
    """One rank that the others wait for.

    Looks at ``rank_seconds/<r>``, the seconds that each rank was busy in a step: found after ``patience`` looks in a row at which the same
    rank took longer than the median of the others by ``most`` of it.

    Args:
        most: share; 0.5 is half as long again.
        patience: looks in a row.
    """

    kind: ClassVar[str] = "slow_rank"
    action: Action = "alert"
    most: float = 0.5
    patience: int = 5
    calm: int = 5

    def detector(self) -> SlowRankDetector:
        """A detector that has seen nothing yet."""
        return SlowRankDetector(self)


class ThroughputDetector(IncidentDetector[Throughput]):
    """Finds a rate that has fallen far below its median."""

    def __init__(self, settings: Throughput) -> None:
        super().__init__(settings)
        self._rates = RollingMedian(settings.window)
        self._low: list[float] = []

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether training is far slower than it was."""
        rate, settings = vitals.values.get("tokens_per_second"), self.settings
        if rate is None or not math.isfinite(rate):
            return None
        usual = self._rates.median() if len(self._rates) >= settings.least else 0.0
        if rate >= (1.0 - settings.most_drop) * usual:
            self._low = []
            self._rates.add(rate)
            return NOTHING
        self._low.append(rate)
        if len(self._low) >= settings.window:
            self._rates.restore(self._low)
            self._low = []
            self._incidents.note("", stayed=True)
            return NOTHING
        return {"": self._finding(vitals.step, rate, usual)} if len(self._low) >= settings.patience else NOTHING

    def _finding(self, step: int, rate: float, usual: float) -> Finding:
        return Finding(
            *(self.settings.kind, step, "the speed of training", "", rate, usual, usual / max(rate, 1e-30)),
            "Does something else use the machine? See the shares of the phases on the page: data, validation, sampling, saving.",
            f"{100 * (1 - rate / usual):.0f} % less than the median of the last {len(self._rates)} looks",
            "tokens/s",
        )

    def own_state(self) -> dict[str, Any]:
        """The rates, and those that are low at present."""
        return {"rates": self._rates.values(), "low": list(self._low)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._rates.restore(state["rates"])
        self._low = list(state["low"])


class DataWaitDetector(IncidentDetector[DataWait]):
    """Finds a share of waiting that stays high."""

    def __init__(self, settings: DataWait) -> None:
        super().__init__(settings)
        self._high = self._stalled = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether training waits for data."""
        share, settings = vitals.values.get("data_wait"), self.settings
        if share is None or not math.isfinite(share):
            return None
        self._high = self._high + 1 if share > settings.most else 0
        self._stalled = self._stalled + 1 if share > settings.stalled else 0
        if self._high < settings.patience and self._stalled < settings.stalled_looks:
            return NOTHING
        advice = "Raise data.num_workers, put the data on a faster disk, or look at what else reads from it."
        beyond = f"in {self._high} looks in a row more than {100 * settings.most:g} %"
        what = "the share of the time that training waits for data"
        return {"": Finding(settings.kind, vitals.step, what, "", share, math.nan, share, advice, beyond, "%")}

    def own_state(self) -> dict[str, Any]:
        """Looks in a row."""
        return {"high": self._high, "stalled": self._stalled}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._high, self._stalled = int(state["high"]), int(state["stalled"])


class SlowRankDetector(IncidentDetector[SlowRank]):
    """Finds a rank that takes longer than the others, look after look."""

    def __init__(self, settings: SlowRank) -> None:
        super().__init__(settings)
        self._slow: dict[str, int] = {}

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether one rank is slow."""
        seconds = {rank: taken for rank, taken in vitals.family("rank_seconds").items() if math.isfinite(taken)}
        if len(seconds) < 2:
            return None
        order = sorted(seconds.values())
        slow, found = {}, {}
        for rank, taken in seconds.items():
            usual = median_of_others(order, taken)
            if usual > 0 and taken > (1.0 + self.settings.most) * usual:
                slow[rank] = self._slow.get(rank, 0) + 1
                if slow[rank] >= self.settings.patience:
                    found[rank] = self._finding(rank, taken, usual, vitals.step)
        self._slow = slow
        return found or NOTHING

    def _finding(self, rank: str, taken: float, usual: float, step: int) -> Finding:
        share = taken / usual - 1.0
        return Finding(
            *(self.settings.kind, step, "the busy time", f"rank {rank}", taken, usual, share),
            "Look at its machine: another program, a hot or slower device, a slower disk. All ranks go at its pace.",
            f"{100 * share:.0f} % longer than the other ranks in {self.settings.patience} looks in a row",
            "s a step",
            {"rank": int(rank) if rank.isdigit() else rank},
        )

    def own_state(self) -> dict[str, Any]:
        """Looks in a row, by rank."""
        return {"slow": dict(self._slow)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self._slow = {rank: int(looks) for rank, looks in state["slow"].items()}


def median_of_others(order: Sequence[float], one: float) -> float:
    """The median of at least two sorted numbers without ``one`` of them, which may not draw it to itself.

    >>> median_of_others([1.0, 2.0, 9.0], 9.0)
    1.5
    """
    place, others = bisect_left(order, one), len(order) - 1
    low, high = (others - 1) // 2, others // 2
    return 0.5 * (order[low + (low >= place)] + order[high + (high >= place)])
