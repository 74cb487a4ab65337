"""Chance as a pure function of a key: the same key gives the same draw in every process, in any order, on every machine.

Raw words of a counter-based generator are all that is used: numpy promises those for ever, but not the streams of
``Generator.permutation`` or ``Generator.integers``, and a resumed run must not depend on numpy's version.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What a draw is for: draws for different purposes are independent. Numbers are never reused, or old runs would not resume."""

    PIECES = 1
    WINDOWS = 2
    PHASES = 3
    TRANSPOSITION = 5  # 4 was drawn by the batch
    VELOCITY = 6
    TEMPO = 7
    MASKED_NOTES = 8
    MASKED_BARS = 9
    CORPORA = 10
    CUTS = 11


def random_words(count: int, purpose: Purpose, seed: int, number: int) -> NDArray[np.uint64]:
    """``count`` random 64-bit words that depend on (purpose, seed, number) alone; ``number`` is that of an epoch."""
    return np.random.Philox(np.random.SeedSequence((int(purpose), seed, number))).random_raw(count)


def uniforms(count: int, purpose: Purpose, seed: int, number: int) -> NDArray[np.float64]:
    """``count`` draws from [0, 1)."""
    return (random_words(count, purpose, seed, number) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, purpose: Purpose, seed: int, number: int) -> NDArray[np.int64]:
    """The numbers below ``count`` in random order.

    >>> sorted(permutation(4, Purpose.PIECES, seed=0, number=7).tolist())
    [0, 1, 2, 3]
    """
    return np.argsort(random_words(count, purpose, seed, number), kind="stable")
