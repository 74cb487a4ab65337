"""What lies deeper learns slower, in any network that has lists of blocks."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from musictrain.models import Decoder, Recurrent
from musictrain.optim import AdamW, LayerDecay, describe_groups, parameter_groups, scale_learning_rates


class Foreign(nn.Module):
    """Somebody's own: the head is made first, the blocks lie two names deep, and one norm stands between two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 11, bias=False)
        self.body = nn.Module()
        self.body.low = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.between = nn.LayerNorm(4)
        self.body.high = nn.Sequential(nn.Linear(4, 4))
        self.last = nn.LayerNorm(4)
        self.positions = nn.Embedding(3, 4)


def rates(network: nn.Module, decay: float | LayerDecay, lr: float = 1.0) -> dict[str, float]:
    """The learning rate of every parameter by its name."""
    optimizer = AdamW(parameter_groups(network, layer_decay=decay), lr=lr)
    scale_learning_rates(optimizer)
    of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in network.named_parameters()}


def test_each_block_learns_a_factor_slower_than_the_one_above():
    found = rates(Decoder(11, d_model=8, num_layers=3, num_heads=2, tie_embeddings=False), 0.5)
    by_part = {re.sub(r"(blocks\.\d).*|\..*", r"\1", name): rate for name, rate in found.items()}
    assert by_part == {"embedding": 0.0625, "blocks.0": 0.125, "blocks.1": 0.25, "blocks.2": 0.5, "norm": 1.0, "head": 1.0}
    assert all(found[name] == by_part[name[:8]] for name in found if name.startswith("blocks"))


def test_lists_of_blocks_are_named_from_the_deepest_up():
    found = rates(Foreign(), LayerDecay(0.5, ["body.low", "body.high"]))
    assert {name: rate for name, rate in found.items() if "bias" not in name} == {
        "head.weight": 0.0625,  # made before the first block, and shown in the table for that reason
        "body.low.0.weight": 0.125,
        "body.low.1.weight": 0.25,
        "body.high.0.weight": 0.5,
        "between.weight": 1.0,
        "last.weight": 1.0,
        "positions.weight": 0.0625,
    }


def test_what_is_made_between_two_lists_belongs_to_the_block_before():
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = nn.ModuleList([nn.Linear(2, 2, bias=False)])
            self.between = nn.LayerNorm(2, bias=False)
            self.high = nn.ModuleList([nn.Linear(2, 2, bias=False)])

    assert rates(Between(), LayerDecay(0.5, ["low", "high"])) == {"low.0.weight": 0.5, "between.weight": 0.5, "high.0.weight": 1.0}


def test_layers_of_a_recurrent_module_are_blocks():
    found = rates(Recurrent(11, d_model=4, hidden=4, num_layers=2, tie_embeddings=False), 0.5)
    assert {name: rate for name, rate in found.items() if "bias" not in name and "hh" not in name} == {
        "embedding.weight": 0.125,
        "recurrent.weight_ih_l0": 0.25,
        "recurrent.weight_ih_l1": 0.5,
        "output.weight": 1.0,
        "head.weight": 1.0,
    }


def test_a_tied_weight_counts_where_it_lies_deepest():
    network = Decoder(11, d_model=8, num_layers=2, num_heads=2)
    head = nn.Linear(8, 11, bias=False)
    head.weight = network.embedding.weight
    network.head = head
    assert rates(network, 0.5)["embedding.weight"] == 0.125


def test_every_trainable_parameter_stands_in_one_group_and_decays_as_it_did():
    network = Decoder(11, d_model=8, num_layers=2, num_heads=2, tie_embeddings=False)
    network.blocks[0].requires_grad_(False)
    plain, layered = parameter_groups(network, 0.1), parameter_groups(network, 0.1, layer_decay=0.9)
    decays = [{id(each): group["weight_decay"] for group in groups for each in group["params"]} for groups in (plain, layered)]
    assert decays[0] == decays[1]
    assert sum(len(group["params"]) for group in layered) == len(decays[0])
    assert [group["name"] for group in layered] == [
        "decay/head",
        "no_decay/head",
        "decay/blocks.1",
        "no_decay/blocks.1",
        "no_decay/embeddings",
    ]


def test_a_factor_of_one_leaves_the_groups_as_they_were():
    network = Decoder(11, d_model=8, num_layers=2, num_heads=2)
    assert [group.keys() for group in parameter_groups(network, layer_decay=1.0)] == [group.keys() for group in parameter_groups(network)]
    assert "lr_scale" not in parameter_groups(network)[0]


def test_a_schedule_keeps_the_proportions_over_a_resume():
    network = Decoder(11, d_model=8, num_layers=2, num_heads=2, dropout=0.0)

    def made(network: nn.Module) -> tuple[AdamW, LambdaLR]:
        optimizer = AdamW(parameter_groups(network, layer_decay=0.5), lr=0.1)
        scale_learning_rates(optimizer)
        return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def step(network: nn.Module, optimizer: AdamW, schedule: LambdaLR) -> list[float]:
        network(torch.arange(8)[None]).square().mean().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return [group["lr"] for group in optimizer.param_groups]

    optimizer, schedule = made(network)
    step(network, optimizer, schedule)
    twin = copy.deepcopy(network)
    resumed, its_schedule = made(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    its_schedule.load_state_dict(schedule.state_dict())
    lrs = step(network, optimizer, schedule)
    assert lrs == step(twin, resumed, its_schedule) == pytest.approx([0.1 / 3 * group["lr_scale"] for group in optimizer.param_groups])
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), twin.parameters(), strict=True))


def test_the_table_shows_which_depth_learns_how_fast():
    optimizer = AdamW(parameter_groups(Decoder(11, d_model=8, num_layers=1, num_heads=2), layer_decay=0.5), lr=0.1)
    scale_learning_rates(optimizer)
    lines = describe_groups(optimizer.param_groups).splitlines()
    assert [line.split()[0] for line in lines] == ["no_decay/head", "decay/blocks.0", "no_decay/blocks.0", "no_decay/embeddings"]
    assert "learning rate 0.05 (0.5 of the whole), weight decay 0.1" in lines[1]
    assert len({line.index(" tensors") for line in lines}) == 1


def test_matrices_can_stand_in_groups_of_their_own():
    network = Decoder(11, d_model=8, num_layers=2, num_heads=2)
    matrices = {id(each) for each in network.blocks.parameters() if each.ndim == 2}
    names = [group["name"] for group in parameter_groups(network, matrices=matrices)]
    assert names == ["matrices", "no_decay"]
    layered = parameter_groups(network, matrices=matrices, layer_decay=0.5)
    assert [group["name"] for group in layered if group["name"].startswith("m")] == ["matrices/blocks.1", "matrices/blocks.0"]


@pytest.mark.parametrize(
    ("network", "decay", "said"),
    [
        (nn.Linear(2, 2), 0.8, "Linear names no blocks to tell what lies deeper.*blocks: .transformer.h."),
        (Foreign(), LayerDecay(0.8, ["body.lwo"]), "Foreign has no block 'body.lwo'. Did you mean 'body.low'"),
    ],
)
def test_a_network_without_such_blocks_is_refused(network, decay, said):
    with pytest.raises(ValueError, match=said):
        parameter_groups(network, layer_decay=decay)


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.1, float("nan")])
def test_a_factor_outside_its_range_is_refused(factor):
    with pytest.raises(ValueError, match="expected a factor above 0 and at most 1"):
        LayerDecay.of(factor)
