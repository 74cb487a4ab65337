"""CurriculumSchedule in a plain Trainer with somebody's own data module: what it turns, logs and refuses, and that nothing upsets it."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from musictrain.callbacks import AccumulationSchedule, CurriculumSchedule, RunLogger, RunRecorder
from musictrain.curriculum import Pacing
from musictrain.runs import RunFolder, read_records, read_rows
from tests.checkpoints import exact_runs
from tests.checkpoints.exact_runs import MODULES, Run, apart, quiet, train
from tests.curriculum.following import FollowingData
from tests.rolling_back import going_back
from tests.rolling_back.going_back import RUN_OF_ITS_OWN, Spoiler, end_of
from tests.tiny_runs import QUIET

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

STEPS: dict[str, Any] = {"difficulty": {"until": 14, "shape": "root", "start": 0.2}, "length": {"until": 9, "start": 0.25}}
TOKENS: dict[str, Any] = {"by": "tokens", "difficulty": {"until": 200, "start": 0.2}, "length": {"until": 120, "start": 0.25}}
VALUE: dict[str, Any] = {
    "by": "value",
    "difficulty": {"start": 0.2},
    "length": {"shape": "geometric", "start": 0.25},
    "goal": 2.15,
    "delay": 3,
}
CURRICULA = {"steps": STEPS, "tokens": TOKENS, "value": VALUE}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setattr(exact_runs, "PositionKeepingData", FollowingData)


class Dials(Callback):
    """Keeps the dial that each batch was made with."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen[int(batch["number"])] = [float(each) for each in batch["dial"]]


def fit(
    folder: Path, by: str, *callbacks: Callback, workers: int = 0, **options: Any
) -> tuple[Run, CurriculumSchedule, dict[int, list[float]]]:
    schedule, dials = CurriculumSchedule(**{**CURRICULA[by], **({"delay": 5} if by == "value" and workers else {})}), Dials()
    length = {"max_steps": 18, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None}
    run = train(folder, MODULES["music"](), schedule, dials, *callbacks, num_workers=workers, **{**length, **options})
    assert run.error is None, run.error
    return run, schedule, dials.seen


@pytest.mark.parametrize("by", CURRICULA)
def test_every_batch_is_made_with_the_dial_of_its_number_and_that_is_logged(by: str, tmp_path: Path) -> None:
    run, schedule, seen = fit(tmp_path / "run", by)
    assert schedule.course is not None
    assert seen == {number: [schedule.course.at(number).difficulty, schedule.course.at(number).length] for number in range(18)}
    logged = {row.step: row.values["curriculum/difficulty"] for row in run.rows if "curriculum/difficulty" in row.values}
    assert logged == pytest.approx({number: difficulty for number, (difficulty, _) in seen.items()})
    assert len(set(logged.values())) >= 3
    assert any("curriculum/competence" in row.values for row in run.rows) == (by == "value")


@pytest.mark.parametrize("by", CURRICULA)
def test_resumed_from_any_version_it_ends_in_the_same_bits(by: str, tmp_path: Path) -> None:
    whole, *_ = fit(tmp_path / "whole", by, saving={"every_n_train_steps": 1, "on_epoch_end": True})
    versions = [version for version in whole.versions if version.step in (3, 4, 11, 12)]
    assert len(versions) >= 4
    for version in versions:
        again, *_ = fit(tmp_path / version.name, by, ckpt_path=version.path, saving={"after_validation": False})
        assert apart(whole.end, again.end) == [], version.name
        assert again.rows == whole.logger.rows_after(version.name), version.name


@pytest.mark.slow
@pytest.mark.parametrize("by", CURRICULA)
def test_workers_that_fetch_ahead_change_nothing(by: str, tmp_path: Path) -> None:
    whole, _, seen = fit(tmp_path / "whole", by, workers=2, saving={"every_n_train_steps": 1})
    schedule = {**CURRICULA, "value": {**VALUE, "delay": 5}}
    alone = CurriculumSchedule(**schedule[by])
    run = train(
        tmp_path / "alone",
        MODULES["music"](),
        alone,
        saving={"every_n_train_steps": 1},
        **{"max_steps": 18, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None},
    )
    assert apart(whole.end, run.end) == []
    for version in [version for version in whole.versions if version.step in (4, 11)]:
        again, _, later = fit(tmp_path / version.name, by, workers=2, ckpt_path=version.path, saving={"after_validation": False})
        assert apart(whole.end, again.end) == [], version.name
        assert later.items() <= seen.items()


