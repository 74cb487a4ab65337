"""A run whose lowest validation loss was vetoed: everything that a person can ask names another step as the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.callbacks import MusicalEarlyStopping, Notifications, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.cli.version_choice import version_of
from musictrain.dashboard.page_data import PageData
from musictrain.runs import RunFolder, RunNotFoundError, find_run, read_records, read_rows
from musictrain.runs.rows import vetoed_steps
from musictrain.runs.status import read_status
from musictrain.stopping import Guard
from tests.checkpoints.small_fits import batches, trainer_in
from tests.cli.tiny import type_command

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
VETO = Guard("val/bar_repetition", above=0.5, action="veto")
LOSSES = [3.0, 2.0, 1.0, 2.5, 0.5]
REPETITION = [0.0, 0.25, 0.75, 0.25, 0.875]
LOOPS = "val/bar_repetition is 0.75, above 0.5"


class Looping(LightningModule):
    """The loss falls in the third and the fifth epoch, in which what it samples runs in a loop. An epoch is a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("train/loss", LOSSES[self.trainer.current_epoch])
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({"val/loss": LOSSES[self.trainer.current_epoch], "val/bar_repetition": REPETITION[self.trainer.current_epoch]})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(run: Path, *more: Callback, epochs: int = 5, ckpt_path: Path | None = None, monitor: str = "val/loss") -> None:
    """Train in a run folder; the recorder stands before the rule, which is the harder order."""
    stopping = MusicalEarlyStopping("val/loss", guards=[VETO])
    callbacks = [RunRecorder(monitor=monitor), *more, stopping, VersionedCheckpoint(newest=9, at_start=False)]
    limits: dict[str, Any] = {"limit_val_batches": 1, "limit_train_batches": 1, "log_every_n_steps": 1}
    trainer = trainer_in(run, *callbacks, steps=-1, max_epochs=epochs, **limits)
    trainer.fit(Looping(), batches(num=1), batches(num=1), ckpt_path=None if ckpt_path is None else str(ckpt_path))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Five steps: the third and the last are vetoed, the last with the lowest loss."""
    folder = tmp_path_factory.mktemp("runs") / "2026-01-01_000000-short-vetoed-run"
    fit(folder, Notifications(file=True, console=False))
    return RunFolder(folder)


def best_event(run: RunFolder) -> list[tuple[float, int]]:
    return [(each["value"], each["step"]) for each in read_records(run.events) if each["event"] == "best"]


def test_the_records_call_no_vetoed_step_best(run: RunFolder) -> None:
    status = read_status(run.status)
    assert status is not None
    assert status.best == {"metric": "val/loss", "value": 2.0, "step": 2}
    assert best_event(run) == [(3.0, 1), (2.0, 2)]
    assert vetoed_steps(read_rows(run.metrics)) == {3: LOOPS, 5: "val/bar_repetition is 0.875, above 0.5"}
    assert run.best() == (2.0, 2)
    told = [each for each in read_records(run.path / "notifications.jsonl") if each["event"] == "best"]
    assert [each["step"] for each in told] == [1, 2]


def test_the_page_says_what_was_vetoed_and_what_is_best(run: RunFolder) -> None:
    page = PageData(run).read()
    assert page["best"] == {"metric": "val/loss", "value": 2.0, "step": 2}
    assert [step for step, _ in page["vetoed"]] == [3, 5]
    assert page["vetoed"][0][1] == LOOPS


def test_every_command_agrees(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    runs_dir = run.path.parent
    _, out, _ = type_command(capsys, "runs", "list", "--json", "--runs", runs_dir)
    assert json.loads(out)[0]["best"] == {"metric": "val/loss", "value": 2.0, "step": 2}
    _, out, _ = type_command(capsys, "runs", "best", "--json", "--runs", runs_dir)
    assert [(each["value"], each["step"]) for each in json.loads(out)["ranking"]] == [(2.0, 2)]
    _, out, _ = type_command(capsys, "runs", "show", run.name, "--runs", runs_dir)
    assert "val/loss 2 at step 2" in out
    assert "2 @ 2" in next(line for line in out.splitlines() if line.startswith("val/loss"))
    assert "Steps that were vetoed are neither lowest nor highest" in out
    _, out, _ = type_command(capsys, "checkpoints", "list", run.path)
    (best,) = [line for line in out.splitlines() if "best" in line.replace("never best", "")]
    assert "v000002_step000002" in best
    assert version_of(run, "best").name.startswith("v000002_step000002")  # what `sample` plays


def test_where_all_is_vetoed_the_last_is_taken_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    script = [0.75, 0.875]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tests.cli.test_vetoed_runs.REPETITION", script)
        fit(tmp_path / "run", epochs=2)
    assert version_of(RunFolder(tmp_path / "run"), "best").name.startswith("v000002_step000002")
    assert "No version of run is to be called best" in caplog.text
    assert "v000002_step000002 because val/bar_repetition is 0.875" in caplog.text
    with pytest.raises(RunNotFoundError, match=r"none of 1 has recorded val/loss, vetoed steps left out"):
        find_run("best", tmp_path)


def test_its_metric_may_be_another_one(tmp_path: Path) -> None:
    fit(tmp_path, monitor="train/loss")
    status = read_status(tmp_path / "status.json")
    assert status is not None
    assert status.best == {"metric": "train/loss", "value": 2.0, "step": 2}


class Kill(Callback):
    """Ends the fit as an error does, before the step after the third: what was saved there is gone on from."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("killed")


@pytest.mark.parametrize("lost", [False, True])
def test_a_resume_from_a_vetoed_step_does_not_forget_it(tmp_path: Path, lost: bool) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Kill())
    run = RunFolder(tmp_path)
    (last,) = [version.path for version in list_versions(run.checkpoints) if version.step == 3]
    if lost:  # what a kill takes: the rows of the last step, and the veto after them
        kept = [line for line in run.metrics.read_text().splitlines() if json.loads(line).get("step") != 3]
        run.metrics.write_text("\n".join(kept) + "\n")
    fit(tmp_path, epochs=4, ckpt_path=last)
    assert vetoed_steps(read_rows(run.metrics)) == {3: LOOPS}
    status = read_status(run.status)
    assert status is not None
    assert status.best["step"] == 2
    assert run.best() == (2.0, 2)
