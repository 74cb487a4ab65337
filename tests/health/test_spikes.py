"""Spikes: what is told, how soon, and what is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.health import GradientSpike, LossSpike, Vitals
from tests.health.sequences import begun, falling, of, told


def spiked(at: int, factor: float, lasts: int = 1, steps: int = 600, seed: int = 0) -> np.ndarray:
    losses = falling(steps, seed)
    losses[at : at + lasts] *= factor
    return losses


def test_one_high_batch_is_found_at_once_and_told_once() -> None:
    first, last = told(LossSpike().detector(), of("loss", spiked(300, 4.0)))
    assert (first.kind, first.step, first.over) == ("loss_spike", 300, False)
    assert first.normal == pytest.approx(0.9, abs=0.2)
    assert first.score > 14
    assert (last.over, last.began, last.step) == (True, 300, 300)
    assert last.details["over_at"] == 300 + LossSpike().calm


def test_a_spike_that_lasts_is_one_incident_and_moves_no_level() -> None:
    detector = LossSpike().detector()
    first, last = told(detector, of("loss", spiked(300, 3.0, lasts=60)))
    assert first.step == 300
    assert (last.began, last.step) == (300, 359)
    assert last.normal == pytest.approx(first.normal, rel=0.1)


def test_what_is_moderately_high_is_found_with_patience() -> None:
    patient = LossSpike(patience=4).detector()
    level = np.where(np.arange(400) % 2, 1.0, 1.1)  # a deviation of about 0.1
    level[300:] += 0.7
    assert [(finding.step, finding.began) for finding in begun(patient, of("loss", level))] == [(303, 300)]


def test_what_is_a_little_high_for_long_is_found() -> None:
    losses = 1.0 + 0.1 * np.random.default_rng(3).standard_normal(600)
    losses[400:] += 0.45
    detector = LossSpike(threshold=50.0, sudden=100.0).detector()
    found = begun(detector, of("loss", losses))
    assert len(found) == 1
    assert 400 < found[0].step <= 400 + LossSpike().level
    assert found[0].began == found[0].step - LossSpike().level + 1
    assert "for long" in found[0].sentence()


def test_what_stays_is_taken_for_normal_and_said() -> None:
    losses = falling(900)
    losses[300:] += 5.0
    first, last = told(LossSpike().detector(), of("loss", losses))
    assert first.step == 300
    assert last.details["stayed"] is True
    assert "taken for normal" in last.sentence()


def test_a_stage_that_is_told_is_no_spike() -> None:
    losses = falling(600)
    losses[300:] *= 4
    rows = [Vitals(step, {"loss": loss, "stage": float(step >= 300)}) for step, loss in enumerate(losses)]
    assert told(LossSpike().detector(), rows) == []
    assert told(LossSpike().detector(), of("loss", losses)) != []


def test_a_warm_up_restart_whose_loss_rises_by_a_tenth_is_no_spike() -> None:
    losses = falling(800)
    losses[400:] *= 1 + 0.1 * (1 - np.exp(-np.arange(400) / 15)) * np.exp(-np.arange(400) / 100)
    assert told(LossSpike().detector(), of("loss", losses)) == []


@pytest.mark.parametrize("settings_type", [LossSpike, GradientSpike])
@pytest.mark.parametrize("value", [0.0, 1e-20, 0.7, 1e12])
def test_a_constant_is_no_spike(settings_type: type[LossSpike], value: float) -> None:
    name = "loss" if settings_type is LossSpike else "gradient_norm"
    assert told(settings_type().detector(), of(name, [value] * 300)) == []


def test_what_hardly_varies_may_rise_by_a_little() -> None:
    losses = [1.0] * 200 + [1.09] + [1.0] * 50
    assert told(LossSpike().detector(), of("loss", losses)) == []
    assert told(LossSpike(least_rise=0.01).detector(), of("loss", losses)) != []


@given(st.integers(0, 5), st.sampled_from([2.0**-20, 0.125, 8.0, 2.0**30]))
@settings(max_examples=12)
def test_in_other_units_the_same_is_found(seed: int, unit: float) -> None:
    losses = spiked(200, 4.0, lasts=3, steps=300, seed=seed)
    plain, scaled = (told(LossSpike().detector(), of("loss", losses * factor)) for factor in (1.0, unit))
    assert [(one.step, one.over, one.score) for one in plain] == [(one.step, one.over, one.score) for one in scaled]
    assert len(plain) == 2


@given(st.integers(0, 5), st.floats(1e-6, 1e6))
@settings(max_examples=12)
def test_gradients_in_other_units_give_the_same(seed: int, unit: float) -> None:
    norms = np.exp(0.3 * np.random.default_rng(seed).standard_normal(300))
    norms[200] *= 100
    plain, scaled = (told(GradientSpike().detector(), of("gradient_norm", norms * factor)) for factor in (1.0, unit))
    assert [(one.step, one.over) for one in plain] == [(one.step, one.over) for one in scaled]
    assert [one.step for one in plain if not one.over] == [200]
    assert plain[0].normal * unit == pytest.approx(scaled[0].normal)


def test_a_fall_is_no_spike() -> None:
    losses = falling(400)
    losses[200:206] *= 0.01
    losses[300:] *= 0.1
    assert told(LossSpike().detector(), of("loss", losses)) == []


def test_what_is_not_finite_is_passed_over() -> None:
    losses = spiked(300, 4.0)
    with_holes = losses.tolist()
    for place in (5, 100, 299, 301):
        with_holes.insert(place, math.nan if place % 2 else math.inf)
    detector, plain = LossSpike().detector(), LossSpike().detector()
    assert len(told(detector, of("loss", with_holes))) == len(told(plain, of("loss", losses))) == 2
    assert detector.own_state() == plain.own_state()


def test_the_step_at_hand_is_unusual_for_as_long_as_it_is() -> None:
    detector = LossSpike().detector()
    unusual = [one.step for one in of("loss", spiked(300, 4.0, lasts=5)) if detector.see(one) or detector.unusual]
    assert unusual[:5] == [300, 301, 302, 303, 304]
    assert detector.unusual is None


@pytest.mark.parametrize("wrong", [{"window": 8}, {"level": 500}])
def test_windows_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="it needs at least least=32 and level="):
        LossSpike(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("norm", "found"), [(1.0, False), (4.0, True), (math.nan, False)])
def test_a_moderate_rise_is_a_spike_where_the_gradients_rise_too(norm: float, found: bool) -> None:
    rng = np.random.default_rng(0)
    losses, norms = 1.0 + 0.1 * rng.standard_normal(300), np.exp(0.2 * rng.standard_normal(300))
    losses[200], norms[200] = 1.8, norm
    rows = [Vitals(step, {"loss": loss, "gradient_norm": own}) for step, (loss, own) in enumerate(zip(losses, norms, strict=True))]
    assert [one.step for one in begun(LossSpike().detector(), rows)] == ([200] if found else [])
