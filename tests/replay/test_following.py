"""A Trainer that follows a step does what it did before, bit for bit, with any module; what is not finite in it is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.datamodule import MusicDataModule
from musictrain.module import MusicModule
from musictrain.optim import SAM, Constant
from musictrain.replay import FollowStep, ReadVersions
from tests.tiny_runs import QUIET, ForeignNetwork


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chance = np.random.default_rng(1)
    home = np.array([72, 67, 60, 48])
    pieces = [(home + chance.integers(-1, 2, (24, 4)).cumsum(0).clip(-6, 6)).tolist() for _ in range(5)]
    path = tmp_path_factory.mktemp("corpus") / "frames.json"
    path.write_text(json.dumps({"train": pieces, "valid": [pieces[0]], "test": [pieces[1]]}))
    return path


class PlainModule(lightning.LightningModule):
    """Somebody's module, which knows nothing of musictrain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = ForeignNetwork(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens = batch["tokens"]
        logits = self(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
        self.log("train/loss", loss.detach().double())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def music_module(width: int) -> lightning.LightningModule:
    return MusicModule(ForeignNetwork(width), schedule=Constant(), optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))


def sharpness_aware(width: int) -> lightning.LightningModule:
    """A step of it is two passes, the second at other weights."""
    return MusicModule(ForeignNetwork(width), schedule=Constant(), optimizer=lambda groups: SAM(groups, rho=0.5))


MODULES = {"music": music_module, "plain": PlainModule}


