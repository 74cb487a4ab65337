"""Which pieces belong together: copies, transposed twins, and settings of one tune.

If two of them stand in different splits, the model is tested on what it was trained on: 175 of music21's 365 chorales share their
hymn tune with another one. The rule, the same for every kind of music:

1. *Twins*: pieces whose notes are the same but for transposition, instrument and loudness belong together.
2. *Tunes*: the top line is the skyline, every note that is the highest sounding one when it starts. Its windows are eight notes long,
   seen as seven intervals, so that key, tempo and metre do not matter. Windows of fewer than three different intervals, or that only
   rise or only fall, are left out: scales and trills are everyone's. Two pieces belong together if they share at least 4 different
   windows, and those are at least a quarter of the windows of the piece that has fewer.
3. What belongs to the same piece belongs together: groups are the connected components.

The quarter keeps formulas from gluing a corpus into one group: a cadence or a turn that a hundred reels share is one or two windows
of some sixty. Measured on the chorales: 210 groups; of the 183 pieces whose hymn music21's catalogue names, all 24 pairs on one tune
are together (6 more pairs have one title, but two melodies). No group of the three folk collections has more than 4 tunes.

Source: transposition-free windows after Yin et al., "Measuring when a music generation algorithm copies too much" (2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from musictrain.notes import Notes

WINDOW_INTERVALS = 7
FEWEST_DIFFERENT_INTERVALS = 3
FEWEST_SHARED_WINDOWS = 4
SMALLEST_SHARE = 0.25
# Each occurrence of a window is compared with this many further ones, so that a formula in every piece costs no n^2 pairs. Many
# settings of one tune still meet: each has the same neighbours in window after window, and a chain of neighbours is one group.
COMPARED_OCCURRENCES = 32
TICKS_PER_BEAT = 48

Windows = NDArray[np.uint64]


def skyline(notes: Notes) -> Notes:
    """The notes that are the highest sounding one when they start, one for each onset; drums are left out.

    >>> skyline(Notes.from_rows([(0, 2, 72), (1, 1, 60), (2, 1, 71)])).pitch.tolist()
    [72, 71]
    """
    notes = notes.pitched()
    order = np.lexsort((-notes.pitch, notes.onset))
    kept: list[int] = []
    last_onset = -1.0
    sounding: list[tuple[float, int]] = []  # (end, pitch): from high and soon over to low and long
    ends = notes.onset + notes.duration - 1e-6
    for index, onset, end, pitch in zip(
        order.tolist(), notes.onset[order].tolist(), ends[order].tolist(), notes.pitch[order].tolist(), strict=True
    ):
        while sounding and sounding[-1][0] <= onset:
            sounding.pop()
        if onset != last_onset and (not sounding or sounding[-1][1] <= pitch):
            kept.append(index)
            last_onset = onset
        _sound(sounding, end, pitch)
    return notes.select(np.array(kept, np.int64))


def _sound(sounding: list[tuple[float, int]], end: float, pitch: int) -> None:
    """Put a note where it belongs: below higher notes, if it outlasts them, and instead of lower ones that it outlasts."""
    place = len(sounding)
    while place and sounding[place - 1][1] > pitch:
        if sounding[place - 1][0] >= end:
            return
        place -= 1
    start = place
    while start and sounding[start - 1][0] <= end:
        start -= 1
    sounding[start:place] = [(end, pitch)]


def tune_windows(notes: Notes) -> Windows:
    """The different windows of a piece's top line, sorted, (windows,): seven intervals of a byte each in one number."""
    intervals = np.diff(skyline(notes).pitch)
    if len(intervals) < WINDOW_INTERVALS:
        return np.zeros(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(intervals, WINDOW_INTERVALS)
    in_order = np.sort(windows, axis=1)
    different = 1 + (np.diff(in_order, axis=1) != 0).sum(axis=1)
    telling = (different >= FEWEST_DIFFERENT_INTERVALS) & (in_order[:, 0] < 0) & (in_order[:, -1] > 0)
    places = np.uint64(256) ** np.arange(WINDOW_INTERVALS, dtype=np.uint64)
    return np.unique(((windows[telling] + 128).astype(np.uint64) * places).sum(axis=1, dtype=np.uint64))


def twin_key(notes: Notes) -> str:
    """Equal for pieces with the same notes but for transposition, instrument, loudness and part.

    Onsets, from the first note on, and durations are rounded to 48ths of a beat.
    """
    onset = np.rint((notes.onset - notes.onset[:1].sum()) * TICKS_PER_BEAT).astype(np.int64)
    duration = np.rint(notes.duration * TICKS_PER_BEAT).astype(np.int64)
    lowest = notes.pitch[~notes.drum].min(initial=127)
    height = notes.pitch - np.where(notes.drum, 0, lowest)
    order = np.lexsort((duration, height, notes.drum, onset))
    columns = np.stack([onset, duration, height, notes.drum])[:, order]
    return hashlib.sha256(columns.astype("<i8").tobytes()).hexdigest()[:16]


def tune_groups(windows: Sequence[Windows], twins: Sequence[str]) -> list[int]:
    """For every piece the number of its group's first piece, from its ``tune_windows`` and its ``twin_key``."""
    groups = _Groups(len(windows))
    first_of: dict[str, int] = {}
    for number, key in enumerate(twins):
        groups.join(first_of.setdefault(key, number), number)
    representatives = np.array([number for number, key in enumerate(twins) if first_of[key] == number], np.int64)
    for one, other in _same_tune([windows[number] for number in representatives]):
        groups.join(int(representatives[one]), int(representatives[other]))
    return [groups.first(number) for number in range(len(windows))]


def _same_tune(windows: list[Windows]) -> NDArray[np.int64]:
    """Pairs of pieces that share enough windows, (pairs, 2)."""
    sizes = np.array([len(each) for each in windows], np.int64)
    if not sizes.sum():
        return np.zeros((0, 2), np.int64)
    window, piece = np.concatenate(windows), np.repeat(np.arange(len(windows)), sizes)
    order = np.argsort(window, kind="stable")
    window, piece = window[order], piece[order]
    pairs = [
        piece[:-step][same] * len(windows) + piece[step:][same]
        for step in range(1, min(COMPARED_OCCURRENCES, len(window) - 1) + 1)
        if (same := window[step:] == window[:-step]).any()
    ]
    if not pairs:
        return np.zeros((0, 2), np.int64)
    pair, shared = np.unique(np.concatenate(pairs), return_counts=True)
    both = np.stack([pair // len(windows), pair % len(windows)], axis=1)
    needed = np.maximum(FEWEST_SHARED_WINDOWS, SMALLEST_SHARE * sizes[both].min(axis=1))
    return both[shared >= needed]


class _Groups:
    """Union-find; the first piece of a group stands for it."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def first(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = number = self.parent[self.parent[number]]
        return number

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self.parent[high] = low
