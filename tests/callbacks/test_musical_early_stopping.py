"""MusicalEarlyStopping in plain Trainers: it stops where Lightning's does, says why, vetoes what is called best, and survives a resume."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from musictrain.callbacks import MusicalEarlyStopping, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.runs import RunFolder
from musictrain.runs.alerts import alert_of
from musictrain.runs.status import read_status
from musictrain.stopping import Guard, Watch
from tests.checkpoints.small_fits import batches, trainer_in

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
COPYING = Guard("val/copy_rate", above=0.5)
VETO = Guard("val/repetition", above=0.5, action="veto")


class Scripted(LightningModule):
    """Logs what a script says after each epoch of one step; None logs nothing."""

    def __init__(self, **script: Sequence[float | None]) -> None:
        super().__init__()
        self.script, self.layer = script, torch.nn.Linear(8, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        for name, values in self.script.items():
            if (value := values[self.trainer.current_epoch]) is not None:
                self.log(f"val/{name}", value)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    folder: Path, *callbacks: Callback, epochs: int = 20, ckpt_path: Path | str | None = None, options: Any = None, **script: Any
) -> Trainer:
    """Train with a validation after each step, which is an epoch."""
    limits = {"max_epochs": epochs, "limit_val_batches": 1, "limit_train_batches": 1, "enable_checkpointing": False}
    if any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        limits["enable_checkpointing"] = True
    trainer = trainer_in(folder, *callbacks, steps=-1, **{**limits, **(options or {})})
    padded = {name: [*values, *[values[-1]] * (epochs - len(values))] for name, values in script.items()}
    loader = batches(num=1)
    trainer.fit(Scripted(**padded), loader, loader, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    return trainer


# As Lightning's.

VALUES = st.lists(
    st.integers(-8, 8).map(lambda eighths: eighths / 8) | st.sampled_from([float("nan"), float("inf")]), min_size=12, max_size=12
)


@settings(max_examples=12)
@given(VALUES, st.sampled_from(["min", "max"]), st.integers(1, 4), st.sampled_from([0.0, 0.25]), st.booleans())
def test_with_one_metric_it_stops_where_early_stopping_does(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], mode: str, patience: int, min_delta: float, check_finite: bool
) -> None:
    folder = tmp_path_factory.mktemp("same")
    ours = MusicalEarlyStopping(Watch("val/x", mode, min_delta=min_delta, check_finite=check_finite), patience=patience)
    theirs = EarlyStopping("val/x", mode=mode, min_delta=min_delta, patience=patience, check_finite=check_finite)
    stopped = [fit(folder, callback, epochs=12, x=values).current_epoch for callback in (ours, theirs)]
    assert stopped[0] == stopped[1]
    assert bool(ours.stop_reason) == bool(theirs.stopped_epoch or theirs.stopping_reason_message)


# What it says.


def test_it_says_why_and_what_to_do(tmp_path: Path) -> None:
    stopping = MusicalEarlyStopping("val/loss", patience=2)
    trainer = fit(tmp_path, stopping, loss=[3.0, 2.0, 2.5, 2.25, 1.0])
    assert trainer.global_step == 4
    assert stopping.stop_reason == "val/loss did not get better than 2 (at step 2) in 2 validations: now 2.25."
    assert "larger patience" in stopping.stop_advice
    assert not stopping.stopped_by_guard


def test_a_guard_stops_at_once_and_raises_an_alert(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Finder(Callback):
        score_notes = {"val/copy_rate": "bars 3 to 6 are bars 1 to 4 of bwv1.6"}  # noqa: RUF012

    stopping = MusicalEarlyStopping("val/loss", guards=[COPYING])
    with caplog.at_level(logging.WARNING):
        trainer = fit(tmp_path, Finder(), stopping, loss=[3.0, 2.0, 1.0, 0.5], copy_rate=[0.0, 0.25, 0.75])
    assert trainer.global_step == 3
    assert stopping.stopped_by_guard
    assert stopping.stop_reason == "val/copy_rate is 0.75, above 0.5 (bars 3 to 6 are bars 1 to 4 of bwv1.6)."
    told = [found for record in caplog.records if (found := alert_of(record))]
    assert [(each["kind"], each["step"], each["metric"]) for each in told] == [("music_guard", 3, "val/copy_rate")]


def test_the_run_is_recorded_as_stopped_with_reason_and_advice(tmp_path: Path) -> None:
    fit(tmp_path, RunRecorder(), MusicalEarlyStopping("val/loss", patience=1), loss=[1.0, 2.0])
    status = read_status(RunFolder(tmp_path).status)
    assert status is not None
    assert (status.state, status.step) == ("stopped", 2)
    assert status.reason.startswith("val/loss did not get better than 1 (at step 1)")
    assert "patience" in status.advice


def test_a_metric_that_nobody_logs_is_named_beside_those_that_are(tmp_path: Path) -> None:
    stopping = MusicalEarlyStopping(["val/loss", "val/grove"])
    with pytest.raises(
        ValueError, match=r"watches \['val/grove'\], but this run logged \['val/groove', 'val/loss'\]. Did you mean 'val/groove'\?"
    ):
        fit(tmp_path, stopping, loss=[1.0], groove=[0.5])
    with pytest.raises(ValueError, match=r"guards \['val/copies'\]"):
        fit(tmp_path, MusicalEarlyStopping("val/loss", guards=[Guard("val/copies", above=0.5)]), loss=[1.0])


def test_settings_may_come_as_a_configuration_holds_them() -> None:
    stopping = MusicalEarlyStopping({"metric": "val/x", "band": [0.25, 0.5]}, guards=["tokens", {"metric": "val/y", "above": "val/x"}])
    assert [each.band for each in stopping.rule.watches] == [(0.25, 0.5)]
    assert [each.metric for each in stopping.rule.guards] == ["val/token_validity", "val/y"]
    with pytest.raises(ValueError, match="Did you mean 'mode'"):
        MusicalEarlyStopping([{"metric": "val/x", "moode": "max"}])
    with pytest.raises(ValueError, match="Did you mean 'copying'"):
        MusicalEarlyStopping("val/x", guards=["copyng"])


def test_the_band_may_be_the_corpus_own(tmp_path: Path) -> None:
    watch = Watch("val/groove", band="corpus")
    with pytest.raises(ValueError, match=r"with the band 'corpus', and this run knows the corpus' own band of \[\]"):
        fit(tmp_path, MusicalEarlyStopping(watch), groove=[1.0])
    (tmp_path / "corpus_bands.json").write_text('{"val/groove": [0.25, 0.5]}')
    stopping = MusicalEarlyStopping(watch, patience=2)
    assert fit(tmp_path, stopping, groove=[0.375, 0.375, 0.375, 0.75, 0.625]).global_step == 5
    assert stopping.stop_reason.startswith("val/groove lies outside of 0.25 to 0.5")


def test_a_metric_that_a_callback_will_log_is_waited_for(tmp_path: Path) -> None:
    class Sampler(Callback):
        score_names = ("val/groove",)

    stopping = MusicalEarlyStopping([Watch("val/groove", "max")], patience=1)
    trainer = fit(tmp_path, Sampler(), stopping, loss=[1.0], groove=[None, float("nan"), 0.5, 0.25])
    assert trainer.global_step == 4
    assert fit(tmp_path, MusicalEarlyStopping("val/groove"), groove=[0.5, float("nan"), 0.25]).global_step == 2


def test_without_settings_it_watches_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fit(tmp_path, MusicalEarlyStopping(), epochs=6, groove=[1.0]).global_step == 6
    assert "does not look at val/loss, val/bar_repetition, val/copy_excess, val/token_validity" in caplog.text
    assert caplog.text.count("has nothing to look at") == 1
    assert fit(tmp_path, MusicalEarlyStopping(), loss=[1.0]).global_step == 4
    looped = MusicalEarlyStopping()
    fit(tmp_path, looped, epochs=2, loss=[1.0, 0.5], bar_repetition=[0.9])
    assert looped.veto.startswith("val/bar_repetition is 0.9")


def test_a_score_that_was_not_logged_again_is_not_counted_again(tmp_path: Path) -> None:
    scores = [1.0, None, None, None, 0.5, None, 0.25, 0.125]
    stopping = MusicalEarlyStopping([Watch("val/score", "max")], patience=2)
    versions = VersionedCheckpoint(tmp_path / "versions", monitor=None)  # it asks for the logged values too
    assert fit(tmp_path, stopping, versions, score=scores, loss=[1.0]).global_step == 7


def test_a_seal_holds_the_scores_of_its_own_step_alone(tmp_path: Path) -> None:
    saving = VersionedCheckpoint(tmp_path / "versions", metrics={"val/score": "max"}, newest=9, at_start=False)
    fit(tmp_path, saving, epochs=4, loss=[1.0], score=[0.5, None, None, 0.25])
    found = {each.step: dict(each.seal.metrics) for each in list_versions(tmp_path / "versions") if each.seal}
    assert {step: metrics.get("val/score") for step, metrics in found.items()} == {1: 0.5, 2: None, 3: None, 4: 0.25}
    assert all(metrics["val/loss"] == 1.0 for metrics in found.values())


def test_what_a_model_checkpoint_monitors_is_never_that_of_an_earlier_validation(tmp_path: Path) -> None:
    seen: list[float] = []

    class Looking(Callback):
        def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["val/musical_cost"]))

    stopping = MusicalEarlyStopping(["val/loss", Watch("val/score", "max")], patience=9, guards=[VETO])
    script: dict[str, Any] = {"loss": [1.0], "score": [0.5, None, None, 0.25], "repetition": [0.0, 0.0, 0.75, 0.0]}
    fit(tmp_path, stopping, Looking(), epochs=4, **script)
    assert [repr(value) for value in seen] == ["0.5", "nan", "inf", "0.75"]


def test_it_changes_nothing_that_is_logged(tmp_path: Path) -> None:
    class Counting(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train/step", float(self.trainer.global_step), on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            means.append(float(self.trainer.callback_metrics["train/step_epoch"]))

    for callbacks in ([], [MusicalEarlyStopping("val/loss")]):
        means: list[float] = []
        # Each epoch of eight steps is validated in its middle and at its end.
        trainer = trainer_in(tmp_path, *callbacks, steps=-1, max_epochs=2, val_check_interval=4, enable_checkpointing=False)
        trainer.fit(Counting(loss=[1.0, 0.5]), batches(), batches(num=1))
        assert means == [3.5, 11.5]


# It does not latch.


def test_what_got_better_within_the_trainers_least_steps_is_not_stopped_after_them(tmp_path: Path) -> None:
    losses = [1.0, 1.0, 1.0, 0.5, 0.25, 0.125, 0.125, 0.125]
    options = {"min_steps": 5}
    assert fit(tmp_path, MusicalEarlyStopping("val/loss", patience=2), loss=losses, options=options).global_step == 8
    assert fit(tmp_path, EarlyStopping("val/loss", patience=2), loss=losses, options=options).global_step == 5  # which does


def test_a_second_fit_is_not_stopped_by_what_stopped_the_first(tmp_path: Path) -> None:
    stopping = MusicalEarlyStopping("val/loss", patience=1)
    fit(tmp_path, stopping, loss=[1.0, 2.0])
    assert stopping.stop_reason
    fit(tmp_path, stopping, epochs=2, loss=[0.5, 0.25])
    assert stopping.stop_reason == ""


# Which version is best.


def test_a_vetoed_version_is_not_best_though_its_loss_is_lowest(tmp_path: Path) -> None:
    saving = VersionedCheckpoint(tmp_path / "versions", newest=9, at_start=False)
    stopping = MusicalEarlyStopping("val/loss", guards=[VETO])
    script = {"loss": [3.0, 2.0, 1.0, 2.5], "repetition": [0.0, 0.25, 0.75, 0.25]}
    fit(tmp_path, saving, stopping, epochs=4, **script)  # in whatever order they stand
    versions = list_versions(tmp_path / "versions")
    assert [(each.step, bool(each.vetoed)) for each in versions] == [(1, False), (2, False), (3, True), (4, False)]
    assert versions[2].vetoed == "val/repetition is 0.75, above 0.5"
    assert all(each.good and each.resumable for each in versions)
    assert "step000002" in saving.best_model_path


def test_lightnings_own_checkpoint_passes_over_it_too(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "models", monitor="val/musical_cost", filename="{step}")
    stopping = MusicalEarlyStopping(["val/loss", Watch("val/groove", "max", weight=2.0)], combine="weighted", patience=9, guards=[VETO])
    script = {"loss": [3.0, 2.0, 1.0, 2.5], "groove": [0.5, 0.5, 0.5, 0.875], "repetition": [0.0, 0.25, 0.75, 0.25]}
    fit(tmp_path, saving, stopping, epochs=4, **script)
    assert float(saving.best_model_score) == 2.5 - 2 * 0.875
    assert Path(saving.best_model_path).name == "step=4.ckpt"


def test_the_weighted_cost_decides_which_version_is_best(tmp_path: Path) -> None:
    stopping = MusicalEarlyStopping(["val/loss", Watch("val/groove", "max", weight=2.0)], combine="weighted", patience=9, guards=[VETO])
    saving = VersionedCheckpoint(tmp_path / "versions", monitor="val/musical_cost", newest=1, at_start=False)
    script: dict[str, Any] = {"loss": [3.0, 2.0, 1.0, 2.5], "groove": [0.5, 0.875, 0.875, 0.5], "repetition": [0.0, 0.0, 0.75, 0.0]}
    fit(tmp_path, saving, stopping, epochs=4, **script)
    found = {each.step: each.metric("val/musical_cost") for each in list_versions(tmp_path / "versions")}
    assert found == {2: 0.25, 4: 1.5}
    assert "step000002" in saving.best_model_path


# Over a resume.


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4])
@pytest.mark.parametrize("combine", ["all", "any", "weighted", "pareto"])
def test_a_resume_leaves_the_decision_unchanged(tmp_path: Path, interrupted_after: int, combine: str) -> None:
    script = {
        "loss": [3.0, 2.0, 2.5, 2.25, 2.5, 2.5],
        "groove": [0.5, None, 0.75, None, 0.25, 0.5],
        "copy_rate": [0.0, 0.75, 0.25, 0.75, 0.75],
    }
    guards = [Guard("val/copy_rate", above=0.5, patience=2)]

    def stopping() -> MusicalEarlyStopping:
        return MusicalEarlyStopping(["val/loss", Watch("val/groove", "max")], combine=combine, patience=2, guards=guards)

    whole = stopping()
    expected = fit(tmp_path / "whole", whole, **script).global_step
    assert whole.stop_reason
    fit(tmp_path, VersionedCheckpoint(tmp_path / "versions"), stopping(), epochs=interrupted_after, **script)
    resumed = stopping()
    last = VersionedCheckpoint(tmp_path / "versions")
    trainer = fit(tmp_path, last, resumed, ckpt_path=list_versions(tmp_path / "versions")[-1].path, **script)
    if expected > interrupted_after:
        assert (trainer.global_step, resumed.stop_reason) == (expected, whole.stop_reason)


@pytest.mark.parametrize(("patience", "steps"), [(2, 5), (3, 5), (6, 7)])
def test_the_configured_patience_wins_at_a_resume(tmp_path: Path, patience: int, steps: int) -> None:
    losses = [2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    fit(tmp_path, first := MusicalEarlyStopping("val/loss", patience=3), VersionedCheckpoint(tmp_path / "v"), loss=losses)
    assert first.stop_reason
    second = MusicalEarlyStopping("val/loss", patience=patience)
    last = list_versions(tmp_path / "v")[-1].path
    # Steps 2 to 4 are counted already: it goes on from there.
    assert fit(tmp_path, second, VersionedCheckpoint(tmp_path / "v"), ckpt_path=last, loss=losses).global_step == steps


# With two processes.

SCRIPT = """
import sys
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from musictrain.callbacks import MusicalEarlyStopping
from musictrain.stopping import Guard

