"""One job of a search: a trial is trained up to a step, in a process of its own, on any machine that shares the folder of the runs.

What keeps it true that no trial is lost, none doubled, and none trained twice:

- The process of a trial holds a lock for as long as it lives, and outlives whoever started it. A job that finds the lock taken waits.
- What a trial has come to is read from its run's folder, before a process is started and after it has ended.
- A trial that was killed goes on from its own last version. Killed again and again without a new one, it has failed.
- Whoever drives the search asks all jobs to end by a file, which they see on every machine; they pass it on to their processes, which save.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from musictrain.runs.folder import RunFolder
from musictrain.runs.lineage import add_parent
from musictrain.runs.processes import BEGIN_IN, Launch, Signals, Slot, launch
from musictrain.search.definition import Objective
from musictrain.search.devices import VISIBLE, Seat, devices_here
from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import BEGUN, FAILED, FINISHED, REACHED, REUSED, Record
from musictrain.search.objectives import missing, not_finite, values_at
from musictrain.search.standing import TrialStanding, disk_is_full, rows_of, standing_of, why_it_failed

LOOK_SECONDS = 0.2
LOCK = ".trial"  # held by the process of a trial for as long as it lives
MOST_WITHOUT_PROGRESS = 3
STOPPED_BY_RULE = 3
LEFT = (130, 143)  # the exit status of a trial that was asked to end, by whomever, and has saved
# A trial is no rank of the job that its worker is one of. When that job ends it may know: it saves before.
OF_A_JOB = ("SLURM_", "PMI", "OMPI_", "TORCHELASTIC_", "JSM_NAMESPACE_")
OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
KEPT = ("SLURM_JOB_END_TIME", "SLURM_JOB_ID")


@dataclass(frozen=True)
class Task:
    """What a job is asked to do; plain values, so that it can be sent to another machine.

    Args:
        folder: of the search, absolute, the same on every machine.
        run: name of the trial's run, beside that folder.
        identity: of the trial.
        point: what it tries.
        seed: its ``seed_everything``.
        words: of ``fit``, for a run that has not begun.
        to_step: up to which optimizer step it is trained.
        last_step: its ``trainer.max_steps``.
        objectives: what is read at that step.
        threads: of the process.
        stop: name of the file in the folder of locks by which this job is asked to end.
        attempts: processes that have worked at the trial before.
    """

    folder: str
    run: str
    identity: str
    point: Mapping[str, Any]
    seed: int
    words: tuple[str, ...]
    to_step: int
    last_step: int
    objectives: tuple[Objective, ...]
    threads: int = 1
    stop: str = "stop"
    attempts: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        record: for the ledger.
        asked: whether it was asked to end before it was done.
        halt: why no other job should begin either, such as a full disk or a metric that nobody logs; empty if they may.
    """

    record: Record
    asked: bool = False
    halt: str = ""


