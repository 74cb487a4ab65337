"""What a network remembers between two calls while it generates, so that each new token costs one step and not the whole past."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class ContextFullError(ValueError):
    """More tokens were fed than the cache, or the network, can look back on."""


class KeyValueCache:
    """The keys and values of every attention layer for the tokens fed so far, in memory taken once. No gradient flows through it.

    Args:
        num_layers, batch_size, num_heads, head_dim: the shape of what is kept.
        capacity: how many tokens it can hold.
        device, dtype: where, and in which precision.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_heads: int,
        capacity: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (batch_size, 2 * num_heads, capacity, head_dim)
        self.layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        """Of each layer the keys of all heads, then their values."""
        self.batch_size = batch_size
        self.capacity = capacity
        self.length = 0
        """Tokens held; the position of the next one."""
        self.shortcut: Callable[[Tensor, KeyValueCache], Tensor] | None = None
        """A quicker way from one token to the next one's logits, if the network that started this cache has one."""

    def require(self, batch_size: int, num_tokens: int) -> None:
        """Refuses, before anything is computed, tokens that do not fit.

        Raises:
            ContextFullError: if ``num_tokens`` more do not fit.
            ValueError: if the cache was started for another batch size.
        """
        if batch_size != self.batch_size:
            raise ValueError(f"Got {batch_size} sequences, but this cache was started for {self.batch_size}: start one of that batch size.")
        if self.length + num_tokens > self.capacity:
            raise ContextFullError(
                f"The cache holds {self.length} of at most {self.capacity} tokens and got {num_tokens} more. "
                "Start a new cache from the most recent tokens, as musictrain.generation.generate does."
            )

    def extend(self, layer: int, keys_and_values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes one layer's new keys and values (batch, 2 * heads, new, head_dim) behind the old ones; all its keys, all its values.

        ``length`` moves when every layer has written: see ``advance``.
        """
        kept, num_new = self.layers[layer], keys_and_values.shape[2]
        kept.narrow(2, self.length, num_new).copy_(keys_and_values.detach())
        keys, values = kept.narrow(2, 0, self.length + num_new).chunk(2, dim=1)
        return keys, values

    def advance(self, num_tokens: int) -> None:
        """Counts the tokens that every layer has written."""
        self.length += num_tokens
