"""The run folder: one place that knows what each file in it is called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.runs.names import new_run_name
from musictrain.runs.records import read_records
from musictrain.runs.rows import read_rows, step_of, vetoed_steps

BEST_METRIC = "val/loss"


@dataclass(frozen=True)
class RunFolder:
    """Paths and contents of one run; the folder need not exist yet.

    Args:
        path: the folder itself, Lightning's ``trainer.log_dir``.
    """

    path: Path

    @classmethod
    def create(cls, runs_dir: str | Path, name: str) -> RunFolder:
        """A new, empty folder under ``runs_dir`` (made if missing) with a fresh name built around ``name``.

        Two processes that start in the same second get two folders: making a folder is exclusive, a taken name is drawn anew.

        Raises:
            OSError: if ``runs_dir`` cannot be written.
            ValueError: if nothing of ``name`` can stand in a file name.
        """
        runs_dir = Path(runs_dir)
        runs_dir.mkdir(parents=True, exist_ok=True)
        while True:
            folder = runs_dir / new_run_name(name)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return cls(folder.resolve())

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def config(self) -> Path:
        """The fully resolved configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, git state, devices, seeds, fingerprints."""
        return self.path / "env.json"

    @property
    def metrics(self) -> Path:
        """What was logged, as ``musictrain.runs.rows`` reads it."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One record per thing that happened: ``time``, ``event`` and its details."""
        return self.path / "events.jsonl"

    @property
    def status(self) -> Path:
        """Where the run stands, as ``musictrain.runs.status`` writes it every few seconds."""
        return self.path / "status.json"

    @property
    def labels(self) -> Path:
        """What people said of the run: tags, a note, whether it is archived."""
        return self.path / "labels.json"

    @property
    def lineage(self) -> Path:
        """Which runs it came from, and how."""
        return self.path / "lineage.json"

    @property
    def dashboard(self) -> Path:
        """The live page, to be opened in a browser."""
        return self.path / "dashboard.html"

    @property
    def dashboard_data(self) -> Path:
        """What the live page loads again and again."""
        return self.path / "dashboard_data.js"

    @property
    def report(self) -> Path:
        """The same page with everything inside."""
        return self.path / "report.html"

    @property
    def curves(self) -> Path:
        """Pictures of the curves."""
        return self.path / "curves.png"

    @property
    def log(self) -> Path:
        """What people read: messages, warnings, tracebacks."""
        return self.path / "train.log"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer with its fingerprint."""
        return self.path / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of generated pieces, one sub-folder per step."""
        return self.path / "samples"

    def samples_at(self, step: int) -> Path:
        """The folder of the pieces generated after ``step`` optimizer steps."""
        return self.samples / f"step_{step:06d}"

    @property
    def references(self) -> Path:
        """How the corpus itself goes on from each prompt, beside the samples of every step."""
        return self.samples / "reference"

    def is_run(self) -> bool:
        """Whether a run has begun to write here."""
        return self.config.is_file() or self.environment.is_file() or self.metrics.is_file()

    def last_step(self) -> int:
        """The number of optimizer steps that the last attempt has come to, by its metrics and events; 0 if nothing is recorded."""
        events = read_records(self.events)
        starts = [place for place, event in enumerate(events) if event.get("event") in ("started", "resumed")]
        rows = [*read_rows(self.metrics), *events[starts[-1] if starts else 0 :]]
        return max((step_of(row) or 0 for row in rows), default=0)

    def best(self, metric: str = BEST_METRIC) -> tuple[float, int] | None:
        """The lowest finite recorded value of ``metric`` and the step of it, vetoed steps left out; None if the run recorded none."""
        every = read_rows(self.metrics)
        vetoed = vetoed_steps(every)
        rows = [(number(row[metric]), step_of(row) or 0) for row in every if metric in row]
        finite = [row for row in rows if math.isfinite(row[0]) and row[1] not in vetoed]
        return min(finite) if finite else None


def number(value: Any) -> float:
    """A recorded value as a float; nan for what is none.

    >>> number("-Infinity"), number(None)
    (-inf, nan)
    """
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
