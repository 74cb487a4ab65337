"""Laws of rotary positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from musictrain.models.rotary import Rotary, rotate


def turned(channels: Tensor, position: int, base: float = 10000.0) -> Tensor:
    """One head's channels at one position."""
    rotary = Rotary(50, channels.shape[-1], base)
    return rotate(channels[None, None, None], rotary(position, position + 1))[0, 0, 0]


def test_products_depend_on_distance_alone() -> None:
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def product(query_position: int, key_position: int) -> Tensor:
        return turned(query, query_position) @ turned(key, key_position)

    torch.testing.assert_close(product(3, 1), product(40, 38), rtol=0, atol=1e-5)
    assert not torch.allclose(product(3, 1), product(3, 2))


def test_rotation_by_hand() -> None:
    # Two pairs of channels at position 1: angles 1 and 1 / sqrt(base) = 0.1.
    by_hand = [math.cos(1), math.sin(1), -math.sin(0.1), math.cos(0.1)]
    torch.testing.assert_close(turned(torch.tensor([1.0, 0.0, 0.0, 1.0]), 1, base=100.0), torch.tensor(by_hand))


def test_position_zero_turns_nothing_and_no_position_changes_the_length() -> None:
    channels = torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(turned(channels, 0), channels)
    torch.testing.assert_close(turned(channels, 31).norm(), channels.norm())


def test_the_table_keeps_its_precision_when_the_network_changes_its_own() -> None:
    rotary, untouched = Rotary(2048, 8), Rotary(2048, 8)
    assert torch.equal(rotary.to(torch.bfloat16).half().table, untouched.table)


def test_a_network_built_without_memory_gets_its_table_back() -> None:
    with torch.device("meta"):
        rotary = Rotary(50, 8)
    rotary.to_empty(device="cpu").reset_parameters()
    assert torch.equal(rotary.table, Rotary(50, 8).table)
