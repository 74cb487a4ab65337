"""Notes laid out in bars and grid steps: what the measures share, worked out once for a piece.

Conventions, for every measure of notes in this room:

- A note is its onset and duration in beats (quarter notes), its pitch and its track. Drums are left out; ``in_bars(notes, drums=True)``
  keeps them for measures of rhythm, and measures of pitch leave them out even then.
- Bars come from the time signatures (``bar_lines``); a piece without one is in 4/4. The bars of a piece are those from its first onset to
  its last: silence before and after is not part of it, and a shift by whole bars changes nothing.
- A bar has as many grid steps as its time signature gives it, ``steps_per_beat`` a beat: 16 in 4/4, 12 in 3/4 and 6/8. Onsets go to the
  nearest step, ticks are never seen.
- What cannot be said of a piece, such as the entropy of no notes, is nan: no measure raises or warns because of what a model has written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.listening.bars import bar_lines
from musictrain.notes import Notes

STEPS_PER_BEAT = 4
# An onset this far below the middle between two steps still goes to the later one: 1/480 beats do not add up exactly.
ROUNDING = 1e-6

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BarredNotes:
    """The counted notes of a piece, each with its bar and its step; made by :func:`in_bars`.

    Args:
        onset: beats, (notes,), rising.
        duration: beats, (notes,), never negative.
        pitch: MIDI numbers, (notes,).
        track: (notes,).
        drum: (notes,).
        bar: the bar each note starts in, from 0, (notes,).
        position: the step of its bar each note starts on, from 0, (notes,).
        steps_in_bar: grid steps of each bar, (bars,), from the first bar with an onset to the last.
        lines: the bar lines in beats, (bars + 1,); none without notes.
    """

    onset: Floats
    duration: Floats
    pitch: Ints
    track: Ints
    drum: NDArray[np.bool_]
    bar: Ints
    position: Ints
    steps_in_bar: Ints
    lines: Floats

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def num_bars(self) -> int:
        """Bars from the first onset to the last; 0 without notes."""
        return len(self.steps_in_bar)

    @cached_property
    def first_step(self) -> Ints:
        """The number of each bar's first step, counted from the first bar, (bars,)."""
        return np.cumsum(self.steps_in_bar) - self.steps_in_bar

    @cached_property
    def step(self) -> Ints:
        """The step each note starts on, counted from the first bar, (notes,)."""
        return self.first_step[self.bar] + self.position

    @cached_property
    def _is_new_step(self) -> NDArray[np.bool_]:
        return is_new(self.step)

    @property
    def first_onset(self) -> Floats:
        """Where the first note of each step starts, in beats, (onsets,)."""
        return self.onset[self._is_new_step]

    @cached_property
    def onset_steps(self) -> Ints:
        """The steps on which at least one note starts, each once, (onsets,)."""
        return self.step[self._is_new_step]

    @cached_property
    def onset_bars(self) -> Ints:
        """The bar of each of ``onset_steps``, (onsets,)."""
        return self.bar[self._is_new_step]

    @cached_property
    def pitched(self) -> BarredNotes:
        """The same without drums, in the bars from the first pitched onset to the last."""
        return self.select(~self.drum) if self.drum.any() else self

    def select(self, mask: NDArray[np.bool_]) -> BarredNotes:
        """The notes of a mask, in the bars from the first of their onsets to the last."""
        bar = self.bar[mask]
        first, past = (int(bar[0]), int(bar[-1]) + 1) if len(bar) else (0, 0)
        return BarredNotes(
            onset=self.onset[mask],
            duration=self.duration[mask],
            pitch=self.pitch[mask],
            track=self.track[mask],
            drum=self.drum[mask],
            bar=bar - first,
            position=self.position[mask],
            steps_in_bar=self.steps_in_bar[first:past],
            lines=self.lines[first : past + 1] if past else self.lines[:0],
        )

    @cached_property
    def pitch_class_sums(self) -> Ints:
        """How many notes of each pitch class start before each bar line, (bars + 1, 12); drums count too."""
        sums = np.zeros((self.num_bars + 1, 12), np.int64)
        counts = np.bincount(self.bar * 12 + self.pitch % 12, minlength=self.num_bars * 12)
        np.cumsum(counts.reshape(-1, 12), axis=0, out=sums[1:])
        return sums

    @cached_property
    def top_line(self) -> tuple[Ints, Ints, Ints]:
        """Track, step and pitch of the highest note of each track at each step, by track and time, three of (line notes,)."""
        if not len(self):
            return self.track, self.step, self.pitch
        highest, num_steps = int(self.pitch.max()), int(self.step[-1]) + 1
        num_heights = highest - int(self.pitch.min()) + 1
        in_order = np.sort((self.track * num_steps + self.step) * num_heights + (highest - self.pitch))
        place, depth = np.divmod(in_order, num_heights)
        is_top = is_new(place)
        track, step = np.divmod(place[is_top], num_steps)
        return track, step, highest - depth[is_top]


