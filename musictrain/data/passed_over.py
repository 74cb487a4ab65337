"""Batches that a stream of numbered batches jumps over: those that spoiled a training, and that it shall not meet again.

Two ways of counting. A batch's *number* says where it stands in the stream, for ever. Its *count* says how many batches were trained on
before it: the same until the first jump, from there on lower by what was jumped over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class PassedOver:
    """Which rows of the stream are left out, in whole batches.

    Kept as rows, since a run may go on with another batch size: then every batch that holds one of them is left out.

    Args:
        rows: pairs of the first row and the one after the last, in any order.

    >>> passed = PassedOver()
    >>> passed.add(3, 4, batch_size=16)
    >>> list(passed.numbers(2, 3, batch_size=16))
    [2, 5, 6]
    """

    def __init__(self, rows: Iterable[tuple[int, int]] = ()) -> None:
        self.rows = _joined(rows)

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.rows)

    def add(self, first: int, last: int, batch_size: int) -> None:
        """Leave out the batches from number ``first`` to ``last``.

        Raises:
            ValueError: if there are no such batches.
        """
        if not 0 <= first <= last:
            raise ValueError(f"There are no batches from {first} to {last}: expected two numbers from 0 on, the lower one first.")
        self.rows = _joined([*self.rows, (first * batch_size, (last + 1) * batch_size)])

    def add_rows(self, rows: Iterable[Iterable[int]]) -> None:
        """Leave out what :attr:`rows` of another one says."""
        self.rows = _joined([*self.rows, *((begin, end) for begin, end in rows)])

    def ranges(self, batch_size: int) -> list[tuple[int, int]]:
        """First and last number of each gap, in order."""
        return [(begin, end - 1) for begin, end in _joined((begin // batch_size, -(-end // batch_size)) for begin, end in self.rows)]

    def number(self, count: int, batch_size: int) -> int:
        """The number of the batch before which ``count`` batches were trained on."""
        number = count
        for first, last in self.ranges(batch_size) if self.rows else ():
            if number < first:
                break
            number += last + 1 - first
        return number

    def count(self, number: int, batch_size: int) -> int:
        """How many of the batches before ``number`` are not left out."""
        return number - sum(min(number, last + 1) - first for first, last in self.ranges(batch_size) if first < number)

    def numbers(self, start: int, count: int, batch_size: int) -> Iterator[int]:
        """The next ``count`` numbers that are not left out, from ``start`` on."""
        before = self.count(start, batch_size)
        return (self.number(before + each, batch_size) for each in range(count))


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges [begin, end) in order, those that touch made one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted((int(begin), int(end)) for begin, end in ranges):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def in_other_batches(first: int, last: int, before: int, now: int) -> tuple[int, int]:
    """The batches of ``now`` rows that hold the rows of batches ``first`` to ``last`` of ``before`` rows.

    >>> in_other_batches(3, 3, before=4, now=2), in_other_batches(3, 3, before=4, now=8)
    ((6, 7), (1, 1))
    """
    return first * before // now, -(-(last + 1) * before // now) - 1
