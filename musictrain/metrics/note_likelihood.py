"""Likelihood as bits per note, so that two tokenizers can be compared.

Conventions: nats are sums of the negative log-likelihood over the tokens of some pieces, padding left out; notes are those the tokens
stand for, drums included. The mean is over notes, not over pieces: sums come first, the division last. Lower is better.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from musictrain.metrics.metric_states import OwnState, sum_and_remainder


def bits_per_note(nats: ArrayLike, num_notes: ArrayLike) -> float:
    """All nats divided by all notes, in bits; nan without notes.

    Args:
        nats: negative log-likelihood, of one piece or one value each, (pieces,).
        num_notes: notes of the same pieces.

    >>> bits_per_note([math.log(2.0), math.log(8.0)], [1, 3])
    1.0
    """
    notes = float(np.sum(num_notes))
    return float(np.sum(nats)) / math.log(2.0) / notes if notes else math.nan


class BitsPerNote(OwnState):
    """:func:`bits_per_note` over all batches and ranks."""

    higher_is_better = False
    plot_lower_bound = 0.0
    nats: Tensor
    remainder: Tensor
    num_notes: Tensor

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        self.add_state("nats", torch.tensor(0.0), dist_reduce_fx="sum", persistent=True)
        self.add_state("remainder", torch.tensor(0.0), dist_reduce_fx="sum", persistent=True)
        self.add_state("num_notes", torch.tensor(0), dist_reduce_fx="sum", persistent=True)

    def update(self, nats: Tensor | float, num_notes: Tensor | int) -> None:
        """Count the nats and the notes of one batch or of several pieces, of any shape; nothing waits for the device."""
        added = torch.as_tensor(nats, device=self.nats.device).detach().to(torch.float32).sum()
        self.nats, rounded_away = sum_and_remainder(self.nats, added)
        self.remainder = self.remainder + rounded_away
        self.num_notes = self.num_notes + torch.as_tensor(num_notes, device=self.num_notes.device).sum().round().long()

    def compute(self) -> Tensor:
        """Bits per note, a scalar; nan without notes."""
        bits = (self.nats + self.remainder) / math.log(2.0) / self.num_notes
        return torch.where(self.num_notes > 0, bits, bits.new_tensor(math.nan))
