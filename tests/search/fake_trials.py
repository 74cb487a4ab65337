"""Trials that are no fits: each answers at once, and leaves in its run's folder what a fit would leave."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from musictrain.checkpoints.catalog import list_versions
from musictrain.runs import RunFolder
from musictrain.runs.processes import BEGIN_IN
from musictrain.runs.status import Status
from musictrain.search.definition import Definition, Objective, Rule
from musictrain.search.folder import SearchFolder
from musictrain.search.plan import Planned
from musictrain.search.points import Point
from musictrain.search.trial_job import Outcome, Task, train
from tests.checkpoints.small_versions import write_version

LAST, EVERY = 9, 3
KILLED = 9

Loss = Callable[[Mapping[str, Any], int], float]


def usual_loss(point: Mapping[str, Any], step: int) -> float:
    """Falls with the steps; the lower ``x`` is, the lower."""
    return float(point["x"]) + 1.0 / step


@dataclass
class Ended:
    """A process that has ended."""

    status: int
    pid: int = 2**22 + 1

    def poll(self) -> int:
        return self.status


@dataclass
class FakeTrials:
    """In place of ``launch``.

    Args:
        loss: what a trial logs as ``val/loss`` after each validation.
        fate: of a start, by the run's name and how often it was started before: steps that it gets to and its exit status, None for what it
            was asked to do.
    """

    loss: Loss = usual_loss
    fate: Callable[[str, int], tuple[int, int] | None] = lambda run, before: None
    started: list[list[str]] = field(default_factory=list)
    variables: list[Mapping[str, str]] = field(default_factory=list)
    trained: dict[str, list[int]] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, words: Sequence[str], log: Path, variables: Mapping[str, str], *descriptors: int) -> Ended:
        assert all(os.fstat(each) for each in descriptors), "it inherits the lock"
        with self._guard:
            return self._train(list(words), log, variables)

    def _train(self, words: list[str], log: Path, variables: Mapping[str, str]) -> Ended:
        self.started.append(words)
        self.variables.append(variables)
        run = RunFolder(Path(variables[BEGIN_IN]) if words[0] == "fit" else Path(words[1]))
        steps = self.trained.setdefault(run.name, [])
        fate = self.fate(run.name, sum(name in "".join(each) for each in self.started[:-1] for name in [run.name]))
        to_step, status = fate if fate is not None else (min(int(words[words.index("--pause_at") + 1]), LAST), 0)
        if words[0] == "fit":
            run.config.write_text(json.dumps({"point": point_in(words)}))
        told = json.loads(run.config.read_text())["point"]
        first = max((version.step for version in list_versions(run.checkpoints)), default=0) + 1
        steps += range(first, to_step + 1)
        self._leave(run, told, first, to_step, status)
        with log.open("a") as out:
            out.write(f"step {to_step}\n" + ("ValueError: it cannot be\n" if status == 1 else ""))
        return Ended(status)

    def _leave(self, run: RunFolder, point: Mapping[str, Any], first: int, to_step: int, status: int) -> None:
        rows = [{"time": 1.0, "step": step, "val/loss": self.loss(point, step)} for step in range(first, to_step + 1) if step % EVERY == 0]
        with run.metrics.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)
        if to_step >= first:
            write_version(run.checkpoints, len(list_versions(run.checkpoints)) + 1, to_step)
        if status >= 0:
            ended = {0: "finished" if to_step >= LAST else "paused", 3: "stopped", 1: "failed"}.get(status, "interrupted")
            word = Status(run.name, state=ended, step=to_step, total=LAST, by_guard=status == 3, reason="it loops" if status == 3 else "")
        else:
            word = Status(run.name, state="training", step=to_step, total=LAST, pid=2**22 + 1)
        run.status.write_text(word.as_json())


def point_in(words: Sequence[str]) -> dict[str, float]:
    """What a trial tries, by the words of ``fit``: ``x=1.5``, or the last of its configuration files."""
    typed = [json.loads(word.removeprefix("x=")) for word in words if word.startswith("x=")]
    if not typed:
        files = [words[place + 1] for place, word in enumerate(words) if word == "--config"]
        typed = [yaml.safe_load(Path(files[-1]).read_text())["model"]["init_args"]["x"]]
    return {"x": float(typed[-1])}


def search_of(xs: Sequence[float], rungs: Sequence[int] = (LAST,), rule: str = "none", seeds: Sequence[int] = (0,)) -> Definition:
    """A grid of one key."""
    return Definition(
        "small",
        grid=({"x": tuple(xs)},),
        seeds=tuple(seeds),
        objectives=(Objective(),),
        rule=Rule(rule, 3, tuple(rungs)),
        slots=2,
    )


def planned_of(definition: Definition) -> list[Planned]:
    """All its trials; what tells them apart is their text."""
    points = [Point({"x": x}) for x in definition.grid[0]["x"]]
    return [Planned(point, seed, f"{point.hash[:7]}{seed}".ljust(64, "0")) for point in points for seed in definition.seeds]


def task_of(folder: SearchFolder, x: float = 1.0, to_step: int = LAST, **more: Any) -> Task:
    """A job of a search with one point."""
    folder.path.mkdir(parents=True, exist_ok=True)
    trial = planned_of(search_of([x]))[0]
    facts: dict[str, Any] = {"words": (f"x={json.dumps(x)}",), "to_step": to_step, "last_step": LAST, "objectives": (Objective(),), **more}
    run = f"{folder.name}-{trial.identity[:8]}"
    return Task(str(folder.path.resolve()), run, trial.identity, {"x": x}, 0, **facts)


def train_at_once(task: Task) -> Outcome:
    """A job whose trial is none, for workers that have to import it."""
    return train(task, FakeTrials())
