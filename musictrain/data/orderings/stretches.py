"""Stretches: every piece of a token store cut every so many tokens, the grain in which difficulty is known.

A window covers whole stretches and parts of two; what is known of a stretch counts in proportion to the tokens of it that are covered. All
of that is one lookup in running sums over the store's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.data.token_store import TokenStore

TOKENS = 64
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stretches:
    """Where the stretches of a store lie; the last one of a piece may be shorter, and none holds tokens of two pieces.

    Args:
        length: tokens of each piece, (pieces,).
        size: tokens of a stretch.
    """

    length: NDArray[np.int64]
    size: int

    @classmethod
    def of(cls, store: TokenStore, tokens_per_step: int, tokens: int = TOKENS) -> Stretches:
        """The stretches of a store, as long as ``tokens`` or the nearest whole number of steps below."""
        return cls(store.length, max(1, tokens // tokens_per_step) * tokens_per_step)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Stretches of each piece, (pieces,)."""
        return -(-self.length // self.size)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Number of the first stretch of each piece, (pieces,)."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def piece(self) -> NDArray[np.int64]:
        """The piece of each stretch, (stretches,)."""
        return np.repeat(np.arange(len(self.length)), self.counts)

    @cached_property
    def begins(self) -> NDArray[np.int64]:
        """How many tokens into its piece each stretch begins, (stretches,)."""
        return (np.arange(len(self)) - self.first[self.piece]) * self.size

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens of each stretch, (stretches,)."""
        return np.minimum(self.size, self.length[self.piece] - self.begins)

    @cached_property
    def edges(self) -> Floats:
        """Where each stretch begins among the tokens of the store, and where the last one ends, (stretches + 1,)."""
        return np.concatenate([[0], np.cumsum(self.tokens)]).astype(np.float64)

    def __len__(self) -> int:
        return int(self.counts.sum())


@dataclass(frozen=True, eq=False)
class Ordering:
    """What is known of every stretch in one respect: the higher, the harder.

    Args:
        value: of each stretch, (stretches,).
        weight: how much it counts in the mean of a window, (stretches,); 0 where nothing is known.

    Raises:
        ValueError: if a weight is negative, or anything is not finite.
    """

    value: Floats
    weight: Floats

    def __post_init__(self) -> None:
        if self.value.shape != self.weight.shape or not np.isfinite(self.value).all() or not np.isfinite(self.weight).all():
            raise ValueError("An ordering needs a finite value and a finite weight for every stretch; weight 0 where nothing is known.")
        if self.weight.min(initial=0.0) < 0.0:
            raise ValueError(f"An ordering got the weight {self.weight.min():g}, expected 0 (nothing is known of that stretch) or more.")

    @classmethod
    def of_sums(cls, sums: Floats, weight: Floats) -> Ordering:
        """The ordering in which a window's value is its sum over its weight, both by stretch, (stretches,)."""
        known = weight > 0.0
        return cls(np.where(known, sums / np.where(known, weight, 1.0), 0.0), np.where(known, weight, 0.0))


class TargetSums:
    """Gathers a number for every target of training pieces, such as a network's nats, into an ordering by their mean.

    Args:
        stretches: of the store that the pieces lie in.
    """

    def __init__(self, stretches: Stretches) -> None:
        self.stretches = stretches
        self.sums, self.counts = np.zeros(len(stretches)), np.zeros(len(stretches))

    def add(self, pieces: Iterable[int], starts: Iterable[int], values: Floats) -> None:
        """Add rows as ``EvaluationPlan`` deals them out.

        Args:
            pieces: the store's number of each row's piece; -1 for a row of padding.
            starts: how many tokens into its piece each row begins: its first target is the token after that.
            values: of each target, (rows, time); nan where a row holds padding.
        """
        for piece, start, row in zip(pieces, starts, values, strict=True):
            place = np.flatnonzero(~np.isnan(row))
            if piece >= 0 and len(place):
                stretch = self.stretches.first[piece] + (start + 1 + place) // self.stretches.size
                np.add.at(self.sums, stretch, row[place])
                np.add.at(self.counts, stretch, 1.0)

    def ordering(self) -> Ordering:
        """The mean of each stretch, weighed by its targets."""
        return Ordering.of_sums(self.sums, self.counts)