@pytest.mark.parametrize("by", CURRICULA)
def test_going_back_turns_the_table_back(by: str, tmp_path: Path) -> None:
    every: dict[str, Any] = {"limit_val_batches": 2, "val_check_interval": 2, "check_val_every_n_epoch": None, "max_steps": 14}
    spoiled, straight = RunFolder(tmp_path / "spoiled"), RunFolder(tmp_path / "straight")
    spoiler, schedule, other = Spoiler(6, later=3), CurriculumSchedule(**CURRICULA[by]), CurriculumSchedule(**CURRICULA[by])
    going_back.fit(spoiled, MODULES["music"](), spoiler, schedule, data=FollowingData(), **every)
    passing = FollowingData()
    passing.pass_over(6, 6)
    going_back.fit(straight, MODULES["music"](), other, data=passing, **every)
    assert spoiler.seen.count(7) == 2
    assert schedule.course is not None
    assert other.course is not None
    assert schedule.course.table == other.course.table
    assert apart(end_of(spoiled), end_of(straight), ignore=RUN_OF_ITS_OWN) == []


@pytest.mark.parametrize(("shape", "jumps"), [("step", 4), ("linear", 0)])
def test_jumps_of_the_dial_are_told_to_who_watches_and_even_turns_are_not(shape: str, jumps: int, tmp_path: Path) -> None:
    schedule = CurriculumSchedule(difficulty={"until": 12, "shape": shape, "start": 0.25, "stages": 4})
    told: list[float] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
            told.append(schedule.training_stage(trainer.global_step + 1))

    length = {"max_steps": 18, "max_epochs": -1}
    assert train(tmp_path, MODULES["music"](), schedule, Watch(), **length).error is None
    assert len(told) == 18
    assert sum(now != before for before, now in itertools.pairwise(told)) == jumps


