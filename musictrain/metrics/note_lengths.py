"""How long notes are: their mean, and their histogram on a logarithmic grid.

Conventions: see ``barred_notes``. Lengths are in beats as written, off the grid too; drums, whose length means nothing, are left out. The
histogram has two bins an octave, so that a note and its dotted neighbour are apart: bin k holds what is nearest to 2^((k - 8) / 2) beats,
from a 64th (1/16 beat) to four whole notes (16 beats); the outermost two also hold what lies beyond.
"""

from __future__ import annotations

import math

import numpy as np

from musictrain.metrics.barred_notes import BarredNotes, Floats, in_bars
from musictrain.metrics.over_pieces import MeanOverPieces
from musictrain.notes import Notes

NUM_LENGTHS = 17
LENGTHS = tuple(2.0 ** ((k - 8) / 2) for k in range(NUM_LENGTHS))  # beats, the middle of each bin


def mean_note_length(notes: Notes | BarredNotes) -> float:
    """Mean length of the notes in beats; nan without notes.

    >>> mean_note_length(Notes.from_rows([(0, 1, 60), (1, 0.5, 62), (2, 3, 64)]))
    1.5
    """
    duration = in_bars(notes).pitched.duration
    return float(duration.mean()) if len(duration) else math.nan


def note_length_histogram(notes: Notes | BarredNotes) -> Floats:
    """Share of notes of each length, (17,), summing to 1; ``LENGTHS`` are the lengths. All nan without notes.

    Source: the note length histogram of Yang & Lerch (2018), there of 12 named lengths.
    """
    return histogram_of_lengths(in_bars(notes).pitched.duration)


def histogram_of_lengths(beats: Floats) -> Floats:
    """Share of each length among some, (17,); all nan for none. See the top of this file for the bins."""
    if not len(beats):
        return np.full(NUM_LENGTHS, math.nan)
    nearest = np.rint(2.0 * np.log2(np.clip(beats, LENGTHS[0], LENGTHS[-1]))).astype(np.int64) + 8
    return np.bincount(nearest, minlength=NUM_LENGTHS) / len(beats)


class MeanNoteLength(MeanOverPieces):
    """Mean over pieces of :func:`mean_note_length`, in beats."""

    measure = staticmethod(mean_note_length)
    plot_lower_bound = 0.0


class NoteLengthHistogram(MeanOverPieces):
    """Mean over pieces of :func:`note_length_histogram`, (17,)."""

    measure = staticmethod(note_length_histogram)
    shape = (NUM_LENGTHS,)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
