"""A run that goes back ends in the bits of one that never met the batches it passes over, and nothing of the spoiled state is kept."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA

from musictrain import rolling_back
from musictrain.callbacks import (
    AccumulationSchedule,
    EMAWeightAveraging,
    LivePage,
    MusicalEarlyStopping,
    Notifications,
    ThroughputReport,
    VersionedCheckpoint,
)
from musictrain.checkpoints.catalog import NoGoodVersionError, list_versions
from musictrain.optim import Plateau, WarmupCosine
from musictrain.rolling_back.fitting import CannotFitAgainError
from musictrain.runs import RunFolder, read_records, read_rows
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks
from musictrain.runs.rows import values_of
from musictrain.runs.status import read_status
from tests.checkpoints.exact_runs import MODULES, Plain, apart
from tests.rolling_back.going_back import RUN_OF_ITS_OWN, Spoiler, StreamData, end_of, fit, never_met, trainer_of
from tests.tiny_runs import QUIET, ForeignNetwork, new_module

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums come out the same, and no seed is left by another test."""
    torch.set_num_threads(1)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def some_quickly(names: Iterable[str], *quick: str) -> list[Any]:
    """Cases of which the others are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


VALIDATING = {"limit_val_batches": 2, "val_check_interval": 2, "check_val_every_n_epoch": None}


def check_same(spoiled: RunFolder, straight: RunFolder) -> None:
    """The last version to the bit, and every line of the metrics that counts, but for how fast it was."""
    assert apart(end_of(spoiled), end_of(straight), ignore=RUN_OF_ITS_OWN) == []
    assert counted(spoiled) == counted(straight)


def counted(run: RunFolder) -> list[tuple[Any, ...]]:
    rows = read_rows(run.metrics)
    return [(row["step"], key, row[key]) for row in rows for key in sorted(values_of(row)) if "second" not in key and "speed/" not in key]


def both(folder: Path) -> tuple[RunFolder, RunFolder]:
    return RunFolder(folder / "spoiled"), RunFolder(folder / "straight")


@pytest.mark.parametrize(
    ("module", "batch"),
    [
        ("plain", 5),
        *(pytest.param(name, batch, marks=pytest.mark.slow) for name in MODULES for batch in (5, 13) if (name, batch) != ("plain", 5)),
    ],
)
def test_it_ends_in_the_bits_of_a_run_that_never_met_the_batch(module: str, batch: int, tmp_path: Path) -> None:
    spoiled, straight = both(tmp_path)
    spoiler = Spoiler(batch, later=1)
    fit(spoiled, MODULES[module](), spoiler, max_steps=24)
    never_met(straight, MODULES[module](), (batch, batch), max_steps=24)
    assert spoiler.seen.count(batch) == 1
    check_same(spoiled, straight)


HOW: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    "windows of 4": ({"later": 0}, {"accumulate_grad_batches": 4, "max_steps": 8}, (4, 7)),
    "windows of 4, with validations inside": (
        {"later": 1, "delay": 1},
        {"accumulate_grad_batches": 4, "max_steps": 8, **VALIDATING, "val_check_interval": 3, "saving": {"after_validation": True}},
        (4, 7),
    ),
    "noticed in a validation": ({"hook": "on_validation_end"}, {**VALIDATING, "saving": {"after_validation": True}}, (5, 5)),
    "epochs": ({"later": 2}, {"max_epochs": 3, "max_steps": -1}, (5, 5)),
    "noticed late": ({"later": 5, "delay": 3}, {}, (5, 5)),
    "two workers": ({"later": 1}, {"data": 2}, (5, 5)),
    "bf16-mixed": ({"later": 1}, {"precision": "bf16-mixed"}, (5, 5)),
}


@pytest.mark.parametrize("how", some_quickly(HOW, "windows of 4", "noticed in a validation"))
def test_so_it_does_with(how: str, tmp_path: Path) -> None:
    noticing, options, gap = HOW[how]
    workers = options.get("data", 0)
    options = {key: value for key, value in options.items() if key != "data"}
    spoiled, straight = both(tmp_path)
    fit(spoiled, MODULES["music"](), Spoiler(5, **noticing), data=StreamData(workers), **options)
    never_met(straight, MODULES["music"](), gap, **options)
    (rollback,) = read_rollbacks(spoiled.path / FILE_NAME)
    assert (rollback.first, rollback.last) == gap
    assert rollback.to <= rollback.trusted < rollback.step
    check_same(spoiled, straight)


def spoiled_rate() -> Any:
    plateau = Plateau(monitor="val/loss", patience=0, factor=0.5, min_delta=10.0)
    return new_module(ForeignNetwork(), schedule=WarmupCosine(warmup_steps=2), plateau=plateau, token_dropout=0.1)


COMPANY: dict[str, list[Any]] = {
    "averaged weights": [partial(EMAWeightAveraging, decay=0.9)],
    "averaged weights of Lightning's": [partial(LightningEMA, decay=0.9)],
    "windows that change": [partial(AccumulationSchedule, batches={0: 1, 3: 2})],
    "early stopping": [partial(MusicalEarlyStopping, "val/loss", patience=3)],
    "early stopping of Lightning's": [partial(EarlyStopping, "val/loss", patience=3)],
    "speed": [ThroughputReport],
}


@pytest.mark.parametrize("company", some_quickly(COMPANY, "averaged weights", "windows that change"))
def test_callbacks_that_count_are_turned_back_too(company: str, tmp_path: Path) -> None:
    spoiled, straight = both(tmp_path)
    spoiler = Spoiler(4, later=3)
    options = {**VALIDATING, "max_steps": 10}
    fit(spoiled, spoiled_rate(), spoiler, *(make() for make in COMPANY[company]), **options)
    (rollback,) = read_rollbacks(spoiled.path / FILE_NAME)
    assert rollback.first is not None
    assert rollback.last is not None
    gap = rollback.first, rollback.last
    fit(straight, spoiled_rate(), *(make() for make in COMPANY[company]), data=passing(gap), **options)
    ignore = (*RUN_OF_ITS_OWN, "['callbacks']['ThroughputReport']")
    assert apart(end_of(spoiled), end_of(straight), ignore=ignore) == []
    assert counted(spoiled) == counted(straight)


def passing(*gaps: tuple[int, int]) -> StreamData:
    data = StreamData()
    for gap in gaps:
        data.pass_over(*gap)
    return data


def test_a_validation_that_is_left_in_its_middle_leaves_neither_dropout_at_rest_nor_weights_exchanged(tmp_path: Path) -> None:
    spoiled, straight = both(tmp_path)
    fit(spoiled, MODULES["plain"](), Spoiler(5, hook="on_validation_batch_end"), EMAWeightAveraging(decay=0.9), **VALIDATING)
    fit(straight, MODULES["plain"](), EMAWeightAveraging(decay=0.9), data=passing((5, 5)), **VALIDATING)
    check_same(spoiled, straight)


def test_two_faults_are_two_goings_back_and_no_batch_is_met_twice_that_was_passed_over(tmp_path: Path) -> None:
    spoiled, straight = both(tmp_path)
    spoiler = Spoiler(5, 9)
    fit(spoiled, MODULES["music"](), spoiler)
    never_met(straight, MODULES["music"](), (5, 5), (9, 9))
    assert [spoiler.seen.count(batch) for batch in (5, 9)] == [1, 1]
    assert [(each.first, each.settled) for each in read_rollbacks(spoiled.path / FILE_NAME)] == [(5, True), (9, True)]
    check_same(spoiled, straight)


def test_nothing_of_the_spoiled_state_is_saved_or_called_best(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    seen: list[list[str]] = []
    look = partial(lambda: seen.append(sorted(version.name for version in list_versions(run.checkpoints))))
    fit(run, MODULES["plain"](), Spoiler(5, later=0, meanwhile=look), saving={"every_n_train_steps": 2})
    saved = [event for event in read_records(run.events) if event["event"] == "saved"]
    # Asked for after step 6, at which a version is due: that comes after it, and once. What was saved before may still be on its way.
    assert len(seen) == 1
    assert seen[0][0] == "v000001_step000000"
    assert not any(name.endswith("step000006") for name in seen[0])
    assert [event["step"] for event in saved] == [0, 2, 4, 6, 8, 10, 12]
    assert not [event for event in saved if event["reason"] == "exception"]
    assert not list(run.checkpoints.glob("*.abandoned"))


def test_what_was_saved_before_it_was_noticed_is_set_aside(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    fit(run, MODULES["plain"](), Spoiler(5, later=3))
    assert [path.name for path in sorted(run.checkpoints.glob("*.abandoned"))] == [
        "v000004_step000006.ckpt.abandoned",
        "v000005_step000008.ckpt.abandoned",
    ]
    assert {version.step: version.name for version in list_versions(run.checkpoints)}[6] == "v000006_step000006"


def test_the_records_say_what_happened(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    fit(run, MODULES["plain"](), Spoiler(5))
    (told,) = [event for event in read_records(run.events) if event["event"] == "rolled_back"]
    expected = {"step": 6, "to": 4, "version": "v000003_step000004", "passed_over": "batch 5", "reason": "Batch 5 is bad."}
    assert {key: told[key] for key in expected} == expected
    events = [event["event"] for event in read_records(run.events) if event["event"] not in ("log", "saved", "resume_report")]
    assert events == ["started", "rolled_back", "resumed", "finished"]
    status = read_status(run.status)
    assert status is not None
    assert (status.state, status.attempt, status.reason) == ("finished", 2, "")


class ReadsStatus(Callback):
    """Notes what the status says of why, after the run went back."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.reasons = run, set[str]()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        recorder = next(each for each in trainer.callbacks if type(each).__name__ == "RunRecorder")
        self.reasons.add(recorder._status.now().reason)


