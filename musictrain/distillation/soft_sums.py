"""What is logged of a distillation, summed on the device until somebody reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from musictrain.running_sums import widest_dtype


class DistilledLoss(NamedTuple):
    """What a batch of a distillation comes to, scalars.

    Attributes:
        loss: what to minimise, the mean over the counted tokens; carries the gradient.
        nll_sum, num_tokens: as in ``NextTokenLoss``.
        soft_sum: KL from the teacher in nats, summed over the tokens that it was asked about.
        soft_tokens: how many those are: none while its weight is 0.
        hidden_sum: distance of the hidden states, summed over the counted tokens.
    """

    loss: Tensor
    nll_sum: Tensor
    num_tokens: Tensor
    soft_sum: Tensor
    soft_tokens: Tensor
    hidden_sum: Tensor


class SoftSums:
    """Sums since the last flush; nothing waits for them."""

    def __init__(self) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64)

    def to(self, device: torch.device) -> None:
        """Keep the sums on ``device`` from now on."""
        self._sums = self._sums.to(device, widest_dtype(device))

    def add(self, result: DistilledLoss) -> None:
        """Add one batch. What is not finite is left out with its tokens."""
        soft, hidden = result.soft_sum.detach(), result.hidden_sum.detach()
        parts = (soft, result.soft_tokens * soft.isfinite(), hidden, result.num_tokens * hidden.isfinite())
        self._sums += torch.stack([part.to(self._sums).nan_to_num(0.0, 0.0, 0.0) for part in parts])

    def flush(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all ranks, ``soft_loss`` and ``hidden_loss``; the sums begin again. What there was nothing of is left out."""
        soft, asked, hidden, tokens = reduce(self._sums.clone()).tolist()
        self._sums.zero_()
        return {**({"soft_loss": soft / asked} if asked else {}), **({"hidden_loss": hidden / tokens} if tokens else {})}

    def state_dict(self) -> dict[str, Any]:
        """As plain numbers; reads them from the device."""
        return {"sums": self._sums.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._sums = self._sums.new_tensor(state["sums"])
