"""From a step to where its replay begins: the attempt that made it, the rows that tell of it, the version to go on from.

Everything here is read from the run's files, and needs neither torch nor lightning.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from musictrain.runs import RunFolder
from musictrain.runs.records import read_records
from musictrain.runs.rollbacks import FILE_NAME
from musictrain.runs.rows import BLOCK_BYTES, CountingRows, RowReader, is_marker, step_of, values_of

LOSS = "train/loss"


class ReplayError(ValueError):
    """A step that cannot be done again; the message says why and what to do."""


@dataclass(frozen=True)
class Attempt:
    """One start of a run's training.

    Args:
        number: from 1.
        from_step: optimizer steps done before.
        began: seconds since 1970; 0 if that is not known.
        last_step: the highest step that its rows tell of.
    """

    number: int
    from_step: int
    began: float
    last_step: int


@dataclass(frozen=True)
class Recorded:
    """What the run wrote down of a step.

    Args:
        line: the step of the line that holds it: the first one at or after it with a loss; None if there is none.
        since: the first step that this line is the mean of.
        values: of that line.
        attempt: the one that made it.
    """

    line: int | None
    since: int
    values: Mapping[str, Any]
    attempt: Attempt


def lines_of(path: str | Path) -> Iterator[dict[str, Any]]:
    """Every row and marker of a ``metrics.jsonl``, in the order of the file."""
    reader = RowReader(path)
    while new := reader.read_new(BLOCK_BYTES):
        yield from new


def attempts_of(path: str | Path) -> list[Attempt]:
    """Every start of the training that has left a mark, in order; records without marks are one attempt."""
    found: list[Attempt] = []
    for row in lines_of(path):
        if is_marker(row):
            number = row["attempt"] if isinstance(row.get("attempt"), int) else len(found) + 1
            found.append(Attempt(number, row["from_step"], float(row.get("time") or 0.0), row["from_step"]))
            continue
        found = found or [Attempt(1, 0, 0.0, 0)]
        if (step := step_of(row)) is not None and step > found[-1].last_step:
            found[-1] = Attempt(found[-1].number, found[-1].from_step, found[-1].began, step)
    return found


def attempt_of_step(run: RunFolder, step: int, number: int | None = None) -> Attempt:
    """The attempt whose step that is: the last one, unless another is asked for.

    Args:
        run: an existing run.
        step: from 1.
        number: of an attempt.

    Raises:
        ReplayError: if the run, or that attempt, has not come so far.
    """
    attempts = attempts_of(run.metrics) or [Attempt(1, 0, 0.0, 0)]
    if number is not None:
        chosen = next((each for each in attempts if each.number == number), None)
        if chosen is None:
            there = ", ".join(str(each.number) for each in attempts)
            raise ReplayError(f"Run {run.name} has no attempt {number}; its attempts: {there}.")
    else:
        began = [each for each in attempts if each.from_step < step]
        chosen = began[-1] if began else attempts[0]
    last = reach_of(run, chosen, attempts)
    if step <= chosen.from_step and chosen is not attempts[0]:
        raise ReplayError(
            f"Attempt {chosen.number} of run {run.name} began after step {chosen.from_step:,}: step {step:,} is an earlier one's."
        )
    if step > last:
        further = [each.number for each in attempts if reach_of(run, each, attempts) >= step]
        hint = f" Attempt {further[-1]} had: add --attempt {further[-1]}." if further and number is None else ""
        raise ReplayError(
            f"Run {run.name} has come to step {last:,}, and step {step:,} is beyond that.{hint} Give a --step from 1 to {last:,}."
        )
    return chosen


def reach_of(run: RunFolder, attempt: Attempt, attempts: Sequence[Attempt]) -> int:
    """The highest step that an attempt has come to, by its rows, its events, the goings back that it asked for, and where the next began.

    A step that a run turned back from has left no row, nor may one that was done before a kill.
    """
    later = [each for each in attempts if each.number > attempt.number]
    ended = min((each.began for each in later), default=math.inf)
    records = [*read_records(run.events), *read_records(run.path / FILE_NAME)]
    during = [record for record in records if attempt.began <= float(record.get("time") or 0.0) < ended]
    return max([attempt.last_step, *(each.from_step for each in later[:1]), *(step_of(record) or 0 for record in during)])


def recorded_until(run: RunFolder, step: int, attempt: Attempt, key: str = LOSS) -> Recorded:
    """The line of the records that holds a step, as it stood at the end of an attempt."""
    counting, carried = CountingRows(), math.inf
    for row in lines_of(run.metrics):
        if is_marker(row) and isinstance(row.get("attempt"), int) and row["attempt"] > attempt.number:
            carried = min(carried, row["from_step"])
        # Of what a later attempt has written, rows of steps before it are the earlier one's: a kill had kept them from the file.
        elif carried == math.inf or (step_of(row) or math.inf) <= carried:
            counting.add([row])
    rows = [(each, row) for row in counting.rows() if (each := step_of(row)) is not None and key in row]
    before = max((each for each, _ in rows if each < step), default=0)
    line = min((each for each, _ in rows if each >= step), default=None)
    values: dict[str, Any] = {}
    for each, row in rows:
        if each == line:
            values |= values_of(row)
    return Recorded(line, before + 1, values, attempt)


# The version.


def versions_before(run: RunFolder, step: int, attempts: Sequence[Attempt], attempt: Attempt) -> list[Version]:
    """The versions from which a step of an attempt can be reached, nearest first: whole ones, saved before it and on its branch."""
    turned = [each.from_step for each in attempts if each.number > attempt.number]
    most = min([step - 1, *turned])
    able = [version for version in list_versions(run.checkpoints) if version.resumable and not version.thin and version.step <= most]
    return sorted(able, key=lambda version: (version.step, version.number), reverse=True)


def first_whole(versions: Iterable[Version]) -> tuple[Version | None, list[str]]:
    """The first version that verifies, and what is wrong with those before it."""
    reasons: list[str] = []
    for version in versions:
        try:
            verify(version.path)
        except BrokenCheckpointError as error:
            reasons.append(f"{version.path.name} is passed over: {error.reason}")
            continue
        return version, reasons
    return None, reasons


def decided_until(run: RunFolder, attempt: Attempt, attempts: Sequence[Attempt]) -> list[tuple[int, float, int]]:
    """What a curriculum by value decided on the branch of an attempt: first batch, competence, batches before it. Decisions of steps that a
    later start of the run did not go on from are another branch's."""
    events = [event for event in read_records(run.events) if event.get("event") == "curriculum" and "competence" in event]
    kept: list[dict[str, Any]] = []
    for each in [each for each in attempts if each.number <= attempt.number]:
        ended = min((later.began for later in attempts if later.number > each.number), default=math.inf)
        kept = [event for event in kept if (step_of(event) or 0) <= each.from_step]
        kept += [event for event in events if each.began <= float(event.get("time") or 0.0) < ended]
    return [(int(event["batch"]), float(event["competence"]), int(event["count"])) for event in kept]


