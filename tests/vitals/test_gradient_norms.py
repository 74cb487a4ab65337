"""Norms by parameter are those of torch, name the first value that is not finite, and are of the whole where parameters lie in shares."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from musictrain.vitals import ParameterNorms


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def with_gradients() -> nn.Module:
    made = network()
    made(torch.randn(5, 3)).square().sum().backward()
    return made


def test_each_norm_and_their_total_are_those_of_torch() -> None:
    made = with_gradients()
    measured = ParameterNorms(made.named_parameters()).measure()
    assert measured.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert measured.norms == pytest.approx([float(parameter.grad.norm()) for parameter in made.parameters()])
    assert measured.total == pytest.approx(float(nn.utils.get_total_norm([parameter.grad for parameter in made.parameters()])))
    assert measured.finite
    assert measured.first_bad == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_parameter_that_is_not_finite_is_named(value: float) -> None:
    made = with_gradients()
    made[2].weight.grad[1, 3] = value
    made[2].bias.grad[0] = value
    measured = ParameterNorms(made.named_parameters()).measure()
    assert not measured.finite
    assert measured.first_bad == "2.weight"
    assert math.isnan(measured.total)


def test_weights_are_measured_as_gradients_are() -> None:
    made = network()
    with torch.no_grad():
        made[0].bias[2] = math.inf
    measured = ParameterNorms(made.named_parameters()).measure("weights")
    assert measured.first_bad == "0.bias"
    assert measured.norms[2] == pytest.approx(float(made[2].weight.detach().norm()))


def test_values_whose_squares_are_too_large_for_32_bits_are_finite() -> None:
    made = with_gradients()
    made[0].weight.grad.fill_(1e25)
    measured = ParameterNorms(made.named_parameters()).measure()
    assert measured.finite
    assert measured.norms[0] == pytest.approx(1e25 * math.sqrt(12))


def test_parameters_without_a_gradient_count_as_nothing_and_frozen_ones_are_passed_over() -> None:
    made = network()
    made[0].bias.requires_grad_(False)
    made[2](torch.ones(1, 4)).sum().backward()
    measured = ParameterNorms(made.named_parameters()).measure()
    assert measured.names == ("0.weight", "2.weight", "2.bias")
    assert measured.norms[0] == 0.0
    assert measured.norms[1] > 0.0


def test_half_precision_and_sparse_gradients_are_measured() -> None:
    half, rare = nn.Linear(64, 64).to(torch.bfloat16), nn.Embedding(10, 4, sparse=True)
    half(torch.ones(1, 64, dtype=torch.bfloat16)).sum().backward()
    rare(torch.tensor([1, 1, 3])).sum().backward()
    both = [*half.named_parameters(), ("rare", rare.weight)]
    measured = ParameterNorms(both).measure()
    assert measured.norms[0] == pytest.approx(64.0, rel=0.01)
    # Row 1 was asked for twice.
    assert measured.norms[2] == pytest.approx(math.sqrt(4 * 4 + 4))


def test_flat_shares_add_up_to_the_norm_of_the_whole() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    others = {id(first): 16.0, id(second): 9.0}
    for mine in (first, second):

        def add_the_other(numbers: torch.Tensor, other: float = others[id(mine)]) -> torch.Tensor:
            return numbers + torch.tensor([other, 0.0], dtype=torch.float64)

        measured = ParameterNorms([("flat", mine)], world_size=2, flattened=True).measure(reduce=add_the_other, further=[7.0])
        assert measured.norms == pytest.approx([5.0])
        assert measured.further == [7.0]
