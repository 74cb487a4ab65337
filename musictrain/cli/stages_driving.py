"""The driver: one stage after the other, each in a process of its own; whatever is killed, the next driver goes on where it was.

What keeps that true:

- The run of a stage, and the versions it begins with, stand in ``state.json`` before its process starts.
- A stage's process outlives its driver. The next driver waits for it instead of starting a second one.
- How a stage ended is read from its run where nobody was there to take its exit status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from musictrain.checkpoints.catalog import list_versions
from musictrain.cli.console import program
from musictrain.cli.exits import FAILED, FINISHED, INTERRUPTED, STOPPED_BY_RULE, TERMINATED, CommandError
from musictrain.cli.stages_handing_over import begun_record, words_of_hand_over
from musictrain.cli.stages_loading import Loaded
from musictrain.cli.stages_page import Page
from musictrain.cli.stages_telling import Tail, end_lines, plan_lines, standing_of
from musictrain.runs import RunFolder
from musictrain.runs.atomic import atomic_write
from musictrain.runs.labels import add_tags
from musictrain.runs.lineage import add_parent
from musictrain.runs.processes import BEGIN_IN, Launch, Process, Signals, Slot, launch, passing_on
from musictrain.runs.records import Records
from musictrain.runs.standing import Standing
from musictrain.runs.status import read_status
from musictrain.runs.summary import shown
from musictrain.speed.live_line import Display, new_display
from musictrain.stages.planning import Seen, ended, next_stage, stopped_at, what_to_do
from musictrain.stages.protocol import Stage
from musictrain.stages.references import filled
from musictrain.stages.state import STOPPED, Record, State, write_state

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
REPLACED = "replaced"
LAST_LINES = 12
KILLED_BY = {-2: INTERRUPTED, -15: TERMINATED}


class Driver:
    """Trains what is left of a protocol.

    Args:
        loaded: the protocol.
        state: what was done.
        start: how a process is started, the usual way if left out.
    """

    def __init__(self, loaded: Loaded, state: State, start: Launch | None = None) -> None:
        self.loaded, self.state, self._launch = loaded, state, start or launch
        self.folder = loaded.folder
        self._events = Records(self.folder.events)
        self._page = Page(loaded)
        self._slot = Slot(self.folder.running)
        self._stage: Stage | None = None

    def run(self) -> int:
        """All stages that are left; gives back the exit status, as that of ``fit``.

        Raises:
            CommandError: if the folder cannot be written.
        """
        try:
            with passing_on() as signals:
                return self._run(signals)
        except OSError as error:
            raise CommandError(f"The protocol cannot go on: {error}. The same command goes on where it was.") from error
        finally:
            self._slot.give()
            self._page.write(self.state, going_on=False)
            self._events.close()

    def _run(self, signals: Signals) -> int:
        self._prepare()
        if not self._wait_for_orphan(signals):
            return KILLED_BY.get(-(signals.asked or 0), TERMINATED)
        if (status := self._check(signals)) != FINISHED:
            return status
        while (stage := next_stage(self.loaded.protocol, self.state)) is not None:
            if (record := stopped_at(self.loaded.protocol, self.state)) is not None:
                return self._tell_stop(record)
            if (status := self._train(stage, signals)) != FINISHED:
                return status
        print("\n".join(end_lines(self.loaded, self.state)), flush=True)
        return FINISHED

    def _prepare(self) -> None:
        """Write down what is known, and say it."""
        write_state(self.folder.state, self.state)
        atomic_write(self.folder.protocol, yaml.safe_dump(yaml.safe_load(self.loaded.text), sort_keys=False, allow_unicode=True))
        for record in self.state.replaced:
            if (run := self.folder.run(record.run)).is_run():
                add_tags(run, [REPLACED])
        self._page.open(self.state)
        print(f"protocol  {self.loaded.protocol.name}, in {shown(self.folder.path)}")
        print("\n".join(f"  {line}" for line in plan_lines(self.loaded, self.state)))
        print(f"page      {shown(self.folder.page)}", flush=True)

    def _check(self, signals: Signals) -> int:
        """Let fit read every configuration, in a process that ends again, unless it has read them before."""
        fingerprint = self.loaded.fingerprint()
        if self.state.checked == fingerprint or next_stage(self.loaded.protocol, self.state) is None:
            return FINISHED
        where = ["--config", str(self.loaded.path), "--name", self.folder.name, "--runs", str(self.folder.path.parent)]
        status = self._to_end(["stages", *where, "--check"], "check", {}, signals)
        if status == FINISHED:
            self._note(replace(self.state, checked=fingerprint))
        return status

    # One stage.

    def _train(self, stage: Stage, signals: Signals) -> int:
        """Begin a stage, go on with it, or note its end; gives back the exit status, 0 if the next one may follow."""
        self._stage = stage
        record = self.state.record(stage.name) or self._begin(stage, signals)
        if record is None:
            return FAILED if signals.asked is None else KILLED_BY.get(-signals.asked, TERMINATED)
        run = self._folder_of(record)
        seen = seen_in(run)
        what = what_to_do(seen)
        if what == "note":
            return self._end(record, seen.by_guard, seen.reason)
        resume = ["resume", str(run.path), "--runs", str(self.folder.path.parent)]
        words = resume if what == "resume" else self._words_of_fit(stage, record)
        self._tell("resumed" if what == "resume" else "begun", stage.name, run=run.name)
        variables = {"MUSICTRAIN_RUNS": str(self.folder.path.parent), **({BEGIN_IN: str(run.path)} if what == "begin" else {})}
        status = self._to_end(words, stage.name, variables, signals)
        if status in (FINISHED, STOPPED_BY_RULE):
            told = read_status(run.status)
            by_guard = status == STOPPED_BY_RULE or bool(told and told.by_guard)
            return self._end(record, by_guard, told.reason if told is not None else "")
        self._tell("interrupted" if status in (INTERRUPTED, TERMINATED) else "failed", stage.name, exit_status=status)
        print(f"Stage {stage.name!r} has not ended. The same command goes on where it was.", flush=True)
        return status

    def _begin(self, stage: Stage, signals: Signals) -> Record | None:
        """Decide what a stage begins with and where it lies, and write that down; None if what it takes over cannot be made."""
        resolved = self.loaded.stages[stage.name]
        record = begun_record(self.folder, resolved, self.state, lambda words: self._to_end(words, stage.name, {}, signals))
        if record is not None:
            self._note(self.state.with_record(record))
        return record

    def _folder_of(self, record: Record) -> RunFolder:
        run = self.folder.run(record.run)
        run.path.mkdir(exist_ok=True)
        add_parent(run, "stage of", self.folder.name)
        return run

    def _words_of_fit(self, stage: Stage, record: Record) -> list[str]:
        """What ``fit`` is given: a file with the stage's configuration, and what it begins with."""
        references: Mapping[str, str] = record.references
        config = filled(self.loaded.stages[stage.name].config, lambda name, version: references[f"{name}@{version}"])
        file = self.folder.config(stage.name)
        atomic_write(file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        words = ["fit", "--config", str(file), "--runs", str(self.folder.path.parent), "--name", f"{self.folder.name}-{stage.name}"]
        return [*words, *words_of_hand_over(stage.hand_over, record.started_from)]

    def _end(self, record: Record, by_guard: bool, reason: str) -> int:
        done = ended(record, time.time(), by_guard=by_guard, reason=reason)
        self._note(self.state.with_record(done))
        self._tell(done.state, record.stage, run=record.run, **({"reason": reason} if reason else {}))
        # It may hold what is secret, and the run's own config.yaml says the rest.
        self.folder.config(record.stage).unlink(missing_ok=True)
        how = f"was stopped by a guard: {reason}" if done.state == STOPPED else "is done"
        print(f"Stage {record.stage!r} {how}. {shown(self.folder.run(record.run).path)}", flush=True)
        return FINISHED

    def _tell_stop(self, record: Record) -> int:
        print(
            f"The protocol stops at stage {record.stage!r}, which a guard has stopped: {record.reason}\n"
            f"To go on all the same, say go_on: true at that stage; to begin it anew: {program()} stages --from {record.stage} ..."
        )
        return STOPPED_BY_RULE

    # Processes.

    def _to_end(self, words: Sequence[str], name: str, variables: Mapping[str, str], signals: Signals) -> int:
        """Start a process and wait for its end, showing where everything stands; gives back its exit status."""
        if signals.asked is not None:
            return KILLED_BY.get(-signals.asked, TERMINATED)
        descriptor = self._slot.take()
        if descriptor is None:
            raise OSError(f"another process of this protocol has begun meanwhile ({self._slot.owner()})")
        path = self.folder.log(name)
        tail = Tail.at_end(path)
        began = tail.place
        process = self._launch(words, path, variables, descriptor)
        self._slot.give(process.pid)
        signals.pid = process.pid
        signals.pass_on()  # what was asked while it started
        with_line = words[0] in ("fit", "resume")
        try:
            status = self._watch(process, tail, with_line=with_line)
        finally:
            signals.pid = None
        if status not in (FINISHED, STOPPED_BY_RULE, INTERRUPTED, TERMINATED, *KILLED_BY):
            told = [] if with_line else last_lines(path, began)
            print("\n".join([*told, f"(all of it: {shown(path)})"]), flush=True)
        # One that somebody has killed has failed; one that was asked to end, before it could say so itself, was interrupted.
        return status if status >= 0 else KILLED_BY.get(status, FAILED)

    def _watch(self, process: Process, tail: Tail, *, with_line: bool) -> int:
        display = new_display(self._standing) if with_line else None
        drawn = time.monotonic()
        try:
            while (status := process.poll()) is None:
                drawn = self._look(display, tail, drawn)
            self._look(display, tail, drawn)
            return status
        finally:
            if display is not None:
                display.close()

    def _look(self, display: Display | None, tail: Tail, drawn: float) -> float:
        """Pass on what was printed, draw line and page if it is time; gives back when the line was drawn."""
        if display is not None:
            for line in tail.new_lines():
                display.print(line)
            if time.monotonic() - drawn >= display.redraw_seconds:
                display.redraw()
                drawn = time.monotonic()
        self._page.write(self.state)
        time.sleep(LOOK_SECONDS)
        return drawn

    def _wait_for_orphan(self, signals: Signals) -> bool:
        """Wait for a process that an earlier driver has started and not seen ending; whether it has, and nothing else was asked."""
        if self._slot.take() is not None:
            return signals.asked is None
        self._stage = stage = next_stage(self.loaded.protocol, self.state)
        name = "check" if stage is None else stage.name
        print(f"The process of stage {name!r} is still at work ({self._slot.owner() or 'unknown'}); this waits for it.", flush=True)
        display, tail, drawn = new_display(self._standing), Tail.at_end(self.folder.log(name)), time.monotonic()
        try:
            while self._slot.take() is None:
                signals.pid = self._slot.owner()
                drawn = self._look(display, tail, drawn)
        finally:
            signals.pid = None
            display.close()
        return signals.asked is None

    def _standing(self) -> Standing | None:
        return None if self._stage is None else standing_of(self.loaded, self.state, self._stage)

    # What is written down.

    def _note(self, state: State) -> None:
        write_state(self.folder.state, state)
        self.state = state

    def _tell(self, event: str, stage: str, **details: object) -> None:
        self._events.append({"time": round(time.time(), 3), "event": event, "stage": stage, **details})


def seen_in(run: RunFolder) -> Seen:
    """What a stage's run has come to, by its own words and its versions."""
    versions = [version for version in list_versions(run.checkpoints) if version.resumable]
    status = read_status(run.status)
    if status is None:
        return Seen(resumable=bool(versions))
    # The status may be written a moment before the last version is.
    saved = any(version.step >= status.step for version in versions)
    done = status.state in ("finished", "stopped") and saved
    return Seen(bool(versions), done, done and status.by_guard, status.reason if done else "")


def last_lines(path: Path, place: int) -> list[str]:
    """What a process has printed at last, from a place in the file on."""
    try:
        return path.read_bytes()[place:].decode(errors="replace").splitlines()[-LAST_LINES:]
    except OSError:
        return []
