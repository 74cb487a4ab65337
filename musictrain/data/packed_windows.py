"""Windows without padding: the training pieces end to end, in an order drawn for each epoch, cut every ``window`` tokens.

If a piece begins in the last eighth of a window, the next window begins with it, too. So each piece opens a window in about one epoch of
eight, and where pieces are short, nearly every window opens with one: music that is made from nothing starts that way, and would else
hardly be seen in training. Those few tokens are trained on twice, and as many at the end of the order, other pieces every epoch, are
left out: 0.8 % where pieces are as long as a window, at most 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musictrain.data.shuffling import Purpose, permutation
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds
from musictrain.data.windows import Row, Running, recall


class Order(NamedTuple):
    """One epoch of packed pieces: their numbers, where each begins in the stream, and where the windows start."""

    pieces: NDArray[np.int64]
    begins: NDArray[np.int64]
    starts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackedWindows:
    """Windows without padding out of a stream of whole pieces.

    Args:
        store: where the tokens are.
        pieces: numbers of the pieces to train on.
        window: targets of a window.
        tokens_per_step: of the tokenizer.
        seed: of the order.

    Raises:
        ValueError: if the stream is not longer than one window.
    """

    store: TokenStore
    pieces: NDArray[np.int64]
    window: int
    tokens_per_step: int
    seed: int
    _orders: dict[int, Order] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window >= self.num_tokens:
            raise ValueError(
                f"A window of {self.window} tokens is longer than all {len(self.pieces)} training pieces together ({self.num_tokens}"
                f" tokens). Use more music, or window={(self.num_tokens - 1) // self.tokens_per_step * self.tokens_per_step} at most."
            )

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of the stream."""
        return int(self.store.length[self.pieces].sum())

    @property
    def multiple(self) -> int:
        """What windows start at multiples of."""
        return self.tokens_per_step

    @property
    def num_windows(self) -> int:
        """Windows in an epoch."""
        return -(-self.num_tokens // self.window)

    def order(self, epoch: int) -> Order:
        """The stream of an epoch."""
        return recall(self._orders, epoch, self._draw)

    def _draw(self, epoch: int) -> Order:
        pieces = self.pieces[permutation(len(self.pieces), Purpose.PIECES, self.seed, epoch)]
        ends = np.cumsum(self.store.length[pieces])
        begins = ends - self.store.length[pieces]
        slack = self.window // 8 // self.tokens_per_step * self.tokens_per_step
        anchors = np.array([*_anchors(begins, self.window, slack), self.num_tokens])
        runs = -(-np.diff(anchors) // self.window)
        within = np.arange(runs.sum()) - np.repeat(np.cumsum(runs) - runs, runs)
        starts = np.repeat(anchors[:-1], runs) + within * self.window
        return Order(pieces, begins, starts[: self.num_windows])

    def filled(self, epoch: int, index: int) -> int:
        """Targets of a window: all are music."""
        return self.window

    def totals(self, epoch: int, running: Running) -> NDArray[np.float64]:
        """For every window of an epoch the sum over its targets, (windows,), of what ``running`` has summed up to a token of the store."""
        order = self.order(epoch)
        offset, length = self.store.offset[order.pieces], self.store.length[order.pieces]
        before = running(offset)
        until = np.cumsum(running(offset + length) - before)

        def up_to(token: NDArray[np.int64]) -> NDArray[np.float64]:
            rounds, token = np.divmod(token, self.num_tokens)
            place = np.searchsorted(order.begins, token, "right") - 1
            within = running(offset[place] + token - order.begins[place]) - before[place]
            return rounds * until[-1] + np.where(place > 0, until[place - 1], 0.0) + within

        return up_to(order.starts + self.window + 1) - up_to(order.starts + 1)

    def fill(self, epoch: int, index: int, out: TokenIds, skip: int = 0) -> Row:
        """Write window ``index`` of an epoch into ``out`` (targets + 1,). Past the end of the stream its beginning follows."""
        order, store = self.order(epoch), self.store
        start = (int(order.starts[index]) + skip) % self.num_tokens
        place = int(np.searchsorted(order.begins, start, "right")) - 1
        first, skip = int(order.pieces[place]), start - int(order.begins[place])
        filled, within, notes, beats = 0, skip, 0.0, 0.0
        while filled < len(out):
            piece = int(order.pieces[place % len(order.pieces)])
            offset, length = int(store.offset[piece]), int(store.length[piece])
            take = min(length - within, len(out) - filled)
            out[filled : filled + take] = store.tokens[offset + within : offset + within + take]
            share = (take - (filled == 0)) / length
            notes, beats = notes + share * float(store.num_notes[piece]), beats + share * float(store.num_beats[piece])
            filled, within, place = filled + take, 0, place + 1
        return Row(first, skip, notes, beats)


def _anchors(begins: NDArray[np.int64], window: int, slack: int) -> list[int]:
    """Where windows are counted anew: the last beginning of a piece in the last ``slack`` tokens of a window, or at its end."""
    anchors, end = [0], 0
    for begin in begins[1:].tolist():
        if begin <= end:
            anchors[-1] = begin
        elif (before_end := (anchors[-1] - begin) % window) <= slack:
            anchors.append(begin)
            end = begin + before_end
    return anchors
