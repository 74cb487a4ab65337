"""Run folders written by hand, for whoever reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musictrain.runs import Records, RunFolder
from musictrain.runs.status import Status


def write_run(
    runs_dir: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    config: Mapping[str, Any] | None = None,
    events: Sequence[str] = (),
    **status: Any,
) -> RunFolder:
    """A run folder; ``status.json`` only if anything of it is given."""
    run = RunFolder(runs_dir / name)
    run.path.mkdir(parents=True)
    run.config.write_text(json.dumps(config or {}))  # JSON is YAML
    append(run.metrics, rows)
    append(run.events, [{"time": 1000.0 + 10 * place, "event": event} for place, event in enumerate(events)])
    if status:
        write_status(run, **status)
    return run


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    records = Records(path)
    for row in rows:
        records.append(row)
    records.close()


def write_status(run: RunFolder, **status: Any) -> None:
    run.status.write_text(Status(name=run.name, **{"host": "elsewhere", **status}).as_json())


def losses(*values: float, every: int = 10, key: str = "val/loss") -> list[dict[str, Any]]:
    """Rows at steps 10, 20, ..."""
    return [{"time": 1000.0 + step, "step": step * every, key: value} for step, value in enumerate(values, start=1)]


def read_json(path: Path) -> Any:
    """A configuration that was written as JSON."""
    return json.loads(path.read_text())
