"""What decays and what does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from musictrain.optim import AdamW, describe_groups, parameter_groups


class Small(nn.Module):
    """One of everything; the output matrix is tied to the embedding if asked for."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.recurrent = nn.LSTM(4, 4)
        self.norm = nn.RMSNorm(4)
        self.relative_bias = nn.Parameter(torch.zeros(3, 3))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(4, 11)
        if tied:
            self.head.weight = self.embedding.weight


def names_in(network: nn.Module, group: dict) -> set[str]:
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in network.named_parameters() if id(parameter) in ids}


def test_matrices_decay_and_norms_biases_and_embeddings_do_not():
    network = Small()
    decay, no_decay = parameter_groups(network, 0.1)
    assert names_in(network, decay) == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "head.weight"}
    assert names_in(network, no_decay) == {
        *("embedding.weight", "recurrent.bias_ih_l0", "recurrent.bias_hh_l0", "norm.weight"),
        *("relative_bias", "temperature", "head.bias"),
    }
    assert decay["weight_decay"] == 0.1
    assert no_decay["weight_decay"] == 0.0


@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_stands_in_one_group_once(tied):
    network = Small(tied)
    grouped = [id(parameter) for group in parameter_groups(network) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in network.parameters())


def test_a_matrix_tied_to_an_embedding_does_not_decay():
    network = Small(tied=True)
    decay, _ = parameter_groups(network)
    assert names_in(network, decay) == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}


def test_the_decay_is_the_optimizers_own_unless_given():
    decay, no_decay = AdamW(parameter_groups(Small()), weight_decay=0.25).param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.25, 0.0)
    decay, no_decay = AdamW(parameter_groups(Small(), 0.5), weight_decay=0.25).param_groups
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.5, 0.0)


def test_a_step_on_zero_gradients_shrinks_matrices_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = [parameter.clone() for parameter in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    AdamW(parameter_groups(network), lr=0.1, weight_decay=0.5).step()
    matrix, *others = network.parameters()
    torch.testing.assert_close(matrix, before[0] * (1 - 0.1 * 0.5))
    assert all(torch.equal(parameter, old) for parameter, old in zip(others, before[1:], strict=True))


def test_frozen_parameters_and_empty_groups_are_left_out():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3))
    network[1].requires_grad_(False)
    (group,) = parameter_groups(network)
    assert names_in(network, group) == {"0.weight"}


def test_a_network_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="Linear has no trainable parameter: unfreeze"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False))


def test_the_description_counts_tensors_and_parameters():
    text = describe_groups(AdamW(parameter_groups(nn.Linear(30, 40))).param_groups).splitlines()
    assert [line.split() for line in text] == [
        ["decay", "1", "tensors,", "1,200", "parameters,", "learning", "rate", "0.0003,", "weight", "decay", "0.1"],
        ["no_decay", "1", "tensors,", "40", "parameters,", "learning", "rate", "0.0003,", "weight", "decay", "0"],
    ]
