"""Whatever a kill or a power cut leaves of metrics.jsonl, a resumed run comes to the rows of the uninterrupted one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest

from musictrain.callbacks import RunLogger, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.runs import RunFolder, read_records, read_rows
from musictrain.runs.rows import is_marker, values_of
from musictrain.runs.writer import RecordWriter
from tests.checkpoints.exact_runs import EPOCH, MODULES, PositionKeepingData, quiet
from tests.tiny_runs import QUIET

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
STEPS = EPOCH + 3


@pytest.fixture(autouse=True)
def _nothing_is_secured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the disk, so that a power cut could take every row."""
    monkeypatch.setattr("musictrain.loggers.run_logger.RecordWriter", partial(RecordWriter, sync_seconds=1e9))


def fit(run: RunFolder, module: lightning.LightningModule, ckpt_path: Path | None = None, every: int = 1) -> None:
    saving = VersionedCheckpoint(run.checkpoints, newest=1000, every_n_train_steps=every, every_n_minutes=0, on_epoch_end=True)
    settings: dict[str, Any] = {**QUIET, "enable_checkpointing": True, "log_every_n_steps": 2, "max_steps": STEPS, "val_check_interval": 4}
    trainer = lightning.Trainer(**settings, default_root_dir=run.path, logger=RunLogger(folder=run.path), callbacks=[saving, RunRecorder()])
    with quiet():
        trainer.fit(module, datamodule=PositionKeepingData(), ckpt_path=ckpt_path)


def counted(run: RunFolder) -> list[tuple[Any, ...]]:
    """Every value that counts, as often as it counts; not how fast it was."""
    rows = read_rows(run.metrics)
    return [(row["epoch"], row["step"], key, row[key]) for row in rows for key in sorted(values_of(row)) if "second" not in key]


