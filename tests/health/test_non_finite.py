"""What is not finite is found at the very look, with its place."""

from __future__ import annotations

import math

import pytest

from musictrain.health import NonFinite, Vitals
from tests.health.sequences import told

WELL = Vitals(0, {"loss": 1.0, "gradient_norm": 2.0, "non_finite/weights": 0.0, "non_finite/gradients": 0.0})


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"loss": math.nan}, "the training loss is not finite"),
        ({"gradient_norm": math.inf}, "the gradients are not finite"),
        ({"non_finite/gradients": 1.0}, "the gradients are not finite, first in layers.2.weight"),
        ({"non_finite/weights": 1.0}, "the weights are not finite, first in layers.0.bias"),
    ],
)
def test_each_is_told_with_its_place(values: dict[str, float], subject: str) -> None:
    where = {"non_finite/gradients": "layers.2.weight", "non_finite/weights": "layers.0.bias"}
    detector = NonFinite().detector()
    assert detector.see(WELL) is None
    finding = detector.see(Vitals(9, {**WELL.values, **values}, where if "loss" not in values and "gradient_norm" not in values else {}))
    assert finding is not None
    assert finding.sentence() == f"At step 9 {subject}."


def test_weights_come_first_since_they_do_not_mend() -> None:
    finding = NonFinite().detector().see(Vitals(3, {"loss": math.nan, "gradient_norm": math.nan, "non_finite/weights": 1.0}))
    assert finding is not None
    assert finding.details["of"] == "weights"


def test_it_is_told_once_and_unusual_at_every_such_step() -> None:
    detector = NonFinite().detector()
    bad = {3, 4, 5, 8}
    rows = [Vitals(step, {"loss": math.nan if step in bad else 1.0}) for step in range(10)]
    unusual, said = [], []
    for row in rows:
        said.append(detector.see(row))
        unusual.append(detector.unusual is not None)
    assert [step for step, one in enumerate(unusual) if one] == sorted(bad)
    assert [(step, one.over) for step, one in enumerate(said) if one] == [(3, False), (6, True), (8, False), (9, True)]


def test_what_is_finite_is_well_however_large() -> None:
    assert told(NonFinite().detector(), [Vitals(0, {"loss": 1e300, "gradient_norm": 0.0, "non_finite/loss": 0.0})]) == []
