"""Recurrent: an LSTM or GRU language model, the small baseline every larger network has to beat."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models.block_dropout import BlockDropout, check_dropouts
from musictrain.models.shared_dropout import SharedDropoutGRU, SharedDropoutLSTM

LAYERS: dict[tuple[str, bool], Any] = {
    ("lstm", False): nn.LSTM,
    ("lstm", True): SharedDropoutLSTM,
    ("gru", False): nn.GRU,
    ("gru", True): SharedDropoutGRU,
}
"""By kind, and whether dropout is shared over time."""


class RecurrentCache:
    """The hidden state after the tokens fed so far; None before the first.

    Unlike a transformer's cache it does not grow, so that no sequence is too long.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.length = 0
        """Tokens fed so far."""
        self.state: Tensor | tuple[Tensor, Tensor] | None = None


class Recurrent(nn.Module):
    """Embedding, stacked LSTM or GRU layers, and a projection back to the embedding's width for the prediction.

    The contract of every musictrain network: ``tokens (batch, time) int64 -> logits (batch, time, vocab)``, where ``logits[:, i]``
    predicts token i + 1; with a cache from ``start_cache`` only new tokens are fed.

    Args:
        vocab_size: number of token ids.
        d_model: width of the embedding.
        hidden: width of each recurrent layer.
        num_layers: recurrent layers.
        dropout: on the embedded tokens, between the layers and on the last layer's output.
        kind: ``lstm`` or ``gru``.
        tie_embeddings: predict with the embedding matrix instead of a matrix of its own.
        embedding_dropout: on the embedded tokens; ``dropout`` if left out.
        shared_dropout: one mask for all steps of a sequence instead of one a step (variational dropout): a channel that is gone stays gone,
            which a recurrent network cannot average away over time. Usually with a somewhat larger ``dropout``.

    Raises:
        ValueError: if a size is not positive, a dropout is outside its range, or the kind is unknown.
    """

    max_context: int | None = None
    blocks = ("recurrent",)

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 256,
        hidden: int = 512,
        num_layers: int = 2,
        dropout: float = 0.2,
        kind: Literal["lstm", "gru"] = "lstm",
        tie_embeddings: bool = True,
        embedding_dropout: float | None = None,
        shared_dropout: bool = False,
    ) -> None:
        super().__init__()
        for name, size in {"vocab_size": vocab_size, "d_model": d_model, "hidden": hidden, "num_layers": num_layers}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}, but must be at least 1.")
        if kind not in ("lstm", "gru"):
            raise ValueError(f"kind is {kind!r}, but must be 'lstm' or 'gru'.")
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)
        check_dropouts(dropout=dropout, embedding_dropout=embedding_dropout)
        self.dropout = BlockDropout(dropout, block=None) if shared_dropout else nn.Dropout(dropout)
        at_first = dropout if embedding_dropout is None else embedding_dropout
        self.embedding_dropout = BlockDropout(at_first, block=None) if shared_dropout else nn.Dropout(at_first)
        layers = LAYERS[kind, shared_dropout]
        self.recurrent = layers(d_model, hidden, num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0)
        self.output = nn.Linear(hidden, d_model, bias=False)
        self.head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)

    def forward(self, tokens: Tensor, cache: RecurrentCache | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each of ``tokens`` (batch, time).

        Raises:
            ValueError: if the cache was started for another batch size.
        """
        if cache is not None and len(tokens) != cache.batch_size:
            raise ValueError(f"Got {len(tokens)} sequences, but this cache was started for {cache.batch_size}: start another.")
        stream, state = self.recurrent(self.embedding_dropout(self.embedding(tokens)), None if cache is None else cache.state)
        if cache is not None:
            cache.state = state
            cache.length += tokens.shape[1]
        stream = self.output(self.dropout(stream))
        return F.linear(stream, self.embedding.weight) if self.head is None else self.head(stream)

    def start_cache(self, batch_size: int, length: int | None = None) -> RecurrentCache:
        """An empty cache for ``batch_size`` sequences; ``length`` does not matter, a recurrent network remembers a fixed amount."""
        return RecurrentCache(batch_size)
