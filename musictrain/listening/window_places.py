"""Where in its piece a window of tokens begins, as a musician says it: the piece by name, and the bar."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.listening.bars import bar_lines
from musictrain.notes import Notes, TimeSignature

log = logging.getLogger(__name__)

MOST_READ = 2000
"""Pieces of a corpus that is read for an alert."""


def window_places(
    store: TokenStore,
    tokenizer: Tokenizer,
    pieces: Sequence[int],
    starts: Sequence[int],
    signatures: Mapping[str, Sequence[TimeSignature]] | None = None,
) -> list[str]:
    """Such as ``bwv253 from bar 3``, for each window; a window of a piece that the store does not have is passed over.

    Args:
        store: where the pieces are.
        tokenizer: that they were made with.
        pieces: the store's number of each window's first piece.
        starts: how many tokens into it each begins.
        signatures: of pieces by name, where the tokens do not hold them; without them and without any in the tokens bars are of 4/4.
    """
    return [
        f"{store.names[piece]} from bar {_bar(tokenizer, store.piece(piece), start, (signatures or {}).get(store.names[piece]))}"
        for piece, start in zip(pieces, starts, strict=True)
        if 0 <= piece < len(store)
    ]


def places_of(datamodule: Any, rows: Sequence[tuple[int, int]]) -> list[str]:
    """The same for rows (piece, start) of a data module's batches; empty where it has no token store, or what it has cannot be read.

    The metre comes from the corpus, unless that is so large that reading it would hold training up.
    """
    store, tokenizer = getattr(datamodule, "store", None), getattr(datamodule, "tokenizer", None)
    if store is None or tokenizer is None or not hasattr(store, "names") or not rows:
        return []
    try:
        corpus = getattr(datamodule, "corpus", None) if len(store) <= MOST_READ else None
        signatures = {piece.name: piece.notes.time_signatures for piece in getattr(corpus, "pieces", ())}
        return window_places(store, tokenizer, [piece for piece, _ in rows], [start for _, start in rows], signatures)
    except Exception:  # what is said of a batch is better said without its pieces than not at all
        log.debug("The pieces of a batch could not be named.", exc_info=True)
        return []


def _bar(tokenizer: Tokenizer, tokens: TokenIds, start: int, signatures: Sequence[TimeSignature] | None) -> int:
    notes = tokenizer.decode(tokens)
    beat = _beat(tokenizer, tokens, start, notes)
    if signatures is not None:
        notes = replace(notes, time_signatures=tuple(signatures))
    lines = bar_lines(notes, max(beat, notes.end))
    return int(np.clip(np.searchsorted(lines, beat + 1e-6, side="right"), 1, len(lines) - 1))


def _beat(tokenizer: Tokenizer, tokens: TokenIds, start: int, notes: Notes) -> float:
    """At which the token ``start`` sounds."""
    per_beat = getattr(tokenizer, "steps_per_beat", None)
    if tokenizer.tokens_per_step > 1 and per_beat:
        # On a grid every step has as many tokens.
        return float(max(0, start - len(tokenizer.begin)) // tokenizer.tokens_per_step / per_beat)
    before = tokenizer.decode(tokens[:start])
    # The last note before it has begun; the next one is where the window begins.
    after = notes.onset[len(before) :] if len(before) < len(notes) else notes.onset[-1:]
    return float(np.min(after, initial=notes.end)) if len(after) else 0.0
