"""How much of a piece has been heard before in it: whole bars, and turns of four steps in a line.

Conventions: see ``barred_notes``. Drums are left out. Lengths, loudness and instruments do not matter: a bar is the pitches that start on
each step of it. A piece caught in a loop comes near 1; music without any return is at 0. Both ends are wrong for most music, so they are
read beside a corpus.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from musictrain.metrics.barred_notes import BarredNotes, in_bars, is_new
from musictrain.metrics.over_pieces import MeanOverPieces
from musictrain.notes import Notes

GRAM = 4


def bar_repetition(notes: Notes | BarredNotes) -> float:
    """Share of bars that an earlier bar of the piece had note for note, in [0, 1); nan without notes.

    Bars in which no note starts are left out: silence is ``empty_bar_rate``. At another pitch a bar is another bar.

    >>> bar_repetition(Notes.from_rows([(0, 1, 60), (4, 2, 60), (8, 1, 62), (12, 1, 62)]))
    0.5
    """
    barred = in_bars(notes).pitched
    if not len(barred):
        return math.nan
    height = barred.pitch - barred.pitch.min()
    num_heights = int(height.max()) + 1
    places = int(barred.steps_in_bar.max()) * num_heights
    in_order = np.sort(barred.bar * places + barred.position * num_heights + height)
    bar, content = np.divmod(in_order[is_new(in_order)], places)
    starts = [*np.flatnonzero(is_new(bar)).tolist(), len(bar)]
    # Bytes compare exactly, where a vectorised hash would only do so nearly always.
    contents = [content[start:stop].tobytes() for start, stop in pairwise(starts)]
    return 1.0 - len(set(contents)) / len(contents)


def motif_repetition(notes: Notes | BarredNotes) -> float:
    """Share of turns of four that the piece has already had, in [0, 1), at any pitch and in any track; nan for lines under five notes.

    A turn is four successive steps of a line, each an interval in semitones and a distance in grid steps; the line of a track is its
    highest note at each onset.

    Source: n-grams of interval and onset as in Yin et al. (2022), here within a piece.
    """
    track, step, pitch = in_bars(notes).pitched.top_line
    if len(track) <= GRAM:
        return math.nan
    is_turn = track[GRAM:] == track[:-GRAM]
    if not is_turn.any():
        return math.nan
    # What leads from one track to the next is in no turn.
    interval, distance = np.diff(pitch), np.where(track[1:] == track[:-1], np.diff(step), 0)
    interval = interval - interval.min()
    kind = distance * (int(interval.max()) + 1) + interval
    kinds = int(kind.max()) + 1
    if kinds**GRAM > np.iinfo(np.int64).max:
        kind = np.unique(kind, return_inverse=True)[1]
        kinds = int(kind.max()) + 1
    turns = kind[: len(is_turn)]
    for later in range(1, GRAM):
        turns = turns * kinds + kind[later : len(is_turn) + later]
    counted = np.sort(turns[is_turn])
    return 1.0 - np.count_nonzero(is_new(counted)) / len(counted)


class BarRepetition(MeanOverPieces):
    """Mean over pieces of :func:`bar_repetition`."""

    measure = staticmethod(bar_repetition)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class MotifRepetition(MeanOverPieces):
    """Mean over pieces of :func:`motif_repetition`."""

    measure = staticmethod(motif_repetition)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
