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


def rungs_between(first: int, last: int, factor: float = FACTOR) -> tuple[int, ...]:
    """Rungs from ``first`` steps on, each ``factor`` times the one before, up to the whole budget.

    >>> rungs_between(100, 900), rungs_between(100, 1000)
    ((100, 300, 900), (100, 300, 1000))

    The last one takes the place of a rung that would come within one and a half times of it.

    Raises:
        SearchError: if there is no step to begin with, or more than there are.
    """
    if not 1 <= first <= last:
        raise SearchError(f"A search cannot look first after {first:,} steps of {last:,}. Choose a first rung between 1 and max_steps.")
    found, steps = [], float(first)
    while steps * 1.5 <= last:
        found.append(round(steps))
        steps *= factor
    return (*found, last)


def on_validations(rungs: Sequence[int], every: int | None, last: int) -> tuple[int, ...]:
    """Rungs moved up to the next step at which there is a validation, the last to the end; those that meet become one.

    >>> on_validations([100, 300, 900], 40, 900)
    (120, 320, 900)

    Args:
        rungs: steps, rising.
        every: steps between two validations, None where they are not counted in steps.
        last: the whole budget, after which there always is one.

    Raises:
        SearchError: if a rung lies beyond the last step, or they do not rise.
    """
    if list(rungs) != sorted({step for step in rungs if step > 0}):
        raise SearchError(f"Rungs are steps that rise, from 1 on, got {', '.join(map(str, rungs))}.")
    if rungs and rungs[-1] > last:
        raise SearchError(
            f"A rung lies at {rungs[-1]:,} steps, and a trial has {last:,} (trainer.max_steps). Lower the rung, or raise trainer.max_steps."
        )
    moved = [step if not every else min(math.ceil(step / every) * every, last) for step in rungs]
    return tuple(sorted({*moved, last}))
