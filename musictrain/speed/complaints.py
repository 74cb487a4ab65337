"""When a run that loses time says so: not at the first hiccup, and not at every report. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

from musictrain.speed.speed_report import SpeedReport


@dataclass
class Complaint:
    """Says yes when something has been so for ``patience`` reports in a row, and again after ``pause`` further ones at the earliest."""

    patience: int = 3
    pause: int = 100
    _in_a_row: int = 0
    _quiet: int = 0

    def due(self, bad: bool) -> bool:
        """Take note of one report; whether it is time to speak."""
        self._quiet = max(0, self._quiet - 1)
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if self._in_a_row < self.patience or self._quiet:
            return False
        self._quiet = self.pause
        return True


def about_data(report: SpeedReport, num_workers: int | None) -> tuple[str, str]:
    """That training waits for data; and what to do."""
    now = "" if num_workers is None else f" (num_workers is {num_workers})"
    advice = f"Read ahead in more worker processes{now}, or make what they do for each batch cheaper."
    return f"Training waits for data {100 * report.data_wait:.0f} % of its time.", advice


def about_straggler(report: SpeedReport) -> tuple[str, str]:
    """That one rank holds the others up, and why; and what to do."""
    rank = report.slowest
    waits = report.ranks[rank].phase("data") - min(each.phase("data") for each in report.ranks)
    cause = "it waits longer for data than the others" if waits > 0.1 * report.ranks[rank].training else "its computing is slower"
    return (
        f"Rank {rank} is busy {100 * report.straggler:.0f} % longer than the median rank and holds the others up: {cause}.",
        "Look for other programs on its cores, fewer threads (OMP_NUM_THREADS), a hotter or slower device, or a slower disk.",
    )
