"""Stochastic depth: while training, a sequence now and then goes past a branch of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from musictrain.models.block_dropout import check_dropout


class StochasticDepth(nn.Module):
    """Leaves out, while training, what a branch adds to the stream, for some sequences of the batch, and scales it up for the others.

    What it is for: deep networks on small corpora, where it keeps layers from relying on one another. On average a branch adds what it adds
    in ``eval()``.

    Args:
        p: probability that a sequence goes past the branch, in [0, 1).

    Raises:
        ValueError: if ``p`` is outside that range.

    Source: Huang et al., Deep Networks with Stochastic Depth (2016); here drawn for every sequence, and scaled while training, not after.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        check_dropout("A stochastic depth", p)
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """(batch, ...) to the same shape."""
        if not self.training or self.p == 0.0:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.p
        return branch * kept.to(branch.dtype).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def rising_to(last: float, num_layers: int) -> list[float]:
    """Probabilities of the layers, in equal steps from ``last / num_layers`` to ``last``: the first layers are needed by all others.

    >>> rising_to(0.2, 4)
    [0.05, 0.1, 0.15, 0.2]
    """
    return [round(last * (layer + 1) / num_layers, 12) for layer in range(num_layers)]
