"""Batches that look wrong, validations that drift, music that collapses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from musictrain.health import Bound, DataAnomalies, Finding, MusicalCollapse, ValidationDrift, Vitals
from tests.health.sequences import begun, of, rows, told

GOOD = {"number": 5, "pieces": ["a", "b", "a", "c"], "unseen_tokens": [], "silent_beats": 2.0, "window_beats": 48.0}


def of_batch(**changes: Any) -> list[Finding]:
    return told(DataAnomalies().detector(), [Vitals(5, {}, {}, {**GOOD, **changes})])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unseen_tokens": [7, 90]}, "ids 7, 90"),
        ({"unseen_tokens": list(range(9))}, "is 9, normally 0: ids 0, 1, 2, 3, 4 and 4 more"),
        ({"pieces": ["bwv1"] * 4}, "all 4 rows are from bwv1"),
        ({"silent_beats": 40.0}, "40 beats"),
        ({"silent_beats": 4.0, "window_beats": 4.0}, "no note begins or sounds in it"),
    ],
)
def test_what_is_wrong_with_a_batch_is_told_at_once(changes: dict[str, Any], says: str) -> None:
    (finding,) = of_batch(**changes)
    assert says in finding.sentence()
    assert "of batch 5 is" in finding.sentence()
    assert finding.details["batch"] == 5


def test_a_good_batch_and_one_of_few_rows_are_well() -> None:
    assert of_batch() == []
    assert of_batch(pieces=["a"] * 3) == []
    assert told(DataAnomalies().detector(), [Vitals(0, {"loss": 1.0})]) == []


def test_a_corpus_of_one_piece_is_told_once() -> None:
    batches = [Vitals(step, {}, {}, {**GOOD, "pieces": ["a"] * 8}) for step in range(100)]
    assert len(told(DataAnomalies().detector(), batches)) == 1


def validations(values: list[float], train: list[float] | None = None) -> list[Vitals]:
    train = [1.0] * len(values) if train is None else train
    vitals = []
    for place, value in enumerate(values):
        steps = range(100 * place, 100 * place + 99)
        vitals += [Vitals(step, {"loss": train[place]}) for step in steps]
        vitals.append(Vitals(100 * place + 99, {"loss": train[place], "val/loss": value}))
    return vitals


def test_a_validation_loss_that_rises_alone_is_found_after_its_patience() -> None:
    values = [2.0, 1.5, 1.0, 1.1, 1.2, 1.3, 1.4, 0.9]
    first, last = told(ValidationDrift().detector(), validations(values, [2.0 - 0.1 * place for place in range(8)]))
    assert first.step == 100 * (3 + ValidationDrift().patience) - 1
    assert (first.value, first.normal, first.details["best_step"]) == (1.3, 1.0, 299)
    assert "while the training loss went from" in first.sentence()
    assert last.over


def test_where_the_training_loss_rises_too_it_is_no_drift() -> None:
    values = [2.0, 1.5, 1.0, 1.1, 1.2, 1.3, 1.4]
    assert told(ValidationDrift().detector(), validations(values, [value - 0.1 for value in values])) == []


def test_noise_within_the_margin_is_no_drift() -> None:
    assert told(ValidationDrift().detector(), validations([1.0, 1.04, 1.03, 1.049, 1.04, 1.02, 1.04])) == []


def test_a_validation_that_is_not_finite_counts_for_nothing() -> None:
    values = [1.0, 1.2, math.nan, 1.2, 1.2]
    assert [one.step for one in told(ValidationDrift().detector(), validations(values))] == [499]


def test_drift_needs_no_training_loss() -> None:
    assert len(begun(ValidationDrift().detector(), of("val/loss", [1.0, 1.2, 1.2, 1.2]))) == 1


def test_music_that_falls_into_a_loop_is_found_after_its_patience() -> None:
    repetition = [0.1, 0.2, 0.9, 0.1, 0.9, 0.95, 0.1, 0.1]
    first, last = told(MusicalCollapse().detector(), of("val/bar_repetition", repetition, every=100))
    assert (first.step, first.details["metric"]) == (500, "val/bar_repetition")
    assert "above 0.7 in 2 scored validations in a row: the samples run in a loop" in first.sentence()
    assert last.over


def test_a_network_that_has_just_begun_may_play_what_it_likes() -> None:
    rule = MusicalCollapse(grace=4)
    assert told(rule.detector(), of("val/bar_repetition", [0.9] * 3 + [0.2] * 3)) == []
    assert [one.step for one in told(rule.detector(), of("val/bar_repetition", [0.9] * 6))] == [3]


def test_validations_without_scores_do_not_count() -> None:
    looks = rows([{"val/loss": 1.0, **({"val/bar_repetition": 0.1 if look < 4 else 0.9} if look % 4 == 0 else {})} for look in range(12)])
    assert [one.step for one in told(MusicalCollapse().detector(), looks)] == [8]
    assert told(MusicalCollapse().detector(), of("val/loss", [1.0] * 9)) == []


def test_bounds_of_ones_own_are_two_sided() -> None:
    rule = MusicalCollapse(bounds={"val/x": Bound(above=2.0, below=1.0)}, patience=1)
    assert [one.step for one in told(rule.detector(), of("val/x", [1.5, 0.5, 1.5, 1.5, 2.5]))] == [1, 1, 4]
    assert rule == MusicalCollapse(bounds={"val/x": {"above": 2.0, "below": 1.0}}, patience=1)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="neither above nor below"):
        Bound()
