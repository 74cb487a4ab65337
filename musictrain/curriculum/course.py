"""Course: the dial of every batch of a training, by its number alone.

A data module that follows one keeps the object, and asks it when it hands out a batch::

    class MyData(LightningDataModule):
        def follow(self, course):  # called before the loaders are made
            self.course = course

        ...  # where batch `number` of the whole training is drawn, counted over all epochs, in the process that trains:
            dial = self.course.at(number)

By steps and by tokens the dial is a pure function of the number. By a monitored value it stands in a table of decisions, each of which
names the first batch that it holds for: some batches later than it was taken, since loaders have fetched ahead by then, and none that was
asked for already is ever changed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from musictrain.curriculum.counting import Count, StepCount, TokenCount
from musictrain.curriculum.dial import Dial
from musictrain.curriculum.pacing import Pacing, Shift
from musictrain.suggestions import did_you_mean

UNITS = ("steps", "tokens", "value")


@dataclass(frozen=True)
class Decision:
    """From which batch on how much of the way is behind.

    Args:
        first: number of that batch.
        competence: from 0 to 1.
        count: how many batches are trained on before it, by which it is found again where others are passed over later; None if unknown.
    """

    first: int
    competence: float
    count: int | None = None


class Course:
    """What the dial says of each batch.

    Args:
        by: ``steps``, ``tokens`` or ``value``: what the pacings count.
        difficulty: share of the windows, easiest first, that are drawn from; None for all.
        length: share of a window that rows keep; None for all.
        mixture: shares of the corpora; None leaves them as they are.
        orderings: weights by the name of an ordering: by what the windows are easy or hard. Whoever follows knows what they mean.
        batches_per_step: by steps: how many batches a step gathers, by the step from which that holds.
        tokens_per_batch: by tokens: of a batch with whole rows.

    Raises:
        ValueError: for an unknown unit, a pacing without an end, or tokens that nobody has counted.

    >>> course = Course("steps", difficulty=Pacing(until=100, start=0.5))
    >>> course.at(50).difficulty, course.at(100) == Dial()
    (0.75, True)
    """

    def __init__(
        self,
        by: str = "steps",
        *,
        difficulty: Pacing | None = None,
        length: Pacing | None = None,
        mixture: Shift | None = None,
        orderings: Mapping[str, float] | None = None,
        batches_per_step: Mapping[int, int] | None = None,
        tokens_per_batch: int | None = None,
    ) -> None:
        check_unit(by, {"difficulty": difficulty, "length": length, "mixture": mixture})
        if by == "tokens" and tokens_per_batch is None:
            raise ValueError("A course by tokens needs to know the tokens of a batch.")
        self.by, self.difficulty, self.length, self.mixture = by, difficulty, length, mixture
        self.orderings = {str(name): float(weight) for name, weight in (orderings or {}).items()}
        self._batches_per_step, self._tokens_per_batch = dict(batches_per_step or {0: 1}), tokens_per_batch
        self.reset()

    def reset(self) -> None:
        """Go back to the first batch: forget all decisions."""
        self.table: list[Decision] = []
        self.value_at_start: float | None = None
        self._foretold: list[Decision] = []
        self._count = self._counted_from(0, 0.0)

    def _counted_from(self, first: int, amount: float) -> Count | None:
        if self.by == "value":
            return None
        if self.by == "steps":
            return StepCount(self._batches_per_step, first, int(amount))
        assert self._tokens_per_batch is not None
        return TokenCount(self._tokens_per_batch, None if self.length is None else self.length.at, first, amount)

    # What a batch is to be.

    @property
    def turns(self) -> tuple[str, ...]:
        """Which parts of the dial it turns at all."""
        return tuple(name for name in ("difficulty", "length", "mixture") if getattr(self, name) is not None)

    def at(self, number: int) -> Dial:
        """The dial of batch ``number`` of the stream, from 0."""
        amount = self.amount(number)
        return Dial(
            difficulty=1.0 if self.difficulty is None else self.difficulty.at(amount),
            length=1.0 if self.length is None else self.length.at(amount),
            mixture=() if self.mixture is None else self.mixture.at(amount),
        )

    def amount(self, number: int) -> float:
        """How much is behind before that batch: steps, tokens, or competence from 0 to 1."""
        if self._count is not None:
            return float(self._count.before(number))
        known = bisect_right(self.table, number, key=lambda decision: decision.first)
        return self.table[known - 1].competence if known else 0.0

    def is_over(self, number: int) -> bool:
        """Whether nothing turns any more from that batch on."""
        ends = [part.until for part in (self.difficulty, self.length, self.mixture) if part is not None]
        return self.amount(number) >= max((1.0 if end is None else end for end in ends), default=0.0)

    # By a monitored value.

    def judge(self, value: float, goal: float, first: int, count: int | None = None) -> Decision | None:
        """Hold a value against the one at the start and the goal; gives back the decision, None if the network has come no further.

        Competence is the part of the way from the first value that was seen to the goal. It never falls: what was once drawn from stays.

        Args:
            value: that was measured just now; one that is not finite says nothing.
            goal: at which everything is drawn from.
            first: number of the first batch that a decision may hold for.
            count: how many batches are trained on before that one.
        """
        if not math.isfinite(value):
            return None
        self.value_at_start = value if self.value_at_start is None else self.value_at_start
        way = goal - self.value_at_start
        competence = 1.0 if way == 0.0 else min(1.0, max(0.0, (value - self.value_at_start) / way))
        if competence <= (self.table[-1].competence if self.table else 0.0):
            return None
        self._decide(Decision(max(first, self.table[-1].first if self.table else 0), competence, count))
        return self.table[-1]

    def _decide(self, decision: Decision) -> None:
        if self.table and self.table[-1].first == decision.first:
            self.table.pop()
        self.table.append(decision)

    def foretell(self, decisions: Iterable[Decision]) -> None:
        """Take over decisions that a training took which is done again: those after what a state knows, whenever one is loaded."""
        self._foretold = sorted(decisions, key=lambda decision: decision.first)
        self._add_foretold()

    def _add_foretold(self, number_of: Callable[[int], int] | None = None) -> None:
        for decision in (placed(decision, number_of) for decision in self._foretold):
            if not self.table or (decision.first > self.table[-1].first and decision.competence > self.table[-1].competence):
                self._decide(decision)

    # What a checkpoint holds.

    def settings(self) -> dict[str, Any]:
        """What a number's amount depends on, as plain values."""
        cut = {"length": asdict(self.length)} if self.by == "tokens" and self.length is not None else {}
        return {"by": self.by, **({} if self._count is None else self._count.settings()), **cut}

    def state_dict(self, number: int = 0) -> dict[str, Any]:
        """Decisions, from where is counted, and how much lies before batch ``number``, the next one, as plain values."""
        first = getattr(self._count, "first", 0)
        return {
            "settings": self.settings(),
            "counted_from": [first, self.amount(first)],
            "next": [int(number), self.amount(number)],
            "table": [[decision.first, decision.competence, decision.count] for decision in self.table],
            "value_at_start": self.value_at_start,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], rows: tuple[int, int] = (1, 1), number_of: Callable[[int], int] | None = None
    ) -> None:
        """Go on from a saved state. The settings stay those of the constructor; where a number said something else under the saved ones,
        is counted on from the amount that was behind.

        Args:
            state: as ``state_dict`` gave it.
            rows: of a batch then and now, where numbers have come to count batches of another size.
            number_of: the number of the batch before which so many are trained on, where others may be passed over since then.
        """
        decisions = [Decision(in_batches_of(first, rows), float(competence), count) for first, competence, count in state["table"]]
        number_of = number_of if rows[0] == rows[1] else None
        self.table = [placed(decision, number_of) for decision in decisions]
        self.value_at_start = state["value_at_start"]
        same = state["settings"] == self.settings() and rows[0] == rows[1]
        first, amount = state["counted_from" if same else "next"]
        if state["settings"]["by"] == self.by:
            self._count = self._counted_from(in_batches_of(first, rows), amount)
        self._add_foretold(number_of)


