"""How far a step moves the weights, where the time goes, and how much memory is held."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from musictrain.vitals import StepClock, UpdateSizes, memory_held
from musictrain.vitals.update_sizes import MOST_VALUES, sample_of


def test_the_ratio_is_norm_of_the_update_over_norm_of_the_weight() -> None:
    layer = nn.Linear(3, 3)
    layer.bias.grad = torch.zeros(3)
    sizes = UpdateSizes(layer.named_parameters())
    sizes.before()
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight *= 1.01
    told = sizes.after()
    assert told["weight"] == pytest.approx(0.01, rel=1e-4)
    assert told["weight"] == pytest.approx(float((layer.weight - before).norm() / before.norm()), rel=1e-4)
    assert told["bias"] == 0.0
    assert sizes.after() == {}


def test_a_weight_of_zeros_has_no_ratio() -> None:
    zeros = nn.Parameter(torch.zeros(4))
    sizes = UpdateSizes([("zeros", zeros)])
    sizes.before()
    assert sizes.after() == {}


def test_what_has_no_gradient_and_stays_is_left_out_and_what_has_one_is_not() -> None:
    held, stuck = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    stuck.grad = torch.zeros(2)
    sizes = UpdateSizes([("held", held), ("stuck", stuck)])
    sizes.before()
    assert sizes.after() == {"stuck": 0.0}


def test_of_large_parameters_an_even_sample_is_kept() -> None:
    large = nn.Parameter(torch.arange(4.0 * MOST_VALUES + 3))
    sample = sample_of(large)
    assert len(sample) <= MOST_VALUES
    assert float(sample[-1]) > 3.9 * MOST_VALUES
    sizes = UpdateSizes([("large", large)])
    sizes.before()
    with torch.no_grad():
        large *= 1.5
    assert sizes.after() == {"large": pytest.approx(0.5)}


def test_seconds_add_up_by_what_they_were_spent_on() -> None:
    moments = iter([0.0, 0.0, 1.0, 3.0, 3.5, 6.0, 10.0])
    clock = StepClock(lambda: next(moments))
    clock.start()
    clock.switch("data")
    clock.switch("busy")
    clock.enter("saving")
    clock.leave("saving")
    assert clock.read() == {"busy": 1.0 + 0.5 + 4.0, "data": 2.0, "aside": 2.5}


def test_memory_that_is_held_is_that_of_the_process() -> None:
    before = memory_held(torch.device("cpu"))
    if math.isnan(before):
        pytest.skip("this system does not tell")
    held = torch.ones(16 * 2**20, dtype=torch.float32)
    assert memory_held(torch.device("cpu")) - before > 0.8 * held.numel() * 4
