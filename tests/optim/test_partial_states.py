"""torch's ways to load an optimizer leave alone what it remembers nothing of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

from musictrain.optim.partial_states import names_with_states, set_aside


def test_a_weight_of_which_nothing_is_remembered_has_no_state_afterwards() -> None:
    network = nn.ModuleDict({"low": nn.Linear(2, 2), "high": nn.Linear(2, 2)})
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    named = list(network.named_parameters())
    moments = {"step": torch.tensor(4.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    state = {"state": {"high.bias": moments}, "param_groups": [{**optimizer.param_groups[0], "params": [name for name, _ in named]}]}
    with pytest.raises(RuntimeError, match="Missing optimizer state"):
        set_optimizer_state_dict(network, torch.optim.Adam(network.parameters()), state)
    with set_aside(named, state["state"]):
        assert [name for name, parameter in named if parameter.requires_grad] == ["high.bias"]
        set_optimizer_state_dict(network, optimizer, state)
    assert all(parameter.requires_grad for _, parameter in named)
    assert list(optimizer.state) == [network["high"].bias]
    assert float(optimizer.state[network["high"].bias]["step"]) == 4.0


def test_where_nothing_is_remembered_at_all_nothing_is_set_aside() -> None:
    named = list(nn.Linear(2, 2).named_parameters())
    with set_aside(named, set()):
        assert all(parameter.requires_grad for _, parameter in named)


def test_names_are_read_from_flat_keys() -> None:
    keys = ["optimizer_0.state.a.b.step", "optimizer_0.state.a.b.lists.0", "optimizer_1.state.c.step", "state_dict.d"]
    assert names_with_states(keys, "optimizer_0.state.") >= {"a.b"}
    assert not names_with_states(keys, "optimizer_0.state.") & {"c", "d"}