class Losses(lightning.Callback):
    """Keeps what a run logs and what its weights are after each step."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.weights: dict[int, list[Tensor]] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        self.losses[trainer.global_step] = float(trainer.callback_metrics["train/loss"])
        self.weights[trainer.global_step] = [each.detach().clone() for each in pl_module.parameters()]


def run_to(folder: Path, corpus: Path, kind: str, steps: int = 7, **options: Any) -> Losses:
    data = MusicDataModule(str(corpus), window=32, batch_size=2)
    losses = Losses()
    saver = VersionedCheckpoint(folder / "checkpoints", monitor=None, newest=9, every_n_train_steps=2)
    lightning.seed_everything(3)
    trainer = lightning.Trainer(
        **{**QUIET, "enable_checkpointing": True}, default_root_dir=folder, logger=False, log_every_n_steps=1, max_steps=steps,
        callbacks=[losses, saver], use_distributed_sampler=False, **options
    )  # fmt: skip
    trainer.fit(MODULES[kind](data.vocab_size), data)
    return losses


def follow(folder: Path, corpus: Path, kind: str, step: int, spoil: Any = None, version_before: int | None = None, **options: Any) -> Any:
    data = MusicDataModule(str(corpus), window=32, batch_size=2)
    before = [version for version in list_versions(folder / "checkpoints") if version.step < (version_before or step)]
    following, losses = FollowStep(step, since=1), Losses()
    callbacks = [following, losses, ReadVersions(str(folder / "nothing")), *([spoil] if spoil is not None else [])]
    trainer = lightning.Trainer(
        **{**QUIET, "enable_checkpointing": True}, default_root_dir=folder, logger=False, log_every_n_steps=1, max_steps=7,
        callbacks=callbacks, use_distributed_sampler=False, limit_val_batches=0, **options
    )  # fmt: skip
    lightning.seed_everything(3)
    trainer.fit(MODULES[kind](data.vocab_size), data, ckpt_path=max(before, key=lambda version: version.step).path)
    assert not (folder / "nothing").exists()
    return following.result, losses


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_losses_and_weights_are_those_of_the_run(kind: str, precision: str, corpus: Path, tmp_path: Path) -> None:
    ran = run_to(tmp_path, corpus, kind, precision=precision)
    files = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    result, again = follow(tmp_path, corpus, kind, 6, version_before=4, precision=precision)
    assert result.began_at == 2
    assert sorted(again.losses) == [3, 4, 5, 6]
    for step, loss in again.losses.items():
        assert loss == ran.losses[step]
        assert all(torch.equal(one, other) for one, other in zip(again.weights[step], ran.weights[step], strict=True))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == files
    assert result.not_finite is None
    assert result.batches[0].number == 5
    assert result.loss == pytest.approx(ran.losses[6], rel=1e-2 if precision == "bf16-mixed" else 1e-6)


def test_of_a_step_in_two_passes_the_answers_are_those_at_the_weights_of_the_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODULES, "music", sharpness_aware)
        ran = run_to(tmp_path, corpus, "music")
        result, again = follow(tmp_path, corpus, "music", 6)
    assert again.losses[6] == ran.losses[6]
    nll = result.batches[0].nll
    assert float(nll[result.batches[0].counted].mean()) == pytest.approx(ran.losses[6], rel=1e-5)


def test_the_gradients_are_whole_and_the_updates_those_of_the_step(corpus: Path, tmp_path: Path) -> None:
    ran = run_to(tmp_path, corpus, "music", gradient_clip_val=1e-3)
    result, _ = follow(tmp_path, corpus, "music", 5, gradient_clip_val=1e-3)
    assert math.hypot(*(layer.gradient for layer in result.layers)) == pytest.approx(result.gradient_norm, rel=1e-6)
    assert result.gradient_norm > 1e-2  # before it was clipped
    for layer, before, after in zip(result.layers, ran.weights[4], ran.weights[5], strict=True):
        assert layer.weight == pytest.approx(float(before.double().norm()), rel=1e-6)
        assert layer.update == pytest.approx(float((after - before).double().norm()), rel=1e-4)


class Spoil(lightning.Callback):
    """Makes something not a number before a step."""

    def __init__(self, step: int, name: str) -> None:
        self.step, self.name = step, name

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any) -> None:
        if trainer.global_step + 1 == self.step:
            with torch.no_grad():
                dict(pl_module.named_parameters())[self.name].view(-1)[0] = torch.nan


@pytest.mark.parametrize("name", ["network.recurrent.weight_hh_l0", "network.head.bias"])
def test_the_tensor_that_was_spoiled_is_named(name: str, corpus: Path, tmp_path: Path) -> None:
    run_to(tmp_path, corpus, "music")
    result, _ = follow(tmp_path, corpus, "music", 5, spoil=Spoil(5, name))
    assert result.not_finite is not None
    # A callback behind ours spoils it: it is seen when the layer is about to use it.
    assert (result.not_finite.stage, result.not_finite.name, result.not_finite.values) == ("weight", name, 1)
    assert math.isnan(result.loss)


def test_a_step_before_it_that_went_wrong_is_told_of(corpus: Path, tmp_path: Path) -> None:
    run_to(tmp_path, corpus, "music")
    result, _ = follow(tmp_path, corpus, "music", 6, spoil=Spoil(5, "network.head.bias"), version_before=5)
    assert result.not_finite is not None
    assert (result.not_finite.stage, result.not_finite.step) == ("loss", 5)


class Refuse(lightning.Callback):
    """A guard that leaves the fit in the middle of a step."""

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("no further")


def test_what_was_seen_of_a_step_that_ends_the_fit_is_kept(corpus: Path, tmp_path: Path) -> None:
    run_to(tmp_path, corpus, "music")
    data = MusicDataModule(str(corpus), window=32, batch_size=2)
    following = FollowStep(5)
    trainer = lightning.Trainer(
        **{**QUIET, "enable_checkpointing": True}, default_root_dir=tmp_path, logger=False, max_steps=7,
        callbacks=[following, Refuse(), ReadVersions(str(tmp_path / "nothing"))], use_distributed_sampler=False, limit_val_batches=0
    )  # fmt: skip
    model = music_module(data.vocab_size)
    with pytest.raises(RuntimeError, match="no further"):
        trainer.fit(model, data, ckpt_path=tmp_path / "checkpoints" / "v000003_step000004.ckpt")
    assert following.result.batches[0].number == 4
    assert following.result.batches[0].nll is not None
    assert math.isfinite(following.result.loss)
    assert all(layer.gradient is not None and layer.update == 0.0 for layer in following.result.layers)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


class TakeAway(lightning.Callback):
    """A guard that leaves out an update."""

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad = None


def test_an_update_that_is_left_out_is_told_and_its_gradients_are_known_all_the_same(corpus: Path, tmp_path: Path) -> None:
    run_to(tmp_path, corpus, "plain")
    result, _ = follow(tmp_path, corpus, "plain", 5, spoil=TakeAway())
    assert not result.optimizer_stepped
    assert all(layer.gradient is not None and layer.update == 0.0 for layer in result.layers)
    assert math.isfinite(result.gradient_norm)
