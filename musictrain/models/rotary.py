"""Rotary positions: each pair of query and key channels turns by an angle proportional to its position, so that a dot product
of two of them depends on their distance alone (Su et al., RoFormer, 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(num_positions: int, head_dim: int, base: float = 10000.0) -> Tensor:
    """Cosines and sines of every position's angles: (2, num_positions, head_dim), float32.

    Channel i and channel i + head_dim / 2 are one pair and turn by position / base ** (2 i / head_dim); the sine of the first half
    carries the minus sign of the rotation, so that ``rotate`` needs no negation.
    """
    frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float64), frequencies)
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)]).float()


def rotate(channels: Tensor, table: Tensor) -> Tensor:
    """The queries or keys (..., time, head_dim), turned by their positions' part of the table (2, time, head_dim)."""
    cosine, sine = table.unbind(0)
    first, second = channels.chunk(2, dim=-1)
    return channels * cosine + torch.cat([second, first], dim=-1) * sine
