"""What a batch says of itself: which pieces, which tokens that the training set never has, and windows without a note.

Of any batch that is a mapping with ``tokens`` (rows, time + 1); whatever it does not tell is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_READ = 20_000_000


@dataclass(frozen=True)
class BatchFacts:
    """Of the batches that an optimizer step gathers, on this rank.

    Args:
        number: of the first batch, -1 if it has none.
        pieces: the store's number of each row's piece, without rows of padding.
        starts: how many tokens into it each row begins.
        rows: of tokens.
        num_tokens: targets, padding included.
        unseen: distinct tokens that the training set never has.
        silent_beats: of the longest row without a note.
        window_beats: of the longest row.
    """

    number: int = -1
    pieces: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    rows: int = 0
    num_tokens: int = 0
    unseen: tuple[int, ...] = ()
    silent_beats: float = 0.0
    window_beats: float = 0.0

    def __add__(self, later: BatchFacts) -> BatchFacts:
        return BatchFacts(
            self.number if self.number >= 0 else later.number,
            self.pieces + later.pieces,
            self.starts + later.starts,
            self.rows + later.rows,
            self.num_tokens + later.num_tokens,
            tuple(sorted({*self.unseen, *later.unseen})),
            max(self.silent_beats, later.silent_beats),
            max(self.window_beats, later.window_beats),
        )

    def as_dict(self) -> dict[str, Any]:
        """As ``Vitals.batch`` has them; what is not known is absent."""
        told: dict[str, Any] = {"rows": self.rows}
        if self.number >= 0:
            told["number"] = self.number
        if self.pieces:
            told |= {"pieces": list(self.pieces), "starts": list(self.starts)}
        if self.window_beats > 0:
            told |= {"silent_beats": self.silent_beats, "window_beats": self.window_beats}
        return {**told, "unseen_tokens": list(self.unseen)}


@dataclass(frozen=True)
class TokenTables:
    """What is known of the tokens of a vocabulary, each bool (vocab,).

    Args:
        known: those that training batches can hold; None if nobody knows.
        sounding: those that are notes; None if nobody knows.
        pad_id: the one that is padding, a number; None if there is none.
    """

    known: Tensor | None = None
    sounding: Tensor | None = None
    pad_id: int | None = None

    def to(self, device: torch.device) -> TokenTables:
        """The same where batches lie."""
        known, sounding = (None if table is None else table.to(device) for table in (self.known, self.sounding))
        return TokenTables(known, sounding, self.pad_id)


NOTHING_KNOWN = TokenTables()


def facts_of(batch: Any, tables: TokenTables = NOTHING_KNOWN) -> BatchFacts:
    """The facts of one batch; waits for a device that it lies on. Of what is no mapping with tokens next to nothing is known."""
    tokens = batch.get("tokens") if isinstance(batch, Mapping) else batch
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        return BatchFacts()
    strange = batch.get("strange") if isinstance(batch, Mapping) else None
    unseen = tuple(strange.tolist()) if isinstance(strange, Tensor) else ()
    facts = BatchFacts(rows=len(tokens), num_tokens=len(tokens) * (tokens.shape[1] - 1), unseen=unseen)
    facts += BatchFacts(unseen=_unseen(tokens, tables.known))
    return facts + _told(batch, tokens, tables.sounding) if isinstance(batch, Mapping) else facts


def _told(batch: Mapping[str, Any], tokens: Tensor, sounding: Tensor | None) -> BatchFacts:
    """What the batch's other entries say."""
    number, piece, start, beats = (batch.get(name) for name in ("number", "piece", "start", "beats"))
    pieces = piece.tolist() if isinstance(piece, Tensor) else []
    starts = start.tolist() if isinstance(start, Tensor) else [0] * len(pieces)
    music = [(where, begin) for where, begin in zip(pieces, starts, strict=True) if where >= 0]
    silent = longest = 0.0
    if isinstance(beats, Tensor) and len(beats) == len(tokens) and sounding is not None:
        longest = float(beats.max())
        silent = _silent_beats(tokens, beats, sounding)
    own = int(number) if isinstance(number, int) or (isinstance(number, Tensor) and number.numel() == 1) else -1
    return BatchFacts(own, tuple(where for where, _ in music), tuple(begin for _, begin in music), 0, 0, (), silent, longest)


def _silent_beats(tokens: Tensor, beats: Tensor, sounding: Tensor) -> float:
    """Beats of the longest row without a note."""
    sounds = sounding[tokens.clamp(0, len(sounding) - 1)].any(1)
    return 0.0 if bool(sounds.all()) else float(beats[~sounds].max())


def _unseen(tokens: Tensor, known: Tensor | None) -> tuple[int, ...]:
    if known is None:
        return ()
    inside = tokens.clamp(0, len(known) - 1)
    strange = ~known[inside] | (inside != tokens)
    return tuple(tokens[strange].unique().tolist()) if bool(strange.any()) else ()


def tables_of(datamodule: Any, most_tokens: int = MOST_READ) -> TokenTables:
    """What a data module knows of its tokens, as far as it has a ``tokenizer``, a ``store`` of tokens and a ``train_plan``.

    Training batches hold the tokens of its pieces, those moved by every shift, and padding. Reads every training token once; of a store
    of more than ``most_tokens`` none.
    """
    tokenizer, store, make = (getattr(datamodule, name, None) for name in ("tokenizer", "store", "train_plan"))
    if tokenizer is None or not hasattr(tokenizer, "transposition"):
        return NOTHING_KNOWN
    own = np.arange(int(tokenizer.vocab_size))
    drums = [tokenizer.token_name(token).startswith("PitchDrum") for token in own.tolist()]
    sounding = torch.from_numpy((np.asarray(tokenizer.transposition(1)) != own) | np.array(drums))
    if store is None or not callable(make) or store.num_tokens("train") > most_tokens:
        return TokenTables(None, sounding, int(tokenizer.pad_id))
    return TokenTables(torch.from_numpy(_known(store, make(), tokenizer)), sounding, int(tokenizer.pad_id))


def _known(store: Any, plan: Any, tokenizer: Any) -> NDArray[np.bool_]:
    known = np.zeros(int(tokenizer.vocab_size), np.bool_)
    for piece in store.pieces("train").tolist():
        tokens = store.piece(piece)
        known[tokens[tokens < len(known)]] = True
    for mover in (getattr(plan, "transposer", None), *getattr(plan, "jitters", {}).values()):
        if mover is not None:
            twins = np.where(mover.tables >= 0, mover.tables, np.arange(len(known)))[:, known]
            known[np.unique(twins)] = True
    known[[tokenizer.pad_id, *tokenizer.begin, *tokenizer.end]] = True
    return known
