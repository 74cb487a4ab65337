"""Trends: a loss that rises for long, or no longer falls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.health import Divergence, Plateau, Vitals
from tests.health.sequences import begun, falling, of, told


def rising(from_step: int, over_steps: int, steps: int = 1_200, seed: int = 0) -> np.ndarray:
    """A loss that falls and then doubles in so many steps."""
    losses = falling(steps, seed)
    losses[from_step:] *= 1 + np.minimum(np.arange(steps - from_step) / over_steps, 1.0)
    return losses


@given(st.integers(0, 20))
@settings(max_examples=10)
def test_a_loss_that_rises_for_long_is_found_within_its_blocks(seed: int) -> None:
    rule = Divergence()
    found = begun(rule.detector(), of("loss", rising(600, 400, seed=seed)))
    assert found
    # The block in which it begins, then as many as it takes.
    assert 600 < found[0].step < 600 + rule.block * (rule.patience + 3)
    assert "it has risen by" in found[0].sentence()


def test_what_is_gained_and_lost_again_is_found() -> None:
    losses = falling(800)
    losses[500:] = 3.0 + 0.1 * np.random.default_rng(0).standard_normal(300)
    rule = Divergence()
    found = begun(rule.detector(), of("loss", losses))
    assert len(found) == 1
    assert 500 < found[0].step <= 500 + rule.block * (rule.lost_blocks + 1)


def test_a_spike_of_a_few_steps_is_no_divergence() -> None:
    losses = falling(1_000)
    losses[500:510] *= 10
    assert told(Divergence().detector(), of("loss", losses)) == []


@given(st.integers(0, 50), st.sampled_from([0.02, 0.1, 0.2]))
@settings(max_examples=20)
def test_a_falling_loss_does_not_diverge(seed: int, noise: float) -> None:
    assert told(Divergence().detector(), of("loss", falling(1_500, seed, noise))) == []


def test_it_is_over_when_it_has_come_down() -> None:
    losses = rising(600, 300, steps=1_600)
    losses[1000:] = falling(600, seed=1)[-1] * 0.9
    assert [one.over for one in told(Divergence().detector(), of("loss", losses))] == [False, True]


@pytest.mark.parametrize("rule", [Divergence(block=10), Plateau(block=10, patience=5)])
def test_another_stage_begins_anew(rule: Divergence | Plateau) -> None:
    losses = [1.0 + 0.01 * (step % 3) for step in range(40)] * 2
    losses[40:] = [3 * one for one in losses[40:]]
    rows = [Vitals(step, {"loss": loss, "stage": float(step >= 40)}) for step, loss in enumerate(losses)]
    assert told(rule.detector(), rows) == []
    assert told(rule.detector(), of("loss", losses)) != []


@given(st.sampled_from([2.0**-10, 2.0**10]), st.integers(0, 3))
@settings(max_examples=8)
def test_in_other_units_the_same_is_found(unit: float, seed: int) -> None:
    for rule in (Divergence(), Plateau(block=20, patience=4)):
        plain, scaled = (told(rule.detector(), of("loss", rising(600, 400, seed=seed) * factor)) for factor in (1.0, unit))
        assert [(one.step, one.over, one.score) for one in plain] == [(one.step, one.over, one.score) for one in scaled]
        assert plain


def test_a_plateau_is_found_after_its_blocks_and_over_with_the_next_fall() -> None:
    rule = Plateau(block=10, patience=5)
    losses = [2.0 - 0.01 * step for step in range(100)] + [1.0] * 80 + [0.5] * 20
    first, last = told(rule.detector(), of("loss", losses))
    assert first.step == 100 + 10 * (rule.patience + 1) - 1
    assert (last.over, last.details["over_at"]) == (True, 189)


def test_a_loss_that_falls_slowly_is_no_plateau() -> None:
    losses = [2.0 * 0.9999**step for step in range(5_000)]
    assert told(Plateau().detector(), of("loss", losses)) == []
