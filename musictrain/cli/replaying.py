"""What ``replay`` does: choose where to begin, build the run's parts again, go forward to the step, and tell of it."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from musictrain.checkpoints.catalog import Version
from musictrain.checkpoints.resume_report import CIRCUMSTANCES, GRADIENTS
from musictrain.checkpoints.seal import SealError, read_seal
from musictrain.checkpoints.verification import BrokenCheckpointError
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.parse_errors import innermost
from musictrain.cli.resume import read_config, value_at
from musictrain.replay.chosen import (
    Attempt,
    Recorded,
    attempt_of_step,
    attempts_of,
    began_elsewhere,
    decided_until,
    first_whole,
    reach_of,
    recorded_until,
    said_at,
    seconds_per_step,
    versions_before,
)
from musictrain.replay.holding import Hold
from musictrain.runs import RunFolder
from musictrain.runs.config_changes import ELSEWHERE, config_changes, without_new_defaults
from musictrain.runs.records import read_records
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks
from musictrain.runs.standing import duration
from musictrain.runs.status import is_gone, read_status

if TYPE_CHECKING:
    from musictrain.callbacks import CurriculumSchedule
    from musictrain.cli.replay_trainer import ReplayCLI
    from musictrain.curriculum import Course
    from musictrain.replay.writing import Told

Say = Callable[[str], None]
MOST_HELD = 3  # versions of a run that goes on, the nearest first
NEEDED = ("train_plan", "store", "corpus", "tokenizer")


class Replaying:
    """One step of a run, to be done again.

    Args:
        run: an existing run.
        step: from 1.
        attempt: the start of the run whose step is meant; None for the last one that made it.
        keep: class names of callbacks to wake besides those that are known to change training.

    Raises:
        ReplayError: if the run has not come so far.
        UsageError: if it has no configuration.
        CommandError: if there is no place to begin from.
    """

    def __init__(self, run: RunFolder, step: int, attempt: int | None = None, keep: Sequence[str] = ()) -> None:
        self.run, self.step, self.keep = run, step, tuple(keep)
        self.attempts = attempts_of(run.metrics)
        self.attempt = attempt_of_step(run, step, attempt)
        self.asked = attempt
        self._hold: Hold | None = None
        self.notes: list[str] = list(self._done_before())
        self.version, self.outline = self._begin_from()
        self.then = dict(self.outline.get(CIRCUMSTANCES) or self._any_circumstances())
        self.config = self._config(self.attempt)
        self.recorded = self._recorded()
        self.until = max(step, self.recorded.line or step)

    @property
    def folder(self) -> Path:
        """Where the replay is written unless the user says otherwise."""
        of_attempt = f"_attempt_{self.asked}" if self.asked is not None else ""
        return self.run.path / "replay" / f"step_{self.step:06d}{of_attempt}"

    @property
    def began_at(self) -> int:
        """Optimizer steps that need not be done again."""
        return 0 if self.version is None else self.version.step

    @property
    def goes_on(self) -> bool:
        """Whether the run is still training."""
        status = read_status(self.run.status)
        return status is not None and status.is_active() and not is_gone(status, time.time())

    def _done_before(self) -> Iterator[str]:
        earlier = [each for each in self.attempts if each.number < self.attempt.number and each.from_step < self.step]
        for each in [each for each in earlier if reach_of(self.run, each, self.attempts) >= self.step][-1:]:
            back = next(later.from_step for later in self.attempts if later.number > each.number)
            yield f"Attempt {each.number} did this step too, before the run went back to step {back:,}: see --attempt {each.number}."

    def _begin_from(self) -> tuple[Version | None, dict[str, Any]]:
        """The nearest version, and what it holds beside tensors; None for the beginning of the run."""
        candidates = versions_before(self.run, self.step, self.attempts, self.attempt)
        if self.goes_on:
            self._hold = Hold(self.run.path / "replay")
            candidates = self._hold.take(candidates[:MOST_HELD])
        while candidates:
            version, reasons = first_whole(candidates)
            self.notes += reasons
            if version is None:
                break
            outline = outline_of(version.path)
            if not outline.get(GRADIENTS):
                return version, outline
            # It was saved inside an accumulation window, some of whose batches would not be seen.
            candidates = [each for each in candidates if each.step < version.step]
        if (began := began_elsewhere(self.run)) > 0:
            raise CommandError(
                f"Run {self.run.name} went on from another run's version after step {began:,}, and none of its own versions before step "
                f"{self.step:,} is left: there is nowhere to begin. Try a later --step, or replay in the run it came from."
            )
        if (source := read_config(self.run).get("init_from")) is not None:
            raise CommandError(
                f"Run {self.run.name} began with the weights of {source}, and none of its own versions before step {self.step:,} is left: "
                "there is nowhere to begin. Try a later --step."
            )
        return None, {}

    def _any_circumstances(self) -> Mapping[str, Any]:
        """Under what the run was trained, as any of its versions tells; nothing if there is none."""
        for path in sorted(self.run.checkpoints.glob("v*_step*.ckpt*"), reverse=True):
            with suppress(BrokenCheckpointError, OSError):
                if found := outline_of(path).get(CIRCUMSTANCES):
                    return found  # type: ignore[no-any-return]
        return {}

    def _config(self, attempt: Attempt) -> dict[str, Any]:
        """The configuration of an attempt: each writes its own in the place of the one before, and versions keep theirs."""
        after = [each for each in self.attempts if each.number > attempt.number]
        for path in sorted(self.run.checkpoints.glob("v*_step*.ckpt*"), reverse=True) if after else ():
            with suppress(BrokenCheckpointError, SealError, OSError):
                saved_by_it = attempt.began <= read_seal(path).created <= after[0].began
                if saved_by_it and (found := (outline_of(path).get(CIRCUMSTANCES) or {}).get("config")):
                    return dict(yaml.safe_load(found))
        if after:
            self.notes.append(f"No version of attempt {attempt.number} is left: its configuration is taken to be that of the last one.")
        return read_config(self.run)

    def _recorded(self) -> Recorded:
        """The line that holds the step: of its attempt, or of a later one that went on from behind it with the same configuration."""
        found = recorded_until(self.run, self.step, self.attempt)
        later = [each for each in self.attempts if each.number > self.attempt.number]
        if found.line is not None or not later or min(each.from_step for each in later) < self.step:
            return found
        changes = config_changes(without_new_defaults(self.config, self._config(later[-1])), self.config)
        same = len(later) == 1 and all(key in ELSEWHERE for key, _, _ in changes)
        return recorded_until(self.run, self.step, later[-1]) if same else found

    # Doing it.

    def tell(self, folder: Path, *, run_again: bool = True, most_rows: int | None = None, say: Say = print) -> Told:
        """List the batches, do the step again, write everything into a folder, and give back what there is to tell.

        Args:
            folder: is made; what an earlier replay has left there goes.
            run_again: or only list and write the music.
            most_rows: how many rows are written at most, the worst ones; None for all.
            say: called with lines on what is about to happen.

        Raises:
            UsageError: if the run's parts cannot be built, or its data module has no numbered batches.
            CommandError: if corpus or tokenizer have changed, or the step cannot be reached.
        """
        from musictrain.cli.console import quiet_terminal
        from musictrain.cli.replay_quiet import threads

        with quiet_terminal(), tempfile.TemporaryDirectory(prefix="replay-") as scratch, threads(self.then.get("threads")) as said:
            self.notes += said
            cli = self._build(scratch)
            self._check_data(cli)
            self._pass_over(cli)
            self._foretell(cli)
            if run_again:
                say(self.outlook())
                self._go(cli)
            else:
                cli.datamodule.setup("fit")
            told = self._told(cli, run_again)
            self._write(told, folder, most_rows)
        if self._hold is not None:
            self._hold.close()
        return told

    def _write(self, told: Told, folder: Path, most_rows: int | None) -> None:
        from musictrain.replay.writing import clear, write_reports, write_rows

        try:
            clear(folder)
            write_rows(told, folder, most_rows)
            write_reports(told, folder)
        except OSError as error:
            raise CommandError(f"The replay cannot be written: {error}. Name another folder with --output.") from error

    def _build(self, scratch: str) -> ReplayCLI:
        from musictrain.cli.replay_trainer import ReplayCLI, replay_config, with_teacher
        from musictrain.replay import FollowStep

        validates = bool(value_at(self.config, "model.init_args.plateau"))
        config = with_teacher(replay_config(self.config, scratch, self.then.get("precision"), validates=validates), self.run)
        try:
            cli = ReplayCLI(config, FollowStep(self.step, self.until, max(1, self.recorded.since - 1)), self.keep)
        except (ValueError, ImportError, AttributeError) as error:
            raise UsageError(f"Run {self.run.name} cannot be built again: {innermost(str(error))}") from error
        missing = [name for name in NEEDED if not hasattr(cli.datamodule, name)]
        if missing:
            raise UsageError(
                "replay needs batches that can be asked for by number, as musictrain.MusicDataModule has them; "
                f"{type(cli.datamodule).__name__} lacks {', '.join(missing)}."
            )
        return cli

    def _check_data(self, cli: ReplayCLI) -> None:
        """Refuse other music or other tokens than the run had."""
        recorded: dict[str, str] = {}
        if self.run.environment.is_file():
            recorded = json.loads(self.run.environment.read_text(encoding="utf-8")).get("fingerprints") or {}
        for what, then in recorded.items():
            now = getattr(getattr(cli.datamodule, what, None), "fingerprint", then)
            if now != then:
                raise CommandError(
                    f"The {what} is not what it was when run {self.run.name} was trained (fingerprint {then} then, {now} now), so its "
                    f"batches cannot be made again. Bring the {what} back as it was."
                )

    def _pass_over(self, cli: ReplayCLI) -> None:
        """Leave out the batches that the run had turned away from when the attempt began."""
        place = self.run.path / FILE_NAME
        if not place.is_file():
            return
        from musictrain.rolling_back.fitting import pass_over

        asked = {each.get("number"): float(each.get("time") or 0.0) for each in reversed(read_records(place))}
        began = self.attempt.began or math.inf
        before = [rollback for rollback in read_rollbacks(place) if asked.get(rollback.number, 0.0) <= began]
        pass_over(cli.datamodule, before)
        self.notes += [f"Passed over, as in the run since it went back to step {each.to:,}: {each.passed_over}." for each in before]

    def _foretell(self, cli: ReplayCLI) -> None:
        """Let a curriculum go by what was decided then: validations are not done again."""
        from musictrain.curriculum import Decision

        for schedule in schedules_of(cli):
            schedule.foretell(Decision(*each) for each in decided_until(self.run, self.attempt, self.attempts))
            schedule.runs = schedule.runs or str(self.run.path.parent)

    def _go(self, cli: ReplayCLI) -> None:
        """Do the steps again. What a guard of the run's own ends is told of as far as it came."""
        from musictrain.cli.replay_quiet import quiet_records

        follow = cli.follow
        path = None if self.version is None else str(self.version.path)
        try:
            with quiet_records():
                cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=path, weights_only=True)
        except Exception as error:
            if not follow.result.batches:
                raise CommandError(f"Step {self.step:,} could not be done again: {_in_short(error)}") from error
            self.notes.append(f"In step {cli.trainer.global_step + 1:,} training ended: {_in_short(error)}")
        if not follow.result.batches:
            raise CommandError(f"Training ended after step {cli.trainer.global_step:,}, before step {self.step:,} was done again.")

    def outlook(self) -> str:
        """From where, how many steps, about how long."""
        steps = self.until - self.began_at
        pace = seconds_per_step(self.run)
        about = f", about {duration(pace * steps)} at the run's own pace" if pace else ""
        what = f"from {self.version.name}" if self.version is not None else "from the beginning, since no version before it is left"
        line = f", to the end of the line of step {self.until:,}" if self.until > self.step else ""
        return f"Going {what}: {steps:,} {'step' if steps == 1 else 'steps'}{line}{about}."

    # Telling of it.

    def _told(self, cli: ReplayCLI, run_again: bool) -> Told:
        from musictrain.cli.replay_words import advice, intro
        from musictrain.replay import music_of_rows
        from musictrain.replay.scores import compare, score_pieces, score_rows, worst_tokens
        from musictrain.replay.writing import Told

        result = cli.follow.result if run_again else None
        batches = [each.batch for each in result.batches] if result is not None else self._planned_batches(cli)
        for course in [schedule.course for schedule in schedules_of(cli) if schedule.course is not None]:
            cli.datamodule.follow(course)  # the end of a fit has let go of it
        rows = score_rows(
            [row for batch in batches for row in music_of_rows(cli.datamodule, batch)], result.batches if result is not None else ()
        )
        compared = compare(self.recorded, result) if result is not None else []
        told = Told(self.run.name, self.step, rows, result=result, compared=compared, line=self.recorded.line, since=self.recorded.since)
        told.pieces, told.tokens = score_pieces(rows), worst_tokens(rows, cli.datamodule.tokenizer)
        told.said = said_at(self.run, self.step, self.attempt)
        told.intro = list(intro(self, cli, told, batches))
        told.advice = [*self.notes, *advice(self, cli, told)]
        return told

    def _planned_batches(self, cli: ReplayCLI) -> list[dict[str, Any]]:
        from musictrain.cli.replay_trainer import numbers_of_step

        course = self._course(cli)  # before the plan is made, which knows what is easy from then on
        plan = cli.datamodule.train_plan()
        state = self.outline.get(type(cli.datamodule).__qualname__) or {}
        numbers = numbers_of_step(cli, state, self.began_at, self.step)
        return [plan.batch(number) if course is None else plan.batch(number, dial=course.at(number)) for number in numbers]

    def _course(self, cli: ReplayCLI) -> Course | None:
        """The dial of every batch as the version knows it, found without training."""
        for schedule in schedules_of(cli):
            course, state = schedule.lead(cli.trainer, cli.datamodule), (self.outline.get("callbacks") or {}).get(schedule.state_key)
            if course is not None and state:
                course.load_state_dict(state["course"], (state.get("batch_size") or 1, cli.datamodule.batch_size))
            return course
        return None


def schedules_of(cli: ReplayCLI) -> list[CurriculumSchedule]:
    """The curricula of a run's Trainer: one, or none."""
    from musictrain.callbacks import CurriculumSchedule

    return [callback for callback in cli.trainer.callbacks if isinstance(callback, CurriculumSchedule)]  # type: ignore[attr-defined]


def _in_short(error: Exception) -> str:
    words = innermost(str(error))
    return words if isinstance(error, ValueError) and words else f"{type(error).__name__}: {words}"


def outline_of(path: Path) -> dict[str, Any]:
    """What a version holds beside weights and optimizer states.

    Raises:
        BrokenCheckpointError: if it is damaged.
    """
    from musictrain.checkpoints.checkpoint_io import SHARDED
    from musictrain.checkpoints.storing import load, load_outline

    tree = load_outline(path) if path.is_dir() else load(path)
    return {key: value for key, value in tree.items() if key not in SHARDED}
