"""When notes start: how alike the bars of a piece are, how many of them are empty, how long it is from one onset to the next.

Conventions: see ``barred_notes``. Drums are left out unless the piece is given as ``in_bars(notes, drums=True)``, and then they count like
all others. Notes that start on the same step are one onset.
"""

from __future__ import annotations

import math

import numpy as np

from musictrain.metrics.barred_notes import BarredNotes, Floats, in_bars
from musictrain.metrics.note_lengths import NUM_LENGTHS, histogram_of_lengths
from musictrain.metrics.over_pieces import MeanOverPieces
from musictrain.notes import Notes


def groove_similarity(notes: Notes | BarredNotes) -> float:
    """How alike the rhythms of all pairs of bars are, in [0, 1]; 1 is the same rhythm in every bar.

    The mean over all pairs of 1 - XOR / steps, with XOR the number of steps on which one bar has an onset and the other has none. Only
    bars of equally many steps are compared; without such a pair it is nan. An empty bar between the first onset and the last is a bar.

    Source: Wu & Yang (ISMIR 2020), "grooving pattern similarity", there on 64 positions a bar and with bars of any length. The value
    depends on the grid: the finer it is, the nearer to 1, since most steps are empty in both bars.

    >>> groove_similarity(Notes.from_rows([(0, 1, 60), (4, 1, 60), (6, 1, 60), (8, 1, 60)]))
    0.9583333333333334
    """
    barred = in_bars(notes)
    alike, pairs = 0.0, 0
    for steps in np.unique(barred.steps_in_bar):
        is_counted = barred.steps_in_bar == steps
        num_bars = int(is_counted.sum())
        bars = barred.onset_bars
        position = (barred.onset_steps - barred.first_step[bars])[is_counted[bars]]
        with_onset = np.bincount(position)
        # Of n bars c have an onset on a step: c (n - c) pairs differ there.
        differing = float((with_onset * (num_bars - with_onset)).sum())
        pairs_here = num_bars * (num_bars - 1) // 2
        alike += pairs_here - differing / float(steps)
        pairs += pairs_here
    return alike / pairs if pairs else math.nan


def groove_similarity_adjacent(notes: Notes | BarredNotes) -> float:
    """How alike the rhythms of neighbouring bars are, in [0, 1]: :func:`groove_similarity` over pairs of adjacent bars only.

    Source: muspy 0.5 ``groove_consistency``. Differs from it: there the positions are ticks, and eight bars of random rhythms at
    480 ticks a beat come to 0.997; there a piece has one length of bar.
    """
    barred = in_bars(notes)
    steps_in_bar = barred.steps_in_bar
    is_pair = steps_in_bar[1:] == steps_in_bar[:-1]
    if not is_pair.any():
        return math.nan
    onset_steps, bars = barred.onset_steps, barred.onset_bars
    onsets = np.bincount(bars, minlength=barred.num_bars)
    later = onset_steps + steps_in_bar[bars]
    found = np.searchsorted(onset_steps, later)
    is_shared = onset_steps[np.minimum(found, len(onset_steps) - 1)] == later
    shared = np.bincount(bars[is_shared], minlength=barred.num_bars)[:-1]
    differing = onsets[:-1] + onsets[1:] - 2 * shared
    return float((1.0 - differing / steps_in_bar[:-1])[is_pair].mean())


def empty_bar_rate(notes: Notes | BarredNotes) -> float:
    """Share of bars in which no note starts, in [0, 1), of the bars from the first onset to the last. No note at all gives nan.

    Source: "empty bars" of Dong et al., MuseGAN (AAAI 2018). Differs from muspy 0.5 ``empty_measure_rate``: there a bar is filled while a
    note sounds, and by a note that ends on its bar line, so that every second bar may be silent at a rate of 0.
    """
    barred = in_bars(notes)
    if not len(barred):
        return math.nan
    return 1.0 - (1 + int(np.count_nonzero(np.diff(barred.onset_bars)))) / barred.num_bars


def inter_onset_intervals(notes: Notes | BarredNotes) -> Floats:
    """Beats from each onset to the next one, (onsets - 1,), whichever track they are in; notes that start on one step are one onset.

    An onset is where the first of its notes starts, off the grid too.

    >>> inter_onset_intervals(Notes.from_rows([(0, 1, 60), (0, 2, 64), (1, 1, 60), (2.5, 1, 60)])).tolist()
    [1.0, 1.5]
    """
    return np.diff(in_bars(notes).first_onset)


def mean_inter_onset_interval(notes: Notes | BarredNotes) -> float:
    """Mean of :func:`inter_onset_intervals` in beats; nan where nothing follows.

    Source: the average inter-onset interval of Yang & Lerch (2018), there in seconds and between all notes, those of a chord included.
    """
    intervals = inter_onset_intervals(notes)
    return float(intervals.mean()) if len(intervals) else math.nan


def inter_onset_histogram(notes: Notes | BarredNotes) -> Floats:
    """Share of each interval from one onset to the next, on the bins of :func:`note_length_histogram`; all nan where nothing follows."""
    return histogram_of_lengths(inter_onset_intervals(notes))


class GrooveSimilarity(MeanOverPieces):
    """Mean over pieces of :func:`groove_similarity`: all pairs of bars."""

    measure = staticmethod(groove_similarity)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class GrooveSimilarityAdjacent(MeanOverPieces):
    """Mean over pieces of :func:`groove_similarity_adjacent`: neighbouring bars."""

    measure = staticmethod(groove_similarity_adjacent)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class EmptyBarRate(MeanOverPieces):
    """Mean over pieces of :func:`empty_bar_rate`."""

    measure = staticmethod(empty_bar_rate)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class MeanInterOnsetInterval(MeanOverPieces):
    """Mean over pieces of :func:`mean_inter_onset_interval`, in beats."""

    measure = staticmethod(mean_inter_onset_interval)
    plot_lower_bound = 0.0


class InterOnsetHistogram(MeanOverPieces):
    """Mean over pieces of :func:`inter_onset_histogram`, (bins,)."""

    measure = staticmethod(inter_onset_histogram)
    shape = (NUM_LENGTHS,)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
