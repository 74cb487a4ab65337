"""Pieces become token ids, shard by shard: a shard is written whole or not at all, and never made twice."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.notes import Notes
from musictrain.runs.atomic import atomic_write

PIECES_PER_SHARD = 256


class HasNotes(Protocol):
    """A piece of a corpus, as far as it matters here."""

    @property
    def notes(self) -> Notes:
        """Its notes."""


@dataclass(frozen=True, eq=False)
class Shard:
    """A run of neighbouring pieces of a corpus as token ids.

    Args:
        tokens: the kept pieces end to end, (tokens,), two or four bytes each.
        piece: which pieces of the corpus were kept, (kept,).
        length: tokens of each, begin and end included, (kept,).
        num_notes: notes of each, (kept,).
        num_beats: beats of each, (kept,).
        rejected: (piece of the corpus, reason) of the others.
    """

    tokens: NDArray[Any]
    piece: NDArray[np.int64]
    length: NDArray[np.int64]
    num_notes: NDArray[np.int64]
    num_beats: NDArray[np.float64]
    rejected: tuple[tuple[int, str], ...]


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smaller of two and four bytes, little-endian, that holds every token id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def shard_ranges(num_pieces: int, pieces_per_shard: int = PIECES_PER_SHARD) -> list[range]:
    """Neighbouring pieces that make a shard together.

    >>> shard_ranges(5, pieces_per_shard=2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + pieces_per_shard, num_pieces)) for first in range(0, num_pieces, pieces_per_shard)]


def encode_piece(notes: Notes, tokenizer: Tokenizer) -> tuple[TokenIds, int]:
    """A piece's token ids with begin and end, and how many notes they hold.

    The notes are those of ``decode(encode(notes))``: a note the tokenizer dropped or merged must not flatter the nats per note.

    Raises:
        ValueError: if the tokenizer keeps none of the notes, or breaks its own contract; or whatever the tokenizer raises.
    """
    body = np.asarray(tokenizer.encode(notes), np.int64)
    tokens = np.concatenate([np.asarray(tokenizer.begin, np.int64), body, np.asarray(tokenizer.end, np.int64)])
    if len(tokens) % tokenizer.tokens_per_step:
        raise ValueError(f"{tokenizer.name} gave {len(tokens)} tokens, no multiple of its {tokenizer.tokens_per_step} tokens per step.")
    lowest, highest = tokens.min(initial=0), tokens.max(initial=0)
    if lowest < 0 or highest >= tokenizer.vocab_size:
        raise ValueError(f"{tokenizer.name} gave tokens {lowest} to {highest}, but its vocabulary is 0 to {tokenizer.vocab_size - 1}.")
    if not (num_notes := len(tokenizer.decode(body))):
        raise ValueError(f"{tokenizer.name} keeps none of its {len(notes)} notes.")
    return tokens, num_notes


def encode_shard(numbered: Iterable[tuple[int, HasNotes]], tokenizer: Tokenizer) -> Shard:
    """Pieces with their numbers as token ids; what the tokenizer cannot hold is rejected with its reason, never raised."""
    rows, beats, tokens, rejected = [], [], [np.empty(0, np.int64)], []
    for number, piece in numbered:
        notes = piece.notes  # Read from disk, once.
        try:
            encoded, num_notes = encode_piece(notes, tokenizer)
        except Exception as error:  # One broken piece among thousands costs one line of a report, whatever it broke.
            rejected.append((number, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"))
            continue
        tokens.append(encoded)
        rows.append((number, len(encoded), num_notes))
        beats.append(notes.end)
    counts = np.array(rows, np.int64).reshape(-1, 3)
    joined = np.concatenate(tokens).astype(token_dtype(tokenizer.vocab_size))
    return Shard(joined, counts[:, 0], counts[:, 1], counts[:, 2], np.array(beats, np.float64), tuple(rejected))


def shard_path(folder: Path, numbers: range) -> Path:
    """Where the shard of the pieces with these numbers lies."""
    return folder / f"{numbers.start:08d}-{numbers.stop:08d}.npz"


def write_shard(shard: Shard, path: Path) -> None:
    """Put a shard on disk, whole or not at all."""
    content = io.BytesIO()
    columns = {name: getattr(shard, name) for name in ("tokens", "piece", "length", "num_notes", "num_beats")}
    np.savez(content, **columns, rejected=np.array(json.dumps(shard.rejected)))
    atomic_write(path, content.getvalue())


def read_shard(path: Path) -> Shard | None:
    """The shard on disk, or None if there is none or its checksums say it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            rejected = tuple((int(number), str(reason)) for number, reason in json.loads(str(columns["rejected"])))
            return Shard(**{name: columns[name] for name in columns.files if name != "rejected"}, rejected=rejected)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
