"""The measures that take more than the notes of one piece, under their names: sets, a likelihood, tokens, a training set, four voices.

What each of them wants, its function and its metric say; ``MEASURES`` has those of one piece alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torchmetrics import Metric

from musictrain.metrics import (
    chorale_rules,
    chorale_rules_metrics,
    copying,
    copying_metrics,
    frechet,
    frechet_metrics,
    note_likelihood,
    set_distances,
    validity,
    validity_metrics,
)
from musictrain.metrics.measures import MEASURES, Direction, Measure, declared_range
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

DIRECTIONS: dict[bool | None, Direction] = {None: "two-sided", True: "higher is better", False: "lower is better"}


def _of_sets(name: str, sentence: str, unit: str, function: Callable[..., float], metric: type[Metric], *arguments: Any) -> Measure:
    """A measure of more than one piece: its direction is that of its metric, too."""
    direction = DIRECTIONS[metric.higher_is_better]
    return Measure(name, sentence, unit, function, partial(metric, *arguments) if arguments else metric, *declared_range(metric), direction)


_RULES = {
    "parallel_fifths": "Parallel fifths in 100 changes of sonority: Bach has 0.2.",
    "parallel_octaves": "Parallel octaves in 100 changes of sonority: Bach has 0.1.",
    "direct_intervals": "Fifths and octaves of the outer voices reached in one direction by a leap, in 100 changes: Bach has 0.5.",
    "voice_crossing": "Crossed voices in 100 sonorities: Bach has 2 to 3.",
    "wide_spacing": "Neighbouring upper voices more than an octave apart, in 100 sonorities: Bach has 1 to 2.",
}


def _rule_rate(rule: str, notes: Notes) -> float:
    return chorale_rules.chorale_rates(notes)[rule]


_SETS = (
    _of_sets(
        *("overlapping_area", "How well the generated pieces fit among those of the corpus: 1 is as one of them.", ""),
        *(set_distances.overlapping_area, set_distances.OverlappingArea),
    ),
    _of_sets(
        *("kernel_divergence", "How unlike those of the corpus the generated pieces are: 0 is as one of them.", "nats"),
        *(set_distances.kernel_divergence, set_distances.KernelDivergence),
    ),
    _of_sets(
        *("bits_per_note", "How much each note of the music surprises the model.", "bits"),
        *(note_likelihood.bits_per_note, note_likelihood.BitsPerNote),
    ),
    _of_sets(
        *("frechet_distance", "How far the generated pieces lie from the corpus in 31 features at once: lower is nearer.", ""),
        *(frechet.frechet_distance, frechet_metrics.FrechetDistance),
    ),
    _of_sets(
        *(
            "copy_rate",
            "Share of windows that stand in the training set: above the validation set's own rate it copies, below it may still.",
            "",
        ),
        *(copying.copy_rate, copying_metrics.CopyRate),
    ),
    _of_sets(
        *("token_validity", "Share of tokens that keep the grammar of the tokenizer: 1 is music without a slip of the pen.", ""),
        *(validity.token_validity, validity_metrics.TokenValidity),
    ),
    *(
        _of_sets(rule, _RULES[rule], "per 100", partial(_rule_rate, rule), chorale_rules_metrics.ChoraleRate, rule)
        for rule in chorale_rules.RULES
    ),
)
SET_MEASURES = {measure.name: measure for measure in _SETS}
"""What is measured of sets of pieces, of a likelihood, of tokens, or of four voices."""


def measure_named(name: str) -> Measure:
    """The measure of a piece, of sets or of a likelihood under its name.

    Raises:
        ValueError: if there is none.
    """
    known = MEASURES | SET_MEASURES
    if name not in known:
        raise ValueError(f"No measure is called {name!r}. {did_you_mean(name, known)} There are: {', '.join(known)}.".replace("  ", " "))
    return known[name]
