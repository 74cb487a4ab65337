"""What a stretch of training amounts to: the windows of all ranks become rates, shares and the slowest rank. Plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields, replace

from musictrain.speed.phases import ASIDE, PHASES

WAITING_ASIDE = ("backward", *ASIDE)
"""The phases that end together on all ranks under DDP: gradients are exchanged in backward, and the faster wait there."""


@dataclass(frozen=True)
class RankWindow:
    """What one rank did between two reports; ``seconds`` in the order of ``PHASES``."""

    steps: float = 0.0
    tokens: float = 0.0
    notes: float = 0.0
    pieces: float = 0.0
    flops: float = 0.0
    memory_mib: float = math.nan
    seconds: tuple[float, ...] = field(default=(0.0,) * len(PHASES))

    def as_row(self) -> list[float]:
        """All of it as numbers in a fixed order, to be gathered."""
        *counts, seconds = astuple(self)
        return [*counts, *seconds]

    @classmethod
    def from_row(cls, row: Sequence[float]) -> RankWindow:
        """Back from ``as_row``."""
        num_counts = len(fields(cls)) - 1
        counts = {each.name: value for each, value in zip(fields(cls), row[:num_counts], strict=False)}
        return cls(**counts, seconds=tuple(row[num_counts:]))  # type: ignore[arg-type]

    def __add__(self, later: RankWindow) -> RankWindow:
        mine, theirs = self.as_row(), later.as_row()
        total = RankWindow.from_row([a + b for a, b in zip(mine, theirs, strict=True)])
        return replace(total, memory_mib=later.memory_mib)

    def phase(self, name: str) -> float:
        """Seconds of a phase."""
        return self.seconds[PHASES.index(name)]

    @property
    def wall(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds)

    @property
    def training(self) -> float:
        """Seconds without validation, sampling, saving and reporting."""
        return self.wall - sum(self.phase(name) for name in ASIDE)

    def busy(self, waits: Sequence[str]) -> float:
        """Seconds of the phases in which this rank does not wait for others."""
        return self.wall - sum(self.phase(name) for name in waits)


@dataclass(frozen=True)
class SpeedReport:
    """The windows of all ranks over one stretch of training.

    Args:
        ranks: one window for each rank.
        num_shares: shares of the data; fewer than ranks where several read the same, as in tensor parallelism.
        known: which of tokens, notes and pieces the batches tell.
        peak: FLOP/s of one device; 0 if not known.
        waits: phases in which ranks wait for one another, so that a slow one does not stand out there.
    """

    ranks: tuple[RankWindow, ...]
    num_shares: int = 1
    known: tuple[str, ...] = ()
    peak: float = 0.0
    waits: tuple[str, ...] = WAITING_ASIDE

    @property
    def seconds(self) -> float:
        """Training seconds, mean over the ranks."""
        return statistics.fmean(rank.training for rank in self.ranks)

    def per_second(self, unit: str) -> float:
        """Tokens, notes or pieces a second of training, all shares of the data together, each counted once."""
        total = sum(getattr(rank, unit) for rank in self.ranks) * self.num_shares / len(self.ranks)
        return _ratio(total, self.seconds)

    @property
    def mfu(self) -> float:
        """Share of the devices' peak that the network's own FLOPs make up while training."""
        flops = sum(rank.flops for rank in self.ranks) * self.num_shares / len(self.ranks)
        return _ratio(flops, self.seconds * self.peak * len(self.ranks))

    def share(self, phase: str) -> float:
        """Share of the time that a phase took, mean over the ranks."""
        return _ratio(sum(rank.phase(phase) for rank in self.ranks), sum(rank.wall for rank in self.ranks))

    @property
    def data_wait(self) -> float:
        """Share of the training time that went into waiting for data, of the rank that waited longest."""
        return max(_ratio(rank.phase("data"), rank.training) for rank in self.ranks)

    @property
    def memory_mib(self) -> float:
        """The largest peak of any rank."""
        return max(rank.memory_mib for rank in self.ranks)

    @property
    def slowest(self) -> int:
        """The rank that was busy longest."""
        return max(range(len(self.ranks)), key=lambda rank: self.ranks[rank].busy(self.waits))

    @property
    def straggler(self) -> float:
        """How much longer than the median rank the slowest was busy, as a share; of two ranks the faster is the median."""
        busy = [rank.busy(self.waits) for rank in self.ranks]
        return _ratio(max(busy), statistics.median_low(busy)) - 1.0

    def values(self, most_ranks: int = 8) -> dict[str, float]:
        """Everything by name, as it is logged; each rank's own values in worlds of up to ``most_ranks``."""
        values = {f"{unit}_per_second": self.per_second(unit) for unit in self.known}
        values["steps_per_second"] = _ratio(self.ranks[0].steps, self.seconds)
        values["data_wait"] = self.data_wait
        values |= {f"{phase}_share": self.share(phase) for phase in PHASES}
        if self.peak and any(rank.flops for rank in self.ranks):
            values["mfu"] = self.mfu
        if not math.isnan(self.memory_mib):
            values["memory_peak_mib"] = self.memory_mib
        if len(self.ranks) > 1:
            values |= {"straggler": self.straggler, "slowest_rank": float(self.slowest)}
            if len(self.ranks) <= most_ranks:
                values |= self._of_each_rank()
        return values

    def _of_each_rank(self) -> dict[str, float]:
        values = {}
        for number, rank in enumerate(self.ranks):
            values[f"rank_{number}/busy_ms_per_step"] = 1000 * _ratio(rank.busy(self.waits), rank.steps)
            values[f"rank_{number}/data_wait"] = _ratio(rank.phase("data"), rank.training)
            values[f"rank_{number}/memory_peak_mib"] = rank.memory_mib
        return values

    def __add__(self, later: SpeedReport) -> SpeedReport:
        ranks = tuple(mine + theirs for mine, theirs in zip(self.ranks, later.ranks, strict=True))
        return SpeedReport(ranks, later.num_shares, later.known, later.peak, later.waits)


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


def as_table(report: SpeedReport) -> str:
    """A few lines for people."""
    lines = [f"{f'{report.per_second(unit):,.0f}':>12}  {unit} per second" for unit in report.known]
    if report.peak and report.mfu:
        lines.append(f"{f'{100 * report.mfu:.1f} %':>12}  of the device's peak of {report.peak / 1e9:,.0f} GFLOP/s")
    for phase in PHASES:
        seconds = statistics.fmean(rank.phase(phase) for rank in report.ranks)
        if seconds:
            lines.append(f"{f'{seconds:,.1f} s':>12}  {phase} ({100 * report.share(phase):.1f} %)")
    if not math.isnan(report.memory_mib):
        lines.append(f"{f'{report.memory_mib:,.0f} MiB':>12}  of memory at most{', on one rank' if len(report.ranks) > 1 else ''}")
    if len(report.ranks) > 1:
        lines.append(
            f"{f'{100 * report.straggler:.0f} %':>12}  longer busy was rank {report.slowest} than the median of {len(report.ranks)} ranks"
        )
    return "\n".join(lines)
