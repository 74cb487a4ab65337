"""What the metrics of this room keep between updates: a state of their own, sums that lose nothing, and rates of counts.

Conventions: a state is summed over batches and ranks and goes through a checkpoint. Whatever is given at construction (an index, a
tokenizer, a reference) is no state: every rank and every resumed run is given the same one.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_NUMBERS = itertools.count()


class OwnState(Metric):
    """A metric that shares its state with no other one of a ``MetricCollection``.

    A collection takes metrics for one whose states are alike after the first update, and from then on updates but the first of them: two
    rates that are both 0 of the first piece would be one for ever. So each metric has a number in its state, its clones the same one.

    Args:
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.
    """

    is_differentiable: bool = False
    higher_is_better: bool | None = None
    full_state_update: bool = False

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        # By its bytes: states are compared with a tolerance, by which large numbers are alike.
        number = torch.tensor(list(next(_NUMBERS).to_bytes(8, "big")))
        self.add_state("number", number, dist_reduce_fx="max")


class RateOfCounts(OwnState):
    """How many of all: two whole numbers of each piece, summed over all pieces, so that a long piece weighs more than a short one.

    ``compute`` gives the share; nan where there were none.
    """

    plot_lower_bound: float = 0.0
    counted: Tensor
    chances: Tensor

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        for name in ("counted", "chances"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum", persistent=True)

    def add(self, counts: tuple[int, int]) -> None:
        """Count how many there were, and of how many."""
        self.counted = self.counted + counts[0]
        self.chances = self.chances + counts[1]

    def compute(self) -> Tensor:
        """The share of all; nan of none."""
        return self.counted / self.chances


def sum_and_remainder(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The rounded sum of two tensors and exactly what rounding took from it.

    Source: TwoSum of Knuth, The Art of Computer Programming 2, 4.2.2.
    """
    total = left + right
    of_right = total - left
    return total, (left - (total - of_right)) + (right - of_right)
