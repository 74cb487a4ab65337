"""MusicModule's token dropout, adaptive clipping and plateau in a real Trainer: what they do, resumed too, and that off is off."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from musictrain.losses import next_token_loss
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant, Plateau, WarmupCosine, parameter_groups
from musictrain.optim.adaptive_clipping import check_weights_keep_their_rows
from tests.tiny_runs import PAD, VOCAB, ForeignNetwork, Resumable, fit, logged, new_module, new_trainer, random_batches, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
PLATEAU = Plateau(patience=0, factor=0.5, monitor="val/loss", min_delta=10.0, relative=False)
"""Nothing is good enough for it: every validation but the first reduces."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No word from Lightning, no seed left by another test."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


class Listening(nn.Module):
    """Notes what it was given to read while training, and while not."""

    vocab_size = VOCAB

    def __init__(self) -> None:
        super().__init__()
        self.inner = ForeignNetwork()
        self.read: dict[bool, list[Tensor]] = {True: [], False: []}

    def forward(self, tokens: Tensor) -> Tensor:
        self.read[self.training].append(tokens.clone())
        return self.inner(tokens)


# Token dropout


@pytest.mark.parametrize("kind", ["blank", "unigram"])
def test_the_network_reads_noised_tokens_and_predicts_the_music_as_it_is(tmp_path, kind):
    network, batches = Listening(), random_batches(8, rows=4, time=30)
    fit(tmp_path, new_module(network, token_dropout=0.3, token_dropout_kind=kind), batches, batches, max_epochs=1)
    tokens = torch.cat([batch["tokens"][:, :-1] for batch in batches])
    read = torch.cat(network.read[True])
    music = tokens != PAD
    assert torch.equal(read[~music], tokens[~music])
    expected = 0.3 if kind == "blank" else 0.3 * 0.9
    assert float((read != tokens)[music].float().mean()) == pytest.approx(expected, abs=0.1)
    assert all(any(torch.equal(heard, batch["tokens"][:, :-1]) for batch in batches) for heard in network.read[False])


def test_a_resumed_run_reads_what_the_uninterrupted_one_would_have_read(tmp_path):
    whole, stopped, resumed = (Listening() for _ in range(3))
    options = {"token_dropout": 0.4, "token_dropout_kind": "unigram"}
    modules = [new_module(network, **options) for network in (whole, stopped, resumed)]
    fit(tmp_path / "whole", modules[0], max_epochs=2)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="three", every_n_train_steps=3)
    fit(tmp_path / "stopped", modules[1], max_steps=3, callbacks=[keep], enable_checkpointing=True)
    fit(tmp_path / "resumed", modules[2], max_epochs=2, ckpt_path=tmp_path / "three.ckpt")
    assert all(torch.equal(one, other) for one, other in zip(whole.read[True], stopped.read[True] + resumed.read[True], strict=True))
    assert same_weights(modules[0], modules[2])


def test_blank_noise_without_padding_is_refused_before_it_starts(tmp_path):
    with pytest.raises(ValueError, match="neither pad_id nor the data module's tokenizer names one"):
        fit(tmp_path, new_module(pad_id=None, token_dropout=0.1), max_steps=1)


# Adaptive clipping


