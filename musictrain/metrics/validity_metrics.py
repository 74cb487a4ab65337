"""Token validity as a torchmetrics metric, over all samples of all batches and ranks.

Conventions: as in ``validity``. The share is over the tokens of all pieces together. The tokenizer is no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.metrics.validity import how_judged, validity_counts


class TokenValidity(Metric):
    """Share of tokens that keep the tokenizer's grammar, in [0, 1]: see ``token_validity``.

    Args:
        tokenizer: whose tokens are judged.
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.

    Raises:
        TypeError: if the tokenizer cannot be judged.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    valid: Tensor
    judged: Tensor

    def __init__(self, tokenizer: Tokenizer, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        how_judged(tokenizer)  # what cannot be judged is refused here
        self.tokenizer = tokenizer
        for name in ("valid", "judged"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum", persistent=True)

    def update(self, tokens: Tensor | TokenIds | Sequence[Tensor | TokenIds], from_token: int = 0) -> None:
        """Count a piece (time,), a batch (batch, time), padded or not, or a list of pieces; what lies before ``from_token`` is a prompt."""
        several = [tokens] if len(tokens) and np.ndim(tokens[0]) == 0 else tokens
        rows = [row.cpu().numpy() if isinstance(row, Tensor) else row for row in several]
        counts = validity_counts(rows, self.tokenizer, from_token=from_token)
        self.valid = self.valid + counts.valid
        self.judged = self.judged + counts.judged

    def compute(self) -> Tensor:
        """The share; nan without a token."""
        return self.valid / self.judged
