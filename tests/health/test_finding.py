"""A finding is a sentence with place and numbers, and details that JSON can hold."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from musictrain.health import Finding, Vitals

SPIKE = Finding("loss_spike", 1512, "the training loss", "", 3.5, 0.5, 31.0, "Clip.", "31 robust deviations above that")


def test_the_sentence_has_step_value_and_normal() -> None:
    assert SPIKE.sentence() == "At step 1,512 the training loss is 3.5, normally 0.5: 31 robust deviations above that."


def test_the_place_is_named() -> None:
    assert (
        "the update-to-weight ratio of layers.3.weight is 0.9"
        in replace(SPIKE, what="the update-to-weight ratio", where="layers.3.weight", value=0.9).sentence()
    )


def test_what_is_not_finite_says_where_first() -> None:
    finding = Finding("non_finite", 7, "the gradients", "layers.3.weight", math.nan, math.nan, 2.0, "")
    assert finding.sentence() == "At step 7 the gradients are not finite, first in layers.3.weight."


def test_the_end_says_from_when_to_when() -> None:
    over = replace(SPIKE, step=1520, began=1512, over=True)
    assert over.sentence() == (
        "It is over: the training loss is as usual again after having been unusual from step 1,512 to step 1,520, at worst 3.5."
    )
    assert "is taken for normal now" in replace(over, details={"stayed": True}).sentence()


@pytest.mark.parametrize(
    ("value", "unit", "shown"), [(0.953, "%", "95.3 %"), (123_456.0, "tokens/s", "123,456 tokens/s"), (0.25, "s", "0.25 s")]
)
def test_numbers_are_shown_with_their_unit(value: float, unit: str, shown: str) -> None:
    assert f"is {shown}," in replace(SPIKE, value=value, unit=unit).sentence()


def test_details_are_json_whatever_was_measured() -> None:
    details = replace(SPIKE, value=math.inf, normal=math.nan, where="rank 2", details={"rank": 2}).as_details()
    assert json.loads(json.dumps(details, allow_nan=False)) == {"step": 1512, "where": "rank 2", "score": 31.0, "began": 1512, "rank": 2}


def test_families_are_found_by_their_name() -> None:
    vitals = Vitals(3, {"loss": 1.0, "dead/a/b": 0.5, "dead/c": 0.25, "val/loss": 2.0})
    assert vitals.family("dead") == {"a/b": 0.5, "c": 0.25}
    assert vitals.family("rank_seconds") == {}
