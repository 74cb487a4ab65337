"""Decks: the windows of one corpus, shuffled anew for each epoch, of which every row of the training is dealt one.

Which window row number n is dealt is a function of (seed, n) and the dial alone. A curriculum changes it in two places: where only the
easiest windows are to be drawn from, a harder one gives way to an easy one, and where corpora are mixed, each has a deck of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musictrain.data.orderings.difficulty import Difficulty, easiest
from musictrain.data.shuffling import Purpose, permutation, uniforms
from musictrain.data.windows import Windows, recall

SHAPES = 16  # widths that cut rows may have: each may be compiled for, and takes memory of its own

NOBODY_KNOWS = (
    "A curriculum asks for the easiest windows, but nobody said what is easy: give it `orderings`, such as {surprisal: 1.0}; and a"
    " BatchPlan its `difficulty`."
)


class Dealt(NamedTuple):
    """What a row is dealt: from which deck, under which number of the whole training, which window of which epoch."""

    deck: Deck
    row: int
    epoch: int
    window: int


@dataclass(frozen=True, eq=False)
class Deck:
    """Windows dealt to rows by number, each once an epoch.

    Args:
        windows: how pieces are cut.
        seed: of the order and of whatever else is drawn.
        difficulty: which windows are easy; None where nobody asks.
    """

    windows: Windows
    seed: int
    difficulty: Difficulty | None = None
    _permutations: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)
    _orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict, init=False, repr=False)
    _chances: dict[Purpose, dict[int, NDArray[np.float64]]] = field(default_factory=dict, init=False, repr=False)

    def window(self, row: int, share: float = 1.0) -> tuple[int, int]:
        """Epoch and index of the window that a row is dealt, out of the easiest ``share``.

        With N windows and M the easiest ones, the window of rank r from M on gives way to that of rank r mod M: every easy window comes as
        often as any other, within one, and those that are easy come where they came anyway.

        Raises:
            ValueError: if a share is asked for and nobody knows what is easy.
        """
        epoch, place = divmod(row, count := self.windows.num_windows)
        index = int(self._permutation(epoch)[place])
        if share < 1.0 and (most := easiest(share, count)) < count:
            order, rank = recall(self._orders, epoch, self._order)
            if rank[index] >= most:
                index = int(order[rank[index] % most])
        return epoch, index

    def chance(self, row: int, purpose: Purpose) -> float:
        """A draw from [0, 1) for a row: it depends neither on the batch it is dealt into nor on the number of ranks."""
        count = self.windows.num_windows
        epoch, place = divmod(row, count)
        memo = self._chances.setdefault(purpose, {})
        return float(recall(memo, epoch, lambda epoch: uniforms(count, purpose, self.seed, epoch))[place])

    def skipped(self, dealt: Dealt, targets: int) -> int:
        """How many targets of its window a row passes over that keeps so many: of the parts the window falls into, it is one by chance.

        So every target of a window is trained on equally often, and beginnings as often as if windows were that short.
        """
        filled, multiple = self.windows.filled(dealt.epoch, dealt.window), self.windows.multiple
        parts = -(-filled // targets)
        part = int(self.chance(dealt.row, Purpose.CUTS) * parts)
        return min(part * targets, max(0, -(-filled // multiple) * multiple - targets))

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return recall(self._permutations, epoch, self._draw)

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.windows.num_windows, Purpose.WINDOWS, self.seed, epoch)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self.difficulty is None:
            raise ValueError(NOBODY_KNOWS)
        order = self.difficulty.order(self.windows, epoch, self._permutation(epoch))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return order, rank


def kept_targets(window: int, share: float, multiple: int) -> int:
    """Targets of a row that keeps a share of its window: a multiple of ``multiple`` and of about a sixteenth of the window.

    >>> [kept_targets(768, share, 64) for share in (0.01, 0.3, 0.5, 1.0)]
    [64, 256, 384, 768]
    """
    if share >= 1.0:
        return window
    grain = -(-window // (SHAPES * multiple)) * multiple
    return min(window, max(1, round(share * window / grain)) * grain)
