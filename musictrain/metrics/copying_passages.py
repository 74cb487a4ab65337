"""Pieces as rows of chords, and what makes two passages the same music: intervals, relative onsets and durations.

Conventions:

- A *chord* is every pitched note that starts at one time; one note alone is a chord too. Drums are left out: their patterns are
  everybody's.
- Tracks, programs and velocities do not count, so that a copy for other instruments, or with its voices in other tracks, is a copy. Two
  equal notes that start together are one.
- Onsets and durations are rounded to the nearest of ``ticks_per_beat`` ticks (12: 16ths and triplets), a half upwards, so that a passage
  is the same one wherever it stands. A duration is at least one tick.
- A *step* leads from a chord to the next one. Its *symbol* is a 64-bit hash of both chords' intervals above their lowest note and
  durations, the ticks between them, and the interval between their lowest notes: key and place in time do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.metrics.copying_suffixes import Symbols
from musictrain.notes import Notes

SALT = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Chords:
    """The chords of some pieces, one piece after the other.

    Args:
        onset: ticks, (chords,).
        first_note: the chord's first note, (chords + 1,); the last entry is the number of notes.
        pitch: MIDI numbers from the lowest of each chord up, (notes,).
        duration: ticks, (notes,).
        first_chord: each piece's first chord, (pieces + 1,); the last entry is the number of chords.
    """

    onset: NDArray[np.int32]
    first_note: NDArray[np.int64]
    pitch: NDArray[np.uint8]
    duration: NDArray[np.int32]
    first_chord: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def lowest(self) -> NDArray[np.int64]:
        """The lowest pitch of each chord, (chords,)."""
        return self.pitch[self.first_note[:-1]].astype(np.int64)

    def notes_of(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Onset and duration in ticks and pitch of the notes of the chords [start, stop)."""
        notes = slice(int(self.first_note[start]), int(self.first_note[stop]))
        onset = np.repeat(self.onset[start:stop], np.diff(self.first_note[start : stop + 1]))
        return onset.astype(np.int64), self.duration[notes].astype(np.int64), self.pitch[notes].astype(np.int64)

    def last_end(self) -> NDArray[np.int64]:
        """The tick at which each chord's longest note ends, (chords,)."""
        if not len(self):
            return np.zeros(0, np.int64)
        return self.onset.astype(np.int64) + np.maximum.reduceat(self.duration, self.first_note[:-1])


def chords_of(pieces: Sequence[Notes], ticks_per_beat: int) -> Chords:
    """The chords of some pieces.

    Raises:
        ValueError: for times that are negative, not finite, or beyond 2**31 ticks, and for pitches outside 0 to 127.
    """
    pieces = [piece.pitched() for piece in pieces]
    number = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    onset = _ticks(np.concatenate([np.zeros(0), *(piece.onset for piece in pieces)]), ticks_per_beat)
    duration = np.maximum(_ticks(np.concatenate([np.zeros(0), *(piece.duration for piece in pieces)]), ticks_per_beat), 1)
    pitch = np.concatenate([np.zeros(0, np.int64), *(piece.pitch for piece in pieces)])
    if len(pitch) and not 0 <= pitch.min() <= pitch.max() <= 127:
        raise ValueError(f"A piece has pitches from {pitch.min()} to {pitch.max()}; they are MIDI numbers, 0 to 127.")
    order = np.lexsort((duration, pitch, onset, number))
    rows = np.stack([number, onset, pitch, duration])[:, order]
    rows = rows[:, np.append(True, (np.diff(rows) != 0).any(0))[: rows.shape[1]]]
    number, onset, pitch, duration = rows
    starts = np.flatnonzero(np.append(True, (np.diff(rows[:2]) != 0).any(0))[: len(onset)])
    first_chord = np.searchsorted(number[starts], np.arange(len(pieces) + 1))
    first_note = np.append(starts, len(onset))
    return Chords(onset[starts].astype(np.int32), first_note, pitch.astype(np.uint8), duration.astype(np.int32), first_chord)


def symbols_of(chords: Chords, first_piece: int = 0) -> Symbols:
    """A symbol for the step from each chord to the next, (chords,); the last chord of a piece has one that depends on the piece's number.

    Args:
        chords: of some pieces.
        first_piece: number of the first of them.
    """
    if not len(chords):
        return np.zeros(0, np.uint64)
    lowest = chords.lowest
    interval = chords.pitch - np.repeat(lowest, np.diff(chords.first_note))
    # A sum does not depend on the order of a chord's notes.
    shape = _mixed(np.add.reduceat(_mixed(_joined(interval, chords.duration)), chords.first_note[:-1]))
    last = chords.first_chord[1:][np.diff(chords.first_chord) > 0] - 1
    step = _joined(np.diff(lowest, append=0) + 128, np.diff(chords.onset.astype(np.int64), append=0))
    symbols = _mixed(shape + _mixed(np.append(shape[1:], shape[:1]) ^ SALT) + _mixed(step + SALT))
    symbols[last] = _mixed(np.flatnonzero(np.diff(chords.first_chord)).astype(np.uint64) + np.uint64(first_piece) + np.uint64(1 << 62))
    return symbols | np.uint64(1)


def _joined(small: ArrayLike, large: ArrayLike) -> Symbols:
    """Two numbers in one: the first is below 256."""
    return (np.asarray(large, np.int64) * 256 + np.asarray(small, np.int64)).astype(np.uint64)


def _mixed(values: Symbols) -> Symbols:
    """Every bit of a number spread over all 64, one to one (the finaliser of splitmix64)."""
    values = values + SALT
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _ticks(beats: NDArray[np.float64], ticks_per_beat: int) -> NDArray[np.int64]:
    ticks = beats * ticks_per_beat
    possible = np.isfinite(ticks) & (ticks >= 0) & (ticks < 2**31 - 1)
    if not possible.all():
        raise ValueError(f"A time of {beats[~possible][0]:g} beats is in a piece; they go from 0 to {2**31 // ticks_per_beat}.")
    # The small term keeps thirds of a beat, which are not exact in binary, from falling either way by chance.
    return np.floor(ticks + 0.5 + 1e-6).astype(np.int64)