@pytest.fixture(scope="module", params=["plain", pytest.param("music", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    run = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musictrain.loggers.run_logger.RecordWriter", partial(RecordWriter, sync_seconds=1e9))
        fit(run, MODULES[request.param]())
    return request.param, run


def left_of(metrics: bytes, version: Version, kind: str) -> bytes:
    """What an interruption after the save of a version has left of the file."""
    lines = metrics.splitlines(keepends=True)
    rows_of_step = [place for place, line in enumerate(lines) if f'"step": {version.step},'.encode() in line]
    place = rows_of_step[0] if rows_of_step else min(version.step, len(lines) - 1)
    return {
        "nothing": b"",
        "the row of this step is torn": b"".join(lines[:place]) + lines[place][: len(lines[place]) // 2],
        "the rows before this step": b"".join(lines[:place]),
        "rows of later steps too": metrics[: len(metrics) * 9 // 10],
        "everything": metrics,
    }[kind]


KINDS = ("nothing", "the row of this step is torn", "the rows before this step", "rows of later steps too", "everything")


def check_resumes(whole: tuple[str, RunFolder], version: Version, kind: str, folder: Path) -> None:
    name, before = whole
    run = RunFolder(folder / "run")
    shutil.copytree(before.path, run.path)
    run.metrics.write_bytes(left_of(before.metrics.read_bytes(), version, kind))
    fit(run, MODULES[name](), run.checkpoints / version.path.name)
    assert counted(run) == counted(before), (version.name, kind)
    shutil.rmtree(run.path)


def versions_of(run: RunFolder) -> list[Version]:
    return [version for version in list_versions(run.checkpoints) if version.step < STEPS]


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        *((2, kind) for kind in KINDS),  # its row comes after the save
        (3, KINDS[2]),  # it has none
        *((EPOCH, kind) for kind in KINDS[1:3]),  # a validation, the end of an epoch, its row after that
        (0, KINDS[3]),
    ],
)
def test_a_run_resumed_at_the_worst_places_has_every_row_once(whole: tuple[str, RunFolder], step: int, kind: str, tmp_path: Path) -> None:
    for version in versions_of(whole[1]):
        if version.step == step:
            check_resumes(whole, version, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_so_has_one_resumed_anywhere(whole: tuple[str, RunFolder], kind: str, tmp_path: Path) -> None:
    for version in versions_of(whole[1]):
        check_resumes(whole, version, kind, tmp_path)


def test_the_uninterrupted_run_logs_steps_validations_and_epochs(whole: tuple[str, RunFolder]) -> None:
    steps = {key: [row[1] for row in counted(whole[1]) if row[2] == key] for key in ("train/loss", "val/loss", "epoch/loss")}
    assert steps["train/loss"] == [2, 4, 6, 8, 10, 12, 14]
    assert steps["val/loss"] == [4, 8]
    assert steps["epoch/loss"] == ([EPOCH, STEPS] if whole[0] == "plain" else [])


def test_interruptions_one_after_the_other_leave_no_trace_but_attempts(whole: tuple[str, RunFolder], tmp_path: Path) -> None:
    name, before = whole
    run = RunFolder(tmp_path / "run")
    shutil.copytree(before.path, run.path)
    for version, kind in zip(reversed(versions_of(before)[::8]), [KINDS[4], KINDS[1]], strict=False):
        path = next((each.path for each in list_versions(run.checkpoints) if each.step == version.step), None)
        assert path is not None
        run.metrics.write_bytes(left_of(run.metrics.read_bytes(), version, kind))
        fit(run, MODULES[name](), path)
        assert counted(run) == counted(before), (version.name, kind)
    attempts = [row["attempt"] for row in read_records(run.metrics) if is_marker(row)]
    assert attempts == sorted(set(attempts))


def test_a_run_recorded_without_marks_goes_on_without_doubled_rows(whole: tuple[str, RunFolder], tmp_path: Path) -> None:
    """As an older version wrote it: no markers, no attempts, no state of the recorder."""
    name, before = whole
    run = RunFolder(tmp_path / "run")
    shutil.copytree(before.path, run.path)
    lines = [line for line in before.metrics.read_bytes().splitlines(keepends=True) if b'"from_step"' not in line]
    run.metrics.write_bytes(b"".join(lines).replace(b', "attempt": 1', b""))
    run.status.unlink()
    (version,) = [each for each in versions_of(before) if each.step == 6][:1]
    fit(run, MODULES[name](), run.checkpoints / version.path.name)
    assert counted(run) == counted(before)
    assert [row["attempt"] for row in read_records(run.metrics) if is_marker(row)] == [2]


def test_an_error_after_the_save_of_a_step_does_not_cost_its_row(whole: tuple[str, RunFolder], tmp_path: Path) -> None:
    name, before = whole
    module: Any = MODULES[name]()

    def fail(*args: Any) -> None:
        if module.global_step == 6:
            raise RuntimeError("after every callback, before the row")

    module.on_train_batch_end = fail
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="before the row"):
        fit(run, module)
    assert max(row[1] for row in counted(run)) == 4
    (last,) = [version for version in list_versions(run.checkpoints) if version.step == 6]
    fit(run, MODULES[name](), last.path)
    assert counted(run) == counted(before)


def test_an_error_that_is_saved_after_everybody_has_heard_of_it_costs_no_row_either(whole: tuple[str, RunFolder], tmp_path: Path) -> None:
    name, before = whole
    module: Any = MODULES[name]()

    def fail(*args: Any) -> None:
        if module.global_step == 6:
            raise RuntimeError("no version of this step yet")

    module.on_train_batch_end = fail
    run = RunFolder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="no version of this step yet"):
        fit(run, module, every=4)
    (last,) = [version for version in list_versions(run.checkpoints) if version.step == 6]
    assert last.seal is not None
    assert last.seal.reason == "exception"
    fit(run, MODULES[name](), last.path)
    assert counted(run) == counted(before)


def test_a_fit_with_nothing_left_to_do_leaves_the_records_as_they_were(whole: tuple[str, RunFolder], tmp_path: Path) -> None:
    name, before = whole
    run = RunFolder(tmp_path / "run")
    shutil.copytree(before.path, run.path)
    last = max(list_versions(run.checkpoints), key=lambda version: (version.step, version.number))
    fit(run, MODULES[name](), last.path)
    kept = ("metrics.jsonl", "status.json")
    assert [(run.path / each).read_bytes() for each in kept] == [(before.path / each).read_bytes() for each in kept]
    assert [event["event"] for event in read_records(run.events) if event["event"] in ("resumed", "refused")] == []
