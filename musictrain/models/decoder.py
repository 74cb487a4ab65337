"""Decoder: a transformer that reads tokens from left to right and says which may come next."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models.block import Block, NormName, make_norm
from musictrain.models.block_dropout import check_dropouts
from musictrain.models.cache import ContextFullError, KeyValueCache
from musictrain.models.rotary import Rotary
from musictrain.models.single_token import SingleToken, can_step
from musictrain.models.stochastic_depth import rising_to


class Decoder(nn.Module):
    """Decoder-only transformer: rotary positions, SwiGLU, no biases, attention by torch's fused kernel.

    The contract of every musictrain network: ``tokens (batch, time) int64 -> logits (batch, time, vocab)``, where ``logits[:, i]``
    predicts token i + 1. With a cache from ``start_cache`` only new tokens are fed, a prompt at once and then one by one, and the logits
    are those of the full sequence.

    Args:
        vocab_size: number of token ids.
        d_model: width of the residual stream.
        num_layers: blocks, found as ``blocks``.
        num_heads: attention heads; ``d_model / num_heads`` is an even number of channels a head.
        ff_multiple: width of the feed-forward layer as a multiple of ``d_model``, rounded up to a multiple of 32. 8/3 gives the three
            matrices of SwiGLU as many weights as the two of a plain layer four times as wide as the stream.
        dropout: on what each layer adds to the stream.
        embedding_dropout: on the embedded tokens; ``dropout`` if left out.
        tie_embeddings: predict with the embedding matrix instead of a matrix of its own.
        norm: ``rms``, or ``layer`` for LayerNorm without bias.
        rotary_base: the slowest rotation has a wavelength of about 2 pi times this many tokens.
        max_context: the longest sequence, in tokens; rotary positions are tabled up to here.
        attention_dropout: on the attention weights, so that no token is relied on alone; three to four times slower attention on a CPU.
        stochastic_depth: probability that a sequence goes past what the last block adds, rising to it in equal steps from the first block
            on; for deep networks on small corpora. See ``StochasticDepth``.

    Raises:
        ValueError: if the sizes cannot work together, or a dropout is outside its range.

    Source: the Llama family's block (Touvron et al., 2023); how it starts: see ``reset_parameters``.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 256,
        num_layers: int = 6,
        num_heads: int = 4,
        ff_multiple: float = 8 / 3,
        dropout: float = 0.1,
        embedding_dropout: float | None = None,
        tie_embeddings: bool = True,
        norm: NormName = "rms",
        rotary_base: float = 10000.0,
        max_context: int = 2048,
        attention_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        check_dropouts(dropout=dropout, embedding_dropout=embedding_dropout, attention_dropout=attention_dropout)
        check_dropouts(stochastic_depth=stochastic_depth)
        check_sizes(vocab_size=vocab_size, d_model=d_model, num_layers=num_layers, num_heads=num_heads, max_context=max_context)
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.num_heads = num_heads
        self.head_dim = d_model // num_heads
        ff_hidden = 32 * math.ceil(ff_multiple * d_model / 32)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout if embedding_dropout is None else embedding_dropout)
        self.blocks = nn.ModuleList(
            Block(d_model, num_heads, ff_hidden, dropout, norm, attention_dropout, depth)
            for depth in rising_to(stochastic_depth, num_layers)
        )
        self.norm = make_norm(norm, d_model)
        self.head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        self.rotary = Rotary(max_context, self.head_dim, rotary_base)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws every weight anew from torch's generator; the last projection of each branch starts at zero.

        So an untrained decoder passes its embeddings through, and each block begins by learning what to add. On the JSB chorales
        (d_model 128, 4 layers, 250 steps, learning rate 3e-3) this reached 0.693 nats a token, against 0.758 with weights of
        deviation 0.02 and smaller ones on those projections, and 0.883 with the latter alone.
        """
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                ends_a_branch = name.endswith(("attention.output", "feed_forward.down"))
                scale = 0.0 if ends_a_branch else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)

    def tensor_parallel_plan(self, size: int) -> dict[str, str]:
        """Which layers ``size`` devices split: whole heads, channels of the feed-forward layer, tokens of an untied head's vocabulary if
        it divides.

        Raises:
            ValueError: if the heads cannot be dealt out evenly.
        """
        if self.num_heads % size:
            raise ValueError(f"The Decoder's {self.num_heads} heads cannot be dealt out to {size} devices: choose a multiple of {size}.")
        colwise = ("attention.query", "attention.key", "attention.value", "feed_forward.gate", "feed_forward.up")
        plan = {f"blocks.*.{layer}": "colwise" for layer in colwise}
        plan |= {f"blocks.*.{layer}": "rowwise" for layer in ("attention.output", "feed_forward.down")}
        plan |= {f"blocks.*.{module}": "shared_input" for module in ("attention", "feed_forward")}
        return plan if self.head is None or self.vocab_size % size else {**plan, "head": "colwise_gathered"}

    def forward(self, tokens: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each of ``tokens`` (batch, time).

        Raises:
            ContextFullError: if the tokens do not fit into ``max_context`` or into the cache.
        """
        start = self._make_room(tokens, cache)
        if cache is not None and cache.shortcut is not None and self._may_take_the_shortcut(tokens):
            return cache.shortcut(tokens, cache)
        rotation = self.rotary(start, start + tokens.shape[1])
        stream = self.dropout(self.embedding(tokens))
        for layer, block in enumerate(self.blocks):
            stream = block(stream, rotation, cache, layer)
        if cache is not None:
            cache.advance(tokens.shape[1])
        stream = self.norm(stream)
        return F.linear(stream, self.embedding.weight) if self.head is None else self.head(stream)

    def _make_room(self, tokens: Tensor, cache: KeyValueCache | None) -> int:
        """The position of the first of ``tokens``, once it is sure that all of them fit."""
        batch, time = tokens.shape
        if cache is not None:
            cache.require(batch, time)
            return cache.length
        if time > self.max_context:
            raise ContextFullError(
                f"Got {time} tokens a sequence, but this Decoder's max_context is {self.max_context}: "
                "use shorter windows, or build it with a larger max_context."
            )
        return 0

    def _may_take_the_shortcut(self, tokens: Tensor) -> bool:
        plain = not (self.training or torch.is_grad_enabled() or torch.is_autocast_enabled(tokens.device.type))
        return plain and tokens.shape[1] == 1

    def start_cache(self, batch_size: int, length: int | None = None) -> KeyValueCache:
        """An empty cache for ``batch_size`` sequences of up to ``length`` tokens, ``max_context`` if left out.

        It keeps keys and values in the precision the network computes them in: that of its weights, or autocast's where that is on.
        It belongs to the weights as they are now: start another when they have changed.

        Raises:
            ValueError: if ``length`` is beyond ``max_context``.
        """
        capacity = self.max_context if length is None else length
        if not 0 < capacity <= self.max_context:
            raise ValueError(f"A cache of {capacity} tokens was asked for, but this Decoder's max_context is {self.max_context}.")
        weight = self.embedding.weight
        autocast = torch.is_autocast_enabled(weight.device.type)
        cache = KeyValueCache(
            num_layers=len(self.blocks),
            batch_size=batch_size,
            num_heads=self.num_heads,
            capacity=capacity,
            head_dim=self.head_dim,
            device=weight.device,
            dtype=torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype,
        )
        cache.shortcut = SingleToken(self) if can_step(self) else None
        return cache


def check_sizes(**sizes: int) -> None:
    """Refuses sizes that are not positive, and heads that do not divide the stream into even widths."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but must be at least 1.")
    d_model, num_heads = sizes["d_model"], sizes["num_heads"]
    if d_model % num_heads:
        raise ValueError(f"d_model {d_model} is not a multiple of num_heads {num_heads}: every head gets d_model / num_heads channels.")
    if d_model // num_heads % 2:
        raise ValueError(
            f"d_model {d_model} over {num_heads} heads gives {d_model // num_heads} channels a head, but rotary positions "
            f"turn channels in pairs: choose an even number, such as d_model {num_heads * (d_model // num_heads + 1)}."
        )
