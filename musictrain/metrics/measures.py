"""All measures of a piece under their names: what each gives, in which unit and range, and what it says to people.

Nearly all are two-sided: too much is as wrong as too little, and only a reference (a corpus, a band) says what is right. They are guards
beside the likelihood and no judgement of taste: metrics and human judgement correlate poorly (survey arXiv 2509.00051).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from torchmetrics import Metric

from musictrain.metrics import note_lengths, pitch_classes, repetition, rhythm, texture
from musictrain.metrics.barred_notes import BarredNotes, Floats, in_bars
from musictrain.metrics.over_pieces import MeanOverPieces, notes_of
from musictrain.notes import Notes

Direction = Literal["two-sided", "higher is better", "lower is better"]


@dataclass(frozen=True)
class Measure:
    """One measure, as a callback or a page needs it.

    Args:
        name: as in ``val/<name>``.
        sentence: for people.
        unit: for axes, "" for a share or a plain number.
        function: of a piece, or of two sets, or of sums; see its own docstring.
        metric: makes the ``torchmetrics.Metric`` of it.
        low: the lowest value there can be.
        high: the highest, inf where there is none.
        direction: declared here and guessed nowhere.
    """

    name: str
    sentence: str
    unit: str
    function: Callable[..., float]
    metric: Callable[..., Any]
    low: float
    high: float
    direction: Direction = "two-sided"


def _of_piece(name: str, sentence: str, unit: str, metric: type[MeanOverPieces], **options: Any) -> Measure:
    """A measure of one piece: its function and its range are those of its metric."""
    function = partial(metric.measure, **options) if options else metric.measure
    return Measure(name, sentence, unit, function, partial(metric, **options), *declared_range(metric))


def declared_range(metric: type[Metric]) -> tuple[float, float]:
    """The bounds a metric declares, infinite where it has none."""
    low, high = metric.plot_lower_bound, metric.plot_upper_bound
    return -math.inf if low is None else low, math.inf if high is None else high


_PIECE = (
    _of_piece(
        *(
            "pitch_class_entropy",
            "How evenly the piece uses the twelve pitch classes: 0 is one note in its octaves, 3.58 all twelve alike.",
        ),
        *("bits", pitch_classes.PitchClassEntropy),
    ),
    _of_piece(
        *("pitch_class_entropy_1_bar", "How many pitch classes a bar uses, on average: low is a held note, high is no harmony.", "bits"),
        pitch_classes.PitchClassEntropy,
        window_bars=1,
    ),
    _of_piece(
        *("pitch_class_entropy_4_bars", "How many pitch classes four bars use, on average: low is a loop, high is no key.", "bits"),
        pitch_classes.PitchClassEntropy,
        window_bars=4,
    ),
    _of_piece(
        *("scale_consistency", "Share of notes that one major or minor scale holds: 1 is a piece in one key.", ""),
        pitch_classes.ScaleConsistency,
    ),
    _of_piece(
        *(
            "pitch_class_transition_entropy",
            "How uncertain a line's next pitch class is when its last is known: 0 is no surprise.",
            "bits",
        ),
        pitch_classes.PitchClassTransitionEntropy,
    ),
    _of_piece(
        *("groove_similarity", "How alike the rhythms of all pairs of bars are: 1 is the same rhythm in every bar.", ""),
        rhythm.GrooveSimilarity,
    ),
    _of_piece(
        *("groove_similarity_adjacent", "How alike the rhythms of neighbouring bars are: 1 is the same rhythm in every bar.", ""),
        rhythm.GrooveSimilarityAdjacent,
    ),
    _of_piece("empty_bar_rate", "Share of bars in which no note starts.", "", rhythm.EmptyBarRate),
    _of_piece(
        *("mean_inter_onset_interval", "How long it is from one onset to the next, whichever voice has it.", "beats"),
        rhythm.MeanInterOnsetInterval,
    ),
    _of_piece("polyphony", "How many notes sound at once while any sounds.", "notes", texture.Polyphony),
    _of_piece("polyphony_rate", "Share of the sounding time in which two notes or more sound.", "", texture.PolyphonyRate),
    _of_piece("pitch_range", "How far it is from the lowest note to the highest.", "semitones", texture.PitchRange),
    _of_piece("notes_per_beat", "How many notes start in a beat.", "notes", texture.NotesPerBeat),
    _of_piece("notes_per_bar", "How many notes start in a bar.", "notes", texture.NotesPerBar),
    _of_piece("mean_note_length", "How long notes are.", "beats", note_lengths.MeanNoteLength),
    _of_piece(
        *("bar_repetition", "Share of bars the piece has already had, note for note: near 1 is a loop.", ""),
        repetition.BarRepetition,
    ),
    _of_piece(
        *("motif_repetition", "Share of turns of five notes the piece has already had, at any pitch: near 1 is a loop.", ""),
        repetition.MotifRepetition,
    ),
)
MEASURES = {measure.name: measure for measure in _PIECE}
"""The measures of one piece, in the order in which they are shown."""


def measure_all(notes: Notes | BarredNotes) -> dict[str, float]:
    """Every measure of :data:`MEASURES` for one piece, by name, with bars and grid worked out once; nan for what cannot be said of it.

    >>> measure_all(Notes.from_rows([(0, 1, 60), (1, 1, 64)]))["pitch_range"]
    4.0
    """
    barred = in_bars(notes)
    polyphony, rate = texture.polyphony_and_rate(barred)
    together = {"polyphony": polyphony, "polyphony_rate": rate}
    return {name: together[name] if name in together else measure.function(barred) for name, measure in MEASURES.items()}


def measure_pieces(pieces: Iterable[Any]) -> dict[str, Floats]:
    """Every measure of every piece: (pieces,) under each name. Takes ``Notes`` or pieces of a corpus.

    Raises:
        TypeError: if something else came.
    """
    rows = [list(measure_all(notes).values()) for notes in notes_of(pieces)]
    columns = np.asarray(rows, np.float64).reshape(len(rows), len(MEASURES)).T
    return dict(zip(MEASURES, columns, strict=True))