LOSSES = [3.0, 2.0, 2.5, 2.5, 2.5, 2.5]


class Uneven(BoringModel):
    def on_validation_epoch_end(self):
        # Each process has values of its own, and one of them has no copy rate at all.
        self.log("val/loss", LOSSES[self.current_epoch] - 0.75 * self.global_rank * self.current_epoch)
        if self.global_rank == 0:
            self.log("val/copy_rate", 0.1 * self.current_epoch, rank_zero_only=True)


stopping = MusicalEarlyStopping("val/loss", patience=2, guards=[Guard("val/copy_rate", above=float(sys.argv[2]))])
trainer = Trainer(
    default_root_dir=sys.argv[1], max_epochs=6, accelerator="cpu", devices=2, strategy="ddp", callbacks=[stopping], logger=False,
    enable_model_summary=False, enable_progress_bar=False, enable_checkpointing=False, num_sanity_val_steps=0,
    limit_val_batches=1, limit_train_batches=1,
)
trainer.fit(Uneven())
how = "by a guard" if stopping.stopped_by_guard else "out of patience"
print(f"rank {trainer.global_rank} stopped after {trainer.global_step} {how}: {stopping.stop_reason}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "told"), [(9.0, "after 4 out of patience: val/loss did not"), (0.15, "after 3 by a guard: val/copy_rate is 0.2")]
)
def test_two_processes_stop_at_the_same_step_for_the_same_reason(tmp_path: Path, bound: float, told: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), str(tmp_path), str(bound)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        assert f"rank {rank} stopped {told}" in done.stdout


