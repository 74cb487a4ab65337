"""The folder of a protocol, beside the runs of its stages: one place that knows what each file in it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from musictrain.runs.folder import RunFolder


@dataclass(frozen=True)
class ProtocolFolder:
    """Paths of one protocol; the folder need not exist yet. It is no run: ``runs`` lists those of its stages.

    Args:
        path: the folder, beside the runs.
    """

    path: Path

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.path.name

    @property
    def state(self) -> Path:
        """What was begun and done."""
        return self.path / "state.json"

    @property
    def protocol(self) -> Path:
        """The protocol as it was read last."""
        return self.path / "protocol.yaml"

    @property
    def events(self) -> Path:
        """What happened, one record a line."""
        return self.path / "events.jsonl"

    @property
    def running(self) -> Path:
        """Held by the process of a stage for as long as it lives."""
        return self.path / "running"

    @property
    def page(self) -> Path:
        """All stages in a browser."""
        return self.path / "dashboard.html"

    def config(self, stage: str) -> Path:
        """What a stage's ``fit`` is given."""
        return self.path / f"{stage}.yaml"

    def log(self, stage: str) -> Path:
        """What a stage's process has printed."""
        return self.path / f"{stage}.log"

    def run(self, name: str) -> RunFolder:
        """The run of a stage."""
        return RunFolder(self.path.parent / name)