def began_elsewhere(run: RunFolder) -> int:
    """The step at which the first attempt began: more than 0 where the run went on from another run's version."""
    attempts = attempts_of(run.metrics)
    return attempts[0].from_step if attempts else 0


def seconds_per_step(run: RunFolder) -> float | None:
    """How long a step took in this run, between two lines of its records, in the middle of all; None if they do not tell."""
    rows = [(step_of(row), float(row["time"])) for row in lines_of(run.metrics) if "time" in row and LOSS in row]
    known = [(step, time) for step, time in rows if step is not None]
    pace = [(time - before) / (step - step_before) for (step_before, before), (step, time) in pairwise(known) if step > step_before]
    return statistics.median(pace) if pace else None


def said_at(run: RunFolder, step: int, attempt: Attempt | None = None) -> list[dict[str, Any]]:
    """What the run's events say of a step: alerts, and what was done. With an attempt nothing that was said of another branch: before the
    run went back and did that step with other batches, or after it had."""
    kinds = ("alert", "skipped", "lr_reduced", "rolled_back")
    branches: list[list[dict[str, Any]]] = [[]]
    wanted = 0
    for event in read_records(run.events):
        branches[-1].append(event)
        if event.get("event") == "rolled_back":
            branches.append([])
            wanted += attempt is not None and float(event.get("time") or 0.0) <= attempt.began
    events = branches[wanted] if attempt is not None else [event for branch in branches for event in branch]
    return [event for event in events if event.get("event") in kinds and event.get("step") == step]
