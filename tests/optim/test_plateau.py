"""Plateau against torch's rule on the same values, and what it remembers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from musictrain.optim import Plateau, PlateauWatch

rules = st.builds(
    Plateau,
    mode=st.sampled_from(["min", "max"]),
    factor=st.sampled_from([0.1, 0.5, 0.9]),
    patience=st.integers(0, 4),
    min_delta=st.sampled_from([0.0, 0.01, 0.3]),
    relative=st.booleans(),
    cooldown=st.integers(0, 3),
    min_fraction=st.sampled_from([0.0, 0.2, 1.0]),
)
values = st.lists(st.one_of(st.sampled_from([1.0, 0.99, 2.0, math.nan]), st.floats(0.0, 4.0)), min_size=1, max_size=40)


def factors(watch: PlateauWatch, shown: list[float]) -> list[float]:
    given_factors = []
    for value in shown:
        watch.see(value)
        given_factors.append(watch.factor)
    return given_factors


@given(rule=rules, shown=values)
def test_it_reduces_after_the_same_values_as_torchs(rule, shown):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = ReduceLROnPlateau(
        optimizer,
        mode=rule.mode,
        factor=rule.factor,
        patience=rule.patience,
        threshold=rule.min_delta,
        threshold_mode="rel" if rule.relative else "abs",
        cooldown=rule.cooldown,
        min_lr=rule.min_fraction,
        eps=0.0,
    )
    expected = []
    for value in shown:
        reference.step(value)
        expected.append(optimizer.param_groups[0]["lr"])
    assert factors(PlateauWatch(rule), shown) == expected


@given(rule=rules, shown=values)
def test_below_zero_too_only_what_is_better_is_an_improvement(rule, shown):
    watch, better = PlateauWatch(rule), {"min": float.__lt__, "max": float.__gt__}[rule.mode]
    for value in (-one for one in shown):
        before = watch.best
        watch.see(value)
        assert before is None or watch.best == before or better(watch.best, before)


def test_a_share_of_a_value_below_zero_is_one_of_its_size_where_torch_turns_it_round():
    rule = Plateau(mode="min", min_delta=0.1)
    assert [rule.improves(value, -1.0) for value in (-0.95, -1.05, -1.15)] == [False, False, True]
    assert [Plateau(mode="max", min_delta=0.1).improves(value, -1.0) for value in (-1.05, -0.95, -0.85)] == [False, False, True]
    torchs = ReduceLROnPlateau(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), mode="min", threshold=0.1, patience=0)
    torchs.step(-1.0)
    torchs.step(-0.95)
    assert torchs.best == -0.95


@given(rule=rules, shown=values, data=st.data())
def test_a_saved_and_loaded_watch_goes_on_as_if_nothing_had_been(rule, shown, data):
    stop = data.draw(st.integers(0, len(shown)))
    uninterrupted, interrupted, resumed = PlateauWatch(rule), PlateauWatch(rule), PlateauWatch(rule)
    before = factors(interrupted, shown[:stop])
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    assert before + factors(resumed, shown[stop:]) == factors(uninterrupted, shown)


def test_patience_is_borne_and_the_next_validation_reduces():
    watch = PlateauWatch(Plateau(patience=2, factor=0.5))
    assert [watch.see(1.0) for _ in range(4)] == [False, False, False, True]
    assert watch.factor == 0.5


def test_the_configured_patience_wins_over_the_saved_one():
    patient, hasty = PlateauWatch(Plateau(patience=10)), PlateauWatch(Plateau(patience=1))
    factors(patient, [1.0, 1.0, 1.0])
    hasty.load_state_dict(patient.state_dict())
    assert hasty.see(1.0)


def test_another_watched_value_forgets_the_best_and_keeps_the_reductions():
    watch, other = PlateauWatch(Plateau(patience=0)), PlateauWatch(Plateau(monitor="val/groove", mode="max"))
    factors(watch, [0.1, 0.2])
    other.load_state_dict(watch.state_dict())
    assert (other.factor, other.best, other.waited) == (0.5, None, 0)


def test_a_value_that_is_not_finite_never_is_an_improvement():
    watch = PlateauWatch(Plateau(patience=1))
    assert [watch.see(value) for value in (math.nan, math.inf)] == [False, True]
    assert watch.best is None


def test_a_watched_value_that_nobody_logs_is_named_with_the_nearest():
    assert PlateauWatch(Plateau()).heard({"val/loss": torch.tensor(0.5)}) == 0.5
    near = PlateauWatch(Plateau(monitor="val/los")).heard({"val/loss": torch.tensor(1.0)})
    assert near == "Plateau watches 'val/los', but this run logged ['val/loss']. Did you mean 'val/loss'?"
    assert "Log the value in validation" in str(PlateauWatch(Plateau(monitor="groove")).heard({}))


class Scoring:
    score_names = ("val/groove",)


def test_a_score_that_comes_when_there_is_time_is_waited_for_and_counted_once():
    watch, logged = PlateauWatch(Plateau(monitor="val/groove")), {}
    assert watch.heard(logged, [Scoring()]) is None
    logged["val/groove"] = torch.tensor(0.5)
    assert watch.heard(logged, [Scoring()]) == 0.5
    watch.note(logged)
    assert watch.heard(logged, [Scoring()]) is None
    logged["val/groove"] = torch.tensor(0.5)
    assert watch.heard(logged, [Scoring()]) == 0.5


def test_a_score_that_had_nothing_to_measure_does_not_count_and_a_lost_likelihood_does():
    logged = {"val/groove": torch.tensor(math.nan), "val/loss": torch.tensor(math.nan)}
    assert PlateauWatch(Plateau(monitor="val/groove")).heard(logged, [Scoring()]) is None
    assert math.isnan(PlateauWatch(Plateau()).heard(logged, [Scoring()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mim"}, "mode='mim', expected 'min' or 'max'. Did you mean 'min'"),
        ({"factor": 1.0}, "factor=1.0, expected a number between 0 and 1"),
        ({"factor": math.nan}, "factor=nan"),
        ({"min_fraction": 1.5}, "min_fraction=1.5, expected a share"),
        ({"min_delta": -0.1}, "min_delta=-0.1, expected 0 or more"),
        ({"min_delta": math.nan}, "min_delta=nan"),
        ({"patience": -1}, "patience=-1, expected 0 or more validations"),
        ({"cooldown": -1}, "cooldown=-1, expected 0 or more validations"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        Plateau(**options)
