"""Notes: one piece of music as columns of numpy arrays.

Conventions, everywhere in musictrain:

- A *beat* is a quarter note, whatever the time signature says. Onsets and durations are in beats from the piece's start.
- A *bar* follows from the time signatures; a piece without one is in 4/4.
- Pitches are MIDI numbers, 60 is middle C. Drum notes carry ``drum=True`` and their pitch is an instrument, not a height.
- A *track* is one part or voice: the soprano of a chorale is track 0, its bass track 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

COLUMNS = {
    "onset": np.float64,
    "duration": np.float64,
    "pitch": np.int64,
    "velocity": np.int64,
    "program": np.int64,
    "track": np.int64,
    "drum": np.bool_,
}
DEFAULT_VELOCITY = 80


class TimeSignature(NamedTuple):
    """From ``onset`` (beats) on, bars of ``numerator`` / ``denominator``."""

    onset: float
    numerator: int
    denominator: int

    @property
    def beats_per_bar(self) -> float:
        """Length of a bar in beats (quarter notes): 3.0 for 6/8."""
        return self.numerator * 4.0 / self.denominator


class Tempo(NamedTuple):
    """From ``onset`` (beats) on, ``bpm`` quarter notes a minute."""

    onset: float
    bpm: float


@dataclass(frozen=True, eq=False)
class Notes:
    """The notes of one piece, one entry per note in every column, sorted by onset, track and pitch.

    Args:
        onset: beats from the start of the piece, (notes,).
        duration: beats, (notes,).
        pitch: MIDI numbers, (notes,).
        velocity: 1 to 127, (notes,); 80 if left out.
        program: General MIDI program 0 to 127, (notes,); 0, the piano, if left out.
        track: part or voice number from 0, (notes,); 0 if left out.
        drum: whether the note is a drum's, (notes,); False if left out.
        time_signatures: in order of onset; empty means 4/4 throughout.
        tempos: in order of onset; empty means 120 quarter notes a minute.

    Raises:
        ValueError: if the columns differ in length.
    """

    onset: NDArray[np.float64]
    duration: NDArray[np.float64]
    pitch: NDArray[np.int64]
    velocity: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type, assignment]
    program: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type, assignment]
    track: NDArray[np.int64] = field(default=None)  # type: ignore[arg-type, assignment]
    drum: NDArray[np.bool_] = field(default=None)  # type: ignore[arg-type, assignment]
    time_signatures: tuple[TimeSignature, ...] = ()
    tempos: tuple[Tempo, ...] = ()

    def __post_init__(self) -> None:
        num_notes = np.size(self.onset)
        defaults = {"velocity": DEFAULT_VELOCITY, "program": 0, "track": 0, "drum": False}
        columns = {}
        for name, dtype in COLUMNS.items():
            value = getattr(self, name)
            column: NDArray[Any] = np.full(num_notes, defaults[name], dtype) if value is None else np.asarray(value, dtype).reshape(-1)
            if len(column) != num_notes:
                raise ValueError(f"Notes got {num_notes} onsets but {len(column)} values of {name}: every column needs one value a note.")
            columns[name] = column
        order = np.lexsort((columns["pitch"], columns["track"], columns["onset"]))
        for name, column in columns.items():
            object.__setattr__(self, name, column[order])
        object.__setattr__(self, "time_signatures", tuple(TimeSignature(*t) for t in self.time_signatures))
        object.__setattr__(self, "tempos", tuple(Tempo(*t) for t in self.tempos))

    @classmethod
    def empty(cls) -> Notes:
        """A piece without notes."""
        return cls([], [], [])  # type: ignore[arg-type]

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[float, float, int]], **columns: ArrayLike) -> Notes:
        """Notes from (onset, duration, pitch) rows; further columns by name.

        >>> Notes.from_rows([(0, 1, 60), (1, 1, 64)]).pitch.tolist()
        [60, 64]
        """
        onset, duration, pitch = zip(*rows, strict=True) if (rows := list(rows)) else ((), (), ())
        return cls(onset, duration, pitch, **columns)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.onset)

    def same_notes(self, other: Notes) -> bool:
        """Whether both hold exactly the same columns, tempos and time signatures."""
        same_columns = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in COLUMNS)
        return same_columns and self.time_signatures == other.time_signatures and self.tempos == other.tempos

    @property
    def end(self) -> float:
        """Beats from the start of the piece to the end of its last sounding note; 0.0 without notes."""
        return float((self.onset + self.duration).max()) if len(self) else 0.0

    def select(self, mask: ArrayLike) -> Notes:
        """The notes a boolean mask or an index array picks; tempos and time signatures stay."""
        return replace(self, **{name: getattr(self, name)[np.asarray(mask)] for name in COLUMNS})

    def pitched(self) -> Notes:
        """The notes that are not drums."""
        return self.select(~self.drum)

    def between(self, start: float, stop: float) -> Notes:
        """The notes that start in [start, stop) beats; onsets stay as they are."""
        return self.select((self.onset >= start) & (self.onset < stop))

    def transposed(self, semitones: int) -> Notes:
        """Every pitched note moved by ``semitones``; drums stay. The caller sees to the range."""
        return replace(self, pitch=np.where(self.drum, self.pitch, self.pitch + semitones))