# Killed.

KILLED = """
import os
import signal
import sys
from pathlib import Path
from lightning.pytorch import Callback
from musictrain.callbacks import MusicalEarlyStopping, VersionedCheckpoint
from musictrain.stopping import Guard, Watch
from tests.callbacks.test_musical_early_stopping import fit


class Kill(Callback):
    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == int(sys.argv[2]):
            assert trainer.strategy.checkpoint_io.wait(60.0)
            os.kill(os.getpid(), signal.SIGKILL)


folder = Path(sys.argv[1])
last = "last" if (folder / "versions").exists() else None
stopping = MusicalEarlyStopping(["val/loss", Watch("val/groove", "max")], patience=5, guards=[Guard("val/copies", above=0.5, patience=3)])
trainer = fit(
    folder, Kill(), stopping, VersionedCheckpoint(folder / "versions"), ckpt_path=last,
    loss=[3.0, 2.0, 2.5, 2.25, 2.5, 2.75, 2.5, 2.5], groove=[0.5, None, 0.75, None, 0.25, 0.5, 0.25, 0.25],
    copies=[0.0, 0.75, 0.75, 0.25, 0.75, 0.75, None, 0.75],
)
print(f"stopped after {trainer.global_step}: {stopping.stop_reason}")
"""


@pytest.mark.slow
def test_a_run_that_is_killed_twice_stops_where_it_would_have(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(KILLED)

    def told(folder: str, kill_at: int) -> str:
        words = [sys.executable, str(script), str(tmp_path / folder), str(kill_at)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": str(repository)})
        assert done.returncode == (0 if kill_at < 0 else -signal.SIGKILL), done.stderr[-2000:]
        return done.stdout[done.stdout.find("stopped after") :]

    whole = told("whole", -1)
    assert whole.startswith("stopped after 8: val/copies is 0.75, above 0.5, 3 validations in a row.")
    told("killed", 3)
    told("killed", 6)
    assert told("killed", -1) == whole
