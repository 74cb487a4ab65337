"""Reads music in pairs of frames: embedded features and a stack of GRU layers, half as many steps as there are frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musictrain.models.block_dropout import BlockDropout
from musictrain.models.feature_bag import FeatureBag
from musictrain.models.gru_scan import GRULayer


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
        dropout_block: pairs that share a mask, see ``BlockDropout``.
        segment: while training the layers start anew every so many pairs; None lets them remember the whole sequence. Segments run side
            by side, so that a step has fewer and larger products.
    """

    def __init__(
        self,
        sizes: list[int],
        *,
        width: int,
        hidden: int,
        num_layers: int,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        feature_dropout: float = 0.0,
        dropout_block: int | None = 16,
        segment: int | None = None,
    ) -> None:
        super().__init__()
        self.inputs = FeatureBag(sizes, width, std=0.3, dropout=feature_dropout)
        self.norm = nn.LayerNorm(width)
        self.input_dropout = BlockDropout(input_dropout, dropout_block)
        self.layers = nn.ModuleList(GRULayer(hidden if layer else width, hidden) for layer in range(num_layers))
        self.dropout = BlockDropout(dropout, dropout_block)
        self.segment = segment
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
        if self.training and self.segment is not None:
            stream, layers = self._forgetful(stream, min(self.segment, pairs.shape[1])), state.layers
        else:
            stream, layers = self._through(stream, state.layers)
        outputs = torch.cat([first.to(stream.dtype), stream], 1)
        return outputs, ReaderState(layers, outputs[:, -1])

    def _through(self, stream: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The layers' outputs (batch, pairs, hidden), and their states after the last pair."""
        last = []
        for number, (layer, before) in enumerate(zip(self.layers, states, strict=True)):
            output = layer(stream, before)
            last.append(output[:, -1])
            stream = self.dropout(output) + stream if number else self.dropout(output)
        return stream, torch.stack(last)

    def _forgetful(self, stream: Tensor, segment: int) -> Tensor:
        """The layers' outputs (batch, pairs, hidden), started anew at every segment."""
        batch, pairs, _ = stream.shape
        segments = F.pad(stream, (0, 0, 0, -pairs % segment)).unflatten(1, (-1, segment)).flatten(0, 1)
        outputs, _ = self._through(segments, self.first_state(len(segments)).layers)
        return outputs.unflatten(0, (batch, -1)).flatten(1, 2)[:, :pairs]
