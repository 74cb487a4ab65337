"""Samples beside the corpus: every measure of a set of samples with its bootstrap interval, and the passages that are copied.

Conventions: of each sample the same length is judged as of the corpus. What a prompt gave is not judged: measures begin at the first bar
line after it. Means over pieces are those of ``musictrain.metrics``; rates of copying and of chorale rules are over all pieces together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from musictrain.listening.bars import bar_lines
from musictrain.metrics.chorale_rules import RULES, chorale_counts
from musictrain.metrics.copying import Match, copy_counts, longest_match
from musictrain.metrics.frechet import FEWEST_PIECES, FeatureScale, chance_distances, frechet_distance
from musictrain.metrics.frechet_features import feature_matrix
from musictrain.metrics.intervals import RESAMPLES, Interval, bootstrap_intervals
from musictrain.metrics.measures import MEASURES, measure_pieces
from musictrain.metrics.reference_distance import distance_to_band
from musictrain.notes import Notes, TimeSignature
from musictrain.sampling.corpus_reference import CorpusReference

TOLERANCE = 1e-6
MOST_TOLD = 10
COPYING = ("copy_rate", "copy_excess", "longest_match", "longest_match_excess")


class Sample(NamedTuple):
    """A generated piece, and the beat at which the model began."""

    name: str
    notes: Notes
    from_beat: float = 0.0


class Copied(NamedTuple):
    """The longest passage of a sample that stands in the training set."""

    sample: str
    match: Match


@dataclass(frozen=True)
class Scores:
    """What samples are worth.

    Args:
        values: each score with the bounds it lies between, nan where it has none; the same names for every set of samples of a run.
        copied: the longest passage of each sample that has one, the longest in bars first.
        frechet_chance: the share of sets of the same sizes, drawn from samples and corpus together, that lie as far apart; nan if unknown.
    """

    values: dict[str, Interval]
    copied: tuple[Copied, ...]
    frechet_chance: float


def score_samples(samples: Sequence[Sample], reference: CorpusReference, *, level: float = 0.9) -> Scores:
    """Judge samples by a corpus. Deterministic. Without a note in any of them measures are nan.

    Args:
        samples: no longer than ``reference.beats`` after their ``from_beat``.
        reference: of the corpus.
        level: of the bootstrap intervals.

    Raises:
        ValueError: if ``level`` is no share.
    """
    own = [music_from(sample.notes, sample.from_beat) for sample in samples]
    measures = bootstrap_intervals(measure_pieces(own), level=level)
    distance, chance = _frechet(own, reference)
    copied = _copied(samples, reference)
    values = {
        **measures,
        "in_band": _alone(share_in_band({name: interval.mean for name, interval in measures.items()}, reference.bands)),
        **_copying(samples, copied, reference, level),
        "frechet_excess": _alone(distance),
        **(_rules(own, reference, level) if reference.is_four_part else {}),
    }
    return Scores(values, copied, chance)


def score_names(reference: CorpusReference) -> tuple[str, ...]:
    """The names of all scores that ``score_samples`` gives, in their order."""
    rules = (*RULES, "chorale_rule_distance") if reference.is_four_part else ()
    return (*MEASURES, "in_band", *COPYING, "frechet_excess", *rules)


def music_from(notes: Notes, beat: float) -> Notes:
    """The music from the first bar line at or after ``beat`` on, that line being beat 0."""
    if beat <= 0.0:
        return notes
    lines = bar_lines(notes, max(notes.end, beat))
    start = float(lines[lines >= beat - TOLERANCE][0])
    kept, signatures = notes.between(start - TOLERANCE, math.inf), sorted(notes.time_signatures)
    in_force = [TimeSignature(0.0, *sign[1:]) for sign in signatures if sign.onset <= start + TOLERANCE][-1:]
    later = [sign._replace(onset=sign.onset - start) for sign in signatures if sign.onset > start + TOLERANCE]
    return replace(kept, onset=np.maximum(kept.onset - start, 0.0), time_signatures=(*in_force, *later), tempos=())


def share_in_band(means: Mapping[str, float], bands: Mapping[str, tuple[float, float]]) -> float:
    """The share of measures whose mean lies where the corpus does, of those that both have; nan for none.

    >>> share_in_band({"a": 1.0, "b": 5.0, "c": math.nan}, {"a": (0.0, 2.0), "b": (0.0, 2.0), "c": (0.0, 2.0)})
    0.5
    """
    inside = [
        float(distance_to_band(mean, *bands[name])) <= TOLERANCE
        for name, mean in means.items()
        if not (math.isnan(mean) or math.isnan(bands.get(name, (math.nan,))[0]))
    ]
    return float(np.mean(inside)) if inside else math.nan


def ratio_interval(counts: ArrayLike, *, level: float = 0.9, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """A rate over all pieces together, and bounds from drawing pieces: as ``bootstrap_interval``, for a share of sums.

    Args:
        counts: of each piece how many did and how many there were, (pieces, 2).
        level: share of drawings between the bounds.
        resamples: drawings.
        seed: of the drawings.

    >>> ratio_interval([[1, 4], [3, 4]]).mean
    0.5
    """
    pairs = np.asarray(counts, np.float64).reshape(-1, 2)
    pairs = pairs[pairs[:, 1] > 0]
    if not len(pairs):
        return _alone(math.nan)
    rate = float(pairs[:, 0].sum() / pairs[:, 1].sum())
    if len(pairs) < 2:
        return _alone(rate)
    drawn = pairs[np.random.default_rng(seed).integers(len(pairs), size=(resamples, len(pairs)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], ((1 - level) / 2, (1 + level) / 2))
    return Interval(rate, float(low), float(high))


def record_of(scores: Scores, reference: CorpusReference, *, level: float, num: int) -> dict[str, Any]:
    """All of it in JSON's own types, with where the corpus lies: what ``scores.json`` holds."""
    bands = reference.shown_bands(num)
    told = {
        f"val/{name}": {**{key: _known(value) for key, value in interval._asdict().items()}, "corpus": bands.get(name)}
        for name, interval in scores.values.items()
    }
    return {
        "scores": told,
        "interval_level": level,
        "frechet_chance": _known(scores.frechet_chance),
        "copied": [{"sample": sample, "says": str(match), **match.__dict__} for sample, match in scores.copied[:MOST_TOLD]],
        "corpus": {
            "validation_pieces": reference.num_pieces,
            "beats": reference.beats,
            "copy_rate": _known(reference.copy_rate),
            "copy_bars": reference.copy_bars,
            "longest_match_bars": reference.longest_bars,
        },
    }


