"""Windows of one piece each; what is missing at a piece's end is padding.

Each target is trained on exactly once an epoch, and each piece's start is a window's start in every epoch. A piece longer than a window is
cut at a phase drawn for each epoch, by shortening its first window; it gets as many windows as leave that phase at least a quarter of a
window to vary in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.data.shuffling import Purpose, uniforms
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds
from musictrain.data.windows import Row, Running, fill_from_piece, recall


@dataclass(frozen=True, eq=False)
class PieceWindows:
    """Windows of one piece each, padded at its end.

    Args:
        store: where the tokens are.
        pieces: numbers of the pieces to train on.
        window: targets of a window at most.
        align: windows start at multiples of this many tokens.
        seed: of the phases.

    Raises:
        ValueError: if the window is longer than every piece.
    """

    store: TokenStore
    pieces: NDArray[np.int64]
    window: int
    align: int
    seed: int
    _phases: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        longest = int(self.store.length[self.pieces].max(initial=0))
        enough = -(-longest // self.align) * self.align
        if self.window > enough:
            raise ValueError(
                f"A window of {self.window} tokens is longer than every training piece: the longest has {longest}."
                f" Use window={enough}, which holds each piece whole, or less; or packing=True, which puts several pieces into a window."
            )

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Targets of each piece, (pieces,)."""
        return self.store.length[self.pieces] - 1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Windows of each piece, (pieces,)."""
        vary = self.window // 4 // self.align * self.align
        return np.where(self.targets <= self.window, 1, -(-(self.targets + vary) // self.window))

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Windows of each piece and all before it, (pieces,)."""
        return np.cumsum(self.counts)

    @property
    def multiple(self) -> int:
        """What windows start at multiples of."""
        return self.align

    @property
    def num_windows(self) -> int:
        """Windows in an epoch."""
        return int(self.ends[-1])

    def phases(self, epoch: int) -> NDArray[np.int64]:
        """By how much the first window of each piece is shortened, a multiple of ``align``, (pieces,)."""
        return recall(self._phases, epoch, self._draw)

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        step, spare = self.align, self.counts * self.window - self.targets
        # No window is left empty: neither the first, which is shortened, nor the last, which has what remains.
        low = -(-np.maximum(spare - self.window + 1, 0) // step)
        high = np.minimum(spare, self.window - step) // step
        chance = uniforms(len(self.pieces), Purpose.PHASES, self.seed, epoch)
        drawn = (low + np.floor(chance * (high - low + 1)).astype(np.int64)) * step
        return np.where(self.counts > 1, drawn, 0)

    def fill(self, epoch: int, index: int, out: TokenIds, skip: int = 0) -> Row:
        """Write window ``index`` of an epoch into ``out`` (targets + 1,), which holds padding; without its first ``skip`` targets."""
        place, start, stop = self._cut(epoch, index)
        start += skip
        return fill_from_piece(self.store, int(self.pieces[place]), start, min(stop, start + len(out) - 1), out)

    def filled(self, epoch: int, index: int) -> int:
        """Targets of a window that are no padding."""
        _, start, stop = self._cut(epoch, index)
        return stop - start

    def _cut(self, epoch: int, index: int) -> tuple[int, int, int]:
        """The place of a window's piece among the pieces, and the first and the last of its tokens."""
        place = int(np.searchsorted(self.ends, index, "right"))
        number = index - int(self.ends[place] - self.counts[place])
        phase = int(self.phases(epoch)[place])
        start = max(0, number * self.window - phase)
        return place, start, min((number + 1) * self.window - phase, int(self.targets[place]))

    def totals(self, epoch: int, running: Running) -> NDArray[np.float64]:
        """For every window of an epoch the sum over its targets, (windows,), of what ``running`` has summed up to a token of the store."""
        place = np.repeat(np.arange(len(self.pieces)), self.counts)
        number = np.arange(self.num_windows) - (self.ends - self.counts)[place]
        end = (number + 1) * self.window - self.phases(epoch)[place]
        first = self.store.offset[self.pieces][place] + 1
        start, stop = np.maximum(0, end - self.window), np.minimum(end, self.targets[place])
        return running(first + stop) - running(first + start)
