"""Transposition on token ids: a lookup table for every shift, and which shifts keep a window inside the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer

MAX_SHIFTS = 64  # the bits of a mask


@dataclass(frozen=True, eq=False)
class Transposer:
    """Moves whole windows up or down by semitones.

    Which shifts a token allows is a bit mask, so that the shifts a window allows are the AND over its tokens: one gather, whatever
    the number of shifts. Drums, rests and special tokens allow every shift, since their twin is the token itself.

    Args:
        shifts: semitones that may be drawn, ascending, (shifts,).
        tables: twins of every token, (shifts + 1, vocab), -1 where there is none; the last row leaves everything as it is.
        masks: bit i of masks[token] says whether shift i keeps the token inside, (vocab,).
    """

    shifts: NDArray[np.int64]
    tables: NDArray[np.int64]
    masks: NDArray[np.uint64]

    @classmethod
    def of(cls, tokenizer: Tokenizer, low: int, high: int, known: NDArray[np.bool_] | None = None) -> Transposer:
        """The transposer of a vocabulary for ``low`` to ``high`` semitones, both included.

        Args:
            tokenizer: whose ``transposition`` tables to use.
            low: lowest shift; negative is down.
            high: highest shift.
            known: tokens a transposed pitch may become, (vocab,); None means the whole vocabulary.

        Raises:
            ValueError: if the range is empty or wider than 64 shifts, or a table does not cover the vocabulary.
        """
        check_range(low, high)
        shifts = np.arange(low, high + 1)
        identity = np.arange(tokenizer.vocab_size)
        tables = np.stack([*(np.asarray(tokenizer.transposition(int(shift)), np.int64) for shift in shifts), identity])
        if tables.shape[1] != tokenizer.vocab_size:
            raise ValueError(f"{tokenizer.name} has {tokenizer.vocab_size} tokens, but its transposition tables have {tables.shape[1]}.")
        inside = tables >= 0
        if known is not None:
            inside &= known[tables] | (tables == identity)
        bits = np.uint64(1) << np.arange(len(shifts), dtype=np.uint64)
        return cls(shifts, tables, np.bitwise_or.reduce(np.where(inside[:-1], bits[:, None], np.uint64(0)), axis=0))

    def allowed(self, tokens: TokenIds) -> NDArray[np.uint64]:
        """Mask of the shifts that keep every token of a window inside: tokens (..., time) give masks (...)."""
        return np.bitwise_and.reduce(self.masks[tokens], axis=-1)

    def draw(self, masks: NDArray[np.uint64], chance: NDArray[np.float64]) -> NDArray[np.int64]:
        """One of the shifts each mask allows, every one equally likely, as a row of ``tables``; unchanged where none is allowed.

        Args:
            masks: allowed shifts, (rows,).
            chance: uniform in [0, 1), (rows,).
        """
        bits = (masks[:, None] >> np.arange(len(self.shifts), dtype=np.uint64)) & np.uint64(1)
        rank = np.cumsum(bits, axis=1, dtype=np.int64)
        choices = rank[:, -1]
        chosen = np.argmax(rank > np.floor(chance * choices)[:, None], axis=1)
        return np.where(choices > 0, chosen, len(self.shifts))

    def semitones(self, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        """Semitones of drawn table rows, (rows,)."""
        return np.append(self.shifts, 0)[drawn]

    def apply(self, tokens: TokenIds, drawn: NDArray[np.int64]) -> TokenIds:
        """Windows (rows, time), each through its drawn table (rows,)."""
        return self.tables[drawn[:, None], tokens]


def check_range(low: int, high: int) -> None:
    """Refuse a range of semitones from which nothing can be drawn.

    Raises:
        ValueError: if ``low`` is above ``high`` or the range holds more than 64 shifts.
    """
    if low > high:
        raise ValueError(f"transpose got ({low}, {high}): the lowest shift comes first, such as (-5, 6); (0, 0) turns it off.")
    if high - low >= MAX_SHIFTS:
        raise ValueError(f"transpose got ({low}, {high}), {high - low + 1} shifts; it takes at most {MAX_SHIFTS}, such as (-5, 6).")
