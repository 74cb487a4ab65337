"""Is it copying? The share of a piece that stands in the training set, and the longest passage with the place it comes from.

Conventions:

- What is the same passage: see ``copying_passages``. Key, place in time and in the bar, instruments and voices do not count; one other
  note, onset or duration does. A near-copy is not found, and neither is a copied tune under other chords: for tunes build the index of top
  lines (``musictrain.data.tune_groups.skyline``) and ask with the sample's.
- Windows are whole bars of the piece that is judged, one from each bar line; what they hold may stand anywhere in the training set. A
  window is left out if fewer than two chords start in it (one chord is no passage), or none in its first or its last bar.
- What a prompt gave is not copied: with ``from_beat`` only windows and notes from there on count.

What it means: common formulas occur in everybody's music, and pieces of one composer share more of them. So a rate says little without
the **rate of the validation set itself** against the same training set, and a long match more than a high rate. A rate no higher than the
validation set's does not prove originality.

How high it is where nothing was copied, at 1, 2 and 4 bars, each validation set against its own training set:

- JSB Chorales on a 16th grid: 5.0, 1.7 and 1.6 %, most of it two pieces that stand in the training set too, in another key. Windows
  compared frame by frame, bar line with bar line, give 5.8, 2.1 and 1.7 %.
- The built-in chorales, whose splits keep settings of one tune together: 2.7, 0.0 and 0.0 % (test 5.4, 0.4 and 0.0 %); as VoiceGrid holds
  them, with repeated notes merged, 0.4, 0.0 and 0.0 %. Their longest match is 3.5 beats in the median, up to 5 in 19 of 20.

Source: Yin, Reuben, Stepney and Collins, "Measuring when a music generation algorithm copies too much" (SN Computer Science, 2022): they
take shares of matched points, a graded similarity that sees near-copies too; here a window is copied exactly or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musictrain.listening.bars import bar_lines
from musictrain.metrics.copying_bars import TOLERANCE, bar_at, bars_between
from musictrain.metrics.copying_index import CopyIndex
from musictrain.metrics.copying_passages import Chords, chords_of
from musictrain.notes import Notes


class CopyCounts(NamedTuple):
    """Windows of a piece, and those that occur in the training set."""

    copied: int
    windows: int

    @property
    def rate(self) -> float:
        """The share that occurs, in [0, 1]; nan without a window."""
        return self.copied / self.windows if self.windows else math.nan


@dataclass(frozen=True)
class Match:
    """A passage of a piece that stands note by note in the training set.

    Args:
        bars: its length in bars of the piece that is judged, parts of a bar too.
        beats: its length, from its first onset until the longest note of its last chord ends or the next chord begins.
        notes: how many notes.
        source: name of the training piece.
        source_bars: the first and the last bar there, from 1, a pickup counted.
        own_bars: the first and the last bar in the piece that is judged.
        source_beat: where it begins there.
        own_beat: where it begins in the piece that is judged.
        semitones: how much higher than the source it stands.
    """

    bars: float
    beats: float
    notes: int
    source: str
    source_bars: tuple[int, int]
    own_bars: tuple[int, int]
    source_beat: float
    own_beat: float
    semitones: int

    def __str__(self) -> str:
        key = f", {abs(self.semitones)} semitone{'s' * (abs(self.semitones) > 1)} {'higher' if self.semitones > 0 else 'lower'}"
        return (
            f"{_bars(self.own_bars)} ({self.beats:g} beats, {self.notes} notes) are {_bars(self.source_bars)} of {self.source}"
            f"{key if self.semitones else ''}"
        )


def copy_counts(piece: Notes, index: CopyIndex, *, bars: int = 2, from_beat: float = 0.0, but_not_in: Iterable[str] = ()) -> CopyCounts:
    """How many windows of ``bars`` bars a piece has, and how many of them stand in the training set: see ``copy_rate``."""
    if bars < 1:
        raise ValueError(f"bars is {bars}, but a window is 1 bar or more.")
    chords = _judged(piece, index, from_beat)
    lines = bar_lines(piece)
    lines = lines[lines >= from_beat - TOLERANCE] * index.ticks_per_beat - 0.5
    before_line = np.searchsorted(chords.onset, lines)
    first, stop = before_line[:-bars], before_line[bars:]
    is_filled = np.diff(before_line) > 0
    counted = (stop - first >= 2) & is_filled[: len(first)] & is_filled[bars - 1 :]
    shared, _ = index.found(chords, but_not_in=but_not_in)
    return CopyCounts(int((shared[first[counted]] >= (stop - first)[counted]).sum()), int(counted.sum()))


def copy_rate(piece: Notes, index: CopyIndex, *, bars: int = 2, from_beat: float = 0.0, but_not_in: Iterable[str] = ()) -> float:
    """Share of a piece's windows of ``bars`` bars that occur in the training set, in [0, 1].

    Read it beside the validation set's own rate (``corpus_copy_rate``). By 64-bit hashes: that a window counts without being there has a
    chance below 1e-8 for a piece of 1,000 chords against 1e8.

    Args:
        piece: notes, its bars from its time signatures.
        index: of the training set.
        bars: length of a window.
        from_beat: where the model began; a prompt lies before it.
        but_not_in: names of training pieces that do not count, such as the piece itself.

    Returns:
        The share; nan for a piece without a window of two chords.

    Raises:
        ValueError: if ``bars`` is below 1, or a name is not the index's.

    Source: Yin et al. (2022); see the head of this file for what is different.
    """
    return copy_counts(piece, index, bars=bars, from_beat=from_beat, but_not_in=but_not_in).rate


def corpus_copy_rate(pieces: Iterable[Notes], index: CopyIndex, *, bars: int = 2) -> float:
    """The ``copy_rate`` over the windows of all pieces together: the validation set's own rate, beside which a sample's is read."""
    counts = [copy_counts(piece, index, bars=bars) for piece in pieces]
    return CopyCounts(sum(c.copied for c in counts), sum(c.windows for c in counts)).rate


def longest_match(piece: Notes, index: CopyIndex, *, from_beat: float = 0.0, but_not_in: Iterable[str] = ()) -> Match | None:
    """The passage of a piece, longest in beats, that stands in the training set; None if not even two successive chords do.

    It may begin and end within a bar. Compared note by note. Of several places that hold it, one is named.

    Args:
        piece, index, from_beat, but_not_in: see ``copy_rate``.
    """
    chords = _judged(piece, index, from_beat)
    shared, where = index.found(chords, but_not_in=but_not_in)
    # A hash may lie: what it claims is compared, and shortened to what is there, until the longest claim is true.
    while len(shared) and shared.any():
        start = int(np.argmax(_length(chords, shared)))
        same = _same_chords(chords, start, index.chords, int(where[start]), int(shared[start]))
        if same == shared[start]:
            return _match(piece, chords, start, same, index, int(where[start]))
        shared[start] = same if same > 1 else 0
    return None


def _judged(piece: Notes, index: CopyIndex, from_beat: float) -> Chords:
    return chords_of([piece.between(from_beat - TOLERANCE, math.inf)], index.ticks_per_beat)


def _length(chords: Chords, shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ticks of the matches of ``shared`` chords that begin at each chord; -1 for none."""
    start = np.arange(len(chords))
    last = start + np.maximum(shared, 1) - 1
    next_onset = np.append(chords.onset[1:].astype(np.int64), np.iinfo(np.int64).max)
    return np.where(shared > 0, np.minimum(chords.last_end()[last], next_onset[last]) - chords.onset, -1)