def placed(decision: Decision, number_of: Callable[[int], int] | None) -> Decision:
    """The decision with the number that its batch has by now."""
    return decision if decision.count is None or number_of is None else replace(decision, first=number_of(decision.count))


def in_batches_of(number: int, rows: tuple[int, int]) -> int:
    """The number of the batch that holds the first row of batch ``number``, when batches of ``rows[0]`` have become ones of ``rows[1]``.

    >>> in_batches_of(6, (4, 8))
    3
    """
    return math.floor(Fraction(int(number) * rows[0], rows[1]))


def check_unit(by: str, parts: Mapping[str, Pacing | Shift | None]) -> None:
    """Refuse an unknown unit, and ends that do not fit it.

    Raises:
        ValueError: naming what came and what was expected.
    """
    if by not in UNITS:
        raise ValueError(f"A course got by={by!r}; it needs one of {', '.join(UNITS)}. {did_you_mean(str(by), UNITS)}".rstrip())
    for name, part in parts.items():
        if part is not None and by != "value" and part.until is None:
            raise ValueError(f"The {name} of a course by {by} has no end: set its `until`, in {by}.")
        if part is not None and by == "value" and part.until is not None and part.until > 1.0:
            raise ValueError(
                f"The {name} of a course by value has until={part.until:g}, but the way to the goal ends at 1: "
                "leave `until` out, or give the part of the way after which it is done."
            )
