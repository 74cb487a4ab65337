"""Adaptive clipping against the paper's formula, computed by hand, and on parameters that lie in shares."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from musictrain.optim import clip_adaptively


def with_gradient(weight: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient.clone()
    return parameter


def test_a_tiny_matrix_by_hand():
    # Rows of norm 5 and 0: at a ratio of 0.1 their gradients may be 0.5 and, with eps 0.01, 0.001 long. The third is short enough.
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [10.0, 0.0]])
    parameter = with_gradient(weight, torch.tensor([[0.0, 2.0], [0.3, 0.4], [0.6, 0.8]]))
    clip_adaptively([parameter], 0.1, eps=0.01)
    torch.testing.assert_close(parameter.grad, torch.tensor([[0.0, 0.5], [0.0006, 0.0008], [0.6, 0.8]]))


def test_a_vector_and_a_scalar_are_one_unit():
    vector = with_gradient(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0]))
    scalar = with_gradient(torch.tensor(2.0), torch.tensor(-5.0))
    clip_adaptively([vector, scalar], 0.5)
    torch.testing.assert_close(vector.grad, torch.tensor([1.5, 2.0]))
    torch.testing.assert_close(scalar.grad, torch.tensor(-1.0))


@given(seed=st.integers(0, 10_000), ratio=st.sampled_from([0.01, 0.1, 1.0]), shape=st.sampled_from([(4, 3), (5,), (2, 3, 2)]))
def test_it_is_equation_3_of_the_paper(seed, ratio, shape):
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    parameter = with_gradient(weight, gradient)
    clip_adaptively([parameter], ratio, eps=1e-3)
    for row in range(len(weight)) if weight.ndim > 1 else [slice(None)]:
        longest = ratio * max(float(weight[row].norm()), 1e-3)
        norm = float(gradient[row].norm())
        expected = gradient[row] * (longest / norm) if norm > longest else gradient[row]
        torch.testing.assert_close(parameter.grad[row], expected)


def test_units_that_are_short_enough_keep_every_bit_and_so_do_those_that_are_not_finite():
    gradient = torch.tensor([[1e-4, 3e-5], [float("nan"), 1.0], [float("inf"), 1.0]])
    parameter = with_gradient(torch.ones(3, 2), gradient)
    clip_adaptively([parameter, nn.Parameter(torch.ones(2))], 0.1)
    assert torch.equal(parameter.grad.nan_to_num(-7.0), gradient.nan_to_num(-7.0))


@pytest.mark.parametrize(
    ("ratio", "eps", "message"), [(0.0, 1e-3, "ratio is 0.0"), (float("nan"), 1.0, "ratio is nan"), (0.1, -1.0, "eps is")]
)
def test_a_ratio_that_is_no_positive_number_is_refused(ratio, eps, message):
    with pytest.raises(ValueError, match=message):
        clip_adaptively([], ratio, eps)


@pytest.mark.slow
def test_shares_on_four_ranks_are_clipped_as_the_whole_is_on_one(repository):
    words = [sys.executable, "-m", "tests.optim.clipped_in_shares"]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
