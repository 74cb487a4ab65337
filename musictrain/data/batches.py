"""Batch number k as a pure function of (seed, k): which windows, in which order, transposed by how much, with what hidden.

Nothing here remembers a position. Resuming, replaying one step and feeding several ranks all come down to asking for a number again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from musictrain.data.masking import Masker
from musictrain.data.packed_windows import PackedWindows
from musictrain.data.piece_windows import PieceWindows
from musictrain.data.shuffling import Purpose, permutation, uniforms
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.data.transposition import Transposer
from musictrain.data.value_jitter import jitter_of
from musictrain.data.windows import Row, Windows, recall

Batch = dict[str, Any]


class NumberedBatches(Protocol):
    """Batches that can be asked for by number."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows ``rank``, ``rank + world_size``, ... of a batch as tensors.

        - ``tokens`` int64 (rows, window + 1): all but the first are targets, unless they are padding
        - ``piece`` int64 (rows,): the store's number of the piece a row begins in; -1 for a row of nothing but padding
        - ``start`` int64 (rows,): how many tokens into that piece the row begins
        - ``transpose`` int64 (rows,): semitones the row was moved by
        - ``notes``, ``beats`` float32 (rows,): what the row's targets amount to
        - ``hidden`` bool (rows, window): tokens that are not to be read while training; there only if notes or bars are masked
        - ``strange`` int64 (ids,): what stood in the store beyond the vocabulary, padding in ``tokens``; there only if anything did
        - ``number``: the batch number, an int

        Raises:
            ValueError: if the rows of a batch cannot be dealt out evenly to ``world_size`` ranks.
        """


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The training batches, without end: batch k + 1 goes on where batch k stopped, from one epoch into the next.

    Window number n of the whole training is window ``n % num_windows`` of a permutation drawn for epoch ``n // num_windows``, and batch k
    holds the numbers from ``k * batch_size``. So an epoch leaves out and repeats nothing, whatever the batch size, and a corpus of fewer
    windows than a batch has rows can be trained on too. Nor does anything else of a row depend on the batch size: batches ``A * k`` to
    ``A * k + A - 1`` together are batch k of a plan of ``A`` times as many rows.

    Args:
        windows: how pieces are cut, see ``PackedWindows`` and ``PieceWindows``.
        batch_size: rows of a batch, over all ranks together.
        seed: of the order and of whatever else is drawn.
        pad_id: the tokenizer's padding.
        transposer: moves each row by a shift that keeps it inside the vocabulary; None leaves the music as it is.
        jitters: what else each row is moved by, each with the purpose of its draws.
        maskers: what is hidden of each row, likewise.
        vocab_size: ids from there on are of a damaged store, and no token; None if nobody knows.
    """

    windows: Windows
    batch_size: int
    seed: int
    pad_id: int
    transposer: Transposer | None = None
    jitters: Mapping[Purpose, Transposer] = field(default_factory=dict)
    maskers: Mapping[Purpose, Masker] = field(default_factory=dict)
    vocab_size: int | None = None
    _permutations: dict[int, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False)
    _chances: dict[Purpose, dict[int, NDArray[np.float64]]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        store: TokenStore,
        tokenizer: Tokenizer,
        *,
        window: int,
        batch_size: int,
        seed: int = 0,
        packing: bool = True,
        transpose: tuple[int, int] = (0, 0),
        transpose_within: str = "vocabulary",
        align: int | None = None,
        pieces: NDArray[np.int64] | None = None,
        velocity_jitter: int = 0,
        tempo_jitter: int = 0,
        mask_notes: float = 0.0,
        mask_bars: float = 0.0,
    ) -> BatchPlan:
        """The plan over a store's training pieces.

        Args:
            store: where the tokens are.
            tokenizer: the one they were made with.
            window: targets of a row, a multiple of the tokenizer's ``tokens_per_step``.
            batch_size: rows of a batch.
            seed: of everything that is drawn.
            packing: rows without padding that may hold several pieces, or rows of one piece each.
            transpose: lowest and highest shift in semitones.
            transpose_within: ``vocabulary``, or ``corpus``: only tokens that occur in these pieces as they are (where a tokenizer has
                tokens for each voice, each voice then stays within its own range).
            align: rows of one piece start at multiples of this many tokens of it, itself a multiple of ``tokens_per_step``, which
                None means.
            pieces: numbers of the pieces to train on; None means the store's training split.
            velocity_jitter, tempo_jitter: each row is louder or softer, faster or slower by up to so many of the tokenizer's steps.
            mask_notes, mask_bars: probability that a note, or a bar, is hidden.

        Raises:
            ValueError: if there is no piece, the window is too long for them, or the tokenizer does not write what is to be changed.
        """
        pieces = store.pieces("train") if pieces is None else np.asarray(pieces, np.int64)
        if not len(pieces):
            raise ValueError(f"No training piece is left of {len(store)}: train on more music, or give `splits` a larger first share.")
        step = tokenizer.tokens_per_step
        windows: Windows = (
            PackedWindows(store, pieces, window, step, seed) if packing else PieceWindows(store, pieces, window, align or step, seed)
        )
        transposer = None
        if tuple(transpose) != (0, 0):
            known = known_tokens(store, pieces, tokenizer.vocab_size) if transpose_within == "corpus" else None
            transposer = Transposer.of(tokenizer, *transpose, known=known)
        steps = ((Purpose.VELOCITY, "Velocity", velocity_jitter), (Purpose.TEMPO, "Tempo", tempo_jitter))
        jitters = {purpose: jitter_of(tokenizer, kind, most) for purpose, kind, most in steps if most}
        notes, bars = Masker.of(tokenizer, "notes", mask_notes), Masker.of(tokenizer, "bars", mask_bars)
        masked = ((Purpose.MASKED_NOTES, notes), (Purpose.MASKED_BARS, bars))
        maskers = {purpose: masker for purpose, masker in masked if masker is not None}
        return cls(windows, batch_size, seed, tokenizer.pad_id, transposer, jitters, maskers, tokenizer.vocab_size)

    @property
    def num_batches(self) -> int:
        """Batches that hold one epoch; the last of them may already begin the next."""
        return -(-self.windows.num_windows // self.batch_size)

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Batch ``number``, from 0: see ``NumberedBatches``."""
        mine = rows_of_rank(self.batch_size, rank, world_size)
        tokens = np.full((len(mine), self.windows.window + 1), self.pad_id, np.int64)
        numbers = [number * self.batch_size + row for row in mine]
        rows = [self._fill(window, out) for window, out in zip(numbers, tokens, strict=True)]
        strange = self._taken_out(tokens)
        semitones = np.zeros(len(mine), np.int64)
        if self.transposer is not None:
            tokens, semitones = self._moved(tokens, numbers, Purpose.TRANSPOSITION, self.transposer)
        for purpose, jitter in self.jitters.items():
            tokens, _ = self._moved(tokens, numbers, purpose, jitter)
        batch = as_tensors(number, tokens, rows, semitones)
        if len(strange):
            batch["strange"] = torch.from_numpy(strange)
        if self.maskers:
            batch["hidden"] = torch.from_numpy(self._hidden(tokens[:, :-1], numbers))
        return batch

    def _taken_out(self, tokens: TokenIds) -> TokenIds:
        """Put padding in the place of ids that are no tokens, which nothing after this could hold; gives back which there were."""
        if self.vocab_size is None or tokens.max(initial=0) < self.vocab_size:
            return tokens[:0, 0]
        beyond = tokens >= self.vocab_size
        strange = np.unique(tokens[beyond])
        tokens[beyond] = self.pad_id
        return strange

    def _moved(self, tokens: TokenIds, numbers: Sequence[int], purpose: Purpose, mover: Transposer) -> tuple[TokenIds, NDArray[np.int64]]:
        """Rows (rows, time), each moved by a shift of its own, and the shifts (rows,)."""
        chance = np.array([self._chance(window, purpose) for window in numbers])
        drawn = mover.draw(mover.allowed(tokens), chance)
        return mover.apply(tokens, drawn), mover.semitones(drawn)

    def _hidden(self, tokens: TokenIds, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """What is not to be read of rows (rows, window)."""
        hidden = np.zeros(tokens.shape, np.bool_)
        for purpose, masker in self.maskers.items():
            for row, window in enumerate(numbers):
                hidden[row] |= masker.hidden(tokens[row], uniforms(tokens.shape[1] + 1, purpose, self.seed, window))
        return hidden

    def _fill(self, window: int, out: TokenIds) -> Row:
        epoch, index = divmod(window, self.windows.num_windows)
        return self.windows.fill(epoch, int(recall(self._permutations, epoch, self._draw)[index]), out)

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        return permutation(self.windows.num_windows, Purpose.WINDOWS, self.seed, epoch)

    def _chance(self, window: int, purpose: Purpose) -> float:
        # Of the window's number alone: a row's shift depends neither on the batch it is dealt into nor on the number of ranks.
        count = self.windows.num_windows
        epoch, index = divmod(window, count)
        memo = self._chances.setdefault(purpose, {})
        return float(recall(memo, epoch, lambda epoch: uniforms(count, purpose, self.seed, epoch))[index])


def known_tokens(store: TokenStore, pieces: NDArray[np.int64], vocab_size: int) -> NDArray[np.bool_]:
    """Which tokens occur in these pieces, (vocab,)."""
    known = np.zeros(vocab_size, np.bool_)
    for piece in pieces.tolist():
        known[store.piece(piece)] = True
    return known


def rows_of_rank(batch_size: int, rank: int, world_size: int) -> range:
    """Rows ``rank``, ``rank + world_size``, ... of a batch.

    Raises:
        ValueError: if the rows do not divide by the ranks.
    """
    if batch_size % world_size:
        raise ValueError(
            f"A batch of {batch_size} rows cannot be dealt out to {world_size} ranks: batch_size counts the rows of all ranks together."
            f" Use a multiple of {world_size}, such as {-(-batch_size // world_size) * world_size}."
        )
    return range(rank, batch_size, world_size)


def as_tensors(number: int, tokens: TokenIds, rows: Sequence[Row], semitones: NDArray[np.int64]) -> Batch:
    """The batch that ``NumberedBatches`` describes."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return {
        "tokens": torch.from_numpy(tokens),
        "piece": torch.tensor(columns[0], dtype=torch.int64),
        "start": torch.tensor(columns[1], dtype=torch.int64),
        "transpose": torch.from_numpy(semitones),
        "notes": torch.tensor(columns[2], dtype=torch.float32),
        "beats": torch.tensor(columns[3], dtype=torch.float32),
        "number": number,
    }
