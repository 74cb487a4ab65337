"""The recurrence with its own backward is torch's GRU: the same values, the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from musictrain.models.gru_scan import GRULayer, GRUScan

WIDTH, HIDDEN = 5, 6


def layer_and_torchs_own(dtype: torch.dtype = torch.float64) -> tuple[GRULayer, nn.GRU]:
    """A layer and an ``nn.GRU`` with its weights; torch's second bias has only the candidate's part."""
    torch.manual_seed(0)
    layer, own = GRULayer(WIDTH, HIDDEN).to(dtype), nn.GRU(WIDTH, HIDDEN, batch_first=True).to(dtype)
    nn.init.normal_(layer.bias)
    with torch.no_grad():
        own.weight_ih_l0.copy_(layer.inputs.weight)
        own.bias_ih_l0.copy_(layer.inputs.bias)
        own.weight_hh_l0.copy_(layer.weight)
        own.bias_hh_l0.zero_()[2 * HIDDEN :] = layer.bias
    return layer, own


def stream_and_state(batch: int, time: int) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(batch, time, WIDTH, dtype=torch.float64, requires_grad=True),
        torch.randn(batch, HIDDEN, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize(("batch", "time"), [(3, 7), (1, 1)])
def test_values_and_gradients_are_those_of_torchs_gru(batch: int, time: int) -> None:
    layer, own = layer_and_torchs_own()
    stream, state = stream_and_state(batch, time)
    ours, theirs = layer(stream, state), own(stream, state[None])[0]
    torch.testing.assert_close(ours, theirs)
    slope = torch.randn_like(ours)
    by_ours = torch.autograd.grad(ours, [stream, state, layer.inputs.weight, layer.inputs.bias, layer.weight, layer.bias], slope)
    by_theirs = torch.autograd.grad(theirs, [stream, state, own.weight_ih_l0, own.bias_ih_l0, own.weight_hh_l0, own.bias_hh_l0], slope)
    for mine, its in zip(by_ours[:-1], by_theirs[:-1], strict=True):
        torch.testing.assert_close(mine, its)
    torch.testing.assert_close(by_ours[-1], by_theirs[-1][2 * HIDDEN :])


def test_gradients_are_those_of_small_differences() -> None:
    torch.manual_seed(0)
    shapes = [(3, 2, 6), (6, 2), (2,), (2, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GRUScan.apply, inputs)


def test_two_halves_with_the_state_between_are_the_whole() -> None:
    layer, _ = layer_and_torchs_own()
    stream, state = stream_and_state(2, 9)
    first = layer(stream[:, :4], state)
    torch.testing.assert_close(torch.cat([first, layer(stream[:, 4:], first[:, -1])], 1), layer(stream, state))


def test_autocast_rounds_products_and_keeps_states_in_full_precision() -> None:
    layer, _ = layer_and_torchs_own(torch.float32)
    stream, state = (tensor.float() for tensor in stream_and_state(2, 9))
    exact = layer(stream, state)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(stream, state)
    rounded.sum().backward()
    assert rounded.dtype == layer.weight.grad.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


def test_the_recurrent_weights_of_each_gate_start_orthogonal() -> None:
    layer, _ = layer_and_torchs_own()
    for block in layer.weight.split(HIDDEN):
        torch.testing.assert_close(block @ block.T, torch.eye(HIDDEN, dtype=torch.float64), rtol=0, atol=1e-6)
