"""Recurrent layers between which channels are dropped for a whole sequence at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from musictrain.models.block_dropout import BlockDropout


class SharedDropoutLSTM(nn.LSTM):
    """torch's LSTM, batch first, with one dropout mask a sequence between its layers; same arguments, same names in the state.

    Source: variational dropout (Gal & Ghahramani, 2016), on the connections between layers.
    """

    def forward(self, stream: Tensor, state: Any = None) -> Any:  # type: ignore[override]
        """(batch, time, width) to (batch, time, hidden) and the state after the last step, as torch's."""
        if not self.training or self.num_layers == 1 or self.dropout == 0.0:
            return super().forward(stream, state)
        hidden, cell = (_zeros(self, stream), _zeros(self, stream)) if state is None else state
        last = []
        for layer, weights in enumerate(self.all_weights):
            before = (hidden[layer : layer + 1], cell[layer : layer + 1])
            stream, *after = torch.lstm(_dropped(self, stream, layer), before, tuple(weights), self.bias, 1, 0.0, True, False, True)
            last.append(after)
        return stream, tuple(torch.cat(part) for part in zip(*last, strict=True))


class SharedDropoutGRU(nn.GRU):
    """torch's GRU, likewise."""

    def forward(self, stream: Tensor, state: Any = None) -> Any:  # type: ignore[override]
        """(batch, time, width) to (batch, time, hidden) and the state after the last step, as torch's."""
        if not self.training or self.num_layers == 1 or self.dropout == 0.0:
            return super().forward(stream, state)
        hidden = _zeros(self, stream) if state is None else state
        last = []
        for layer, weights in enumerate(self.all_weights):
            before = hidden[layer : layer + 1]
            stream, after = torch.gru(_dropped(self, stream, layer), before, tuple(weights), self.bias, 1, 0.0, True, False, True)
            last.append(after)
        return stream, torch.cat(last)


def _zeros(layers: nn.RNNBase, stream: Tensor) -> Tensor:
    return stream.new_zeros(layers.num_layers, len(stream), layers.hidden_size)


def _dropped(layers: nn.RNNBase, stream: Tensor, layer: int) -> Tensor:
    """The input of a layer: what the first reads has been dropped by the caller."""
    return BlockDropout(layers.dropout, block=None)(stream) if layer else stream
