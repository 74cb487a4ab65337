"""The driver of a search: one round after the other, until nothing is left; whatever is killed, the next driver goes on where it was.

What keeps that true:

- What is next follows from the definition and the ledger alone, and each job's end is in the ledger before the next round.
- The process of a trial outlives its driver; the next one waits for it instead of starting a second.
- Which run a trial is stands in the ledger before anything is started.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from musictrain.cli.console import program
from musictrain.cli.exits import FINISHED, INTERRUPTED, TERMINATED, CommandError
from musictrain.cli.search_workers import Work, as_they_come
from musictrain.dashboard.settings import read_config
from musictrain.runs.processes import ASKED
from musictrain.runs.records import Records
from musictrain.search.definition import Definition
from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import BEGUN, FAILED, Ledger, LedgerWriter, Record, read_ledger, tried_again
from musictrain.search.plan import Finished, Job, Planned, Round, next_round
from musictrain.search.reusing import runs_to_reuse
from musictrain.search.trial_job import Outcome, Task, ask_to_end

log = logging.getLogger(__name__)

MOST_IDLE_ROUNDS = 3
GO_ON = "The same command goes on where it was."


@dataclass(frozen=True)
class Trials:
    """What the driver is to do.

    Args:
        definition: with all its rungs.
        folder: of the search.
        planned: every trial, those of one point behind one another.
        words: what ``fit`` is given for one of them.
        last_step: the ``trainer.max_steps`` of all.
    """

    definition: Definition
    folder: SearchFolder
    planned: Sequence[Planned]
    words: Callable[[Job], Sequence[str]]
    last_step: int


class Teller(Protocol):
    """Whoever shows how a search goes on, in the terminal and on its page."""

    def begin(self, ledger: Ledger, round: Round) -> None:
        """A round begins."""

    def look(self, ledger: Ledger) -> None:
        """Some time has passed."""

    def take(self, outcome: Outcome) -> None:
        """A job has ended."""

    def end(self, ledger: Ledger, best: Any) -> None:
        """Nothing is left to do, or the driver ends before that."""


@dataclass
class Asked:
    """What the driver was asked to.

    Args:
        folder: of the search.
        stop: name of the file by which its jobs hear of it.
        number: of the last signal, 0 for none.
    """

    folder: SearchFolder
    stop: str = field(default_factory=lambda: f"stop-{uuid.uuid4().hex[:12]}")
    number: int = 0

    def __call__(self, number: int, frame: Any = None) -> None:
        """The handler: everything is passed on, a second time too."""
        self.number = number
        try:
            ask_to_end(self.folder, self.stop, number)
        except OSError as error:
            log.error("The trials could not be asked to end: %s", error)

    @property
    def exit_status(self) -> int:
        """As that of ``fit``."""
        return INTERRUPTED if self.number == signal.SIGINT else TERMINATED

    @contextmanager
    def listening(self) -> Iterator[Asked]:
        """Within it signals end nothing here: jobs are asked to end."""
        try:
            earlier = {number: signal.signal(number, self) for number in ASKED}
        except ValueError:  # not in the main thread
            earlier = {}
        try:
            yield self
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
            (self.folder.running / self.stop).unlink(missing_ok=True)


class Driver:
    """Trains what is left of a search.

    Args:
        trials: what there is.
        work: does the jobs.
        teller: who shows it.
    """

    def __init__(self, trials: Trials, work: Work, teller: Teller) -> None:
        self.trials, self.folder = trials, trials.folder
        self._work, self._teller = work, teller
        self.ledger = read_ledger(self.folder.trials)
        self._writer = LedgerWriter(self.folder.trials)
        self._events = Records(self.folder.events)
        self._asked = Asked(self.folder)
        self._halt = ""
        self._began = time.monotonic()
        self._before = sum(trial.last.seconds for trial in self.ledger.trials.values()) / trials.definition.slots

    def run(self, *, retry_failed: bool = False) -> int:
        """All rounds that are left; gives back the exit status: 0 once nothing is left to do, 130 or 143 if it was asked to end before.

        Args:
            retry_failed: whether trials that have failed are tried again.

        Raises:
            CommandError: if it cannot go on, such as with a full disk or a metric that no trial logs.
        """
        best: Any = None
        try:
            with self._asked.listening():
                self._prepare(retry_failed)
                idle = 0
                while isinstance(now := self._next(), Round) and not self._asked.number:
                    idle = 0 if self._do(now) else idle + 1
                    if idle == MOST_IDLE_ROUNDS:
                        raise CommandError(f"All trials are asked to end from outside, {idle} times. {GO_ON}")
                if isinstance(now, Finished):
                    best = now.best
                return FINISHED if isinstance(now, Finished) else self._interrupted()
        except OSError as error:
            raise CommandError(f"The search cannot go on: {error}. The same command goes on where it was.") from error
        finally:
            self._teller.end(self.ledger, best)
            self._writer.close()
            self._events.close()

    def _prepare(self, retry_failed: bool) -> None:
        self._tell("began", host=socket.gethostname(), pid=os.getpid())
        if retry_failed:
            self._write(*(tried_again(record, round(time.time(), 3)) for record in self.ledger.failures()))
        wanted = {each.identity: each for each in self.trials.planned if each.identity and self.ledger.trial(each.identity) is None}
        own = {trial.last.run for trial in self.ledger.trials.values()}
        for identity, run in runs_to_reuse(self.folder.path.parent, wanted, read_config, own).items():
            trial = wanted[identity]
            self._write(Record(identity, dict(trial.point.values), trial.seed, run, time=round(time.time(), 3)))

    def _next(self) -> Round | Finished:
        found = next_round(self.trials.definition, self.trials.planned, self.ledger)
        self._write(*(replace(record, time=round(time.time(), 3)) for record in found.pruned))
        return found

    # One round.

    def _do(self, now: Round) -> int:
        """Gives back how many of the jobs were not interrupted."""
        self._tell("round", rung=now.rung, step=now.step, jobs=len(now.jobs))
        new = [job for job in now.jobs if self.ledger.trial(job.identity) is None]
        self._write(*(Record(job.identity, dict(job.point.values), job.seed, job.run, time=round(time.time(), 3)) for job in new))
        self._teller.begin(self.ledger, now)
        done = 0
        for outcome in as_they_come(self._work, [self._task(job) for job in now.jobs]):
            if outcome is not None:
                self._take(outcome)
                done += outcome.record.state != BEGUN
            self._check_hours()
            self._teller.look(self.ledger)
        if self._halt:
            self._tell("halted", reason=self._halt)
            raise CommandError(f"{self._halt} {GO_ON}")
        return done

    def _task(self, job: Job) -> Task:
        definition, trials = self.trials.definition, self.trials
        return Task(
            folder=str(self.folder.path.resolve()),
            run=job.run,
            identity=job.identity,
            point=dict(job.point.values),
            seed=job.seed,
            words=tuple(trials.words(job)),
            to_step=job.to_step,
            last_step=trials.last_step,
            objectives=definition.objectives,
            threads=definition.threads,
            stop=self._asked.stop,
            attempts=job.attempts,
        )

    def _take(self, outcome: Outcome) -> None:
        """Write down what came of a job; if no other should begin, ask all to end."""
        known = self.ledger.trial(outcome.record.identity)
        # A job tells of its own time, the ledger of all of it.
        record = replace(outcome.record, seconds=round(outcome.record.seconds + (known.last.seconds if known is not None else 0.0), 3))
        if record.state != BEGUN or known is None or known.last.attempts != record.attempts:
            self._write(record)
        if record.state == FAILED:
            self._tell("failed", trial=record.trial, run=record.run, reason=record.reason)
        self._teller.take(outcome)
        self._end_for(outcome.halt)

    def _check_hours(self) -> None:
        """End where the hours are over that the search may take; before this driver, its trials took theirs, dealt out to the slots."""
        most = self.trials.definition.most.hours
        if most is not None and self._before + time.monotonic() - self._began > 3600 * most:
            self._end_for(f"The {most:g} hours of --most-hours are over.")

    def _end_for(self, reason: str) -> None:
        """Let no other job begin, and those that are at work save and end; nothing happens without a reason, or for a second one."""
        if reason and not self._halt:
            self._halt = reason
            ask_to_end(self.folder, self._asked.stop, signal.SIGTERM)

    def _interrupted(self) -> int:
        self._tell("interrupted", signal=self._asked.number)
        print(f"The search {self.folder.name!r} has not ended. The same command of {program()} goes on where it was.", flush=True)
        return self._asked.exit_status

    # What is written down.

    def _write(self, *records: Record) -> None:
        if records:
            self._writer.write(*records)
        for record in records:
            self.ledger.take(record)

    def _tell(self, event: str, **details: Any) -> None:
        told: Mapping[str, Any] = {"time": round(time.time(), 3), "event": event, **details}
        self._events.append(told)
