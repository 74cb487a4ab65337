"""What a search knows of its trials: ``trials.jsonl``, to which records are only ever added.

Conventions:

- A trial is one point with one seed, known by its identity: the hash of its whole configuration. Whoever is asked about it twice, in two
  searches or after a kill, means the same run.
- A record says what a trial came to, and at which step. What it measured at a step stays; its state is what was said last.
- Each record is on the disk before the next job begins. A torn last line is passed over.
- Only the process that drives the search writes; jobs give their records back to it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from musictrain.runs.folder import number
from musictrain.runs.records import Records, read_records

log = logging.getLogger(__name__)

BEGUN, REACHED, FINISHED, PRUNED, FAILED, REUSED = "begun", "reached", "finished", "pruned", "failed", "reused"
STATES = (BEGUN, REACHED, FINISHED, PRUNED, FAILED, REUSED)
SHORT = 8  # characters of an identity that name a trial, and its run behind the name of the search


@dataclass(frozen=True)
class Record:
    """One thing that happened to a trial.

    Args:
        identity: of the trial, a hash as text.
        point: what it tries, by dotted key.
        seed: its ``seed_everything``.
        run: name of its run's folder, which stands beside the search's.
        state: ``begun``, ``reached`` a step at which the rule looks, ``finished`` by itself (its last step, or a stop out of patience),
            ``pruned`` by the rule, ``failed``, or ``reused``: a run that was there has that step behind it.
        step: optimizer steps done.
        values: of the objectives at that step, by metric; nan where one is not finite.
        reason: why it failed, or what pruned it.
        attempts: processes that have worked at it so far.
        seconds: that all of them took, starts included.
        host: where the last one ran.
        time: of the record, seconds since 1970.
    """

    identity: str
    point: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    run: str = ""
    state: str = BEGUN
    step: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    host: str = ""
    time: float = 0.0

    @property
    def trial(self) -> str:
        """What the trial is called in tables."""
        return self.identity[:SHORT]


FIELDS = {each.name for each in fields(Record)}
NAME = "trial"  # in the file, for people


@dataclass
class Trial:
    """All that is known of one trial.

    Args:
        last: what was said last.
        at: what it measured, by step.
        ended: the step at which it ended by itself, None if it has not.
        given: steps that an earlier run has given it, which took none of its seconds.
    """

    last: Record
    at: dict[int, Mapping[str, float]] = field(default_factory=dict)
    ended: int | None = None
    given: int = 0

    @property
    def failed(self) -> bool:
        """Whether it is over, and why is in ``last.reason``."""
        return self.last.state == FAILED

    @property
    def step(self) -> int:
        """The furthest step at which it was measured, 0 if it never was."""
        return max(self.at, default=0)

    def values_at(self, step: int) -> Mapping[str, float] | None:
        """What it measured at a step; of one that ended before, at its end; None if it has not come so far."""
        if step in self.at:
            return self.at[step]
        return self.at.get(self.ended) if self.ended is not None and self.ended <= step else None

    def settled_at(self, step: int) -> bool:
        """Whether nothing is left to train up to a step."""
        return self.failed or self.values_at(step) is not None

    @property
    def seconds_per_step(self) -> float | None:
        """Its pace, starts included; None if it has not told, as a run that was only reused."""
        steps = self.step - self.given
        return self.last.seconds / steps if steps > 0 and self.last.seconds > 0 else None

    def take(self, record: Record) -> None:
        """Learn of a later record."""
        self.last = record
        if record.state in (REACHED, FINISHED, REUSED):
            self.at[record.step] = record.values
        if record.state == REUSED and not record.seconds:
            self.given = max(self.given, record.step)
        if record.state == FINISHED:
            self.ended = record.step


class Ledger:
    """What all records of a search come to, by identity.

    Args:
        records: oldest first.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.trials: dict[str, Trial] = {}
        for record in records:
            self.take(record)

    def take(self, record: Record) -> None:
        """Learn of a later record."""
        trial = self.trials.get(record.identity)
        if trial is None:
            trial = self.trials[record.identity] = Trial(record)
        trial.take(record)

    def trial(self, identity: str) -> Trial | None:
        """One of them, None if nothing was ever said of it."""
        return self.trials.get(identity)

    def failures(self) -> list[Record]:
        """The last words of those that failed, in the order in which the trials were first heard of."""
        return [trial.last for trial in self.trials.values() if trial.failed]


def tried_again(failure: Record, now: float) -> Record:
    """The record that takes a failure back, so that the trial goes on; what it measured before it failed stays."""
    return replace(failure, state=BEGUN, values={}, reason="", attempts=0, time=now)


def read_ledger(path: str | Path) -> Ledger:
    """What was written; a missing file holds nothing. Lines that are no records of trials are passed over with a warning."""
    return Ledger(_records(path))


def _records(path: str | Path) -> Iterator[Record]:
    strange = 0
    for told in read_records(path):
        record = _record(told)
        if record is None:
            strange += 1
        else:
            yield record
    if strange:
        log.warning("%s: %d lines tell of no trial and were passed over.", path, strange)


def _record(told: dict[str, Any]) -> Record | None:
    told.pop(NAME, None)
    if not told.keys() <= FIELDS:  # of a later version
        told = {key: value for key, value in told.items() if key in FIELDS}
    values, point = told.get("values", {}), told.get("point", {})
    if not isinstance(told.get("identity"), str) or not isinstance(values, dict) or not isinstance(point, dict):
        return None
    step, seconds = told.get("step", 0), told.get("seconds", 0.0)
    if told.get("state") not in STATES or type(step) is not int or type(seconds) not in (int, float):
        return None
    if values:
        told["values"] = {key: value if type(value) is float else number(value) for key, value in values.items()}
    return Record(**told)


class LedgerWriter:
    """The writing end, for the one process that drives the search; use it in a ``with`` statement.

    Raises:
        OSError: at a record that the disk does not take; nothing of it is left.
    """

    def __init__(self, path: str | Path) -> None:
        self._records = Records(path)

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, *records: Record) -> None:
        """Add records; when this returns, a power cut takes none of them.

        Raises:
            OSError: if the disk does not take one, or cannot promise to keep them.
        """
        for record in records:
            self._records.append({NAME: record.trial, **asdict(record)})
        if not self._records.sync():
            raise OSError(f"{self._records.path} could not be brought to the disk.")

    def close(self) -> None:
        """Give the file back; a later record opens it again."""
        with contextlib.suppress(OSError):
            self._records.close()
