"""FLOPs of a network against formulas, and the device's peak."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

import musictrain.speed.flops
from musictrain.models import Decoder, Recurrent
from musictrain.speed.flops import FlopCount
from musictrain.speed.memory import peak_memory_mib
from musictrain.speed.peak import dtype_of, measured_peak

VOCAB, WIDTH, LAYERS = 32, 16, 2


def decoder() -> Decoder:
    return Decoder(VOCAB, WIDTH, LAYERS, 2, max_context=64)


def products_of_decoder(network: Decoder, length: int) -> int:
    """Six for each weight of a matrix and token, and attention's two products over all pairs of tokens, forward and twice backward."""
    matrices = sum(parameter.numel() for parameter in network.parameters() if parameter.ndim == 2)
    return 6 * matrices * length + 12 * LAYERS * WIDTH * length**2


@pytest.mark.parametrize("pretended", [False, True])
def test_a_decoder_needs_what_the_formula_says_at_every_length(monkeypatch, pretended):
    monkeypatch.setattr(musictrain.speed.flops, "FEW_WEIGHTS", 0 if pretended else 10**9)
    network = decoder()
    count = FlopCount(network)
    assert [count.of_row(length) for length in (8, 16, 24)] == [products_of_decoder(network, length) for length in (8, 16, 24)]
    assert count.of_row(48) == pytest.approx(products_of_decoder(network, 48)), "by the parabola through three lengths"
    assert count.of_rows({8: 3, 16: 2}) == 3 * count.of_row(8) + 2 * count.of_row(16)
    assert not count.estimated


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_layers_count_as_their_matrices(kind):
    network = Recurrent(VOCAB, 8, 16, 2, kind=kind)
    matrices = sum(parameter.numel() for name, parameter in network.named_parameters() if "bias" not in name)
    assert FlopCount(network).of_row(10) == 6 * matrices * 10


def test_a_layer_in_both_directions_counts_both():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCAB, 8)
            self.layer = nn.LSTM(8, 4, 2, bidirectional=True)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.layer(self.embedding(tokens))[0]

    network = Both()
    matrices = sum(parameter.numel() for name, parameter in network.layer.named_parameters() if "weight" in name)
    assert FlopCount(network).of_row(10) == 6 * matrices * 10


def test_counting_leaves_network_and_random_numbers_alone():
    network = decoder().eval()
    weights, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    FlopCount(network).of_row(8)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_cannot_be_counted_is_estimated(caplog):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(7))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("not on this device\nand more")

    with caplog.at_level(logging.INFO, logger="musictrain"):
        count = FlopCount(Odd())
        assert count.of_row(10) == 6 * 7 * 10
    assert count.estimated
    assert "cannot be counted (not on this device)" in caplog.text


def test_the_peak_is_measured_once_and_without_the_runs_random_numbers():
    state = torch.get_rng_state()
    peak = measured_peak(torch.device("cpu"), torch.float32)
    assert peak > 1e8
    assert measured_peak(torch.device("cpu"), torch.float32) == peak
    assert torch.equal(state, torch.get_rng_state())


def test_precisions_have_types():
    found = [dtype_of(name) for name in ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "64-true", "transformer-engine")]
    assert found == [torch.float32, torch.bfloat16, torch.bfloat16, torch.float16, torch.float64, torch.bfloat16]


def test_the_peak_of_memory_only_grows():
    before = peak_memory_mib(torch.device("cpu"))
    held = torch.ones(16 * 2**20)
    after = peak_memory_mib(torch.device("cpu"))
    assert after >= before > 10
    assert after >= held.numel() * 4 / 2**20
