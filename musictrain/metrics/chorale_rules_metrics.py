"""Chorale rules as torchmetrics metrics, over all samples of all batches and ranks.

Conventions: as in ``chorale_rules``. Rates are over the changes and sonorities of all pieces together; a piece that is not four-part is
left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from musictrain.metrics.chorale_rules import BACH, check_rule, chorale_counts
from musictrain.metrics.metric_states import RateOfCounts
from musictrain.metrics.over_pieces import notes_of
from musictrain.metrics.reference_distance import distance_to_band
from musictrain.notes import Notes


class ChoraleRate(RateOfCounts):
    """How often a rule is broken, per 100 changes of sonority or per 100 sonorities: see ``chorale_rates``. Neither high nor low is better.

    Args:
        rule: one of ``chorale_rules.RULES``.
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.

    Raises:
        ValueError: for an unknown rule.
    """

    def __init__(self, rule: str, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        check_rule(rule)
        self.rule = rule

    def update(self, pieces: Notes | Iterable[Notes]) -> None:
        """Count one piece or several."""
        for notes in notes_of(pieces):
            self.add(chorale_counts(notes)[self.rule])

    def compute(self) -> Tensor:
        """The rate; nan without a chance to break the rule."""
        return 100.0 * super().compute()


class ChoraleRuleDistance(ChoraleRate):
    """How far the rate of a rule lies from a reference, 0 inside the band; lower is better.

    Args:
        rule: one of ``chorale_rules.RULES``.
        reference: (low, high), or None for ``chorale_rules.BACH``, which is made for sets of some 30 pieces: fewer lie beyond it by chance.
        torchmetrics_options: see ``torchmetrics.Metric``.

    Raises:
        ValueError: for an unknown rule, or a reference that is no band.
    """

    higher_is_better: bool | None = False

    def __init__(self, rule: str, reference: tuple[float, float] | None = None, **torchmetrics_options: Any) -> None:
        super().__init__(rule, **torchmetrics_options)
        self.low, self.high = BACH[rule] if reference is None else reference
        distance_to_band(math.nan, self.low, self.high)  # what is no band is refused here

    def compute(self) -> Tensor:
        """The distance, in faults per 100; nan without a chance to break the rule."""
        rate = super().compute()
        return torch.maximum(self.low - rate, rate - self.high).clamp(min=0.0)