def _copied(samples: Sequence[Sample], reference: CorpusReference) -> tuple[Copied, ...]:
    found = [(sample.name, longest_match(sample.notes, reference.index, from_beat=sample.from_beat)) for sample in samples]
    return tuple(sorted((Copied(name, match) for name, match in found if match is not None), key=lambda one: -one.match.bars))


def _copying(samples: Sequence[Sample], copied: Sequence[Copied], reference: CorpusReference, level: float) -> dict[str, Interval]:
    counts = [copy_counts(one.notes, reference.index, bars=reference.copy_bars, from_beat=one.from_beat) for one in samples]
    rate = ratio_interval(counts, level=level)
    plays = any(len(sample.notes.pitched()) for sample in samples)
    longest = copied[0].match.bars if copied else (0.0 if plays else math.nan)
    own = 0.0 if math.isnan(reference.copy_rate) else reference.copy_rate
    excess = Interval(*(_above(value, own) for value in rate))
    matched = _alone(longest), _alone(_above(longest, reference.longest_bars))
    return dict(zip(COPYING, (rate, excess, *matched), strict=True))


def _rules(pieces: Sequence[Notes], reference: CorpusReference, level: float) -> dict[str, Interval]:
    counts = np.array([[chorale_counts(notes)[rule] for rule in RULES] for notes in pieces], np.int64).reshape(-1, len(RULES), 2)
    judged = int((counts[:, :, 1] > 0).any(axis=1).sum())
    rates = {rule: Interval(*(100.0 * bound for bound in ratio_interval(counts[:, at], level=level))) for at, rule in enumerate(RULES)}
    bands = reference.rule_bands(judged)
    distances = [float(distance_to_band(rate.mean, *bands[rule])) for rule, rate in rates.items()]
    return {**rates, "chorale_rule_distance": _alone(float(np.mean(distances)))}


def _frechet(pieces: Sequence[Notes], reference: CorpusReference) -> tuple[float, float]:
    """The excess of the Frechet distance, as ``frechet_excess`` gives it, and the share of chance distances at least as far."""
    generated = feature_matrix(pieces)
    if min(len(generated), len(reference.features)) < FEWEST_PIECES:
        return math.nan, math.nan
    scale = FeatureScale.of(reference.features)
    sets = scale.of_points(reference.features), scale.of_points(generated)
    distance, chances = frechet_distance(*sets), chance_distances(*sets)
    return distance - float(np.median(chances)), float(np.mean(chances >= distance))


def _alone(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)


def _above(value: float, limit: float) -> float:
    return value if math.isnan(value) else max(0.0, value - limit)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
