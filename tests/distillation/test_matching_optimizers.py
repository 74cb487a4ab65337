"""Projections between hidden states under every optimizer: trained as other weights are, in the second pass of a step too."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import LayerDecay
from musictrain.optim.making import describe_optimizer
from tests.distillation.teachers import SMALL, store_teacher, student
from tests.optim.stepped import OURS, factory
from tests.tiny_runs import PAD, fit, random_batches, same_weights

pytest.importorskip("pytorch_optimizer")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
HIDDEN = {"blocks.0": "blocks.1"}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # what projections begin with goes by it


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_teacher(tmp_path_factory.mktemp("teacher") / "teacher.ckpt")


def learner(teacher: Path, optimizer: Any, dropout: float = 0.0, **options: Any) -> MusicModule:
    torch.manual_seed(1)
    network = Decoder(**SMALL, dropout=dropout)
    return student(teacher, network, hidden=HIDDEN, options={"optimizer": optimizer, **options})


@pytest.mark.parametrize("name", OURS)
def test_projections_are_trained_as_other_weights_are_and_resume_in_the_same_bits(name: str, teacher: Path, tmp_path: Path) -> None:
    whole, resumed = (learner(teacher, factory(name), dropout=0.2) for _ in range(2))
    keep = ModelCheckpoint(dirpath=tmp_path, filename="two", every_n_train_steps=2, save_top_k=-1)
    trainer = fit(tmp_path / "whole", whole, max_steps=4, callbacks=[keep], enable_checkpointing=True)
    groups = trainer.optimizers[0].param_groups
    [projections] = [group for group in groups if group["name"] == "projections"]
    assert projections["params"] == list(whole.hidden_matching.parameters())
    others = [group for group in groups if group is not projections and not group.get("use_muon")]
    same = ("lr", "betas", "eps", "momentum", "fused", "rho")
    assert {key: projections.get(key) for key in same} == {key: others[-1].get(key) for key in same}
    assert (projections["weight_decay"], projections.get("use_muon", False)) == (0.0, False)
    assert not torch.equal(projections["params"][0], first_projection(teacher))
    fit(tmp_path / "resumed", resumed, max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert same_weights(whole, resumed)


def first_projection(teacher: Path) -> torch.Tensor:
    """What a new student begins with."""
    matching = learner(teacher, factory("AdamW")).hidden_matching
    matching.make([(4, 8)], seed=0)
    return matching.projections[0].weight


def test_projections_have_the_whole_learning_rate_whatever_lies_deeper(teacher: Path, tmp_path: Path) -> None:
    module = learner(teacher, factory("Muon", lr=0.01, adamw_lr=0.004), layer_decay=LayerDecay(0.5))
    trainer = fit(tmp_path, module, max_steps=1)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups if group["name"] == "projections"] == [0.004]
    assert "    by AdamW: projections (8 x 4)" in describe_optimizer(trainer.optimizers[0], module.network)


def test_the_second_pass_of_a_step_goes_by_the_same_opinion_and_moves_projections_too(teacher: Path, tmp_path: Path) -> None:
    rho, rate, batch = 0.3, 0.5, random_batches(1)[0]
    module = learner(teacher, factory("SAM", base=functools.partial(torch.optim.SGD, lr=rate), rho=rho))
    setup, said = module.distilling.setup, []

    def with_ear(*args: Any) -> None:
        setup(*args)
        module.distilling.teacher.network.register_forward_hook(lambda network, inputs, output: said.append(output.clone()))
        said.clear()

    module.distilling.setup = with_ear
    fit(tmp_path, module, [batch], max_steps=1)
    assert len(said) == 2
    assert torch.equal(*said)

    # The same step by hand, with the loss of the same settings.
    other = learner(teacher, factory("AdamW"))
    other.distilling.teacher = module.distilling.teacher
    other.hidden_matching.make([(4, 8)], seed=0)
    weights = list(other.parameters())

    def gradients() -> list[torch.Tensor]:
        read, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        result = other.distilling.loss(_AtTheStart(other), PAD, read, targets, read)
        return list(torch.autograd.grad(result.loss, weights))

    up = gradients()
    length = torch.cat([each.flatten() for each in up]).norm()
    with torch.no_grad():
        for weight, gradient in zip(weights, up, strict=True):
            weight += rho * gradient / length
    there = gradients()
    with torch.no_grad():
        for weight, gradient, first in zip(weights, there, up, strict=True):
            weight -= rho * first / length + rate * gradient
    for one, by_hand in zip(module.parameters(), weights, strict=True):
        torch.testing.assert_close(one, by_hand, atol=1e-5, rtol=1e-4)


class _AtTheStart:
    """A module before its first step, without a Trainer."""

    global_step = 0

    def __init__(self, module: MusicModule) -> None:
        self.network, self.hidden_matching = module.network, module.hidden_matching

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.network(tokens)
