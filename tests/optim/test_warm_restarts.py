"""Warm restarts against torch's on the same steps, and the warm-up and falling peaks that torch has not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from musictrain.optim import WarmRestarts


@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("final", [0.0, 0.25])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_its_cycles_are_torchs(growth, final):
    schedule = WarmRestarts(warmup_steps=0, cycle_steps=7, cycle_growth=growth, final_fraction=final)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = CosineAnnealingWarmRestarts(optimizer, T_0=7, T_mult=growth, eta_min=final)
    for step in range(100):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        reference.step()


@given(warmup=st.integers(0, 50), step=st.integers(0, 3000), growth=st.integers(1, 3), peak=st.floats(0, 1), final=st.floats(0, 1))
def test_a_factor_is_a_share_of_the_full_rate(warmup, step, growth, peak, final):
    schedule = WarmRestarts(warmup, 40, growth, final, peak)
    assert 0.0 <= schedule(step) <= 1.0 + 1e-12


def test_the_warm_up_comes_first_and_the_first_cycle_begins_after_it():
    schedule = WarmRestarts(warmup_steps=3, cycle_steps=10, final_fraction=0.0)
    assert [schedule(step) for step in (0, 1, 2, 3)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule(8) == pytest.approx(0.5)
    assert schedule(13) == 1.0


def test_each_peak_is_a_share_of_the_one_before():
    schedule = WarmRestarts(warmup_steps=0, cycle_steps=4, cycle_growth=2, peak_fraction=0.5)
    assert [schedule(step) for step in (0, 4, 12, 28)] == [1.0, 0.5, 0.25, 0.125]


def test_it_needs_no_end():
    assert not WarmRestarts().needs_total_steps
    assert WarmRestarts().over(50) == WarmRestarts()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "WarmRestarts got warmup_steps=-1"),
        ({"cycle_steps": 0}, "cycle_steps=0, expected a whole number of at least 1"),
        ({"cycle_growth": 1.5}, "cycle_growth=1.5, expected a whole number"),
        ({"final_fraction": 2.0}, "final_fraction=2.0, expected a share"),
        ({"peak_fraction": -0.1}, "peak_fraction=-0.1, expected a share"),
    ],
)
def test_restarts_that_cannot_work_are_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        WarmRestarts(**options)
