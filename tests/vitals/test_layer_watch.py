"""Dead and saturated units and the entropy of predictions are seen on looked-at passes, whatever the module is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from musictrain.models import Decoder, Recurrent
from musictrain.models.recomputing import recompute
from musictrain.vitals import LayerWatch
from musictrain.vitals.layer_watch import entropy_of


def watched(module: nn.Module, *inputs: Tensor) -> dict[str, float]:
    watch = LayerWatch(module)
    watch.look()
    module(*inputs)
    return watch.read()


def test_a_unit_that_never_changes_is_dead() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        module[0].bias[:6] = -1e3
    seen = watched(module, torch.randn(32, 4))
    assert seen["dead/0"] == 0.0
    assert seen["dead/1"] >= 6 / 8
    with torch.no_grad():
        module[2].weight.zero_()
    assert watched(module, torch.randn(32, 4))["dead/2"] == 1.0


def test_a_unit_at_the_end_of_its_range_is_saturated() -> None:
    module = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Sigmoid())
    assert watched(module, 0.1 * torch.randn(64, 4))["saturated/1"] == 0.0
    with torch.no_grad():
        module[0].weight[:2] *= 1e4
    assert watched(module, torch.randn(64, 4))["saturated/1"] == pytest.approx(2 / 8)


def test_recurrent_layers_are_looked_at_by_what_they_put_out() -> None:
    seen = watched(nn.LSTM(4, 6, batch_first=True), torch.randn(2, 9, 4))
    assert seen == {"dead/": 0.0, "saturated/": 0.0}


def test_entropy_is_that_of_the_predictions() -> None:
    assert float(entropy_of(torch.zeros(2, 5, 16))) == pytest.approx(math.log(16))
    certain = torch.full((2, 5, 16), -1e4)
    certain[..., 3] = 0.0
    assert float(entropy_of(certain)) == pytest.approx(0.0, abs=1e-6)
    impossible = torch.zeros(1, 1, 4)
    impossible[..., 2:] = -math.inf
    assert float(entropy_of(impossible)) == pytest.approx(math.log(2))


NETWORKS: list[Callable[[], nn.Module]] = [
    lambda: Decoder(12, d_model=8, num_layers=1, num_heads=2, max_context=16),
    lambda: Recurrent(12, 8, 8, 1),
]


@pytest.mark.parametrize("make", NETWORKS)
def test_every_network_with_the_contract_shows_its_predictions(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, tokens = make(), torch.randint(12, (2, 10))
    network.eval()
    assert watched(network, tokens)["entropy"] == pytest.approx(float(entropy_of(network(tokens))))


def test_what_is_predicted_where_padding_is_read_does_not_count() -> None:
    torch.manual_seed(0)
    network, tokens = NETWORKS[0]().eval(), torch.randint(1, 12, (2, 10))
    tokens[1, 4:] = 0
    watch = LayerWatch(network, pad_id=0)
    watch.look()
    logits = network(tokens)
    assert watch.read()["entropy"] == pytest.approx(float(entropy_of(torch.cat([logits[0], logits[1, :4]]))))
    watch.look()
    network(torch.zeros(1, 5, dtype=torch.int64))
    assert "entropy" not in watch.read()


def test_what_is_no_prediction_is_none() -> None:
    assert "entropy" not in watched(nn.Embedding(12, 8), torch.randint(12, (2, 10)))
    assert "entropy" not in watched(nn.Linear(4, 4), torch.randn(2, 3, 4))


def test_nothing_is_left_behind_and_nothing_is_changed() -> None:
    torch.manual_seed(0)
    network, tokens = Decoder(12, d_model=8, num_layers=1, num_heads=2, max_context=16, dropout=0.1), torch.randint(12, (2, 10))
    state = torch.get_rng_state()
    plain = network(tokens)
    torch.set_rng_state(state)
    watch = LayerWatch(network)
    watch.look()
    assert torch.equal(network(tokens), plain)
    assert any(module._forward_hooks for module in network.modules())
    watch.read()
    assert not any(module._forward_hooks for module in network.modules())


def test_activations_that_are_computed_twice_are_seen_and_gradients_stay_the_same() -> None:
    gradients = []
    for looks in (False, True):
        torch.manual_seed(0)
        network = Decoder(12, d_model=8, num_layers=2, num_heads=2, max_context=16)
        recompute(network)
        watch = LayerWatch(network)
        if looks:
            watch.look()
        network(torch.arange(10)[None]).square().sum().backward()
        assert (len(watch.read()) > 4) is looks
        gradients.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
    assert all(map(torch.equal, *gradients))


def test_the_inside_of_what_is_compiled_is_left_alone() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    inner._compiled_call_impl = inner._call_impl
    assert LayerWatch(nn.Sequential(inner, nn.Linear(4, 4))).names == ("entropy", "dead/1")


def test_what_nobody_trains_is_known_by_its_gradients_and_activations_by_what_they_stand_in() -> None:
    module = nn.ModuleDict({part: nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for part in ("held", "trained")})
    watch = LayerWatch(module)
    module["trained"](torch.ones(2, 3)).sum().backward()
    assert watch.untrained() == {f"{state}/held.{number}" for state in ("dead", "saturated") for number in "01"}