def in_bars(notes: Notes | BarredNotes, *, steps_per_beat: int = STEPS_PER_BEAT, drums: bool = False) -> BarredNotes:
    """Lay a piece out in bars. What is laid out already is given back as it is, so that several measures can share it.

    Args:
        notes: the piece.
        steps_per_beat: grid steps of a quarter note; 4 is a grid of sixteenths.
        drums: whether drums count as notes.

    Raises:
        ValueError: if ``steps_per_beat`` is not positive.

    >>> barred = in_bars(Notes.from_rows([(4.0, 1, 60), (5.5, 1, 64), (8.0, 1, 67)]))
    >>> barred.num_bars, barred.bar.tolist(), barred.position.tolist()
    (2, [0, 0, 1], [0, 6, 0])
    """
    if isinstance(notes, BarredNotes):
        return notes
    if steps_per_beat < 1:
        raise ValueError(f"steps_per_beat is {steps_per_beat}: a grid needs at least one step a beat, 4 for sixteenths.")
    onset, duration = notes.onset, np.maximum(notes.duration, 0.0)
    # A time signature may cut the last bar short, so lines are wanted from a bar beyond.
    longest = max([4.0, *(sign.beats_per_bar for sign in notes.time_signatures if sign.denominator > 0)])
    lines = bar_lines(notes, float(onset[-1]) + longest) if len(onset) else np.zeros(1)
    steps_in_bar = np.maximum(1, np.ceil(np.diff(lines) * steps_per_beat - ROUNDING)).astype(np.int64)
    places = _bar_and_position(onset, lines, steps_in_bar, steps_per_beat)
    every_note = BarredNotes(onset, duration, notes.pitch, notes.track, notes.drum, *places, steps_in_bar, lines)
    return every_note.select(np.ones(len(notes), np.bool_) if drums else ~notes.drum)


def is_new(in_order: Ints) -> NDArray[np.bool_]:
    """Whether each value differs from the one before it."""
    new = np.ones(len(in_order), np.bool_)
    np.not_equal(in_order[1:], in_order[:-1], out=new[1:])
    return new


def _bar_and_position(onset: Floats, lines: Floats, steps_in_bar: Ints, steps_per_beat: int) -> tuple[Ints, Ints]:
    """Bar and step in the bar of each onset; what rounds up to the next bar line belongs to the next bar."""
    if not len(onset):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    last = len(steps_in_bar) - 1
    bar = np.clip(np.searchsorted(lines, onset + ROUNDING, side="right") - 1, 0, last)
    position = np.floor((onset - lines[bar]) * steps_per_beat + (0.5 + ROUNDING))
    is_next = (position >= steps_in_bar[bar]) & (bar < last)
    bar = bar + is_next
    return bar, np.clip(np.where(is_next, 0, position), 0, steps_in_bar[bar] - 1).astype(np.int64)
