"""A piece as a row of numbers, for distances between sets of pieces: pitch, intervals, harmony, rhythm, texture, repetition.

Conventions: see ``barred_notes``; drums are left out. Shares are in [0, 1] and 0 where there is nothing to share out (a single note has no
intervals); lengths and times enter as shares of classes or as logarithms, so that one long rest does not outweigh the rest of a piece. The
features say what music is like on average, not in which order things come: shuffle the bars of a piece and nearly all stay.

What a tokenizer does not hold shows: of VoiceGrid's samples, whose repeated notes are merged, take the distance to chorales that went
through it too (``copying_index.as_tokens_hold``).

All but ``mean_pitch`` stay when a piece is transposed. None of them is learned, so that nothing has to be downloaded; they are of this
project alone, and distances on them compare with nobody's Frechet Music Distance on CLaMP's features.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.metrics.barred_notes import STEPS_PER_BEAT, BarredNotes, Floats, in_bars
from musictrain.metrics.over_pieces import notes_of
from musictrain.metrics.repetition import bar_repetition
from musictrain.metrics.texture import polyphony
from musictrain.notes import Notes

LENGTH_CLASSES = (0.3, 0.6, 1.2)  # beats: up to a triplet eighth short, up to a dotted eighth, about a quarter, longer
INTERVAL_CLASSES = (0.5, 2.5, 4.5, 7.5)  # semitones: repeated, step, third, fourth or fifth, larger
CONSONANCES = ((0,), (3, 4, 8, 9), (5, 7), (1, 2, 6, 10, 11))  # above the lowest note: octave, third or sixth, fourth or fifth, dissonance
FEATURES = (
    *("mean_pitch", "pitch_deviation", "pitch_range"),
    *(f"pitch_class_harmonic_{number}" for number in range(1, 7)),
    *("repeated_pitches", "steps", "thirds", "fourths_and_fifths", "leaps", "rising"),
    *("octaves_above_bass", "thirds_and_sixths_above_bass", "fourths_and_fifths_above_bass", "dissonances_above_bass"),
    *("short_onset_gaps", "eighth_onset_gaps", "quarter_onset_gaps", "long_onset_gaps"),
    *("short_notes", "eighth_notes", "quarter_notes", "long_notes"),
    *("on_the_beat", "polyphony", "log_notes_per_beat", "bar_repetition"),
)


def features(notes: Notes) -> Floats:
    """The numbers of one piece in the order of ``FEATURES``, (features,); all nan without pitched notes.

    ``pitch_class_harmonic_n`` is the n-th magnitude of the Fourier transform of the twelve pitch classes' shares: the fifth is high for
    music in one key, the sixth for whole tones, all are 0 for all classes alike.

    Source: the Fourier transform of pitch classes: Amiot, Music Through Fourier Space (2016).
    """
    barred = in_bars(notes).pitched
    if not len(barred):
        return np.full(len(FEATURES), np.nan)
    gaps = np.diff(barred.onset_steps) / STEPS_PER_BEAT
    beats = barred.lines[-1] - barred.lines[0]
    return np.concatenate(
        [
            (barred.pitch.mean(), barred.pitch.std(), np.ptp(barred.pitch)),
            np.abs(np.fft.rfft(np.bincount(barred.pitch % 12, minlength=12) / len(barred)))[1:],
            _melodic(barred),
            _harmonic(barred),
            _shares(gaps, LENGTH_CLASSES),
            _shares(barred.duration, LENGTH_CLASSES),
            ((barred.position % STEPS_PER_BEAT == 0).mean(), _finite(polyphony(barred)), np.log2(len(barred) / beats)),
            (bar_repetition(barred),),
        ]
    )


def feature_matrix(pieces: Notes | Iterable[Notes]) -> Floats:
    """The features of each piece that has pitched notes, (pieces, features); pieces without are left out."""
    rows = np.array([features(notes) for notes in notes_of(pieces)]).reshape(-1, len(FEATURES))
    return rows[~np.isnan(rows).any(axis=1)]


def _melodic(barred: BarredNotes) -> Floats:
    """Shares of the classes of intervals within each track's top line, and of its moves those upwards."""
    track, _, pitch = barred.top_line
    interval = np.diff(pitch)[np.diff(track) == 0]
    moves = interval[interval != 0]
    return np.append(_shares(np.abs(interval), INTERVAL_CLASSES), (moves > 0).mean() if len(moves) else 0.0)


def _harmonic(barred: BarredNotes) -> Floats:
    """Shares of the classes of intervals above the lowest of the notes that start together."""
    start = np.searchsorted(barred.onset_steps, barred.step)
    lowest = np.full(len(barred.onset_steps), 128, np.int64)
    np.minimum.at(lowest, start, barred.pitch)
    above = (barred.pitch - lowest[start])[barred.pitch > lowest[start]] % 12
    return np.array([np.isin(above, classes).mean() if len(above) else 0.0 for classes in CONSONANCES])


def _shares(values: ArrayLike, bounds: tuple[float, ...]) -> Floats:
    """The share of values in each class between the bounds, (bounds + 1,)."""
    counts: NDArray[np.int64] = np.bincount(np.searchsorted(bounds, np.asarray(values)), minlength=len(bounds) + 1)
    return counts / max(1, counts.sum())


def _finite(value: float) -> float:
    """0 for what is not known, such as the polyphony of notes without length."""
    return value if np.isfinite(value) else 0.0