@pytest.mark.parametrize("order", [1, -1])
def test_steps_that_gather_batches_turn_the_dial_together(order: int, tmp_path: Path) -> None:
    given: list[Callback] = [AccumulationSchedule(global_batch_tokens={0: 16, 3: 64}), CurriculumSchedule(**STEPS), dials := Dials()]
    trainer = lightning.Trainer(**QUIET, max_steps=6, max_epochs=-1, logger=False, callbacks=given[::order], default_root_dir=tmp_path)
    with quiet():
        trainer.fit(MODULES["music"](), datamodule=FollowingData())
    pacing = Pacing(**STEPS["difficulty"])
    # Lightning makes a step of what is left at an epoch's end; a course counts whole ones.
    steps = [0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    assert [dial[0] for dial in dials.seen.values()] == pytest.approx([pacing.at(step) for step in steps[: len(dials.seen)]])
    assert len(dials.seen) >= 11


def test_a_run_is_told_what_was_decided_and_when_it_is_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    mixture = {"start": {"ryans": 1}, "end": {"chorales": 1}}
    schedule = CurriculumSchedule(**{**VALUE, "goal": 9.0, "first_value": 9.5, "mixture": mixture})
    options: dict[str, Any] = {**QUIET, "max_steps": 11, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None}
    with quiet():
        lightning.Trainer(
            **options,
            logger=RunLogger(folder=run.path),
            log_every_n_steps=2,
            callbacks=[schedule, RunRecorder()],
            default_root_dir=run.path,
        ).fit(MODULES["music"](), datamodule=FollowingData())
    decided, over = [event for event in read_records(run.events) if event["event"] == "curriculum"]
    assert (decided["step"], decided["batch"], decided["competence"], decided["metric"]) == (4, 7, 1.0, "val/loss")
    assert (over["step"], over["batch"], over["over"]) == (8, 7, True)
    rows = {row["step"]: row for row in read_rows(run.metrics) if "curriculum/share_ryans" in row}
    assert [(step, row["curriculum/share_ryans"]) for step, row in rows.items()] == [(2, 1), (4, 1), (6, 1), (8, 0), (10, 0)]


def test_a_decision_that_a_kill_has_kept_from_the_events_is_told_at_the_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    every: dict[str, Any] = {"limit_val_batches": 2, "val_check_interval": 2, "check_val_every_n_epoch": None}

    def decided() -> list[tuple[int, float]]:
        return [(each["count"], each["competence"]) for each in read_records(run.events) if "competence" in each]

    going_back.fit(run, MODULES["music"](), CurriculumSchedule(**VALUE), data=FollowingData(), max_steps=8, **every)
    before = decided()
    assert len(before) >= 2
    lines = run.events.read_text().splitlines(keepends=True)
    run.events.write_text("".join(line for line in lines if f'"count": {before[0][0]}' not in line))
    assert len(decided()) == len(before) - 1
    schedule = CurriculumSchedule(**VALUE)
    going_back.fit(run, MODULES["music"](), schedule, data=FollowingData(), max_steps=10, ckpt_path="last", **every)
    assert schedule.course is not None
    assert sorted(decided()) == [(decision.count, decision.competence) for decision in schedule.course.table]


def test_without_anything_to_turn_it_asks_nothing_of_the_data_module(tmp_path: Path) -> None:
    trainer = lightning.Trainer(**QUIET, max_steps=2, logger=False, callbacks=[CurriculumSchedule()], default_root_dir=tmp_path)
    trainer.fit(BoringModel(), datamodule=BoringDataModule())
    assert not [name for name in trainer.callback_metrics if name.startswith("curriculum/")]


# Refusals


def refused(folder: Path, schedule: CurriculumSchedule, *callbacks: Callback, data: Any = None, **options: Any) -> str:
    trainer = lightning.Trainer(
        **{
            **QUIET,
            "max_steps": 6,
            "max_epochs": -1,
            "logger": False,
            "callbacks": [schedule, *callbacks],
            "default_root_dir": folder,
            **options,
        }
    )
    with quiet(), pytest.raises(ValueError, match="CurriculumSchedule") as caught:
        trainer.fit(MODULES["music"](), datamodule=FollowingData() if data is None else data)
    return str(caught.value)


def test_a_data_module_that_cannot_follow_is_shown_how_it_could(tmp_path: Path) -> None:
    words = refused(tmp_path, CurriculumSchedule(**STEPS), data=BoringDataModule())
    assert "BoringDataModule, which cannot follow" in words
    assert "def follow(self, course)" in words
    assert "course.at(number)" in words
    trainer = lightning.Trainer(**QUIET, max_steps=1, logger=False, callbacks=[CurriculumSchedule(**STEPS)], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="a Trainer without a data module"):
        trainer.fit(BoringModel())


def test_what_cannot_be_counted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = refused(tmp_path, CurriculumSchedule(**STEPS), GradientAccumulationScheduler({0: 1, 1: 2}))
    assert "cannot tell steps from batches under GradientAccumulationScheduler" in words
    monkeypatch.setattr(FollowingData, "tokens_per_batch", None)
    assert "cannot count the tokens of FollowingData" in refused(tmp_path, CurriculumSchedule(**TOKENS))


def test_a_value_that_nobody_logs_is_named_with_the_nearest_that_is(tmp_path: Path) -> None:
    words = refused(tmp_path, CurriculumSchedule(**{**VALUE, "monitor": "val/los"}), val_check_interval=2, check_val_every_n_epoch=None)
    assert "watches 'val/los'" in words
    assert "Did you mean 'val/loss'" in words


@pytest.mark.slow
def test_loaders_that_fetch_further_ahead_than_the_delay_are_refused(tmp_path: Path) -> None:
    words = refused(tmp_path, CurriculumSchedule(**{**VALUE, "delay": 4}), data=FollowingData(num_workers=2))
    assert "the loaders fetch 4 batches ahead" in words
    assert "Set delay to 5 or more" in words


def test_it_says_what_is_wrong_with_its_settings() -> None:
    settings: list[tuple[dict[str, Any], str]] = [
        ({"by": "token", "length": {"until": 5}}, "Did you mean 'tokens'"),
        ({"length": {"untl": 5}}, "CurriculumSchedule.length has no 'untl'.*Did you mean 'until'"),
        ({"length": {"shape": "step"}}, "no end: set its `until`, in steps"),
        ({"orderings": {"surprisal": 1.0}}, "orderings without difficulty"),
        ({"difficulty": {"until": 5}, "orderings": {"surprisal": "much"}}, "needs weights above 0 by name"),
        ({"by": "value", "difficulty": {}}, "goal=None; it needs a number"),
        ({"difficulty": {"until": 5}, "goal": 1.0}, "a goal is for by='value'"),
        ({**VALUE, "delay": 0}, "delay=0"),
    ]
    for given, words in settings:
        with pytest.raises(ValueError, match=words):
            CurriculumSchedule(**given)


def test_what_an_older_version_does_not_know_is_counted_from_the_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, _, seen = fit(tmp_path / "whole", "steps")
    without = train(tmp_path / "without", MODULES["music"](), saving={"every_n_train_steps": 5}, max_steps=5, max_epochs=-1)
    with caplog.at_level(logging.INFO):
        _, _, later = fit(tmp_path / "later", "steps", ckpt_path=without.versions[-1].path)
    assert later == {number: dial for number, dial in seen.items() if number >= 5}
    assert whole.versions
