"""Measures of music: notes or likelihoods become numbers; pure functions, and torchmetrics classes beside them.

Each file opens with its conventions. The names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "barred_notes": ("BarredNotes", "in_bars"),
    "pitch_classes": (
        *("pitch_class_entropy", "scale_consistency", "pitch_class_transitions", "pitch_class_transition_entropy"),
        *("PitchClassEntropy", "ScaleConsistency", "PitchClassTransitions", "PitchClassTransitionEntropy"),
    ),
    "rhythm": (
        *("groove_similarity", "groove_similarity_adjacent", "empty_bar_rate"),
        *("inter_onset_intervals", "mean_inter_onset_interval", "inter_onset_histogram"),
        *("GrooveSimilarity", "GrooveSimilarityAdjacent", "EmptyBarRate", "MeanInterOnsetInterval", "InterOnsetHistogram"),
    ),
    "texture": (
        *("polyphony", "polyphony_rate", "pitch_range", "notes_per_beat", "notes_per_bar"),
        *("Polyphony", "PolyphonyRate", "PitchRange", "NotesPerBeat", "NotesPerBar"),
    ),
    "note_lengths": ("mean_note_length", "note_length_histogram", "MeanNoteLength", "NoteLengthHistogram"),
    "repetition": ("bar_repetition", "motif_repetition", "BarRepetition", "MotifRepetition"),
    "set_distances": (
        *("compare_sets", "distances_within", "distances_between", "overlapping_area", "kernel_divergence"),
        *("OverlappingArea", "KernelDivergence"),
    ),
    "note_likelihood": ("bits_per_note", "BitsPerNote"),
    "over_pieces": ("MeanOverPieces",),
    "measures": ("MEASURES", "SET_MEASURES", "Measure", "measure_all", "measure_named", "measure_pieces"),
    "intervals": ("Interval", "band", "bands", "bootstrap_interval", "bootstrap_intervals"),
    "reference_distance": ("DistanceToReference", "distance_to_band"),
}
_HOMES = {name: f"musictrain.metrics.{module}" for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.metrics' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