def train(task: Task, start: Launch | None = None) -> Outcome:
    """Do it; gives back what came of it, and raises nothing that a single trial can cause.

    Args:
        task: what.
        start: how a process is started, the usual way if left out.
    """
    job = TrialJob(task, start or launch)
    try:
        return job.run()
    except OSError as error:
        where = f"On {socket.gethostname()}: {error}"
        return job.outcome(BEGUN, halt=f"The disk is full. {where}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else where)
    finally:
        job.close()


class TrialJob:
    """A task at work.

    Args:
        task: what is to be done.
        start: how a process is started.
    """

    def __init__(self, task: Task, start: Launch) -> None:
        self.task, self._start = task, start
        self.folder = SearchFolder(Path(task.folder))
        self.run_folder = RunFolder(self.folder.path.parent / task.run)
        # In the folder of the run, not of the search: another search may want the same trial.
        self._slot = Slot(self.run_folder.path / LOCK)
        self._seat = Seat(self.folder.running, devices_here())
        self._began = time.monotonic()
        self._signals, self._told = Signals(), 0
        self._attempts = 0

    def close(self) -> None:
        """Hold nothing any more."""
        self._slot.give()
        self._seat.give()

    def run(self) -> Outcome:
        """Train until the step is reached, the trial has failed, or somebody asks this to end.

        Raises:
            OSError: if the folder of the runs is not here, or cannot be written.
        """
        if self._asked():
            return self.outcome(BEGUN, asked=True)
        self._prepare()
        without_progress = 0
        while True:
            if not self._take() or self._asked():
                return self.outcome(BEGUN, asked=True)
            before = self._standing()
            if before.has_reached(self.task.to_step):
                return self._measured(before)
            place = self._size_of_log()
            status = self._to_end(before)
            after = self._standing()
            if after.has_reached(self.task.to_step) or status == STOPPED_BY_RULE:
                return self._measured(after)
            if self._asked() or status in LEFT:
                return self.outcome(BEGUN, asked=True)
            reason = why_it_failed(status, after, self._log, place)
            if disk_is_full(reason):
                return self.outcome(BEGUN, halt=f"The disk is full. {self.task.run}: {reason}")
            without_progress = without_progress + 1 if after.step <= before.step else 0
            if status >= 0:
                return self.outcome(FAILED, step=after.step, reason=reason)
            if without_progress >= MOST_WITHOUT_PROGRESS:
                return self.outcome(FAILED, step=after.step, reason=f"{reason}, {without_progress} times at step {after.step:,}")

    def _prepare(self) -> None:
        if not self.folder.path.is_dir():
            what = "All machines of a search must see the folder of the runs under the same path, and this is not there"
            raise FileNotFoundError(errno.ENOENT, what, str(self.folder.path))
        for needed in (self.folder.running, self.folder.logs, self.run_folder.path):
            needed.mkdir(parents=True, exist_ok=True)
        add_parent(self.run_folder, "trial of", self.folder.name)

    # The process.

    def _take(self) -> bool:
        """Hold the trial, once nobody else does; False if this was asked to end before."""
        while self._slot.take() is None:
            self._signals.pid = self._slot.owner()
            if self._asked() and self._signals.pid is None:
                return False
            time.sleep(LOOK_SECONDS)
        self._signals.pid = None
        return True

    def _to_end(self, before: TrialStanding) -> int:
        """Start a process and wait for its end; gives back the exit status."""
        held = [each for each in (self._slot.take(), self._seat.take()) if each is not None]
        process = self._start(self._words(before), self._log, self._variables(before), *held)
        self._attempts += 1
        self._slot.give(process.pid)
        self._seat.give()
        self._signals.pid = process.pid
        try:
            while (status := process.poll()) is None:
                self._asked()
                time.sleep(LOOK_SECONDS)
            return status
        finally:
            self._signals.pid = None

    def _words(self, before: TrialStanding) -> list[str]:
        runs, pause = str(self.folder.path.parent), str(max(self.task.to_step, before.step))
        if before.resumable:
            return ["resume", str(self.run_folder.path), "--runs", runs, "--pause_at", pause]
        return ["fit", *self.task.words, "--runs", runs, "--name", self.task.run, "--pause_at", pause]

    def _variables(self, before: TrialStanding) -> dict[str, str]:
        threads = str(self.task.threads)
        variables = dict.fromkeys(of_the_job_around(), "")
        variables |= {"MUSICTRAIN_RUNS": str(self.folder.path.parent), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        variables |= {} if before.resumable else {BEGIN_IN: str(self.run_folder.path)}
        return variables | ({VISIBLE: self._seat.device} if self._seat.device else {})

    def _asked(self) -> bool:
        """Whether this is to end; what was asked for is passed on, each time once."""
        try:
            asked = [int(word) for word in (self.folder.running / self.task.stop).read_text(encoding="utf-8").split()]
        except (OSError, ValueError):
            return self._signals.asked is not None
        if self._signals.pid is None:
            self._signals.asked = asked[-1] if asked else None
            return bool(asked)
        for number in asked[self._told :]:
            self._signals(number, None)
        self._told = len(asked)
        return bool(asked)

    # What is told of it.

    @property
    def _is_own(self) -> bool:
        """Whether the run was begun by this search, by its name."""
        prefix, _, identity = self.task.run.rpartition("-")
        return prefix == self.folder.name and self.task.identity.startswith(identity)

    @property
    def _log(self) -> Path:
        return self.folder.log(self.task.identity)

    def _size_of_log(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _standing(self) -> TrialStanding:
        return standing_of(self.run_folder, self.task.last_step)

    def _measured(self, standing: TrialStanding) -> Outcome:
        """What the objectives are at the step, or at the end that came before it."""
        if standing.by_guard:
            return self.outcome(FAILED, step=standing.step, reason=f"stopped for its health: {standing.reason}")
        rows = rows_of(self.run_folder)
        ended = standing.ended and standing.step <= self.task.to_step
        step = min(standing.step, self.task.to_step)
        if lacking := missing(rows, self.task.objectives):
            return self.outcome(FAILED, step=step, reason=lacking) if ended else self.outcome(BEGUN, step=step, halt=lacking)
        values = values_at(rows, self.task.objectives, step)
        if bad := not_finite(values, step):
            return self.outcome(FAILED, step=step, values=values, reason=bad)
        # A run of this search that nobody was there to see ending has ended as any other.
        reused = not self._is_own and self.task.attempts + self._attempts == 0 and not (ended and step < self.task.to_step)
        return self.outcome(REUSED if reused else FINISHED if ended else REACHED, step=step, values=values)

    def outcome(self, state: str, *, asked: bool = False, halt: str = "", **facts: Any) -> Outcome:
        """A record of the trial, and what the driver is to know besides."""
        task = self.task
        record = Record(task.identity, dict(task.point), task.seed, task.run, state)
        seconds = time.monotonic() - self._began if self._attempts else 0.0
        work: dict[str, Any] = {"attempts": task.attempts + self._attempts, "seconds": round(seconds, 3), "host": socket.gethostname()}
        return Outcome(replace(record, **work, time=round(time.time(), 3), **facts), asked, halt)


def of_the_job_around(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The variables by which Lightning would take a trial for one of several processes: those of whoever has started the worker."""
    return [name for name in environment if name in OF_A_RANK or (name.startswith(OF_A_JOB) and name not in KEPT)]


def ask_to_end(folder: SearchFolder, stop: str, number: int) -> None:
    """Ask all jobs with this word to end, on every machine; a second time, they pass that on too."""
    folder.running.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder.running / stop, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, f"{number}\n".encode())
    finally:
        os.close(descriptor)
