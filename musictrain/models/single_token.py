"""One token at a time by the shortest way on a CPU: the sums of ``Decoder.forward`` in a quarter of the calls.

A sum of one token costs what it takes to read the weights and to call it. So the one-token step is written out here once more, on a
stream (batch, d_model) without a time axis, and on a copy of the weights in the order in which they are read: transposed, and those
that meet the same input side by side.

It knows only the decoder's own layers as they are: where anything else stands in the network (a wrapped layer, a hook, a sharded
weight), the usual way is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models.attention import CausalSelfAttention
from musictrain.models.block import Block, SwiGLU
from musictrain.models.cache import KeyValueCache
from musictrain.models.norm import RMSNorm
from musictrain.models.rotary import Rotary
from musictrain.models.stochastic_depth import StochasticDepth

if TYPE_CHECKING:
    from musictrain.models.decoder import Decoder

KNOWN = {
    *(Block, CausalSelfAttention, SwiGLU, RMSNorm, Rotary, StochasticDepth),
    *(nn.Dropout, nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList),
}

Norm = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    """What one block computes with; weights lie as (in, out)."""

    attention_norm: Norm
    query_key_value: Tensor
    output: Tensor
    feed_forward_norm: Norm
    gate_up: Tensor
    down: Tensor


class SingleToken:
    """The decoder's step from one token, and what a cache holds, to the next token's logits.

    It keeps the weights the network had when this was made.
    """

    def __init__(self, network: Decoder) -> None:
        self.layers = [_layer_of(block) for block in network.blocks]
        self.num_heads, self.head_dim = network.num_heads, network.head_dim
        self.embedding = network.embedding.weight
        self.head = _side_by_side(network.embedding if network.head is None else network.head)
        self.norm = _norm_of(network.norm)
        self.rotary = network.rotary

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits (batch, 1, vocab) after ``tokens`` (batch, 1), which the cache then holds too."""
        rotation = self.rotary(cache.length, cache.length + 1)
        stream = F.embedding(tokens[:, 0], self.embedding)
        for number, layer in enumerate(self.layers):
            projected = layer.attention_norm(stream).mm(layer.query_key_value)
            stream = torch.addmm(stream, self._attend(projected, rotation, cache, number), layer.output)
            gate, up = layer.feed_forward_norm(stream).mm(layer.gate_up).chunk(2, dim=1)
            stream = torch.addmm(stream, F.silu(gate).mul_(up), layer.down)
        cache.advance(1)
        return self.norm(stream).mm(self.head).unsqueeze(1)

    def _attend(self, projected: Tensor, rotation: Tensor, cache: KeyValueCache, number: int) -> Tensor:
        """What the heads gather, (batch, d_model), for the token's queries, keys and values, (batch, 3 * d_model)."""
        heads = projected.view(projected.shape[0], 3 * self.num_heads, 1, self.head_dim)
        # Queries and keys turn where they lie.
        heads.view(torch.complex64).narrow(1, 0, 2 * self.num_heads).mul_(rotation)
        queries, keys_and_values = heads.split((self.num_heads, 2 * self.num_heads), dim=1)
        keys, values = cache.extend(number, keys_and_values)
        return F.scaled_dot_product_attention(queries, keys, values).view(projected.shape[0], -1)


def can_step(network: Decoder) -> bool:
    """Whether the network lies on the CPU in full precision and every part of it is one that ``SingleToken`` knows, unwrapped."""
    parts = [module for module in network.modules() if module is not network]
    known = all(type(part) in KNOWN and not part._forward_hooks and not part._forward_pre_hooks for part in parts)
    return known and all(type(weight) is nn.Parameter and _lies_as_expected(weight) for weight in network.parameters())


def _lies_as_expected(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _layer_of(block: Any) -> _Layer:
    attention, feed_forward = block.attention, block.feed_forward
    return _Layer(
        attention_norm=_norm_of(block.attention_norm),
        query_key_value=_side_by_side(attention.query, attention.key, attention.value),
        output=_side_by_side(attention.output),
        feed_forward_norm=_norm_of(block.feed_forward_norm),
        gate_up=_side_by_side(feed_forward.gate, feed_forward.up),
        down=_side_by_side(feed_forward.down),
    )


def _side_by_side(*layers: Any) -> Tensor:
    return torch.cat([layer.weight.detach() for layer in layers]).t().contiguous()


def _norm_of(norm: Any) -> Norm:
    """A norm's forward, without what stands around a module's call."""
    if isinstance(norm, RMSNorm):
        return partial(_rms_norm, weight=norm.weight, eps=norm.weight.new_tensor(norm.eps))
    return partial(F.layer_norm, normalized_shape=norm.normalized_shape, weight=norm.weight, eps=norm.eps)


def _rms_norm(stream: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
    inverse = torch.addcmul(eps, length, length, value=1 / stream.shape[-1]).rsqrt_()
    return (stream * inverse).mul_(weight)
