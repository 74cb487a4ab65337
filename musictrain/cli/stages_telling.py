"""What ``stages`` says: the plan, one line for all stages while they train, and what came of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musictrain.cli.stages_loading import Loaded
from musictrain.runs import RunFolder
from musictrain.runs.standing import Standing, clock, duration
from musictrain.runs.status import STALE, Status, read_status
from musictrain.runs.summary import shown
from musictrain.stages.merging import value_at
from musictrain.stages.progress import Course, left_of_all, share_of_all
from musictrain.stages.protocol import Stage
from musictrain.stages.resolving import Resolved
from musictrain.stages.state import BEGUN, Record, State

PROGRESS = "step "  # how the lines of a stage's own progress begin
QUIET = (PROGRESS, "Next", "  more music", "  go on")


@dataclass(frozen=True)
class StagesStanding(Standing):
    """Where a stage stands, with what is left of all of them.

    Args:
        stage: which, in words.
        of_all: share of the time that is over.
    """

    stage: str = ""
    of_all: float | None = None

    @property
    def share(self) -> float | None:
        """Of all stages."""
        return self.of_all

    def parts(self) -> dict[str, str]:
        """The stage before the rest."""
        return {"stage": self.stage, **super().parts()}


def course_of(resolved: Resolved, record: Record | None, run: RunFolder | None, earlier: float | None) -> Course:
    """How far a stage has come, by its configuration, its record and the status of its run."""
    status = None if run is None else read_status(run.status)
    data = value_at(resolved.config, "data.init_args") or {}
    budget = resolved.stage.budget
    facts: dict[str, Any] = {
        "steps": budget.steps,
        "limit_seconds": None if budget.minutes is None else 60 * budget.minutes,
        "tokens_per_step": float(data.get("window") or 1) * float(data.get("batch_size") or 1),
        "earlier_seconds": earlier,
    }
    if record is None or status is None:
        return Course(**facts)
    goes_on = status.is_active() and status.shown_state() != STALE
    since = max(time.time() - status.updated, 0.0) if goes_on else 0.0
    return Course(
        done=record.state != BEGUN,
        step=status.step,
        elapsed_seconds=status.elapsed_seconds + since,
        left=status_left(status, since) if goes_on else None,
        **facts,
    )


def status_left(status: Status, since: float) -> Any:
    """What a run itself says is left."""
    from musictrain.runs.eta import TimeLeft

    if status.left_seconds is None:
        return None
    low, high = status.left_low, status.left_high
    bounds = (status.left_seconds, status.left_seconds if low is None else low, status.left_seconds if high is None else high)
    return TimeLeft(*(max(seconds - since, 0.0) for seconds in bounds))


def courses_of(loaded: Loaded, state: State) -> dict[str, Course]:
    """Of all stages, by name; those that were trained before take what they took then."""
    earlier = {}
    for gone in state.replaced:
        status = read_status(loaded.folder.run(gone.run).status)
        if status is not None and gone.state != BEGUN:
            earlier[gone.stage] = status.elapsed_seconds
    found = {}
    for name, resolved in loaded.stages.items():
        record = state.record(name)
        found[name] = course_of(resolved, record, None if record is None else loaded.folder.run(record.run), earlier.get(name))
    return found


def standing_of(loaded: Loaded, state: State, stage: Stage) -> StagesStanding | None:
    """Where all of it stands while a stage trains; None while that has said nothing."""
    record = state.record(stage.name)
    status = None if record is None else read_status(loaded.folder.run(record.run).status)
    if status is None:
        return None
    courses = list(courses_of(loaded, state).values())
    place = [each.name for each in loaded.protocol.stages].index(stage.name) + 1
    values = dict(status.values) | ({} if status.tokens_per_second is None else {"train/tokens_per_second": status.tokens_per_second})
    return StagesStanding(
        step=status.step,
        total=status.total,
        elapsed_seconds=sum(course.elapsed_seconds for course in courses),
        left=left_of_all(courses),
        values={key: float(value) for key, value in values.items()},
        state="" if (state_now := status.shown_state()) == "training" else state_now,
        now=time.time(),
        stage=f"{stage.name} {place}/{len(courses)}",
        of_all=share_of_all(courses),
    )


@dataclass
class Tail:
    """New lines of a file, without the progress of the stage itself.

    Args:
        path: the file.
        place: how much of it has been told.
    """

    path: Path
    place: int = 0
    _rest: str = field(default="", repr=False)

    @classmethod
    def at_end(cls, path: Path) -> Tail:
        """Of what is written from now on."""
        return cls(path, path.stat().st_size if path.exists() else 0)

    def new_lines(self) -> list[str]:
        """Whole lines since the last time that say something."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                content = file.read()
        except OSError:
            return []
        self.place += len(content)
        *lines, self._rest = (self._rest + content.decode(errors="replace")).split("\n")
        return [line for line in lines if line.strip() and not line.startswith(QUIET)]


def plan_lines(loaded: Loaded, state: State) -> list[str]:
    """A table of the stages: what each does, takes over and has come to."""
    rows = []
    for number, (name, resolved) in enumerate(loaded.stages.items(), start=1):
        over = resolved.stage.hand_over
        begins = over.words() if over is not None else str(resolved.config.get("init_from") or "nothing")
        rows.append((f"{number}", name, resolved.stage.budget.words(), f"from {begins}", what_became(loaded, state.record(name))))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def what_became(loaded: Loaded, record: Record | None) -> str:
    """Such as ``finished, 400 steps, best val/loss 0.4312, in RUN``."""
    if record is None:
        return "to come"
    run = loaded.folder.run(record.run)
    status = read_status(run.status)
    words = [record.state if record.state != BEGUN else "begun"]
    if status is not None:
        words += [f"{status.step:,} steps"] if status.step else []
        best: Mapping[str, Any] = status.best
        words += [f"best {best['metric']} {float(best['value']):.4f}"] if best else []
    return f"{', '.join(words)}, in {shown(run.path)}"


def end_lines(loaded: Loaded, state: State) -> list[str]:
    """What came of all of it."""
    courses = list(courses_of(loaded, state).values())
    seconds = sum(course.elapsed_seconds for course in courses)
    last = state.records[-1].run
    return [
        f"All {len(courses)} stages are done: {duration(seconds)} of training, until {clock(time.time(), time.time())}.",
        *(f"  {line}" for line in plan_lines(loaded, state)),
        f"  page      {shown(loaded.folder.page)}",
        f"  hear it   musictrain sample {'-'.join(last.split('-')[-2:])} --n 8",
    ]
