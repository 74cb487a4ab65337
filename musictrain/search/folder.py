"""The folder of a search, beside the runs of its trials: one place that knows what each file in it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from musictrain.runs.folder import RunFolder

SHORT = 8


@dataclass(frozen=True)
class SearchFolder:
    """Paths of one search; the folder need not exist yet. It is no run: ``runs`` lists those of its trials.

    Args:
        path: the folder, beside the runs.
    """

    path: Path

    @property
    def name(self) -> str:
        """The search's name."""
        return self.path.name

    @property
    def definition(self) -> Path:
        """The search as it was read last, keys in full."""
        return self.path / "search.yaml"

    @property
    def layers(self) -> Path:
        """Copies of the configuration files under every point, so that nobody changes them under way."""
        return self.path / "base"

    @property
    def points(self) -> Path:
        """The points of each space, and the identity of each point with each seed, one record a line."""
        return self.path / "points.jsonl"

    @property
    def trials(self) -> Path:
        """The ledger: what happened to each trial, one record a line."""
        return self.path / "trials.jsonl"

    @property
    def events(self) -> Path:
        """What happened to the search, one record a line."""
        return self.path / "events.jsonl"

    @property
    def page(self) -> Path:
        """The search in a browser."""
        return self.path / "dashboard.html"

    @property
    def best(self) -> Path:
        """The best configuration, that ``fit`` takes."""
        return self.path / "best.yaml"

    @property
    def results(self) -> Path:
        """The table of points for other programs."""
        return self.path / "results.csv"

    @property
    def running(self) -> Path:
        """Locks of trials, each held by the process of one for as long as it lives."""
        return self.path / "running"

    @property
    def logs(self) -> Path:
        """What the processes of trials have printed."""
        return self.path / "logs"

    def is_search(self) -> bool:
        """Whether a search has begun here."""
        return self.definition.is_file()

    def lock(self, identity: str) -> Path:
        """Held by the process of a trial."""
        return self.running / identity[:SHORT]

    def log(self, identity: str) -> Path:
        """What a trial's process has printed."""
        return self.logs / f"{identity[:SHORT]}.log"

    def layer(self, identity: str) -> Path:
        """What a trial has over the files under every point."""
        return self.path / "layers" / f"{identity[:SHORT]}.yaml"

    def run(self, identity: str) -> RunFolder:
        """The run of a trial, beside this folder."""
        return RunFolder(self.path.parent / f"{self.name}-{identity[:SHORT]}")