def _same_chords(own: Chords, start: int, other: Chords, other_start: int, count: int) -> int:
    """How many of ``count`` chords are the same from two places on, but for key and time."""
    piece_end = int(other.first_chord[np.searchsorted(other.first_chord, other_start, side="right")])
    count = min(count, piece_end - other_start)
    sizes = np.diff(own.first_note[start : start + count + 1])
    same_sizes = sizes == np.diff(other.first_note[other_start : other_start + count + 1])
    count = count if same_sizes.all() else int(np.argmin(same_sizes))
    ours, theirs = own.notes_of(start, start + count), other.notes_of(other_start, other_start + count)
    same = ours[1] == theirs[1]
    for mine, source in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        same &= mine - source == (mine - source)[:1]
    chord_of_note = np.repeat(np.arange(count), sizes[:count])
    return count if same.all() else int(chord_of_note[np.argmin(same)])


def _match(piece: Notes, chords: Chords, start: int, count: int, index: CopyIndex, source_start: int) -> Match:
    ticks = int(_length(chords, np.where(np.arange(len(chords)) == start, count, 0))[start])
    beats, own_beat = ticks / index.ticks_per_beat, int(chords.onset[start]) / index.ticks_per_beat
    source, source_beat = index.piece_of(source_start), int(index.chords.onset[source_start]) / index.ticks_per_beat
    own_lines, source_lines = bar_lines(piece), index.lines_of(source)
    return Match(
        bars=bars_between(own_lines, own_beat, own_beat + beats),
        beats=beats,
        notes=int(chords.first_note[start + count] - chords.first_note[start]),
        source=index.names[source],
        source_bars=_bar_range(source_lines, source_beat, beats),
        own_bars=_bar_range(own_lines, own_beat, beats),
        source_beat=source_beat,
        own_beat=own_beat,
        semitones=int(chords.pitch[chords.first_note[start]]) - int(index.chords.pitch[index.chords.first_note[source_start]]),
    )


def _bar_range(lines: NDArray[np.float64], start: float, beats: float) -> tuple[int, int]:
    return bar_at(lines, start), bar_at(lines, start + beats - 2 * TOLERANCE)


def _bars(bars: tuple[int, int]) -> str:
    return f"bar {bars[0]}" if bars[0] == bars[1] else f"bars {bars[0]} to {bars[1]}"
