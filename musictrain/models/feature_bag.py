"""Several categorical features, embedded and added up in one lookup."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LEFT_OUT = 0
"""Row of a feature that is left out; it adds nothing."""


class FeatureBag(nn.Module):
    """The sum of one embedding a feature, all in one table.

    Args:
        sizes: number of values of each feature.
        width: channels of an embedding.
        std: of the embeddings at the start.
        dropout: probability that a feature is left out while training, in [0, 1); the sum is scaled up accordingly.

    Raises:
        ValueError: if ``dropout`` is outside its range.
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], width: int, *, std: float, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"The dropout of features is {dropout}, but must be at least 0 and below 1.")
        self.dropout = dropout
        self.register_buffer("offsets", torch.tensor([LEFT_OUT + 1, *sizes[:-1]]).cumsum(0), persistent=False)
        self.table = nn.EmbeddingBag(1 + sum(sizes), width, mode="sum", padding_idx=LEFT_OUT)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, features: Tensor) -> Tensor:
        """Values (..., features) int64 to embeddings (..., width)."""
        rows = features + self.offsets
        drops = self.training and self.dropout > 0.0
        if drops:
            rows = rows.masked_fill(torch.rand(rows.shape, device=rows.device) < self.dropout, LEFT_OUT)
        total = self.table(rows.flatten(0, -2)).view(*rows.shape[:-1], -1)
        return total / (1 - self.dropout) if drops else total

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"
