"""DDP lays out its buckets before the first step, without a trace in the module. What that is for, the matrix shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from musictrain.strategies.exact_ddp import settle_buckets
from tests.ports import free_port


@pytest.fixture(autouse=True)
def _group() -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def new_ddp() -> DistributedDataParallel:
    """One for a test's own frame: a fixture's would outlive the group, and a group whose last holder it is may wait for ever to end."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    module[0].bias.requires_grad = False
    return DistributedDataParallel(module)


def buckets(ddp: DistributedDataParallel) -> bool:
    """Whether they have been laid out anew; told after a pass."""
    ddp(torch.ones(2, 4)).sum().backward()
    return bool(ddp._get_ddp_logging_data().get("has_rebuilt_buckets"))


def test_buckets_are_settled_before_the_first_pass() -> None:
    ddp = new_ddp()
    settle_buckets(ddp)
    assert buckets(ddp)


def test_without_it_the_first_pass_has_another_layout() -> None:
    assert not buckets(new_ddp())


def test_the_module_stays_as_it_was() -> None:
    ddp = new_ddp()
    before = {name: value.clone() for name, value in ddp.module.state_dict().items()}
    random = torch.get_rng_state()
    settle_buckets(ddp)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in ddp.module.state_dict().items())
    assert all(parameter.grad is None for parameter in ddp.module.parameters())
    assert "forward" not in ddp.module.__dict__


def test_a_module_whose_forward_somebody_has_replaced_keeps_that() -> None:
    ddp = new_ddp()

    def own(batch: torch.Tensor) -> torch.Tensor:
        return batch.sum()

    ddp.module.forward = own  # type: ignore[method-assign]
    settle_buckets(ddp)
    assert ddp.module.__dict__["forward"] is own


def test_gathering_may_follow_at_once() -> None:
    ddp = new_ddp()
    settle_buckets(ddp)
    with ddp.no_sync():
        ddp(torch.ones(2, 4)).sum().backward()
    assert ddp.module[3].weight.grad is not None
