"""One token at a time by the shortest way: the sums of ``Decoder.forward`` in a third of the calls.

While sampling, a small network spends half of its time not on sums but on calling them: modules, reshapes, sums of one token. So the
one-token step is written out here once more, on a stream (batch, d_model) without a time axis. It knows only the decoder's own
layers as they are; where anything else stands in the network (a wrapped layer, a hook, a sharded weight), the usual way is gone.
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
from musictrain.models.rotary import Rotary, rotate

if TYPE_CHECKING:
    from musictrain.models.decoder import Decoder

KNOWN = {Block, CausalSelfAttention, SwiGLU, RMSNorm, Rotary, nn.Dropout, nn.Embedding, nn.LayerNorm, nn.Linear, nn.ModuleList}

Norm = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    """What one block computes with; weights lie transposed, (in, out)."""

    attention_norm: Norm
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    feed_forward_norm: Norm
    gate: Tensor
    up: Tensor
    down: Tensor


class SingleToken:
    """The decoder's step from one token, and what a cache holds, to the next token's logits."""

    def __init__(self, network: Decoder) -> None:
        self.layers = [_layer_of(block) for block in network.blocks]
        self.heads = (network.num_heads, network.head_dim)
        self.embedding = network.embedding.weight
        self.head = (network.embedding if network.head is None else network.head).weight.t()
        self.norm = _norm_of(network.norm)
        self.rotary = network.rotary

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits (batch, 1, vocab) after ``tokens`` (batch, 1), which the cache then holds too."""
        rotation = self.rotary(cache.length, cache.length + 1)
        stream = F.embedding(tokens[:, 0], self.embedding)
        for number, layer in enumerate(self.layers):
            normed = layer.attention_norm(stream)
            gathered = self._attend(normed, layer, rotation, cache, number)
            stream = torch.addmm(stream, gathered, layer.output)
            normed = layer.feed_forward_norm(stream)
            hidden = F.silu(normed.mm(layer.gate)).mul_(normed.mm(layer.up))
            stream = torch.addmm(stream, hidden, layer.down)
        cache.advance(1)
        return self.norm(stream).mm(self.head).unsqueeze(1)

    def _attend(self, normed: Tensor, layer: _Layer, rotation: Tensor, cache: KeyValueCache, number: int) -> Tensor:
        batch, one_token = len(normed), (len(normed), 1, *self.heads)
        queries = rotate(normed.mm(layer.query).view(one_token), rotation).transpose(1, 2)
        keys = rotate(normed.mm(layer.key).view(one_token), rotation).transpose(1, 2)
        values = normed.mm(layer.value).view(one_token).transpose(1, 2)
        return F.scaled_dot_product_attention(queries, *cache.extend(number, keys, values)).view(batch, -1)


def can_step(network: Decoder) -> bool:
    """Whether every part of the network is one that ``SingleToken`` knows, unwrapped."""
    parts = [module for module in network.modules() if module is not network]
    known = all(type(part) in KNOWN and not part._forward_hooks and not part._forward_pre_hooks for part in parts)
    return known and all(type(parameter) is nn.Parameter for parameter in network.parameters())


def _layer_of(block: Any) -> _Layer:
    attention, feed_forward = block.attention, block.feed_forward
    return _Layer(
        attention_norm=_norm_of(block.attention_norm),
        query=attention.query.weight.t(),
        key=attention.key.weight.t(),
        value=attention.value.weight.t(),
        output=attention.output.weight.t(),
        feed_forward_norm=_norm_of(block.feed_forward_norm),
        gate=feed_forward.gate.weight.t(),
        up=feed_forward.up.weight.t(),
        down=feed_forward.down.weight.t(),
    )


def _norm_of(norm: Any) -> Norm:
    """A norm's forward, without what stands around a module's call."""
    if isinstance(norm, RMSNorm):
        return partial(_rms_norm, weight=norm.weight, eps=norm.weight.new_tensor(norm.eps))
    return partial(F.layer_norm, normalized_shape=norm.normalized_shape, weight=norm.weight, eps=norm.eps)


def _rms_norm(stream: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
    inverse = torch.addcmul(eps, length, length, value=1 / stream.shape[-1]).rsqrt_()
    return (stream * inverse).mul_(weight)
