"""MusicModule over time: resumed runs, randomness, schedules, and what a checkpoint brings back."""

from __future__ import annotations

import functools
import logging
import threading
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from musictrain.data.accumulation import steps_of_run
from musictrain.module import MusicModule
from musictrain.optim import AdamW, InverseSquareRoot, WarmupCosine, WarmupStableDecay
from tests.tiny_runs import (
    PAD,
    QUIET,
    VOCAB,
    ForeignNetwork,
    Resumable,
    fit,
    logged,
    new_module,
    new_trainer,
    random_batches,
    same_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No word from Lightning, no seed left by another test."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


# Randomness and resuming


RUN = {"max_epochs": 3, "val_check_interval": 2, "accumulate_grad_batches": 2, "log_every_n_steps": 2}


def run_with_checkpoints(folder: Path, **options: Any) -> tuple[MusicModule, list[Path]]:
    """A whole run that keeps a version after every optimizer step, every validation and every epoch."""
    keep = {"save_top_k": -1, "dirpath": folder / "versions"}
    callbacks = [
        ModelCheckpoint(every_n_train_steps=1, filename="step-{step}-{epoch}", **keep),
        ModelCheckpoint(monitor="val/loss", save_on_train_epoch_end=False, filename="validation-{step}-{epoch}", **keep),
        ModelCheckpoint(every_n_epochs=1, save_on_train_epoch_end=True, filename="epoch-{step}-{epoch}", **keep),
    ]
    module = new_module(schedule=WarmupCosine(warmup_steps=2))
    fit(folder, module, valid=random_batches(2, seed=9), enable_checkpointing=True, callbacks=callbacks, **RUN, **options)
    return module, sorted((folder / "versions").iterdir())


def test_a_run_resumed_from_any_of_its_checkpoints_ends_in_the_same_bits(tmp_path):
    whole, versions = run_with_checkpoints(tmp_path)
    assert len(versions) >= 9 + 3
    for version in versions:
        resumed = new_module(ForeignNetwork(), schedule=WarmupCosine(warmup_steps=2))
        folder = tmp_path / version.stem
        fit(folder, resumed, valid=random_batches(2, seed=9), ckpt_path=version, **RUN)
        assert same_weights(resumed, whole), version.name
        first = torch.load(version, weights_only=True)["global_step"]
        for key in ("train/loss", "train/tokens", "train/lr", "train/gradient_norm"):
            rest = {step: value for step, value in logged(tmp_path, key).items() if step >= first}
            assert logged(folder, key) == rest, f"{key} after {version.name}"


def test_checkpoints_hold_plain_values_alone(tmp_path):
    _, versions = run_with_checkpoints(tmp_path)
    checkpoint = torch.load(versions[0], weights_only=True)
    assert checkpoint["hyper_parameters"] == {
        "label_smoothing": 0.0,
        "z_loss": 0.0,
        "micro_batches": 1,
        "pad_id": PAD,
        "compile": False,
        "activation_checkpointing": False,
        "token_dropout": 0.0,
        "token_dropout_kind": "blank",
        "adaptive_clip": None,
        "layer_decay": 1.0,
        "frozen": None,
    }
    again = MusicModule.load_from_checkpoint(versions[0], network=ForeignNetwork())
    assert again.pad_id == PAD
    assert all(torch.equal(tensor, checkpoint["state_dict"][name]) for name, tensor in again.state_dict().items())


def test_validation_does_not_disturb_the_randomness_of_training(tmp_path):
    class Noisy(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            torch.rand(3)

    alone, validated = new_module(), new_module()
    fit(tmp_path / "alone", alone, max_epochs=2)
    fit(tmp_path / "validated", validated, valid=random_batches(2), max_epochs=2, val_check_interval=1, callbacks=[Noisy()])
    assert same_weights(alone, validated)


def test_another_seed_drops_out_other_values_and_the_same_seed_the_same(tmp_path, monkeypatch):
    modules = []
    for run, seed in enumerate(("5", "5", "6")):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        modules.append(new_module())
        fit(tmp_path / str(run), modules[-1], max_epochs=1)
    assert same_weights(modules[0], modules[1])
    assert not same_weights(modules[0], modules[2])


def test_the_data_modules_seed_goes_before_that_of_the_environment(tmp_path, monkeypatch):
    class Data(lightning.LightningDataModule):
        seed = 6

        def train_dataloader(self):
            return Resumable(random_batches())

    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    by_data, by_environment = new_module(), new_module()
    new_trainer(tmp_path, max_epochs=1).fit(by_data, datamodule=Data())
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    fit(tmp_path / "environment", by_environment, random_batches(), max_epochs=1)
    assert same_weights(by_data, by_environment)


# From a configuration


def test_a_module_built_by_the_command_line_is_in_its_checkpoint(tmp_path):
    config = {
        "class_path": "musictrain.MusicModule",
        "init_args": {
            "network": {"class_path": "musictrain.models.Recurrent", "init_args": {"vocab_size": VOCAB, "d_model": 4, "hidden": 4}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
            "schedule": {"class_path": "WarmupStableDecay", "init_args": {"warmup_steps": 3, "shape": "linear"}},
            "z_loss": 1e-4,
        },
    }
    module = built_by_command_line(config)
    assert module.schedule == WarmupStableDecay(warmup_steps=3, shape="linear")
    trainer = fit(tmp_path, module, max_steps=2)
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == 0.5
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = MusicModule.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True)
    assert same_weights(again, module)
    assert (again.schedule, again.z_loss) == (module.schedule, 1e-4)
    assert again.optimizer_factory([torch.zeros(1)]).defaults["lr"] == 0.5
    elsewhere = MusicModule.load_from_checkpoint(tmp_path / "two.ckpt", weights_only=True, network=type(module.network)(VOCAB, 4, 4))
    assert same_weights(elsewhere, module)


def test_a_setting_of_the_default_optimizer_and_schedule_can_be_changed_alone():
    network = {"class_path": "musictrain.models.Recurrent", "init_args": {"vocab_size": VOCAB}}
    options = {"network": network, "optimizer": {"init_args": {"lr": 0.1}}, "schedule": {"init_args": {"warmup_steps": 7}}}
    module = built_by_command_line({"class_path": "musictrain.MusicModule", "init_args": options})
    assert module.schedule == WarmupCosine(warmup_steps=7)
    group = module.optimizer_factory([torch.zeros(1)]).defaults
    assert (group["lr"], group["betas"], group["weight_decay"], group["fused"]) == (0.1, (0.9, 0.95), 0.1, True)


def test_weights_can_be_averaged_whatever_the_factory_holds(tmp_path):
    # A lock cannot be copied, and neither can the parser that a command line's factory holds.
    factory = functools.partial(lambda groups, lock: AdamW(groups, lr=0.1), lock=threading.RLock())
    averaged = EMAWeightAveraging(decay=0.5)
    module = new_module(optimizer=factory)
    fit(tmp_path, module, max_steps=3, callbacks=[averaged])
    assert averaged._average_model.n_averaged == 3


def built_by_command_line(config: dict[str, Any]) -> MusicModule:
    cli = LightningCLI(
        lightning.LightningModule,
        run=False,
        subclass_mode_model=True,
        save_config_callback=None,
        args={"model": config},
        trainer_defaults=QUIET,
    )
    return cli.model


# Schedules


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 4}, 4),
        ({"max_epochs": 2}, 10),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 2, "max_steps": 7}, 7),
        ({"max_epochs": 1, "max_steps": 7}, 5),
        ({"max_epochs": 2, "limit_train_batches": 3}, 6),
    ],
)
def test_the_schedule_ends_where_the_trainer_does(tmp_path, limits, steps):
    schedule = WarmupCosine(warmup_steps=1, final_fraction=0.1)
    module = new_module(schedule=schedule, optimizer=lambda params: AdamW(params, lr=0.5))
    trainer = fit(tmp_path, module, **limits)
    assert trainer.global_step == steps == steps_of_run(trainer)
    expected = {step: 0.5 * schedule.over(steps)(step) for step in range(steps)}
    assert logged(tmp_path, "train/lr") == pytest.approx(expected)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_resumed_run_that_is_longer_follows_the_longer_curve(tmp_path):
    schedule = WarmupCosine(warmup_steps=1)
    trainer = fit(tmp_path, new_module(schedule=schedule), max_steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    fit(tmp_path / "longer", new_module(schedule=schedule), ckpt_path=tmp_path / "three.ckpt", max_steps=12)
    rates = logged(tmp_path / "longer", "train/lr")
    assert rates[11] == pytest.approx(3e-4 * schedule.over(12)(11))
    assert rates[4] == pytest.approx(3e-4 * schedule.over(12)(4))


def test_asking_for_the_runs_length_leaves_the_loaders_saved_position_alone(tmp_path):
    class Stateful(Resumable):
        loaded: dict[str, int] | None = None

        def state_dict(self) -> dict[str, int]:
            return {"position": 3}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.loaded = state

    trainer = fit(tmp_path, new_module(schedule=WarmupCosine()), Stateful(random_batches()), max_steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    loader = Stateful(random_batches())
    fit(tmp_path, new_module(schedule=WarmupCosine()), loader, ckpt_path=tmp_path / "three.ckpt", max_steps=5)
    assert loader.loaded == {"position": 3}


def test_a_schedule_that_needs_the_end_of_an_endless_run_is_refused_before_it_starts(tmp_path):
    class NeverAsked(lightning.LightningDataModule):
        def train_dataloader(self):
            raise AssertionError("the data was asked for")

    trainer = new_trainer(tmp_path, max_time="00:00:01:00")
    with pytest.raises(ValueError, match=r"WarmupCosine needs the number of optimizer steps.*Set trainer.max_steps"):
        trainer.fit(new_module(schedule=WarmupCosine()), datamodule=NeverAsked())


def test_epochs_over_a_loader_of_unknown_length_are_no_limit(tmp_path):
    class Endless:
        def __iter__(self):
            return iter(random_batches())

    endless = Endless()
    with pytest.raises(ValueError, match="needs the number of optimizer steps"):
        fit(tmp_path, new_module(schedule=WarmupCosine()), endless, max_epochs=2)


def test_an_endless_schedule_needs_no_limit(tmp_path):
    class StopSoon(Callback):
        def on_train_batch_end(self, trainer, *args: Any) -> None:
            trainer.should_stop = trainer.global_step >= 2

    trainer = fit(tmp_path, new_module(schedule=InverseSquareRoot()), max_epochs=-1, callbacks=[StopSoon()])
    assert trainer.global_step == 2