class Gradients(Callback):
    """The gradients of each step as they are used, with the weights they are used on."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[Tensor, Tensor]]] = []

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        pairs = [(p.detach().clone(), p.grad.clone()) for p in module.parameters() if p.grad is not None]
        self.seen += [pairs] if pairs else []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_no_row_of_a_gradient_is_longer_than_its_share_of_the_weights(tmp_path, precision):
    gradients, free = Gradients(), Gradients()
    still = functools.partial(torch.optim.SGD, lr=0.0)
    fit(tmp_path, new_module(optimizer=still, adaptive_clip=1e-3), max_epochs=1, callbacks=[gradients], precision=precision)
    fit(tmp_path, new_module(optimizer=still), max_epochs=1, callbacks=[free], precision=precision)
    longest = [
        float((gradient.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1).clamp(min=1e-3)).max())
        for weight, gradient in gradients.seen[-1]
        if weight.ndim > 1
    ]
    assert max(longest) <= 1e-3 * (1 + 1e-5)
    assert not all(torch.equal(ours[1], theirs[1]) for ours, theirs in zip(gradients.seen[-1], free.seen[-1], strict=True))


def test_the_norm_that_is_logged_is_that_before_adaptive_clipping_and_lightnings_follows(tmp_path):
    still = functools.partial(torch.optim.SGD, lr=0.0)
    gradients = Gradients()
    fit(tmp_path, new_module(optimizer=still, adaptive_clip=0.1), max_epochs=1, gradient_clip_val=1e-4, callbacks=[gradients])
    fit(tmp_path / "free", new_module(optimizer=still), max_epochs=1)
    assert logged(tmp_path, "train/gradient_norm") == logged(tmp_path / "free", "train/gradient_norm")
    norms = [torch.stack([gradient.norm() for _, gradient in step]).norm() for step in gradients.seen]
    assert max(map(float, norms)) <= 1e-4 * (1 + 1e-4)


def test_a_strategy_that_flattens_weights_is_refused_with_the_reason(tmp_path):
    sharding = type("Sharding", (FSDPStrategy,), {})
    with pytest.raises(ValueError, match=r"Sharding flattens parameters, so that no rows are left\. Use ddp"):
        check_weights_keep_their_rows(sharding.__new__(sharding))
    check_weights_keep_their_rows(new_trainer(tmp_path).strategy)


@pytest.mark.parametrize(
    "options",
    [{"adaptive_clip": 0.0}, {"token_dropout": 1.0}, {"token_dropout_kind": "unigrams"}, {"label_smoothing": 1.5}, {"z_loss": -0.1}],
    ids=str,
)
def test_what_cannot_be_is_refused_at_construction(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        new_module(**options)


# Plateau


def new_plateau_module(**options: Any) -> MusicModule:
    adam = functools.partial(AdamW, lr=0.1)
    return new_module(**{"optimizer": adam, "plateau": PLATEAU, "schedule": WarmupCosine(warmup_steps=2, total_steps=20), **options})


def test_validations_without_an_improvement_multiply_the_schedule(tmp_path):
    fit(tmp_path, new_plateau_module(), random_batches(10), random_batches(2, seed=9), max_epochs=1, val_check_interval=3)
    schedule = WarmupCosine(warmup_steps=2, total_steps=20)
    # Validations after 3, 6 and 9 steps; the first sets the best, the second and third halve the rate at once.
    expected = {step: 0.1 * schedule(step) * (1.0 if step < 6 else 0.5 if step < 9 else 0.25) for step in range(10)}
    assert logged(tmp_path, "train/lr") == pytest.approx(expected)


def test_validations_during_the_warm_up_do_not_count(tmp_path):
    module = new_plateau_module(schedule=Constant(warmup_steps=5))
    fit(tmp_path, module, random_batches(10), random_batches(2, seed=9), max_epochs=1, val_check_interval=2)
    # After 6 steps the best is set; 8 and 10 reduce.
    assert module._plateau.factor == 0.25


def test_a_run_resumed_after_any_validation_reduces_where_the_whole_run_does(tmp_path):
    keep = ModelCheckpoint(monitor="val/loss", save_top_k=-1, dirpath=tmp_path / "v", save_on_train_epoch_end=False, filename="{step}")
    run = {"max_epochs": 1, "val_check_interval": 2}
    batches, valid = random_batches(9), random_batches(2, seed=9)
    rule = Plateau(patience=1, factor=0.5, min_delta=10.0, relative=False)
    whole = new_plateau_module(plateau=rule)
    fit(tmp_path, whole, batches, valid, enable_checkpointing=True, callbacks=[keep], **run)
    versions = sorted((tmp_path / "v").iterdir())
    assert len(versions) == 4
    for version in versions:
        resumed = new_plateau_module(plateau=rule)
        folder: Path = tmp_path / version.stem
        fit(folder, resumed, batches, valid, ckpt_path=version, **run)
        first = torch.load(version, weights_only=True)["global_step"]
        assert logged(folder, "train/lr") == {step: lr for step, lr in logged(tmp_path, "train/lr").items() if step >= first}
        assert same_weights(resumed, whole)
        assert resumed._plateau.state_dict() == whole._plateau.state_dict()


def test_it_sees_what_a_callback_has_logged_in_the_same_validation(tmp_path):
    class Scores(Callback):
        values = iter([0.1, 0.5, 0.4, 0.3])

        def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            module.log("val/groove", next(self.values))

    rule = Plateau(monitor="val/groove", mode="max", patience=0, factor=0.5)
    module = new_plateau_module(plateau=rule, schedule=Constant())
    fit(tmp_path, module, random_batches(8), random_batches(2), max_epochs=1, val_check_interval=2, callbacks=[Scores()])
    assert (module._plateau.best, module._plateau.factor) == (pytest.approx(0.5), 0.25)


def test_a_score_of_an_earlier_validation_is_not_counted_again(tmp_path):
    class EverySecond(Callback):
        score_names = ("val/groove",)

        def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
            if module.global_step in (4, 8):
                module.log("val/groove", 0.5)

    rule = Plateau(monitor="val/groove", mode="max", patience=1, factor=0.5)
    module = new_plateau_module(plateau=rule, schedule=Constant())
    fit(tmp_path, module, random_batches(10), random_batches(2), max_epochs=1, val_check_interval=2, callbacks=[EverySecond()])
    assert (module._plateau.waited, module._plateau.factor) == (1, 1.0)


def test_a_plateau_of_what_nobody_logs_ends_the_run_at_the_first_validation(tmp_path):
    module = new_plateau_module(plateau=Plateau(monitor="val/los"), schedule=Constant())
    with pytest.raises(ValueError, match=r"Plateau watches 'val/los', but this run logged .* Did you mean 'val/loss'"):
        fit(tmp_path, module, random_batches(4), random_batches(2), max_epochs=1, val_check_interval=2)


def test_neither_a_sanity_check_nor_a_validation_alone_counts(tmp_path):
    module = new_plateau_module(schedule=Constant())
    fit(tmp_path, module, random_batches(2), random_batches(2), max_epochs=1, num_sanity_val_steps=2)
    new_trainer(tmp_path).validate(module, Resumable(random_batches(2)), verbose=False)
    assert (module._plateau.factor, module._plateau.waited) == (1.0, 0)


def test_a_plateau_without_any_validation_is_said(tmp_path, caplog):
    fit(tmp_path, new_plateau_module(), max_steps=1)
    assert "The plateau counts validations, and this run has none" in caplog.text
    caplog.clear()
    fit(tmp_path, new_plateau_module(), valid=random_batches(1), max_steps=1)
    assert "The plateau counts" not in caplog.text


# Off is off


def test_at_the_defaults_a_run_is_what_a_loop_by_hand_makes_of_it(tmp_path):
    module, reference = new_module(optimizer=functools.partial(AdamW, lr=0.01)), ForeignNetwork()
    batches = random_batches()
    seeds: list[Tensor] = []

    class States(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            module_hook = module.on_train_batch_start
            module_hook(batch, batch_idx)
            seeds.append(torch.get_rng_state())

    fit(tmp_path, module, batches, max_epochs=1, callbacks=[States()])
    optimizer = AdamW(parameter_groups(reference), lr=0.01)
    for batch, state in zip(batches, seeds, strict=True):
        torch.set_rng_state(state)
        optimizer.zero_grad()
        next_token_loss(reference(batch["tokens"][:, :-1]), batch["tokens"][:, 1:], pad_id=PAD).loss.backward()
        optimizer.step()
    assert same_weights(module.network, reference)


def test_a_checkpoint_from_before_there_was_a_plateau_resumes(tmp_path):
    fit(tmp_path, new_module(), max_steps=2).save_checkpoint(tmp_path / "old.ckpt")
    assert "musictrain_plateau" not in torch.load(tmp_path / "old.ckpt", weights_only=True)
    module = new_plateau_module(optimizer=AdamW, schedule=Constant())
    fit(tmp_path / "on", module, max_steps=4, ckpt_path=tmp_path / "old.ckpt")
    assert module._plateau.factor == 1.0


# What a batch hides


def test_what_a_batch_hides_is_read_as_padding_in_training_alone(tmp_path):
    network, batches = Listening(), random_batches(3)
    for batch in batches:
        batch["hidden"] = torch.rand(batch["tokens"][:, :-1].shape) < 0.5
    fit(tmp_path, new_module(network), batches, batches, max_epochs=1)
    for read, batch in zip(network.read[True], batches, strict=True):
        assert torch.equal(read, batch["tokens"][:, :-1].masked_fill(batch["hidden"], PAD))
    assert all(torch.equal(read, batch["tokens"][:, :-1]) for read, batch in zip(network.read[False], batches, strict=True))
    with pytest.raises(ValueError, match="The batch hides tokens, but neither pad_id"):
        fit(tmp_path, new_module(pad_id=None), batches, max_epochs=1)
