"""What a way of cutting pieces into windows offers: ``packed_windows`` and ``piece_windows`` are the two.

A window is ``window`` targets and the token before the first of them. The windows of an epoch depend on (seed, epoch) alone, their number
is the same in every epoch, and they start at multiples of the tokenizer's ``tokens_per_step``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds

Value = TypeVar("Value")
Running = Callable[[NDArray[np.int64]], NDArray[np.float64]]


class Row(NamedTuple):
    """Where a window begins and what it holds: notes and beats in proportion to its share of each piece's tokens."""

    piece: int
    start: int
    notes: float
    beats: float


class Windows(Protocol):
    """A way of cutting."""

    @property
    def window(self) -> int:
        """Targets of a window."""

    @property
    def multiple(self) -> int:
        """What windows start at multiples of."""

    @property
    def num_windows(self) -> int:
        """Windows in an epoch."""

    def fill(self, epoch: int, index: int, out: TokenIds, skip: int = 0) -> Row:
        """Write window ``index`` of an epoch into ``out`` (targets + 1,), which holds padding; without its first ``skip`` targets."""

    def filled(self, epoch: int, index: int) -> int:
        """Targets of a window that are no padding."""

    def totals(self, epoch: int, running: Running) -> NDArray[np.float64]:
        """For every window of an epoch the sum over its targets, (windows,), of what ``running`` has summed up to a token of the store."""


def fill_from_piece(store: TokenStore, piece: int, start: int, stop: int, out: TokenIds) -> Row:
    """Write tokens ``start`` to ``stop``, the last included, of a piece into ``out``: ``stop - start`` targets."""
    offset = int(store.offset[piece])
    out[: stop - start + 1] = store.tokens[offset + start : offset + stop + 1]
    share = (stop - start) / max(1, int(store.length[piece]) - 1)
    return Row(piece, start, share * float(store.num_notes[piece]), share * float(store.num_beats[piece]))


def recall(memo: dict[int, Value], epoch: int, make: Callable[[int], Value]) -> Value:
    """What ``make`` gives for an epoch, kept for two epochs: a batch may hold the end of one and the beginning of the next."""
    if epoch not in memo:
        while len(memo) > 1:
            memo.pop(next(iter(memo)))
        memo[epoch] = make(epoch)
    return memo[epoch]