def test_the_status_of_the_run_says_that_it_went_back_for_as_long_as_it_trains(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    reader = ReadsStatus(run)
    fit(run, MODULES["plain"](), Spoiler(5), reader)
    assert reader.reasons == {"", "Rolled back from step 6 to step 4, passing over batch 5. Batch 5 is bad."}


def test_a_trainer_without_any_logger_or_record_goes_back_as_well(tmp_path: Path) -> None:
    """As in the README: somebody's script, with versions in the Trainer's own folder."""
    ends = []
    for name, data in (("spoiled", StreamData()), ("straight", passing((5, 5)))):
        spoiler, module = Spoiler(5), MODULES["plain"]()
        options: dict[str, Any] = {**QUIET, "enable_checkpointing": True, "max_steps": 9, "max_epochs": -1, "limit_val_batches": 0}
        saving = VersionedCheckpoint(every_n_train_steps=2)
        trainer = lightning.Trainer(**options, default_root_dir=tmp_path / name, logger=False, callbacks=[spoiler, saving])
        rolling_back.fit(trainer, module, datamodule=data)
        assert trainer.callbacks == [spoiler, saving]  # type: ignore[attr-defined]
        ends.append(end_of(RunFolder(tmp_path / name)))
    assert [each.first for each in read_rollbacks(tmp_path / "spoiled" / FILE_NAME)] == [5]
    assert apart(*ends, ignore=RUN_OF_ITS_OWN) == []


class Breaks(StreamData):
    """Cannot be set up a second time, for whatever reason."""

    def setup(self, stage: str) -> None:
        if hasattr(self, "has_been_set_up"):
            raise self.error
        self.has_been_set_up = True

    error: BaseException = OSError("the corpus is gone")


@pytest.mark.parametrize(("error", "state"), [(OSError("the corpus is gone"), "failed"), (SystemExit(143), "interrupted")])
def test_what_ends_it_between_two_fits_is_recorded_as_the_end_of_the_run(tmp_path: Path, error: BaseException, state: str) -> None:
    run, data = RunFolder(tmp_path / "run"), Breaks()
    data.error = error
    with pytest.raises(type(error)):
        fit(run, MODULES["plain"](), Spoiler(5), data=data)
    status = read_status(run.status)
    assert status is not None
    assert (status.state, status.step, status.advice.split()[-1]) == (state, 4, "run")
    assert read_records(run.events)[-1]["event"] == state
    fit(run, MODULES["plain"](), Spoiler(5), ckpt_path="last")
    straight = RunFolder(tmp_path / "straight")
    never_met(straight, MODULES["plain"](), (5, 5))
    check_same(run, straight)


ONCE = r"SingleDeviceStrategy cannot be set up twice in one program: go on in a new one, with musictrain resume, or with "


@pytest.mark.parametrize("damaged", [False, True])
def test_where_it_cannot_fit_again_people_are_told_and_the_page_shows_it(
    damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    told = Notifications(file=True, console=False, events=["failure"])
    if damaged:
        broken = lambda folder: raising(NoGoodVersionError("All are broken."))  # noqa: E731
        monkeypatch.setattr("musictrain.rolling_back.fitting.settle_rollbacks", broken)
    else:
        monkeypatch.setattr("musictrain.rolling_back.fitting.SingleDeviceStrategy", type("Other", (), {}))
    error, reason = (NoGoodVersionError, "All are broken.") if damaged else (CannotFitAgainError, ONCE)
    with pytest.raises(error, match=reason):
        fit(run, MODULES["plain"](), Spoiler(5), told, LivePage(curves=False))
    (message,) = read_records(run.path / "notifications.jsonl")
    assert message["event"] == "failure"
    assert message["message"].startswith(f"Training failed after 4 steps: {error.__name__}: ")
    status, last = read_status(run.status), read_records(run.events)[-1]
    assert status is not None
    assert (status.state, last["event"], last["reason"]) == ("failed", "failed", status.reason)
    assert reason in status.reason
    assert status.reason.split(":")[0] in (run.path / "dashboard_data.js").read_text()
    assert '"state":"failed"' in (run.path / "dashboard_data.js").read_text().replace(" ", "")


def raising(error: Exception) -> None:
    raise error


def test_a_trainer_that_can_be_set_up_only_once_says_how_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("musictrain.rolling_back.fitting.SingleDeviceStrategy", type("Other", (), {}))
        with pytest.raises(CannotFitAgainError, match=ONCE):
            fit(run, MODULES["plain"](), Spoiler(5))
    assert not read_rollbacks(run.path / FILE_NAME)[0].settled
    fit(run, MODULES["plain"](), Spoiler(5), ckpt_path="last")
    straight = RunFolder(tmp_path / "straight")
    never_met(straight, MODULES["plain"](), (5, 5))
    check_same(run, straight)


# What cannot be


class Poisoned(Spoiler):
    """Spoils the step after each going back again, whatever batch it is made of."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches = (int(batch["number"]),) if trainer.global_step == 5 else ()
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def _look(self, *args: Any, **kwargs: Any) -> None:
        self.batches = self.batches or (0,)
        super()._look(*args, **kwargs)


def test_a_fault_that_comes_again_elsewhere_is_answered_so_often_and_no_more(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    spoiler = Poisoned()
    trainer = fit(run, MODULES["plain"](), spoiler, most=3)
    assert [(each.first, each.to) for each in read_rollbacks(run.path / FILE_NAME)] == [(5, 4), (6, 4), (7, 4)]
    assert spoiler.refusals == ["This run has gone back 3 times already, and may 3 times (`most` of musictrain.rolling_back.fit)."]
    assert trainer.global_step == 12


def test_how_often_is_counted_over_all_lives_of_the_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    fit(run, MODULES["plain"](), Spoiler(5), max_steps=8)
    spoiler = Spoiler(10)
    fit(run, MODULES["plain"](), spoiler, ckpt_path="last", most=1)
    assert spoiler.seen[0] == 9
    assert [refusal[:30] for refusal in spoiler.refusals] == ["This run has gone back 1 times"]


def refused(folder: Path, *callbacks: Any, **options: Any) -> str:
    """What a going back was refused with."""
    spoiler = Spoiler(5, **options.pop("spoiling", {}))
    fit(RunFolder(folder / "run"), MODULES["plain"](), spoiler, *callbacks, **options)
    assert read_rollbacks(folder / "run" / FILE_NAME) == []
    assert spoiler.refusals != []
    return spoiler.refusals[0]


def test_without_a_version_from_before_it_says_so_and_the_fit_goes_on(tmp_path: Path) -> None:
    message = refused(tmp_path, saving={"at_start": False, "every_n_train_steps": 0})
    assert message.startswith("There is no good version of step 5 or before in ")
    assert message.endswith("Keep more of them (`newest` of VersionedCheckpoint), or start a new run.")


class Foreign(StreamData):
    """A data module without the methods."""

    pass_over = number_of_batch = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name in ("pass_over", "number_of_batch"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def _next(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)


def test_a_data_module_that_cannot_pass_over_is_named(tmp_path: Path) -> None:
    message = refused(tmp_path, data=Foreign())
    assert message.startswith("Foreign cannot pass over batches, and the same ones would come again: take MusicDataModule, give the data ")


def test_unless_the_same_batches_may_come_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    spoiler = Spoiler(5, pass_over=False, meanwhile=lambda: setattr(spoiler, "batches", (10_000,)))
    fit(run, MODULES["plain"](), spoiler, data=Foreign())
    assert spoiler.seen == [0, 1, 2, 3, 4, 5, *range(4, 12)]
    straight = RunFolder(tmp_path / "straight")
    fit(straight, MODULES["plain"](), data=Foreign())
    check_same(run, straight)


def test_a_plain_fit_says_what_to_call(tmp_path: Path) -> None:
    spoiler = Spoiler(5)
    trainer = trainer_of(RunFolder(tmp_path / "run"), spoiler)
    trainer.fit(Plain(), datamodule=StreamData())
    assert trainer.global_step == 12
    assert "Call musictrain.rolling_back.fit(trainer, model, ...) instead of trainer.fit(model, ...)" in spoiler.refusals[0]


def test_a_negative_number_of_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rolling_back.fit got most=-1; it needs 0 or more"):
        fit(RunFolder(tmp_path / "run"), Plain(), most=-1)
