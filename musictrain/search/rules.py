"""How many points go on from one rung to the next: no rule, successive halving, or the median.

Conventions: rungs are numbers of optimizer steps, rising; the last is the whole budget of a trial. At each rung all points that came to it
are ranked, best first, and a rule says how many of the best go on; so no result hangs on which trial happened to be quicker. A point with
a trial that failed ranks behind all whole ones, a point without any value never goes on. At least one goes on, if any has a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from musictrain.search.definition import RULES, SearchError
from musictrain.suggestions import did_you_mean

FACTOR = 3.0


@dataclass(frozen=True)
class Field:
    """The points that came to a rung, ranked.

    Args:
        entered: how many came.
        whole: how many of them have a value of each seed; they are ranked first.
        partial: how many have values of some seeds only; they follow.
        ties: of each whole one its place in the ranking (from 0, the same for points of equal worth), in rising order.
    """

    entered: int
    whole: int
    partial: int
    ties: Sequence[int]


class Rule(Protocol):
    """Decides at a rung."""

    name: str

    def keep(self, field: Field) -> int:
        """How many of the best go on: from 1 on if any has a value."""

    def words(self) -> str:
        """What it does, in a few words."""


@dataclass(frozen=True)
class NoRule:
    """All go on that have a value: every point is trained to the end."""

    name = "none"

    def keep(self, field: Field) -> int:
        """All that have a value."""
        return field.whole + field.partial

    def words(self) -> str:
        """What it does."""
        return "every point is trained to the end"


@dataclass(frozen=True)
class Halving:
    """One in ``factor`` goes on, rounded up.

    Args:
        factor: 2 halves them; 3 keeps a third.

    Raises:
        SearchError: for a factor below 2.

    Source: successive halving of Jamieson & Talwalkar (AISTATS 2016) in synchronous rounds, as one bracket of Hyperband (Li et al., JMLR
    2018). Rounded up as scikit-learn's ``HalvingRandomSearchCV`` does, Hyperband rounds down.
    """

    factor: float = FACTOR
    name = "halving"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 2):
            raise SearchError(f"Halving by a factor of {self.factor:g} keeps too many: it is 2 or more, such as 3, which keeps a third.")

    def keep(self, field: Field) -> int:
        """One in ``factor`` of those that entered, failed ones too."""
        return min(math.ceil(field.entered / self.factor), field.whole + field.partial)

    def words(self) -> str:
        """What it does."""
        return f"the best of every {self.factor:g} go on"


@dataclass(frozen=True)
class Median:
    """Those go on that are no worse than the median of the whole ones; equals stay together.

    Source: the median stopping rule of Google Vizier (Golovin et al., KDD 2017). It differs: points are compared at the same rung, not with
    running averages of whatever others have come to, so that the outcome is the same however long each of them took.
    """

    name = "median"

    def keep(self, field: Field) -> int:
        """The better half of the whole ones, and all that equal its last."""
        if not field.whole:
            return min(field.partial, 1)
        place = field.ties[(field.whole - 1) // 2]
        return sum(each <= place for each in field.ties)

    def words(self) -> str:
        """What it does."""
        return "the better half goes on"


def rule_of(name: str, factor: float = FACTOR) -> Rule:
    """The rule of a name.

    Raises:
        SearchError: if there is none, or for a factor below 2.
    """
    if name not in RULES:
        raise SearchError(f"There is no rule {name!r}: {', '.join(RULES)}. {did_you_mean(name, RULES)}".rstrip())
    return Halving(factor) if name == "halving" else Median() if name == "median" else NoRule()
