"""Level and spread that a few wild values do not move: rolling median and median absolute deviation, and medians of blocks.

Conventions: the *deviation* is 1.4826 times the median absolute deviation, which for normally distributed values is their standard
deviation. Of an even number the median is the mean of the middle two, and the absolute deviation the upper of the middle two.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from typing import Any

NORMAL = 1.4826
TWENTIETH = 20
NINETY_FIFTH = 1.6449  # standard deviations from the median to the 95th percentile of a normal distribution


class RollingMedian:
    """The last ``size`` finite values in a row and in order: some microseconds for each, memory for twice ``size`` numbers.

    Args:
        size: how many are remembered.
        values: those to begin with.
    """

    def __init__(self, size: int, values: Iterable[float] = ()) -> None:
        self._row: deque[float] = deque(maxlen=size)
        self._order: list[float] = []
        self.restore(values)

    def __len__(self) -> int:
        return len(self._order)

    def add(self, value: float) -> None:
        """Take a value; the oldest goes when there are too many."""
        if len(self._row) == self._row.maxlen:
            del self._order[bisect_left(self._order, self._row[0])]
        self._row.append(value)
        insort(self._order, value)

    def median(self) -> float:
        """Of the remembered values; there must be one."""
        order = self._order
        middle = len(order) >> 1
        return order[middle] if len(order) & 1 else 0.5 * (order[middle - 1] + order[middle])

    def deviation(self) -> float:
        """1.4826 times the median absolute deviation from the median; there must be a value."""
        order, median = self._order, self.median()
        # The nearest half of the values to the median stand side by side: bisect for where they begin.
        half = (len(order) >> 1) + 1
        low, high = 0, len(order) - half
        while low < high:
            middle = (low + high) >> 1
            if median - order[middle] > order[middle + half] - median:
                low = middle + 1
            else:
                high = middle
        return NORMAL * max(median - order[low], order[low + half - 1] - median)

    def upper_deviation(self) -> float:
        """The same from the highest twentieth alone, which wild values of one side widen; there must be a value.

        For normally distributed values it is their standard deviation too.
        """
        order = self._order
        return max(0.0, order[-1 - len(order) // TWENTIETH] - self.median()) / NINETY_FIFTH

    def lowest(self) -> float:
        """The lowest remembered value; there must be one."""
        return self._order[0]

    def values(self) -> list[float]:
        """What is remembered, oldest first."""
        return list(self._row)

    def restore(self, values: Iterable[float]) -> None:
        """Remember these instead."""
        self._row = deque(values, maxlen=self._row.maxlen)
        self._order = sorted(self._row)


class BlockMedians:
    """The medians of blocks of values, newest last, with the blocks' spread.

    Args:
        size: values of a block.
        keep: how many medians are remembered.
    """

    def __init__(self, size: int, keep: int) -> None:
        self._size = size
        self._block: list[float] = []
        self.medians: deque[float] = deque(maxlen=keep)
        self.error = 0.0

    def add(self, value: float) -> bool:
        """Take a value; whether a block is full with it."""
        self._block.append(value)
        if len(self._block) < self._size:
            return False
        median = statistics.median(self._block)
        self.medians.append(median)
        spread = NORMAL * statistics.median(abs(one - median) for one in self._block)
        self.error = 1.2533 * spread / self._size**0.5  # of a median, for normally distributed values
        self._block = []
        return True

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"block": list(self._block), "medians": list(self.medians), "error": self.error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; what no longer fits is left out."""
        self._block = list(state["block"])[-self._size + 1 :] if self._size > 1 else []
        self.medians = deque(state["medians"], maxlen=self.medians.maxlen)
        self.error = float(state["error"])
