"""The first tensor that is not finite is named, and looking for it changes no bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from musictrain.replay.found import NotFinite
from musictrain.replay.probe import AnswerEar, StepProbe


class Layers(nn.Module):
    """Tokens to logits by way of two layers; ``spoil`` puts a value into what a place of it computes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(7, 5)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(self.embedding(tokens))))))


TOKENS = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])


def one_step(model: nn.Module, probe: StepProbe | None = None) -> Tensor:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(model(TOKENS[:, :-1]).reshape(-1, 7), TOKENS[:, 1:].reshape(-1))
    if probe is not None:
        probe.loss(loss)
    loss.backward()
    optimizer.step()
    if probe is not None:
        probe.after_step(model, [optimizer])
        probe.close()
    return loss.detach()


def first_of(model: nn.Module) -> NotFinite | None:
    probe = StepProbe(model, 12)
    one_step(model, probe)
    return probe.first.found


def test_a_healthy_step_has_none_and_keeps_every_bit() -> None:
    looked_at, left_alone = Layers(), Layers()
    probe = StepProbe(looked_at, 1)
    ear = AnswerEar(looked_at, None)
    ear.begin(TOKENS)
    losses = one_step(looked_at, probe), one_step(left_alone)
    ear.close()
    assert probe.first.found is None
    assert torch.equal(*losses)
    for one, other in zip(looked_at.parameters(), left_alone.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.grad, other.grad)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in looked_at.modules())


@pytest.mark.parametrize("name", ["embedding.weight", "first.weight", "second.bias", "head.weight"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_is_named_that_was_not_finite_before(name: str, value: float) -> None:
    model = Layers()
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = value
    found = first_of(model)
    assert found == NotFinite("weight", name, 1, dict(model.named_parameters())[name].numel(), 12)
    assert name in found.sentence()


def test_the_layer_is_named_whose_output_is_the_first() -> None:
    model = Layers()
    model.second = Spoiling(5, 5)
    found = first_of(model)
    assert found is not None
    assert (found.stage, found.name, found.values) == ("activation", "second", 1)


class Spoiling(nn.Linear):
    """A layer with one value too many."""

    def forward(self, given: Tensor) -> Tensor:
        answer = super().forward(given)
        return answer.masked_fill(answer == answer.max(), torch.nan)


def test_the_gradient_is_named_where_it_goes_wrong_on_the_way_back() -> None:
    model = Layers()
    model.first.register_forward_hook(lambda layer, given, answer: _Spoiled.apply(answer))
    found = first_of(model)
    assert found is not None
    assert (found.stage, found.name) == ("gradient", "first.bias")


class _Spoiled(torch.autograd.Function):
    """Itself on the way forward, nan on the way back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, torch.nan)


def test_a_weight_is_named_that_the_update_spoils() -> None:
    model = Layers()
    probe = StepProbe(model, 12)
    optimizer = torch.optim.SGD([{"params": model.first.parameters(), "lr": 1e-3}, {"params": model.head.parameters(), "lr": 1e38}])
    (1e3 * model(TOKENS[:, :-1])).sum().backward()
    optimizer.step()
    probe.after_step(model, [optimizer])
    found = probe.first.found
    assert found is not None
    assert (found.stage, found.name) == ("weight after the step", "head.weight")


def test_masks_of_minus_infinity_are_no_fault() -> None:
    model = Layers()
    model.head.register_forward_hook(lambda layer, given, answer: answer.masked_fill(torch.arange(7) == 0, -torch.inf))
    assert first_of(model) is None


def test_minus_infinity_that_spoils_the_loss_is_named() -> None:
    model = Layers()
    model.head.register_forward_hook(lambda layer, given, answer: answer.masked_fill(torch.arange(7) == 2, -torch.inf))
    found = first_of(model)
    assert found is not None
    assert (found.stage, found.name) == ("activation", "head")


def test_the_answers_are_heard_as_nats_of_every_target() -> None:
    model = Layers()
    ear = AnswerEar(model, pad_id=1)
    ear.begin(TOKENS)
    logits = model(TOKENS[:, :-1]).detach()
    heard = ear.end({"tokens": TOKENS, "number": 4}, 0.5)
    ear.close()
    assert heard.number == 4
    expected = -logits.log_softmax(-1).gather(-1, TOKENS[:, 1:, None]).squeeze(-1)
    assert heard.counted is not None
    assert heard.counted.tolist() == (TOKENS[:, 1:] != 1).tolist()
    assert torch.allclose(heard.nll[heard.counted], expected[heard.counted])
    assert torch.isnan(heard.nll[~heard.counted]).all()
    assert torch.equal(heard.likeliest, logits.argmax(-1))
    assert not heard.misread.any()


def test_rows_worked_on_in_parts_are_put_together_and_only_the_last_try_counts() -> None:
    model = Layers()
    ear = AnswerEar(model, pad_id=None)
    ear.begin(TOKENS)
    model(TOKENS[:, :-1])  # a try that did not fit
    for row in TOKENS[:, :-1].split(1):
        model(row)
    in_parts = ear.end({"tokens": TOKENS}, 0.0)
    ear.begin(TOKENS)
    model(TOKENS[:, :-1])
    whole = ear.end({"tokens": TOKENS}, 0.0)
    assert torch.allclose(in_parts.nll, whole.nll)


def test_a_network_that_answers_otherwise_is_not_misheard() -> None:
    model = copy.deepcopy(Layers())
    model.head = nn.Identity()
    ear = AnswerEar(nn.Sequential(nn.Flatten()), None)
    ear.begin(TOKENS)
    assert ear.end({"tokens": TOKENS}, 1.0).nll is None
