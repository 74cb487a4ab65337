"""Token validity as a torchmetrics metric, over all samples of all batches and ranks.

Conventions: as in ``validity``. The share is over the tokens of all pieces together. The tokenizer is no state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.metrics.metric_states import RateOfCounts
from musictrain.metrics.validity import how_judged, validity_counts


class TokenValidity(RateOfCounts):
    """Share of tokens that keep the tokenizer's grammar, in [0, 1]; nan without a token: see ``token_validity``.

    Args:
        tokenizer: whose tokens are judged.
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.

    Raises:
        TypeError: if the tokenizer cannot be judged.
    """

    higher_is_better: bool = True
    plot_upper_bound: float = 1.0

    def __init__(self, tokenizer: Tokenizer, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        how_judged(tokenizer)  # what cannot be judged is refused here
        self.tokenizer = tokenizer

    def update(self, tokens: Tensor | TokenIds | Sequence[Tensor | TokenIds], from_token: int = 0) -> None:
        """Count a piece (time,), a batch (batch, time), padded or not, or a list of pieces; what lies before ``from_token`` is a prompt."""
        several = [tokens] if len(tokens) and np.ndim(tokens[0]) == 0 else tokens
        rows = [row.cpu().numpy() if isinstance(row, Tensor) else row for row in several]
        self.add(validity_counts(rows, self.tokenizer, from_token=from_token))
