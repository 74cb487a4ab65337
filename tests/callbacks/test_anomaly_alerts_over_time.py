"""A reduced learning rate, incidents and attempts: over a schedule, a plateau, a kill and a resume."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback

from musictrain.callbacks import AnomalyAlerts, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.health import GradientSpike, LossSpike, NonFinite
from musictrain.module import MusicModule
from musictrain.optim import AdamW, WarmupCosine
from musictrain.runs import RunFolder
from musictrain.runs.records import read_records
from musictrain.runs.rows import read_rows
from tests.callbacks.sick_runs import (
    MACHINE,
    QUIET,
    AtStep,
    Learner,
    PlainModule,
    Quiet,
    fit,
    heard,
    music_module,
    number_batches,
    set_gradient,
    token_batches,
    weights_of,
)
from tests.tiny_runs import Resumable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
nan_at = functools.partial(AtStep, harm=set_gradient("network.first.weight", math.nan), when="on_after_backward")


class Rates(Callback):
    """The learning rate that each step is taken with, and the one that is there after it. Stands before AnomalyAlerts."""

    def __init__(self) -> None:
        self.used: list[float] = []
        self.left: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda optimizer, *_: self.used.append(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.left.append(trainer.optimizers[0].param_groups[0]["lr"])


# A learning rate that is reduced for a while.


def test_a_reduced_rate_lies_on_top_of_the_schedule_and_is_given_back() -> None:
    def module() -> MusicModule:
        return MusicModule(Learner(), functools.partial(AdamW, lr=0.01), WarmupCosine(warmup_steps=4))

    usual, reduced = Rates(), Rates()
    fit(module(), token_batches(20), usual)
    with heard() as alerts:
        lower = Quiet(non_finite=NonFinite(action="reduce_lr"), lr_factor=0.25, lr_steps=5)
        fit(module(), token_batches(20), reduced, nan_at([8]), lower)
    assert [alert["step"] for alert in alerts] == [8]
    assert "For 5 steps the learning rate is multiplied by 0.25 (1 of 3), and the update of this step is left out" in alerts[0]["did"]
    assert reduced.left == usual.left
    factors = [used / plain for used, plain in zip(reduced.used, usual.used, strict=True)]
    assert factors == pytest.approx([1.0] * 7 + [0.25] * 5 + [1.0] * 8)


@pytest.mark.parametrize("gamma", [0.9])
def test_a_schedule_that_goes_by_the_rate_before_does_not_feel_it(gamma: float) -> None:
    class Chained(PlainModule):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    rates, harm = Rates(), AtStep([3], set_gradient("numbers.layers.0.weight", math.nan), "on_after_backward")
    fit(Chained(), number_batches(9), rates, harm, Quiet(non_finite=NonFinite(action="reduce_lr"), lr_factor=0.5, lr_steps=3))
    assert rates.left == pytest.approx([0.01 * gamma ** (step + 1) for step in range(9)])
    halved = [0.5 if 3 <= step + 1 <= 5 else 1.0 for step in range(9)]
    assert rates.used == pytest.approx([0.01 * gamma**step * factor for step, factor in enumerate(halved)])


def test_what_the_module_logs_is_the_rate_that_is_used(tmp_path: Path) -> None:
    lower = Quiet(non_finite=NonFinite(action="reduce_lr"), lr_factor=0.5, lr_steps=4)
    rates = Rates()
    fit(music_module(), token_batches(10), rates, nan_at([3]), lower, RunRecorder(), default_root_dir=tmp_path, log_every_n_steps=1)
    rows = read_rows(RunFolder(tmp_path).metrics)
    # The step at which it is decided has logged its rate before.
    assert [row["train/lr"] for row in rows if "train/lr" in row and row["step"] > 3] == pytest.approx(rates.used[3:])


# Over a kill and a resume.


class Save(Callback):
    """Saves after some steps, as VersionedCheckpoint does: after all others."""

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        self.folder, self.steps = folder, steps

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def alerts_for_a_sick_run() -> AnomalyAlerts:
    spike = GradientSpike(action="reduce_lr", least=8, window=16, level=4)
    return AnomalyAlerts(**MACHINE, gradient_spike=spike, loss_spike=LossSpike(least=8, window=16, level=4), every_n_steps=3, lr_steps=6)


def sick_fit(folder: Path, steps: int, alerts_on: AnomalyAlerts, ckpt_path: Path | None = None) -> Any:
    """NaN in one step, a spike in another, some steps at a lower rate; saved after every step of interest."""

    def blow_up(trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad *= 1e4

    folder.mkdir(exist_ok=True)
    module, loader = music_module(), Resumable(token_batches(40))
    harms = (nan_at([11]), AtStep([20], blow_up, "on_after_backward"))
    trainer = lightning.Trainer(max_steps=steps, max_epochs=-1, callbacks=[*harms, alerts_on, Save(folder, (10, 11, 20, 23))], **QUIET)
    loader.trainer = trainer
    trainer.fit(module, loader, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize("killed_at", [10, 11, 20, 23])
def test_a_run_that_is_killed_and_resumed_is_the_uninterrupted_one_to_the_bit(killed_at: int, tmp_path: Path) -> None:
    with heard() as alerts:
        whole = sick_fit(tmp_path / "whole", 34, (watch := alerts_for_a_sick_run()))
    assert [(alert["kind"], alert["step"]) for alert in alerts] == [("non_finite", 11), ("gradient_spike", 20)]
    with heard() as again:
        sick_fit(tmp_path / "parts", killed_at, alerts_for_a_sick_run())
        resumed = sick_fit(tmp_path / "parts", 34, (second := alerts_for_a_sick_run()), tmp_path / "parts" / f"{killed_at}.ckpt")
    assert all(map(torch.equal, weights_of(whole), weights_of(resumed)))
    assert json.dumps(second.state_dict()) == json.dumps(watch.state_dict())
    facts = [{name: value for name, value in alert.items() if name != "time"} for alert in alerts]
    assert [{name: value for name, value in alert.items() if name != "time"} for alert in again] == facts


def test_the_state_is_plain_and_survives_json(tmp_path: Path) -> None:
    watch = alerts_for_a_sick_run()
    sick_fit(tmp_path / "run", 24, watch)
    second = alerts_for_a_sick_run()
    second.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert second.state_dict() == watch.state_dict()
    assert watch.state_dict()["rate"] == {"factor": 0.1, "first": 20, "last": 25}


def test_a_window_that_is_open_when_the_state_is_saved_is_gone_on_with() -> None:
    watch, states = AnomalyAlerts(**MACHINE), []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            states.append(watch.state_dict()["open_step"])

    fit(music_module(), token_batches(6), watch, Look(), steps=2, accumulate_grad_batches=3)
    assert [bool(state) for state in states] == [True, True, False] * 2
    assert states[1]["tokens"] == 2 * states[0]["tokens"] == 2 * 4 * 12
    assert states[3]["facts"]["number"] == 3


# What is written down.


def test_alerts_and_actions_are_events_of_the_run_and_none_comes_twice(tmp_path: Path) -> None:
    def train(steps: int, ckpt_path: Path | None = None) -> None:
        versions = VersionedCheckpoint(tmp_path / "checkpoints", every_n_train_steps=4, every_n_minutes=0)
        lower = Quiet(non_finite=NonFinite(attempts=1), lr_steps=3)
        harm = nan_at([6, 7])
        loader = Resumable(token_batches(12))
        loader.trainer = trainer = lightning.Trainer(
            max_steps=steps, max_epochs=-1, callbacks=[harm, lower, RunRecorder(), versions], default_root_dir=tmp_path,
            **{**QUIET, "enable_checkpointing": True},
        )  # fmt: skip
        trainer.fit(music_module(), loader, ckpt_path=ckpt_path, weights_only=True)

    train(8)
    run = RunFolder(tmp_path)
    told = [event for event in read_records(run.events) if event["event"] in ("alert", "skipped", "lr_reduced")]
    assert sorted((event["event"], event["step"]) for event in told) == [
        ("alert", 6), ("alert", 7), ("lr_reduced", 7), ("skipped", 6), ("skipped", 7),
    ]  # fmt: skip
    reduced = next(event for event in told if event["event"] == "lr_reduced")
    assert (reduced["factor"], reduced["until"]) == (0.1, 9)
    alert = next(event for event in told if event["event"] == "alert")
    assert f"musictrain replay {tmp_path.name} --step 6" in alert["advice"]
    version = next(path for path in (tmp_path / "checkpoints").iterdir() if "000004" in path.name and path.suffix == ".ckpt")
    train(10, version)
    again = [event for event in read_records(run.events) if event["event"] in ("alert", "skipped", "lr_reduced")]
    assert again == told


class NoNumbers(Callback):
    """What the network says of some batches, by number, is nan."""

    def __init__(self, *batches: int) -> None:
        self.batches, self.hook = batches, None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch["number"] in self.batches:
            self.hook = pl_module.network.register_forward_hook(lambda _, __, logits: logits * math.nan)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.hook is not None:
            self.hook = self.hook.remove()


@pytest.mark.parametrize("gathered", [1, 2])
def test_an_update_that_was_left_out_spoils_neither_the_line_of_its_loss_nor_a_version(gathered: int, tmp_path: Path) -> None:
    versions = VersionedCheckpoint(tmp_path / "checkpoints", every_n_train_steps=1, every_n_minutes=0, newest=99)
    sick, module = NoNumbers(16 * gathered), music_module()  # the first batch of step 17
    fit(
        module, token_batches(20 * gathered), sick, Quiet(non_finite=NonFinite()), RunRecorder(), versions,
        default_root_dir=tmp_path, log_every_n_steps=4, accumulate_grad_batches=gathered, steps=20, enable_checkpointing=True,
    )  # fmt: skip
    run = RunFolder(tmp_path)
    assert [event["step"] for event in read_records(run.events) if event["event"] == "skipped"] == [17]
    rows = {row["step"]: row for row in read_rows(run.metrics)}
    assert all(math.isfinite(rows[step]["train/loss"]) for step in (4, 8, 12, 16, 20))
    assert [rows[step].get("train/tokens_not_finite") for step in (16, 20)] == [None, 4 * 12]
    assert [(version.step, version.good) for version in list_versions(run.checkpoints)] == [(step, True) for step in range(21)]
    before, after = (load(version.path)["state_dict"] for version in list_versions(run.checkpoints)[16:18])
    assert all(map(torch.equal, before.values(), after.values()))


def test_values_are_logged_at_looks_alone(tmp_path: Path) -> None:
    watch = AnomalyAlerts(every_n_steps=3)
    fit(music_module(), token_batches(18), watch, RunRecorder(), default_root_dir=tmp_path, log_every_n_steps=6)
    rows = [row for row in read_rows(RunFolder(tmp_path).metrics) if any(name.startswith("health/") for name in row)]
    assert [row["step"] for row in rows] == [6, 12, 18]
    names = {"loss", "gradient_norm", "entropy", "update_ratio", "update_ratio_max", "dead_units_max", "memory_mib", "lr_factor"}
    assert {f"health/{name}" for name in names} <= rows[-1].keys()
    assert 0.0 < rows[-1]["health/entropy"] <= math.log(12) + 1e-6
