"""Batches to measure on: every piece of a split whole, in consecutive windows from its start, in its own key, always the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.data.batches import Batch, as_tensors, rows_of_rank
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds
from musictrain.data.windows import Row, fill_from_piece
from musictrain.runs.alerts import alert

log = logging.getLogger(__name__)

NOTHING = Row(piece=-1, start=0, notes=0.0, beats=0.0)


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """Every target of some pieces exactly once, longest windows first, so that little is padding and memory peaks at once.

    The sums of ``notes`` and ``beats`` over all batches are those of the pieces. A batch is as wide as its longest row. Where the rows
    of the last batch cannot be dealt out evenly, rows of nothing but padding are added, which hold no target, note or beat.

    So becomes a row that holds an id that is no token, of a store that was damaged while it was in use: it is left out as a whole, notes
    and beats with it, so that what is measured is right for the other rows. The first process raises an alert, once.

    Args:
        store: where the tokens are.
        pieces: numbers of the pieces.
        window: targets of a row at most, a multiple of ``tokens_per_step``.
        batch_size: rows of a batch, over all ranks together.
        tokens_per_step: of the tokenizer.
        pad_id: of the tokenizer.
        vocab_size: ids from there on are of a damaged store, and no token; None if nobody knows.
    """

    store: TokenStore
    pieces: NDArray[np.int64]
    window: int
    batch_size: int
    tokens_per_step: int
    pad_id: int
    vocab_size: int | None = None
    _told: list[str] = field(default_factory=list, init=False, repr=False)

    @cached_property
    def cuts(self) -> NDArray[np.int64]:
        """Piece, first token and last token of every row, longest first, (rows, 3)."""
        last = self.store.length[self.pieces] - 1
        counts = -(-last // self.window)
        starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * self.window
        stops = np.minimum(starts + self.window, np.repeat(last, counts))
        longest_first = np.argsort(starts - stops, kind="stable")
        return np.stack([np.repeat(self.pieces, counts), starts, stops], axis=1)[longest_first]

    @property
    def num_batches(self) -> int:
        """Batches that hold every row once."""
        return -(-len(self.cuts) // self.batch_size)

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Batch ``number``, from 0: see ``NumberedBatches``.

        Raises:
            IndexError: if there is no such batch.
        """
        if not 0 <= number < self.num_batches:
            raise IndexError(f"There are {self.num_batches} batches to measure on, and no number {number}.")
        rows_of_rank(self.batch_size, rank, world_size)
        cuts = self.cuts[number * self.batch_size : (number + 1) * self.batch_size]
        width = -(-int(np.max(cuts[:, 2] - cuts[:, 1])) // self.tokens_per_step) * self.tokens_per_step
        mine = range(rank, -(-len(cuts) // world_size) * world_size, world_size)
        tokens = np.full((len(mine), width + 1), self.pad_id, np.int64)
        damaged = [row for row, cut in enumerate(cuts) if self._is_damaged(cut)]
        if damaged and rank == 0:
            self._tell(cuts[damaged[0]].tolist())
        whole = set(range(len(cuts))).difference(damaged)
        rows = [self._fill(cuts[row], out) if row in whole else NOTHING for row, out in zip(mine, tokens, strict=True)]
        return as_tensors(number, tokens, rows, np.zeros(len(mine), np.int64))

    def _is_damaged(self, cut: NDArray[np.int64]) -> bool:
        if self.vocab_size is None:
            return False
        begin, end = (int(self.store.offset[cut[0]] + place) for place in cut[1:])
        return int(self.store.tokens[begin : end + 1].max()) >= self.vocab_size

    def _tell(self, cut: Sequence[int]) -> None:
        if self._told:
            return
        self._told.append(message := f"{self.store.names[cut[0]]}, from its token {cut[1]:,} on, holds ids that are no tokens")
        alert(
            log,
            f"The token store is damaged: {message}. That row is not measured, nor is any other like it: what is measured from now on is "
            "of fewer rows than before.",
            kind="data",
            advice="Delete the store's folder in the cache, and it is made again; compare no value from before with one of now.",
            pieces=[self.store.names[cut[0]]],
        )

    def _fill(self, cut: NDArray[np.int64], out: TokenIds) -> Row:
        piece, start, stop = cut.tolist()
        return fill_from_piece(self.store, piece, start, stop, out)
