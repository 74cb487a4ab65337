"""How much sounds at once, how far apart, and how often something new starts.

Conventions: see ``barred_notes``. Polyphony is weighed by time, from onsets and durations as written and on no grid; two voices in unison
are two notes. Time in which nothing sounds counts for neither of the two. Drums are left out; the densities count them if the piece is
given as ``in_bars(notes, drums=True)``.
"""

from __future__ import annotations

import math

import numpy as np

from musictrain.metrics.barred_notes import BarredNotes, in_bars
from musictrain.metrics.over_pieces import MeanOverPieces
from musictrain.notes import Notes


def polyphony(notes: Notes | BarredNotes) -> float:
    """Mean number of notes that sound at once while any sounds, from 1 upwards; nan if nothing ever sounds.

    Source: muspy 0.5 ``polyphony``, there over time steps, and a unison counts once.

    >>> polyphony(Notes.from_rows([(0, 4, 60), (2, 2, 64)]))
    1.5
    """
    return polyphony_and_rate(notes)[0]


def polyphony_rate(notes: Notes | BarredNotes) -> float:
    """Share of the sounding time in which two notes or more sound, in [0, 1]; nan if nothing ever sounds.

    Source: Mogren (2016), Dong et al. (AAAI 2018). Differs from muspy 0.5 ``polyphony_rate``: that asks for more than its threshold of two,
    gives 0 for two voices that never pause, and counts silence.
    """
    return polyphony_and_rate(notes)[1]


def polyphony_and_rate(notes: Notes | BarredNotes) -> tuple[float, float]:
    """:func:`polyphony` and :func:`polyphony_rate` at the price of one."""
    barred = in_bars(notes).pitched
    times = np.concatenate((barred.onset, barred.onset + barred.duration))
    order = np.argsort(times, kind="stable")
    # The k-th time and the k-th change: +1 where a note starts, -1 where one ends.
    sounding = np.cumsum(np.where(order < len(barred), 1, -1))[:-1]
    beats = np.diff(times[order])
    total = float(beats[sounding > 0].sum())
    if total <= 0.0:
        return math.nan, math.nan
    return float(beats @ sounding) / total, float(beats[sounding > 1].sum()) / total


def pitch_range(notes: Notes | BarredNotes) -> float:
    """Semitones from the lowest note to the highest; 0 for one pitch, nan without pitched notes.

    Source: Yang & Lerch (2018). Differs from muspy 0.5 ``pitch_range``: a piece of drums alone has a range of -127 there.
    """
    pitch = in_bars(notes).pitched.pitch
    return float(pitch.max() - pitch.min()) if len(pitch) else math.nan


def notes_per_beat(notes: Notes | BarredNotes) -> float:
    """Notes that start in a beat (a quarter note), over the whole bars from the first onset to the last; nan without notes."""
    barred = in_bars(notes)
    return len(barred) / float(barred.lines[-1] - barred.lines[0]) if len(barred) else math.nan


def notes_per_bar(notes: Notes | BarredNotes) -> float:
    """Notes that start in a bar, over the bars from the first onset to the last; nan without notes.

    >>> notes_per_bar(Notes.from_rows([(0, 1, 60), (1, 1, 60), (4, 1, 60)]))
    1.5
    """
    barred = in_bars(notes)
    return len(barred) / barred.num_bars if len(barred) else math.nan


class Polyphony(MeanOverPieces):
    """Mean over pieces of :func:`polyphony`, in notes."""

    measure = staticmethod(polyphony)
    plot_lower_bound = 0.0


class PolyphonyRate(MeanOverPieces):
    """Mean over pieces of :func:`polyphony_rate`."""

    measure = staticmethod(polyphony_rate)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class PitchRange(MeanOverPieces):
    """Mean over pieces of :func:`pitch_range`, in semitones."""

    measure = staticmethod(pitch_range)
    plot_lower_bound, plot_upper_bound = 0.0, 127.0


class NotesPerBeat(MeanOverPieces):
    """Mean over pieces of :func:`notes_per_beat`."""

    measure = staticmethod(notes_per_beat)
    plot_lower_bound = 0.0


class NotesPerBar(MeanOverPieces):
    """Mean over pieces of :func:`notes_per_bar`."""

    measure = staticmethod(notes_per_bar)
    plot_lower_bound = 0.0
