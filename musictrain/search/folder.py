"""The folder of a search, beside the runs of its trials: one place that knows what each file in it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LONG_ENOUGH = 16  # characters of an identity that no other one shares; the short ones that name a run may have a twin


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
    def page_data(self) -> Path:
        """What the page shows."""
        return self.path / "dashboard_data.js"

    @property
    def best(self) -> Path:
        """The best configuration, that ``fit`` takes."""
        return self.path / "best.yaml"

    @property
    def results(self) -> Path:
        """The table of points for other programs."""
        return self.path / "results.csv"

    @property
    def told(self) -> Path:
        """Of which records the page, the table and the best configuration tell; see ``musictrain.search.told``."""
        return self.path / "told.json"

    @property
    def running(self) -> Path:
        """What is at work: who sits at which device, who asks ``fit``, and words to end. The lock of a trial lies in its run's folder."""
        return self.path / "running"

    @property
    def logs(self) -> Path:
        """What the processes of trials have printed."""
        return self.path / "logs"

    def is_search(self) -> bool:
        """Whether a search has begun here."""
        return self.definition.is_file()

    def log(self, identity: str) -> Path:
        """What a trial's process has printed."""
        return self.logs / f"{identity[:LONG_ENOUGH]}.log"

    def layer(self, identity: str) -> Path:
        """What a trial has over the files under every point."""
        return self.path / "layers" / f"{identity[:LONG_ENOUGH]}.yaml"
