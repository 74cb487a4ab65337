"""Reads music in pairs of frames: embedded features and a stack of GRU layers, half as many steps as there are frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from musictrain.models.feature_bag import FeatureBag
from musictrain.models.gru_scan import GRULayer
from musictrain.models.locked_dropout import LockedDropout


class ReaderState(NamedTuple):
    """What a reader knows after some pairs.

    Args:
        layers: (num_layers, batch, hidden) state of each layer.
        output: (batch, hidden) what it last gave.
    """

    layers: Tensor
    output: Tensor


class PairReader(nn.Module):
    """A sequence of pairs of frames becomes what is known before each pair.

    Args:
        sizes: number of values of each feature of a pair.
        width: channels of their embedding.
        hidden: channels of each layer.
        num_layers: GRU layers; each but the first is added to its input.
        dropout: on each layer's output.
        input_dropout: on the embedding.
        feature_dropout: of the features.
    """

    def __init__(
        self, sizes: list[int], *, width: int, hidden: int, num_layers: int, dropout: float, input_dropout: float, feature_dropout: float
    ) -> None:
        super().__init__()
        self.inputs = FeatureBag(sizes, width, std=0.3, dropout=feature_dropout)
        self.norm = nn.LayerNorm(width)
        self.input_dropout = LockedDropout(input_dropout)
        self.layers = nn.ModuleList(GRULayer(hidden if layer else width, hidden) for layer in range(num_layers))
        self.dropout = LockedDropout(dropout)
        self.start = nn.Parameter(torch.zeros(hidden))

    def first_state(self, batch_size: int) -> ReaderState:
        """Before the first pair."""
        states = self.start.new_zeros(len(self.layers), batch_size, len(self.start))
        return ReaderState(states, self.start.expand(batch_size, -1))

    def forward(self, pairs: Tensor, state: ReaderState) -> tuple[Tensor, ReaderState]:
        """What is known before each of the pairs and after the last, (batch, pairs + 1, hidden), and the state after the last.

        Args:
            pairs: (batch, pairs, features) int64.
            state: before the first of them.
        """
        first = state.output[:, None]
        if not pairs.shape[1]:
            return first, state
        stream = self.input_dropout(self.norm(self.inputs(pairs)))
        last = []
        for number, (layer, before) in enumerate(zip(self.layers, state.layers, strict=True)):
            output = layer(stream, before)
            last.append(output[:, -1])
            stream = self.dropout(output) + stream if number else self.dropout(output)
        outputs = torch.cat([first.to(stream.dtype), stream], 1)
        return outputs, ReaderState(torch.stack(last), outputs[:, -1])
