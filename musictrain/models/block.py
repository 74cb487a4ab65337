"""One layer of the decoder: attention, then a gated feed-forward layer, each on the normalised stream and added back to it."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models.attention import CausalSelfAttention
from musictrain.models.cache import KeyValueCache
from musictrain.models.norm import RMSNorm
from musictrain.models.stochastic_depth import StochasticDepth

NormName = Literal["rms", "layer"]


class SwiGLU(nn.Module):
    """Feed-forward layer whose hidden channels are gated: ``down(silu(gate(x)) * up(x))`` (Shazeer, 2020)."""

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, hidden, bias=False)
        self.up = nn.Linear(d_model, hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, time, d_model) to the same shape."""
        return self.down(F.silu(self.gate(stream)) * self.up(stream))


class Block(nn.Module):
    """One layer; ``dropout`` and ``stochastic_depth`` act on what attention and feed-forward add to the stream."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        ff_hidden: int,
        dropout: float,
        norm: NormName,
        attention_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(norm, d_model)
        self.attention = CausalSelfAttention(d_model, num_heads, attention_dropout)
        self.feed_forward_norm = make_norm(norm, d_model)
        self.feed_forward = SwiGLU(d_model, ff_hidden)
        self.dropout = nn.Dropout(dropout)
        self.depth = StochasticDepth(stochastic_depth)

    def forward(self, stream: Tensor, rotation: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """(batch, time, d_model) to the same shape."""
        stream = stream + self.depth(self.dropout(self.attention(self.attention_norm(stream), rotation, cache, layer)))
        return stream + self.depth(self.dropout(self.feed_forward(self.feed_forward_norm(stream))))


def make_norm(name: NormName, d_model: int) -> nn.Module:
    """The layer that brings every token's channels to one scale.

    Raises:
        ValueError: for a name that is neither ``rms`` nor ``layer``.
    """
    if name == "rms":
        return RMSNorm(d_model, eps=1e-6)
    if name == "layer":
        return nn.LayerNorm(d_model, eps=1e-6, bias=False)
    raise ValueError(f"norm is {name!r}, but must be 'rms' or 'layer'.")
