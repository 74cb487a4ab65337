"""Layers, entropy and loss scale: found within their patience, and not before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.health import Entropy, Layers, LossScale
from tests.health.sequences import begun, falling, of, rows, told


@pytest.mark.parametrize(("units", "share"), [("dead", 0.6), ("saturated", 0.95)])
def test_a_layer_is_found_after_its_patience(units: str, share: float) -> None:
    looks = rows([{f"{units}/layers.0": 0.1, f"{units}/layers.1": share if 20 <= look < 30 else 0.2} for look in range(50)], every=10)
    first, last = told(Layers().detector(), looks)
    assert (first.step, first.where, first.details["units"]) == (10 * (20 + Layers().patience - 1), "layers.1", units)
    assert (last.over, last.step) == (True, 290)


def test_a_layer_now_and_then_is_none() -> None:
    looks = rows([{"dead/layers.0": 0.9 if look % 3 else 0.1} for look in range(60)])
    assert told(Layers().detector(), looks) == []


def test_another_layer_is_told_while_the_first_is_still_dead() -> None:
    looks = rows([{"dead/a": 0.9, "dead/b": 0.9 if look > 20 else 0.0} for look in range(40)])
    assert [one.where for one in told(Layers().detector(), looks)] == ["a", "b"]


def predictions(shares: np.ndarray, losses: np.ndarray) -> list:
    return rows([{"loss": float(loss), "entropy": float(loss * share)} for loss, share in zip(losses, shares, strict=True)], every=10)


def test_a_collapse_is_found_after_its_patience() -> None:
    shares = np.full(100, 0.95)
    shares[60:] = 0.05
    found = begun(Entropy().detector(), predictions(shares, falling(100)))
    assert [one.step for one in found] == [10 * (60 + Entropy().patience - 1)]


def test_a_training_set_known_by_heart_is_no_collapse() -> None:
    losses = 3.0 * 0.9 ** np.arange(200)
    assert losses[-1] < 1e-8
    assert told(Entropy().detector(), predictions(np.full(200, 0.9), losses)) == []


def test_predictions_that_were_always_too_sure_are_told_only_when_they_get_worse() -> None:
    shares = np.full(100, 0.2)
    assert told(Entropy().detector(), predictions(shares, falling(100))) == []
    shares[60:] = 0.02
    assert len(begun(Entropy().detector(), predictions(shares, falling(100)))) == 1


@given(st.sampled_from([2.0**-8, 4.0]))
@settings(max_examples=2)
def test_entropy_in_bits_gives_the_same(unit: float) -> None:
    shares = np.where(np.arange(100) < 60, 0.95, 0.05)
    plain, scaled = (told(Entropy().detector(), predictions(shares, falling(100) * factor)) for factor in (1.0, unit))
    assert [(one.step, one.score) for one in plain] == [(one.step, one.score) for one in scaled]


def test_a_loss_scale_that_keeps_falling_is_found_at_the_fourth_halving() -> None:
    scales = [65_536.0] * 100 + [65_536.0 / 2**halving for halving in range(1, 9)]
    found = begun(LossScale().detector(), of("loss_scale", scales))
    assert [one.step for one in found] == [103]
    assert "halved 4 times" in found[0].sentence()


def test_a_scale_that_finds_its_place_at_the_start_is_well() -> None:
    scales = [65_536.0 / 2 ** min(look // 4, 9) for look in range(400)]
    assert told(LossScale().detector(), of("loss_scale", scales)) == []


def test_an_overflow_now_and_then_is_well() -> None:
    scales = [65_536.0 / (2 if look // 30 % 2 else 1) for look in range(1_000)]
    assert told(LossScale().detector(), of("loss_scale", scales)) == []


@pytest.mark.parametrize("scale", [0.5, 0.0])
def test_a_scale_below_one_is_found_at_once(scale: float) -> None:
    assert len(begun(LossScale().detector(), of("loss_scale", [scale]))) == 1


@given(st.lists(st.sampled_from([1.0, 2.0, 4.0, 8.0, 16.0, 256.0]), min_size=1, max_size=60), st.integers(1, 8))
def test_the_highest_scale_is_that_of_the_last_looks(scales: list[float], window: int) -> None:
    detector = LossScale(window=window, warm_up=1, most_halvings=2.0).detector()
    for look, one in enumerate(of("loss_scale", scales)):
        detector.see(one)
        seen = scales[max(1, look + 1 - window) : look + 1] if look else scales[:1]
        assert (detector.unusual is not None) == (max(seen) / scales[look] >= 4)
