"""Batch number k as a pure function of (seed, k, the dial at k): which windows, in which order, transposed by how much, with what hidden.

Nothing here remembers a position. Resuming, replaying one step and feeding several ranks all come down to asking for a number again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from musictrain.curriculum.course import Course
from musictrain.curriculum.dial import WHOLE, Dial
from musictrain.data.decks import NOBODY_KNOWS, Dealt, Deck, kept_targets
from musictrain.data.masking import Masker
from musictrain.data.orderings.difficulty import Difficulty
from musictrain.data.packed_windows import PackedWindows
from musictrain.data.piece_windows import PieceWindows
from musictrain.data.shuffling import Purpose, uniforms
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.data.transposition import Transposer
from musictrain.data.value_jitter import jitter_of
from musictrain.data.windows import Row, Windows
from musictrain.suggestions import did_you_mean

Batch = dict[str, Any]


class NumberedBatches(Protocol):
    """Batches that can be asked for by number."""

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""

    def batch(self, number: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows ``rank``, ``rank + world_size``, ... of a batch as tensors.

        - ``tokens`` int64 (rows, window + 1): all but the first are targets, unless they are padding; fewer where a dial cuts rows
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


class SteeredBatches(NumberedBatches, Protocol):
    """Numbered batches that a curriculum can steer."""

    def batch(self, number: int, rank: int = 0, world_size: int = 1, dial: Dial | None = None) -> Batch:
        """A batch made of what the dial says; None, like ``Dial()``, leaves it as it is without a curriculum.

        Raises:
            ValueError: also if the dial asks for what there is not.
        """


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """The training batches, without end: batch k + 1 goes on where batch k stopped, from one epoch into the next.

    Window number n of the whole training is window ``n % num_windows`` of a permutation drawn for epoch ``n // num_windows``, and batch k
    holds the numbers from ``k * batch_size``. So an epoch leaves out and repeats nothing, whatever the batch size, and a corpus of fewer
    windows than a batch has rows can be trained on too. Nor does anything else of a row depend on the batch size: batches ``A * k`` to
    ``A * k + A - 1`` together are batch k of a plan of ``A`` times as many rows.

    A dial deals out other windows: out of the easiest ones, or out of the deck of one corpus, which is drawn for every row. Then a row is
    a function of its number and of the dial alone, whatever came before.

    Args:
        windows: how pieces are cut, see ``PackedWindows`` and ``PieceWindows``.
        batch_size: rows of a batch, over all ranks together.
        seed: of the order and of whatever else is drawn.
        pad_id: the tokenizer's padding.
        transposer: moves each row by a shift that keeps it inside the vocabulary; None leaves the music as it is.
        jitters: what else each row is moved by, each with the purpose of its draws.
        maskers: what is hidden of each row, likewise.
        vocab_size: ids from there on are of a damaged store, and no token; None if nobody knows.
        difficulty: which windows are easy; None where nobody asks.
        corpora: numbers of the training pieces of each corpus, by name, where several are trained on together.
    """

    windows: Windows
    batch_size: int
    seed: int
    pad_id: int
    transposer: Transposer | None = None
    jitters: Mapping[Purpose, Transposer] = field(default_factory=dict)
    maskers: Mapping[Purpose, Masker] = field(default_factory=dict)
    vocab_size: int | None = None
    difficulty: Difficulty | None = None
    corpora: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    _decks: dict[str, Deck] = field(default_factory=dict, init=False, repr=False)

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
        difficulty: Difficulty | None = None,
        corpora: Mapping[str, NDArray[np.int64]] | None = None,
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
            difficulty: which windows are easy, for a curriculum.
            corpora: numbers of the pieces of each corpus, by name, for a curriculum that mixes them.

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
        own = {name: each[np.isin(each, pieces)] for name, each in (corpora or {}).items()}
        return cls(windows, batch_size, seed, tokenizer.pad_id, transposer, jitters, maskers, tokenizer.vocab_size, difficulty, own)

    @property
    def num_batches(self) -> int:
        """Batches that hold one epoch; the last of them may already begin the next."""
        return -(-self.windows.num_windows // self.batch_size)

    def batch(self, number: int, rank: int = 0, world_size: int = 1, dial: Dial | None = None) -> Batch:
        """Batch ``number``, from 0: see ``NumberedBatches``.

        Raises:
            ValueError: also if the dial asks for what the plan does not have: an order of difficulty, or a corpus.
        """
        mine = rows_of_rank(self.batch_size, rank, world_size)
        dealt = [self.dealt(number * self.batch_size + row, dial or WHOLE) for row in mine]
        tokens = np.full((len(mine), self.row_targets(dial or WHOLE) + 1), self.pad_id, np.int64)
        rows = [self._fill(each, out) for each, out in zip(dealt, tokens, strict=True)]
        strange = self._taken_out(tokens)
        semitones = np.zeros(len(mine), np.int64)
        if self.transposer is not None:
            tokens, semitones = self._moved(tokens, dealt, Purpose.TRANSPOSITION, self.transposer)
        for purpose, jitter in self.jitters.items():
            tokens, _ = self._moved(tokens, dealt, purpose, jitter)
        batch = as_tensors(number, tokens, rows, semitones)
        if len(strange):
            batch["strange"] = torch.from_numpy(strange)
        if self.maskers:
            batch["hidden"] = torch.from_numpy(self._hidden(tokens[:, :-1], dealt))
        return batch

    def checked(self, dial: Dial) -> Dial:
        """The dial, if the plan has what it asks for.

        Raises:
            ValueError: if it asks for an order of difficulty or a corpus that is not there.
        """
        if dial.difficulty < 1.0 and self.difficulty is None:
            raise ValueError(NOBODY_KNOWS)
        for corpus, _ in dial.mixture:
            self.deck(corpus)
        return dial

    def check_course(self, course: Course, first: int) -> None:
        """Refuse a curriculum that asks for what the plan does not have, before anything is trained on.

        Args:
            course: whose dial is checked at batch ``first``, and whose corpora all are.
            first: number of the next batch.

        Raises:
            ValueError: if it does.
        """
        self.checked(course.at(first))
        if (shift := course.mixture) is not None:
            for corpus in {**shift.start, **shift.end}:
                self.deck(corpus)

    def row_targets(self, dial: Dial) -> int:
        """Targets of each row of a batch with this dial, padding included."""
        return kept_targets(self.windows.window, dial.length, self.windows.multiple)

    def dealt(self, row: int, dial: Dial) -> Dealt:
        """What row number ``row`` of the whole training is dealt.

        Raises:
            ValueError: if the dial asks for what the plan does not have.
        """
        deck = self._drawn_deck(row, dial.mixture) if dial.mixture else self._whole
        return Dealt(deck, row, *deck.window(row, dial.difficulty))

    @cached_property
    def _whole(self) -> Deck:
        return Deck(self.windows, self.seed, self.difficulty)

    def _drawn_deck(self, row: int, mixture: tuple[tuple[str, float], ...]) -> Deck:
        names, shares = zip(*((name, share) for name, share in mixture if share), strict=True)
        # What the shares lack of 1 by rounding belongs to the last of them.
        until = np.cumsum(shares)[:-1]
        return self.deck(names[int(np.searchsorted(until, self._whole.chance(row, Purpose.CORPORA), "right"))])

    def deck(self, corpus: str) -> Deck:
        """The windows of one corpus.

        Raises:
            ValueError: if there is no such corpus, or too little of it to train on.
        """
        if corpus not in self.corpora:
            known = f"expected one of {', '.join(self.corpora)}" if self.corpora else "and only one is trained on (corpus: a+b are two)"
            raise ValueError(f"A curriculum mixes in {corpus!r}, {known}. {did_you_mean(corpus, self.corpora)}".rstrip())
        if corpus not in self._decks:
            if not len(self.corpora[corpus]):
                raise ValueError(
                    f"A curriculum mixes in {corpus!r}, of which no piece is left to train on: give `splits` a larger first share."
                )
            windows = replace(self.windows, pieces=self.corpora[corpus])  # type: ignore[type-var]
            self._decks[corpus] = Deck(windows, self.seed, self.difficulty)
        return self._decks[corpus]

    def _taken_out(self, tokens: TokenIds) -> TokenIds:
        """Put padding in the place of ids that are no tokens, which nothing after this could hold; gives back which there were."""
        if self.vocab_size is None or tokens.max(initial=0) < self.vocab_size:
            return tokens[:0, 0]
        beyond = tokens >= self.vocab_size
        strange = np.unique(tokens[beyond])
        tokens[beyond] = self.pad_id
        return strange

    def _moved(self, tokens: TokenIds, dealt: Sequence[Dealt], purpose: Purpose, mover: Transposer) -> tuple[TokenIds, NDArray[np.int64]]:
        """Rows (rows, time), each moved by a shift of its own, and the shifts (rows,)."""
        chance = np.array([each.deck.chance(each.row, purpose) for each in dealt])
        drawn = mover.draw(mover.allowed(tokens), chance)
        return mover.apply(tokens, drawn), mover.semitones(drawn)

    def _hidden(self, tokens: TokenIds, dealt: Sequence[Dealt]) -> NDArray[np.bool_]:
        """What is not to be read of rows (rows, window)."""
        hidden = np.zeros(tokens.shape, np.bool_)
        for purpose, masker in self.maskers.items():
            for place, each in enumerate(dealt):
                hidden[place] |= masker.hidden(tokens[place], uniforms(tokens.shape[1] + 1, purpose, self.seed, each.row))
        return hidden

    def _fill(self, each: Dealt, out: TokenIds) -> Row:
        targets = len(out) - 1
        skip = 0 if targets == self.windows.window else each.deck.skipped(each, targets)
        return each.deck.windows.fill(each.epoch, each.window, out, skip)


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
