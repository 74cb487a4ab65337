"""Do the measures tell Bach from the same notes at the wrong time? His chorales, and their voices shifted against one another.

Bands are those of the training pieces (10 to 90 %, and ``BACH`` for the chorale rules); judged are the pieces of validation and test, as
they are and with alto, tenor and bass later, around the end of the piece: each by a number of 16ths drawn for it, or by half a beat, a beat
and a beat and a half. Every line stays as good as it was, so that only what is *between* the voices can tell. Measures that do not look
there should hardly move; those of ``BETWEEN_VOICES`` must.

    python -m benchmarks.bach_and_shifted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.results_file import write_result
from musictrain.data import load_corpus
from musictrain.metrics import (
    MEASURES,
    FeatureScale,
    bands,
    chorale_counts,
    compare_sets,
    distance_to_band,
    feature_matrix,
    frechet_excess,
    measure_pieces,
)
from musictrain.metrics.chorale_rules import BACH, RULES
from musictrain.notes import Notes
from musictrain.sampling.scores import ratio_interval

BETWEEN_VOICES = ("groove_similarity", "groove_similarity_adjacent", "mean_inter_onset_interval", "polyphony", "polyphony_rate")
TOLERANCE = 1e-9


def shifted(notes: Notes, beats: ArrayLike) -> Notes:
    """Each track so many beats later, (tracks,), and what goes beyond the end of the piece at its beginning."""
    return replace(notes, onset=(notes.onset + np.asarray(beats, np.float64)[notes.track]) % notes.end)


def by_drawn_16ths(pieces: Sequence[Notes], seed: int = 0) -> list[Notes]:
    """Alto, tenor and bass of each piece later by anything up to its length."""
    random = np.random.default_rng(seed)
    return [shifted(notes, [0.0, *random.integers(1, int(4 * notes.end), 3) / 4]) for notes in pieces]


def by_half_beats(pieces: Sequence[Notes]) -> list[Notes]:
    """Each voice half a beat after the one above it."""
    return [shifted(notes, np.arange(4) / 2) for notes in pieces]


def measures_of(pieces: Sequence[Notes], reference: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    """Of each measure the mean, and the share of pieces that lie where the reference does."""
    values = measure_pieces(pieces)
    inside = {name: distance_to_band(each, *reference[name]) <= TOLERANCE for name, each in values.items()}
    return {name: {"mean": round(float(each.mean()), 4), "in_band": round(float(inside[name].mean()), 3)} for name, each in values.items()}


def rules_of(pieces: Sequence[Notes]) -> dict[str, dict[str, Any]]:
    """Of each chorale rule the rate, its 90 % interval, and how far it is from Bach's band."""
    counts = np.array([[chorale_counts(notes)[rule] for rule in RULES] for notes in pieces])
    told = {}
    for at, rule in enumerate(RULES):
        rate = [100.0 * bound for bound in ratio_interval(counts[:, at])]
        outside = float(distance_to_band(rate[0], *BACH[rule]))
        told[rule] = {"per_100": round(rate[0], 3), "interval": [round(bound, 3) for bound in rate[1:]], "outside": round(outside, 3)}
    return told


def set_distances_of(pieces: Sequence[Notes], train: Sequence[Notes]) -> dict[str, float]:
    """How far the set lies from the training pieces: in 31 features, and in its inter-onset intervals."""
    reference = feature_matrix(train)
    scale = FeatureScale.of(reference)
    intervals = [measure_pieces(each)["mean_inter_onset_interval"] for each in (train, pieces)]
    return {
        "frechet_excess": round(frechet_excess(scale.of_points(reference), scale.of_points(feature_matrix(pieces))), 2),
        "overlap_of_inter_onset_intervals": round(compare_sets(*intervals).overlap, 3),
    }


def summary_of(measures: Mapping[str, Mapping[str, float]], rules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The share of pieces in the band, over measures between voices and over the others; how many rules are in theirs."""
    others = [name for name in MEASURES if name not in BETWEEN_VOICES]
    of_kinds = {"between_voices": BETWEEN_VOICES, "others": others}
    shares = {kind: round(float(np.mean([measures[name]["in_band"] for name in names])), 3) for kind, names in of_kinds.items()}
    return {"in_band": shares, "rules_in_band": sum(rule["outside"] == 0.0 for rule in rules.values())}


def measure(train: Sequence[Notes], judged: Sequence[Notes]) -> dict[str, Any]:
    """Both kinds of shifted voices beside the music as it is."""
    reference = bands(train)
    ways: dict[str, Callable[[Sequence[Notes]], Sequence[Notes]]] = {
        "bach": list,
        "shifted_by_drawn_16ths": by_drawn_16ths,
        "shifted_by_half_beats": by_half_beats,
    }
    result: dict[str, Any] = {"train_pieces": len(train), "judged_pieces": len(judged)}
    for name, way in ways.items():
        pieces = way(judged)
        measures, rules = measures_of(pieces, reference), rules_of(pieces)
        result[name] = summary_of(measures, rules) | set_distances_of(pieces, train) | {"rules": rules, "measures": measures}
    rounded = {name: [round(edge, 4) for edge in edges] for name, edges in reference.items()}
    return {**result, "bands": rounded | {rule: list(edges) for rule, edges in BACH.items()}}


def main() -> None:
    """Measure and write ``results/bach_and_shifted.json``."""
    corpus = load_corpus("chorales", progress=False)
    train, *held_out = ([piece.notes for piece in corpus.split(split)] for split in ("train", "valid", "test"))
    write_result("bach_and_shifted", {"corpus": "chorales", **measure(train, [notes for split in held_out for notes in split])})


if __name__ == "__main__":
    main()
