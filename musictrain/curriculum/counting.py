"""How much of a training is behind when batch number k comes, as a pure function of k: optimizer steps, or tokens.

Both are counted by the number alone and not by what a Trainer has done: loaders ask for batches before they are trained on. So batches that
a run has passed over count too, and an epoch whose end cuts a step short, which MusicDataModule never does, counts as if it did not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Count(Protocol):
    """What lies before a batch."""

    def before(self, number: int) -> float:
        """How much lies before batch ``number``."""

    def settings(self) -> dict[str, Any]:
        """What it depends on, as plain values: with others the same number says something else."""


@dataclass
class StepCount:
    """Optimizer steps before a batch.

    Args:
        batches: by the step from which it holds, how many batches a step gathers.
        first: a batch, and
        steps: how many steps lie before it.

    >>> count = StepCount({0: 1, 10: 4})
    >>> [count.before(number) for number in (9, 10, 13, 14, 22)]
    [9, 10, 10, 11, 13]
    """

    batches: Mapping[int, int] = field(default_factory=lambda: {0: 1})
    first: int = 0
    steps: int = 0

    def __post_init__(self) -> None:
        number, begins = self.first, [self.steps, *sorted(step for step in self.batches if step > self.steps)]
        # Of each part of the schedule its first batch, the steps before that, and how many batches a step has.
        self._parts: list[tuple[int, int, int]] = []
        for begin, end in zip(begins, [*begins[1:], None], strict=True):
            gathers = self.batches[max(step for step in self.batches if step <= begin)]
            self._parts.append((number, begin, gathers))
            number += 0 if end is None else (end - begin) * gathers

    def before(self, number: int) -> int:
        """Whole steps before batch ``number``."""
        first, steps, gathers = self._parts[max(0, bisect_right(self._parts, number, key=lambda part: part[0]) - 1)]
        return max(0, steps + (number - first) // gathers)

    def settings(self) -> dict[str, Any]:
        """The schedule of accumulation."""
        return {"batches": [[step, self.batches[step]] for step in sorted(self.batches)]}


@dataclass
class TokenCount:
    """Tokens before a batch, padding included, as shortened rows have fewer of them.

    Args:
        tokens_per_batch: of a batch whose rows are whole, over all ranks.
        length: the share of a window that rows keep when so many tokens are behind; None if they are never cut. It must not fall.
        first: a batch, and
        tokens: how many tokens lie before it.

    >>> TokenCount(100, lambda tokens: 0.5 if tokens < 100 else 1.0).before(4)
    300.0
    """

    tokens_per_batch: int
    length: Callable[[float], float] | None = None
    first: int = 0
    tokens: float = 0.0

    def __post_init__(self) -> None:
        # Before each batch from the first one on, as long as rows are cut.
        self._sums = [self.tokens]

    def before(self, number: int) -> float:
        """Tokens before batch ``number``."""
        place = number - self.first
        if place < 0:
            return max(0.0, self.tokens + place * self.tokens_per_batch)
        while len(self._sums) <= place and (share := self._share()) < 1.0:
            self._sums.append(self._sums[-1] + share * self.tokens_per_batch)
        last = len(self._sums) - 1
        return self._sums[place] if place <= last else self._sums[-1] + (place - last) * self.tokens_per_batch

    def _share(self) -> float:
        return 1.0 if self.length is None else self.length(self._sums[-1])

    def settings(self) -> dict[str, Any]:
        """Tokens of a batch."""
        return {"tokens_per_batch": self.tokens_per_batch}
