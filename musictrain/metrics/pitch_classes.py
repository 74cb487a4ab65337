"""Which pitch classes a piece uses: entropy of the whole and of windows of bars, how far one scale holds them, what follows what.

Conventions: see ``barred_notes``. Every note counts once, however long it is; drums never count. Entropies are in bits: 0 for a single
pitch class, log2 12 = 3.58 for all twelve alike. Pieces without pitched notes give nan. Octaves and transposition change none of the
measures (transposition moves the rows and columns of ``pitch_class_transitions`` round).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from musictrain.metrics.barred_notes import BarredNotes, Floats, in_bars
from musictrain.metrics.over_pieces import MeanOverPieces
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

MOST_BITS = math.log2(12)
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "natural minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
}


def pitch_class_entropy(notes: Notes | BarredNotes, *, window_bars: int | None = None) -> float:
    """Entropy in bits of the pitch classes, in [0, log2 12]. Low is one note over and over, high is no key.

    Args:
        notes: the piece.
        window_bars: None for the whole piece; else the mean over all windows of so many bars, a window beginning with each bar. Windows
            without notes are left out; a piece shorter than a window is one window.

    Raises:
        ValueError: if ``window_bars`` is not positive.

    Source: Wu & Yang, The Jazz Transformer on the Front Line (ISMIR 2020), with windows of 1 and 4 bars.

    >>> pitch_class_entropy(Notes.from_rows([(0, 1, 60), (1, 1, 72), (2, 1, 62), (3, 1, 64)]))
    1.5
    """
    barred = in_bars(notes).pitched
    if window_bars is None:
        return float(_entropy(np.bincount(barred.pitch % 12, minlength=12)))
    if window_bars < 1:
        raise ValueError(f"window_bars is {window_bars}: a window needs at least one bar; None takes the whole piece.")
    if not len(barred):
        return math.nan
    width = min(window_bars, barred.num_bars)
    counts = barred.pitch_class_sums[width:] - barred.pitch_class_sums[:-width]
    return float(_entropy(counts[counts.any(axis=1)]).mean())


def scale_consistency(notes: Notes | BarredNotes, *, scales: Iterable[str] = tuple(SCALES)) -> float:
    """The share of notes that the best fitting scale holds, in [7/12, 1] with all scales; 1 is a piece in one key.

    Args:
        notes: the piece.
        scales: which ones are tried, on each of the twelve roots. A natural minor scale has the notes of its parallel major: a piece in
            minor with raised leading tones needs the harmonic and the melodic one.

    Raises:
        ValueError: for a scale of another name, or for none.

    Source: Mogren, C-RNN-GAN (2016). Differs from muspy 0.5 ``scale_consistency``: that knows major and natural minor only, and counts
    the leading tone of A minor, G sharp, as foreign to the key.
    """
    counts = np.bincount(in_bars(notes).pitched.pitch % 12, minlength=12)
    masks = _scale_masks(_known(scales))
    total = counts.sum()
    return float((masks @ counts).max() / total) if total else math.nan


def pitch_class_transitions(notes: Notes | BarredNotes) -> Floats:
    """The share of each step from one pitch class to the next, (from 12, to 12), summing to 1; all nan if no note follows another.

    Notes follow one another within a track; of several notes that start together the highest counts.

    Source: the pitch class transition matrix of Yang & Lerch (2018).
    """
    counts = _transition_counts(in_bars(notes).pitched)
    total = counts.sum()
    return counts / total if total else np.full((12, 12), math.nan)


def pitch_class_transition_entropy(notes: Notes | BarredNotes) -> float:
    """How uncertain the next pitch class is when the last one is known: conditional entropy in bits, in [0, log2 12].

    0 is a line that always goes on in the same way; nan if no note follows another. The transitions are those of
    :func:`pitch_class_transitions`.
    """
    counts = _transition_counts(in_bars(notes).pitched)
    rows = counts.sum(axis=1)
    used = rows > 0
    return float((_entropy(counts[used]) * rows[used]).sum() / rows.sum()) if used.any() else math.nan


def _entropy(counts: NDArray[np.int64]) -> Floats:
    """Bits of the distribution in each last axis of counts, (...); nan where nothing was counted."""
    total = counts.sum(axis=-1)
    logs = np.log2(np.maximum(counts, 1))
    safe = np.maximum(total, 1)
    bits = np.log2(safe) - (counts * logs).sum(axis=-1) / safe
    # The difference of two logarithms can come out as -1e-16.
    return np.where(total > 0, np.maximum(bits, 0.0), math.nan)


def _transition_counts(barred: BarredNotes) -> NDArray[np.int64]:
    track, _, pitch = barred.top_line
    follows = track[1:] == track[:-1]
    pairs = (pitch[:-1] % 12) * 12 + pitch[1:] % 12
    return np.bincount(pairs[follows], minlength=144).reshape(12, 12)


def _known(scales: Iterable[str]) -> tuple[str, ...]:
    names = tuple(scales)
    for name in names:
        if name not in SCALES:
            raise ValueError(f"No scale is called {name!r}: expected some of {', '.join(SCALES)}. {did_you_mean(name, SCALES)}".rstrip())
    if not names:
        raise ValueError(f"scales is empty: name at least one of {', '.join(SCALES)}.")
    return names


@cache
def _scale_masks(names: tuple[str, ...]) -> NDArray[np.int64]:
    """Which pitch classes each scale holds on each root, (scales and roots, pitch classes)."""
    degrees = (np.arange(12)[None, :] - np.arange(12)[:, None]) % 12
    return np.concatenate([np.isin(degrees, SCALES[name]) for name in names]).astype(np.int64)


class PitchClassEntropy(MeanOverPieces):
    """Mean over pieces of :func:`pitch_class_entropy`, in bits; takes its ``window_bars``."""

    measure = staticmethod(pitch_class_entropy)
    plot_lower_bound, plot_upper_bound = 0.0, MOST_BITS


class ScaleConsistency(MeanOverPieces):
    """Mean over pieces of :func:`scale_consistency`; takes its ``scales``."""

    measure = staticmethod(scale_consistency)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class PitchClassTransitions(MeanOverPieces):
    """Mean over pieces of :func:`pitch_class_transitions`, (12, 12)."""

    measure = staticmethod(pitch_class_transitions)
    shape = (12, 12)
    plot_lower_bound, plot_upper_bound = 0.0, 1.0


class PitchClassTransitionEntropy(MeanOverPieces):
    """Mean over pieces of :func:`pitch_class_transition_entropy`, in bits."""

    measure = staticmethod(pitch_class_transition_entropy)
    plot_lower_bound, plot_upper_bound = 0.0, MOST_BITS
