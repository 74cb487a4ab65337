"""What is frozen stays as it is, and nobody freezes nothing by mistake."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from musictrain.models import Decoder
from musictrain.models.recomputing import recompute
from musictrain.optim import AdamW, freeze, parameter_groups


def decoder(**arguments) -> Decoder:
    return Decoder(11, d_model=8, num_layers=2, num_heads=2, dropout=0.0, **arguments)


def frozen_names(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("embedding", {"embedding.weight"}),
        ("network.embedding.*", {"embedding.weight"}),
        (
            "*norm.weight",
            {"norm.weight", *(f"blocks.{each}.{part}_norm.weight" for each in "01" for part in ("attention", "feed_forward"))},
        ),
    ],
)
def test_a_pattern_stands_for_names_and_for_parts(pattern, expected):
    network = decoder()
    size = freeze(network, [pattern])
    assert frozen_names(network) == expected
    assert size == sum(parameter.numel() for name, parameter in network.named_parameters() if name in expected)


def test_a_part_is_not_one_of_a_longer_name():
    network = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(1, 1) for _ in range(11))})
    freeze(network, ["blocks.1"])
    assert frozen_names(network) == {"blocks.1.weight", "blocks.1.bias"}


def test_a_step_changes_what_is_not_frozen_alone():
    network = decoder()
    freeze(network, ["embedding", "blocks.0"])
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer = AdamW(parameter_groups(network, layer_decay=0.5), lr=0.1)
    network(torch.arange(8)[None]).square().mean().backward()
    optimizer.step()
    changed = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed.isdisjoint(frozen_names(network))
    assert "norm.weight" in changed
    assert all(network.get_parameter(name).grad is None for name in frozen_names(network))


def test_wrapped_blocks_have_their_old_names():
    network = decoder()
    recompute(network)
    freeze(network, ["blocks.1.attention"])
    assert {name.replace("_checkpoint_wrapped_module.", "")[:18] for name in frozen_names(network)} == {"blocks.1.attention"}


def test_a_tied_weight_is_frozen_by_any_of_its_names():
    network = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "head": nn.Linear(2, 3)})
    network["head"].weight = network["embedding"].weight
    freeze(network, ["head.weight"])
    assert frozen_names(network) == {"embedding.weight"}


def test_a_pattern_that_stands_for_nothing_is_refused():
    with pytest.raises(ValueError, match=r"frozen names 'embeding', which stands for no weight of Decoder. Did you mean 'embedding'\?"):
        freeze(decoder(), ["embeding"])
    with pytest.raises(ValueError, match=r"frozen names 'xyz'.*Its parts are embedding, blocks, norm\."):
        freeze(decoder(), ["xyz"])


def test_a_network_with_nothing_left_to_train_is_refused_and_left_alone():
    network = decoder()
    with pytest.raises(ValueError, match=r"frozen \['\*'\] stands for every weight of Decoder: nothing would be left to train"):
        freeze(network, ["*"])
    assert not frozen_names(network)
