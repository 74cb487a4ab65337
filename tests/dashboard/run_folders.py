"""Run folders as a training leaves them behind, for tests of what reads them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from musictrain.runs.folder import RunFolder
from musictrain.runs.rows import marker
from musictrain.runs.status import Status

# Ends a script, starts an image, ends a line of JavaScript, colours a terminal, fills a template, and names what every object has.
HOSTILE = '</script><img src=x onerror="window.broken=1"> \u2028 \x1b[31mred\x1b[0m {{scripts}} <b>b</b> $x^2$ %{y} &lt;'


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Records as JSON lines, as a writer would leave them."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def make_run(
    folder: Path,
    *,
    steps: int = 100,
    state: str = "training",
    updated: float | None = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
    events: Iterable[Mapping[str, Any]] = (),
    config: Mapping[str, Any] | None = None,
    log: str = "",
    **status: Any,
) -> RunFolder:
    """A run of ``steps`` steps, a second each, with a loss, a validation every ten and whatever else is given."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder)
    now = time.time()
    write_lines(run.metrics, training(steps, now - steps) if rows is None else rows)
    write_lines(run.events, [{"time": now - steps - 1, "event": "started"}, *events])
    run.config.write_text(yaml.safe_dump({"model": {"width": 64}} if config is None else dict(config)), encoding="utf-8")
    run.log.write_text(log, encoding="utf-8")
    heart = now if updated is None else updated
    # A host of another name: whether its process lives is told by the heartbeat alone.
    about = {"name": folder.name, "state": state, "step": steps, "total": 2 * steps, "updated": heart, "host": "another", "pid": 1}
    told = {**about, **status}
    run.status.write_text(Status(**told).as_json(), encoding="utf-8")
    return run


def training(steps: int, began: float) -> Iterable[dict[str, Any]]:
    """The rows of an uneventful training."""
    yield marker(1, 0, began)
    for step in range(1, steps + 1):
        about = {"time": began + step, "step": step, "epoch": 0, "attempt": 1}
        yield {**about, "train/loss": 2 * math.exp(-step / 30) + 0.3, "train/tokens": 1000 * step, "train/lr": 0.001}
        if step % 10 == 0:
            yield {**about, "val/loss": 2 * math.exp(-step / 30) + 0.4, "val/groove_similarity": 1 - math.exp(-step / 40)}


def alert(step: int, message: str = "The loss rose.", **details: Any) -> dict[str, Any]:
    """An alert as it stands among the events."""
    told = {"time": time.time(), "event": "alert", "kind": "loss_spike", "message": message, "advice": "Lower the learning rate."}
    return {**told, "level": "WARNING", "rank": 0, "step": step, **details}
