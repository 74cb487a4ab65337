"""Measures of music: notes or likelihoods become numbers; pure functions, and torchmetrics classes beside them.

Each file opens with its conventions. The names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.metrics.barred_notes import BarredNotes, in_bars
    from musictrain.metrics.chorale_rules import chorale_counts, chorale_faults, chorale_rates, is_four_part
    from musictrain.metrics.chorale_rules_metrics import ChoraleRate, ChoraleRuleDistance
    from musictrain.metrics.copying import CopyCounts, Match, copy_counts, copy_rate, corpus_copy_rate, longest_match
    from musictrain.metrics.copying_index import CopyIndex, as_tokens_hold
    from musictrain.metrics.copying_metrics import CopyExcess, CopyRate, LongestMatch
    from musictrain.metrics.frechet import FeatureScale, chance_distances, frechet_distance, frechet_excess
    from musictrain.metrics.frechet_features import feature_matrix
    from musictrain.metrics.frechet_metrics import FrechetDistance
    from musictrain.metrics.intervals import Interval, band, bands, bootstrap_interval, bootstrap_intervals
    from musictrain.metrics.measures import MEASURES, Measure, measure_all, measure_pieces
    from musictrain.metrics.note_lengths import MeanNoteLength, NoteLengthHistogram, mean_note_length, note_length_histogram
    from musictrain.metrics.note_likelihood import BitsPerNote, bits_per_note
    from musictrain.metrics.over_pieces import MeanOverPieces
    from musictrain.metrics.pitch_classes import (
        PitchClassEntropy,
        PitchClassTransitionEntropy,
        PitchClassTransitions,
        ScaleConsistency,
        pitch_class_entropy,
        pitch_class_transition_entropy,
        pitch_class_transitions,
        scale_consistency,
    )
    from musictrain.metrics.reference_distance import DistanceToReference, distance_to_band
    from musictrain.metrics.repetition import BarRepetition, MotifRepetition, bar_repetition, motif_repetition
    from musictrain.metrics.rhythm import (
        EmptyBarRate,
        GrooveSimilarity,
        GrooveSimilarityAdjacent,
        InterOnsetHistogram,
        MeanInterOnsetInterval,
        empty_bar_rate,
        groove_similarity,
        groove_similarity_adjacent,
        inter_onset_histogram,
        inter_onset_intervals,
        mean_inter_onset_interval,
    )
    from musictrain.metrics.set_distances import (
        KernelDivergence,
        OverlappingArea,
        SetComparison,
        compare_sets,
        distances_between,
        distances_within,
        kernel_divergence,
        overlapping_area,
    )
    from musictrain.metrics.set_measures import SET_MEASURES, measure_named
    from musictrain.metrics.texture import (
        NotesPerBar,
        NotesPerBeat,
        PitchRange,
        Polyphony,
        PolyphonyRate,
        notes_per_bar,
        notes_per_beat,
        pitch_range,
        polyphony,
        polyphony_rate,
    )
    from musictrain.metrics.validity import illegal_probability, token_faults, token_validity, validity_counts
    from musictrain.metrics.validity_metrics import TokenValidity

_NAMES = {
    "barred_notes": "BarredNotes in_bars",
    "pitch_classes": (
        "pitch_class_entropy scale_consistency pitch_class_transitions pitch_class_transition_entropy PitchClassEntropy "
        "ScaleConsistency PitchClassTransitions PitchClassTransitionEntropy"
    ),
    "rhythm": (
        "groove_similarity groove_similarity_adjacent empty_bar_rate inter_onset_intervals mean_inter_onset_interval "
        "inter_onset_histogram GrooveSimilarity GrooveSimilarityAdjacent EmptyBarRate MeanInterOnsetInterval "
        "InterOnsetHistogram"
    ),
    "texture": (
        "polyphony polyphony_rate pitch_range notes_per_beat notes_per_bar Polyphony PolyphonyRate PitchRange NotesPerBeat NotesPerBar"
    ),
    "note_lengths": "mean_note_length note_length_histogram MeanNoteLength NoteLengthHistogram",
    "repetition": "bar_repetition motif_repetition BarRepetition MotifRepetition",
    "set_distances": (
        "SetComparison compare_sets distances_within distances_between overlapping_area kernel_divergence OverlappingArea KernelDivergence"
    ),
    "note_likelihood": "bits_per_note BitsPerNote",
    "measures": "MEASURES Measure measure_all measure_pieces",
    "set_measures": "SET_MEASURES measure_named",
    "over_pieces": "MeanOverPieces",
    "intervals": "Interval band bands bootstrap_interval bootstrap_intervals",
    "reference_distance": "DistanceToReference distance_to_band",
    "copying": "CopyCounts Match copy_counts copy_rate corpus_copy_rate longest_match",
    "copying_index": "CopyIndex as_tokens_hold",
    "copying_metrics": "CopyRate CopyExcess LongestMatch",
    "chorale_rules": "chorale_counts chorale_faults chorale_rates is_four_part",
    "chorale_rules_metrics": "ChoraleRate ChoraleRuleDistance",
    "frechet": "FeatureScale chance_distances frechet_distance frechet_excess",
    "frechet_metrics": "FrechetDistance",
    "validity": "token_validity validity_counts token_faults illegal_probability",
    "validity_metrics": "TokenValidity",
    "frechet_features": "feature_matrix",
}
_HOMES = {name: f"musictrain.metrics.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "MEASURES",
    "SET_MEASURES",
    "BarRepetition",
    "BarredNotes",
    "BitsPerNote",
    "ChoraleRate",
    "ChoraleRuleDistance",
    "CopyCounts",
    "CopyExcess",
    "CopyIndex",
    "CopyRate",
    "DistanceToReference",
    "EmptyBarRate",
    "FeatureScale",
    "FrechetDistance",
    "GrooveSimilarity",
    "GrooveSimilarityAdjacent",
    "InterOnsetHistogram",
    "Interval",
    "KernelDivergence",
    "LongestMatch",
    "Match",
    "MeanInterOnsetInterval",
    "MeanNoteLength",
    "MeanOverPieces",
    "Measure",
    "MotifRepetition",
    "NoteLengthHistogram",
    "NotesPerBar",
    "NotesPerBeat",
    "OverlappingArea",
    "PitchClassEntropy",
    "PitchClassTransitionEntropy",
    "PitchClassTransitions",
    "PitchRange",
    "Polyphony",
    "PolyphonyRate",
    "ScaleConsistency",
    "SetComparison",
    "TokenValidity",
    "as_tokens_hold",
    "band",
    "bands",
    "bar_repetition",
    "bits_per_note",
    "bootstrap_interval",
    "bootstrap_intervals",
    "chance_distances",
    "chorale_counts",
    "chorale_faults",
    "chorale_rates",
    "compare_sets",
    "copy_counts",
    "copy_rate",
    "corpus_copy_rate",
    "distance_to_band",
    "distances_between",
    "distances_within",
    "empty_bar_rate",
    "feature_matrix",
    "frechet_distance",
    "frechet_excess",
    "groove_similarity",
    "groove_similarity_adjacent",
    "illegal_probability",
    "in_bars",
    "inter_onset_histogram",
    "inter_onset_intervals",
    "is_four_part",
    "kernel_divergence",
    "longest_match",
    "mean_inter_onset_interval",
    "mean_note_length",
    "measure_all",
    "measure_named",
    "measure_pieces",
    "motif_repetition",
    "note_length_histogram",
    "notes_per_bar",
    "notes_per_beat",
    "overlapping_area",
    "pitch_class_entropy",
    "pitch_class_transition_entropy",
    "pitch_class_transitions",
    "pitch_range",
    "polyphony",
    "polyphony_rate",
    "scale_consistency",
    "token_faults",
    "token_validity",
    "validity_counts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.metrics' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
