"""One source becomes pieces, each with what tells its tune and its twins."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from musictrain.data.scores import Pieces, Rejected, read_pieces
from musictrain.data.sources import Source
from musictrain.data.tune_groups import Windows, tune_windows, twin_key
from musictrain.notes import Notes


@dataclass(frozen=True)
class ReadPiece:
    """One piece of a source: its title ("" if it has none), its notes and what tells its tune and its twins."""

    title: str
    notes: Notes
    windows: Windows
    twin: str


@dataclass(frozen=True)
class Reading:
    """What a source gave: pieces, and rejections as (where, reason)."""

    pieces: list[ReadPiece]
    rejected: list[tuple[str, str]]


def read_source(source: Source) -> Reading:
    """Read one source; for one with ``voices`` refuse another number of parts and order them from high to low.

    Raises:
        Nothing for a bad file: it is a rejection.
    """
    # Counted in the text first: parsing a cantata only to leave it out would cost seconds.
    if source.voices and (parts := _announced_parts(Path(source.path))) not in (0, source.voices):
        return Reading([], [(source.shown, f"number of parts is {parts}, expected {source.voices}")])
    found, rejected = read_pieces(source.path)
    if source.voices:
        found, refused = _as_voices(source, found)
        rejected = [*rejected, *refused]
    pieces = [described(title, notes) for title, notes in found]
    return Reading(pieces, [(where.replace(str(Path(source.path)), source.shown), reason) for where, reason in rejected])


def described(title: str, notes: Notes) -> ReadPiece:
    """A piece with its tune windows and its twin key."""
    return ReadPiece(title, notes, tune_windows(notes), twin_key(notes))


def _announced_parts(path: Path) -> int:
    from musictrain.data.notation import count_parts

    try:
        return count_parts(path)
    except (OSError, zipfile.BadZipFile):
        return 0


def _as_voices(source: Source, found: Pieces) -> tuple[Pieces, Rejected]:
    counted = [(title, notes, len(np.unique(notes.track))) for title, notes in found]
    refused = [(source.shown, f"number of parts with notes is {n}, expected {source.voices}") for _, _, n in counted if n != source.voices]
    return [(title, from_high_to_low(notes)) for title, notes, n in counted if n == source.voices], refused


def from_high_to_low(notes: Notes) -> Notes:
    """The same notes with their tracks renumbered by mean pitch, highest first, all on program 0."""
    tracks, numbers = np.unique(notes.track, return_inverse=True)
    mean_pitch = np.bincount(numbers, notes.pitch) / np.maximum(np.bincount(numbers), 1)
    rank = np.empty(len(tracks), np.int64)
    rank[np.argsort(-mean_pitch, kind="stable")] = np.arange(len(tracks))
    return replace(notes, track=rank[numbers], program=np.zeros_like(notes.program))
