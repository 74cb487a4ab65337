"""Causal self-attention over torch's fused kernel, with rotary positions and an optional cache of keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models.cache import KeyValueCache
from musictrain.models.rotary import rotate


class CausalSelfAttention(nn.Module):
    """Each token gathers from itself and the tokens before it.

    Dropout on the attention weights forces torch's attention onto a path three to four times slower on a CPU: it is off unless asked for.
    Query, key and value are separate projections, each a plain matrix to the optimizer and to tensor parallelism; the number of heads
    is read off the projected width, so that a rank holding some of the heads runs the same code.

    Args:
        d_model: width of the residual stream.
        num_heads: heads; their width is ``d_model / num_heads``.
        dropout: probability, while training, that a token does not see another, in [0, 1).
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.head_dim = d_model // num_heads
        self.query = nn.Linear(d_model, d_model, bias=False)
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, stream: Tensor, rotation: Tensor, cache: KeyValueCache | None = None, layer: int = 0) -> Tensor:
        """(batch, time, d_model) to the same shape; ``rotation`` as ``Rotary`` gives it for these positions."""
        queries = rotate(self._heads(self.query(stream)), rotation).transpose(1, 2)
        keys = rotate(self._heads(self.key(stream)), rotation).transpose(1, 2)
        values = self._heads(self.value(stream)).transpose(1, 2)
        if cache is not None:
            keys, values = cache.extend(layer, torch.cat([keys, values], dim=1))
        gathered = attend(queries, keys, values, self.dropout if self.training else 0.0)
        return self.output(gathered.transpose(1, 2).flatten(2))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, self.head_dim)


def attend(queries: Tensor, keys: Tensor, values: Tensor, dropout: float = 0.0) -> Tensor:
    """Attention of the newest ``new`` tokens (batch, heads, new, head_dim) over all tokens (batch, heads, all, head_dim), causally."""
    num_new, num_all = queries.shape[2], keys.shape[2]
    # In this order, and with a plain True: compiled for changing lengths, a comparison would be no plain value.
    if num_new == 1:
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
    if num_new == num_all:
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
    visible = torch.ones(num_new, num_all, dtype=torch.bool, device=queries.device).tril(num_all - num_new)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, dropout_p=dropout)
