"""What every tokenizer offers: notes to token ids and back, and what the rest of the road needs to know of its vocabulary."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from musictrain.notes import Notes

TokenIds = NDArray[np.int64]


@runtime_checkable
class Grammar(Protocol):
    """Which tokens may come next so that every sequence decodes; vectorised over a batch of sequences.

    The state is opaque to the caller: an array or a tuple of arrays with one entry per sequence, never changed in place.
    """

    def start(self, batch: int) -> Any:
        """The state of ``batch`` sequences before their first token."""

    def allowed(self, state: Any) -> NDArray[np.bool_]:
        """May token v come next in sequence b: (batch, vocab). At least one may, always."""

    def advance(self, state: Any, tokens: TokenIds) -> Any:
        """The state after one more token per sequence, tokens: (batch,). A token that was not allowed is read as well as it can be."""


@runtime_checkable
class Tokenizer(Protocol):
    """Notes <-> token ids.

    A piece in the token store is ``begin + encode(notes) + end``. Window starts and window lengths are multiples of
    ``tokens_per_step`` (4 for four voices on a grid, 1 for event tokenizers), and so are the lengths of ``begin``, ``end``
    and of whatever ``encode`` returns.
    """

    name: str
    vocab_size: int
    tokens_per_step: int
    pad_id: int
    begin: tuple[int, ...]
    end: tuple[int, ...]

    def encode(self, notes: Notes) -> TokenIds:
        """The piece as token ids (time,), without ``begin`` and ``end``.

        Raises:
            ValueError: if this tokenizer cannot hold the piece; the message says why.
        """

    def decode(self, tokens: TokenIds) -> Notes:
        """The notes of any token sequence (time,): special tokens are skipped and what breaks the grammar is dropped, never raised."""

    def token_name(self, token: int) -> str:
        """A readable name, such as ``Pitch_60``; the names of a vocabulary are unique."""

    def transposition(self, semitones: int) -> TokenIds:
        """For every token its transposed twin, (vocab,): -1 where that leaves the vocabulary; drums and non-pitches map to themselves."""

    def grammar(self) -> Grammar:
        """The rules of the token language."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values: ``type(self)(**config())`` is the same tokenizer."""

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change whenever the meaning of any token id may change."""
