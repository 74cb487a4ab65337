"""Gradients clipped adaptively on four ranks, in every way a matrix and a vector can lie in shares, against one process."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from musictrain.optim import clip_adaptively
from tests.strategies.ranks import run_ranks

MATRIX_PLACEMENTS = [[Shard(0), Replicate()], [Replicate(), Shard(1)], [Shard(0), Shard(1)], [Shard(1), Shard(0)], [Shard(0), Shard(0)]]
VECTOR_PLACEMENTS = [[Shard(0), Replicate()], [Replicate(), Shard(0)], [Shard(0), Shard(0)], [Replicate(), Replicate()]]


def clipped(weight: Tensor, gradient: Tensor) -> Tensor:
    parameter = torch.nn.Parameter(weight)
    parameter.grad = gradient
    clip_adaptively([parameter], 0.3)
    return parameter.grad


def check() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2))
    torch.manual_seed(0)
    # Five rows do not divide by two or four.
    for shape, ways in (((5, 6), MATRIX_PLACEMENTS), ((7,), VECTOR_PLACEMENTS)):
        weight, gradient = torch.randn(shape), torch.randn(shape)
        whole = clipped(weight.clone(), gradient.clone())
        assert not torch.equal(whole, gradient)
        for placements in ways:
            spread = clipped(*(distribute_tensor(each.clone(), mesh, placements) for each in (weight, gradient)))
            torch.testing.assert_close(spread.full_tensor(), whole)
    ones = [DTensor.from_local(torch.ones(2, 2), mesh, placements) for placements in ([Replicate()] * 2, [Partial(), Replicate()])]
    with pytest.raises(ValueError, match="must exchange their sums first"):
        clipped(*ones)
    dist.destroy_process_group()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    run_ranks(4, check)
