"""Whole searches without a training: values that hang on point, seed and step, a disk that survives kills, a driver that may die."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musictrain.search.definition import Definition, Objective, Rule
from musictrain.search.ledger import BEGUN, FAILED, FINISHED, REACHED, Ledger, LedgerWriter, Record, read_ledger
from musictrain.search.plan import Finished, Job, Planned, Round, next_round
from musictrain.search.points import Point

LOSS = (Objective(),)
TWO = (Objective(), Objective("val/groove", "max"))


class KilledError(Exception):
    """The driver is dead."""


def share(*told: Any) -> float:
    """A number in [0, 1) that hangs on what is told alone."""
    return int(hashlib.sha256(repr(told).encode()).hexdigest()[:12], 16) / 16**12


def planned_for(points: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Planned]:
    """Trials of some points; those with an ``error`` cannot be, a value that is ``None`` is what is so by default."""
    found = []
    for values in points:
        said = {key: value for key, value in values.items() if value is not None}
        for seed in seeds:
            identity = hashlib.sha256(f"{Point(said).text} {seed}".encode()).hexdigest()
            found.append(Planned(Point(values), seed, "" if "error" in values else identity, str(values.get("error", ""))))
    return found


def definition_of(rule: str = "none", rungs: Sequence[int] = (100, 300, 900), seeds: Sequence[int] = (0,), **more: Any) -> Definition:
    """A search called ``s``."""
    return Definition("s", seeds=tuple(seeds), rule=Rule(rule, more.pop("factor", 3), tuple(rungs)), **more)


@dataclass
class World:
    """What survives a kill.

    Args:
        ledger: the file.
        bad: the share of trials that something happens to: a crash, a value that is not finite, an end of their own.
        disk: the step of the last version of each run.
        trained: run, first and last step of everything that was trained.
    """

    ledger: Path
    bad: float = 0.0
    disk: dict[str, int] = field(default_factory=dict)
    trained: list[tuple[str, int, int]] = field(default_factory=list)

    def value(self, job: Job, metric: str, step: int) -> float:
        """Falls with the steps, at a pace of the point's own, so that rungs disagree."""
        told = (job.point.text, metric)
        return round(share(*told) + share(*told, "pace") * 100 / (100 + step) + 0.2 * share(*told, job.seed), 2)

    def train(self, job: Job) -> Record:
        """Go on from the last version; the same again finds that it is done."""
        fate, end = share(job.identity, "fate"), job.to_step
        state, reason = REACHED, ""
        if fate < self.bad:
            at = int(share(job.identity, "when") * 1200)
            if at < job.to_step:
                kind = int(share(job.identity, "kind") * 3)
                state, reason = ((FAILED, "it crashed"), (FAILED, "val/loss is not finite"), (FINISHED, ""))[kind]
                end = max(at, 1)
        before = self.disk.get(job.run, 0)
        if before < end:
            self.trained.append((job.run, before, end))
            self.disk[job.run] = end
        values = {} if state == FAILED else {each: self.value(job, each, end) for each in ("val/loss", "val/groove")}
        return Record(job.identity, job.point.values, job.seed, job.run, state, end, values, reason, attempts=job.attempts + 1)


def drive(
    definition: Definition, planned: Sequence[Planned], world: World, chance: random.Random | None = None, kill: float = 0.0
) -> Finished:
    """One driver from its start to the end of the search.

    Args:
        definition: of the search.
        planned: its trials.
        world: what is there.
        chance: in which order jobs end, and when the driver dies; as they stand, and never, if left out.
        kill: how likely it dies at each step of its work.

    Raises:
        KilledError: now and then.
    """
    ledger = read_ledger(world.ledger)

    def may_die() -> None:
        if chance is not None and chance.random() < kill:
            raise KilledError

    with LedgerWriter(world.ledger) as writer:

        def write(*records: Record) -> None:
            writer.write(*records)
            for record in records:
                ledger.take(record)

        for _ in range(100):
            todo = next_round(definition, planned, ledger)
            write(*todo.pruned)
            if isinstance(todo, Finished):
                return todo
            do_round(todo, world, chance, write, may_die)
    raise AssertionError("The search comes to no end.")


def do_round(todo: Round, world: World, chance: random.Random | None, write: Any, may_die: Any) -> None:
    """All jobs of a round."""
    jobs = list(todo.jobs)
    if chance is not None:
        chance.shuffle(jobs)
    for job in jobs:
        may_die()
        write(Record(job.identity, job.point.values, job.seed, job.run, BEGUN, job.from_step, attempts=job.attempts))
        may_die()
        record = world.train(job)
        may_die()  # it is trained, and nobody has written it down
        write(record)


def drive_through(definition: Definition, planned: Sequence[Planned], world: World, chance: random.Random, kill: float) -> Finished:
    """Driver after driver, each killed somewhere, with a ledger that a kill may have torn, until one comes to the end."""
    for attempt in range(400):
        try:
            return drive(definition, planned, world, chance, kill if attempt < 300 else 0.0)
        except KilledError:
            tear(world.ledger, chance)
    raise AssertionError("The search comes to no end.")


def tear(path: Path, chance: random.Random) -> None:
    """Half of the last line is lost, now and then."""
    content = path.read_bytes() if path.exists() else b""
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    if content and chance.random() < 0.5:
        path.write_bytes(content[: chance.randrange(start, len(content) + 1)])


def known(ledger: Ledger) -> dict[str, Any]:
    """What a ledger holds of each trial, without how often it was tried."""
    return {
        identity: (
            trial.last.state,
            trial.last.run,
            trial.last.reason,
            trial.ended,
            {
                step: tuple((key, None if math.isnan(value) else value) for key, value in sorted(at.items()))
                for step, at in trial.at.items()
            },
        )
        for identity, trial in sorted(ledger.trials.items())
    }
