"""Laws every schedule keeps, and the values of some by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from musictrain.optim import Constant, InverseSquareRoot, Schedule, WarmupCosine, WarmupStableDecay

shares = st.floats(0, 1)
warmups = st.integers(0, 300)
totals = st.integers(1, 2000)
endings = st.one_of(
    st.builds(WarmupCosine, warmup_steps=warmups, total_steps=totals, final_fraction=shares),
    st.builds(
        WarmupStableDecay,
        warmup_steps=warmups,
        total_steps=totals,
        final_fraction=shares,
        decay_fraction=shares,
        shape=st.sampled_from(["linear", "sqrt"]),
    ),
)
endless = st.one_of(st.builds(InverseSquareRoot, warmup_steps=warmups), st.builds(Constant, warmup_steps=warmups))
schedules = st.one_of(endings, endless)


@given(schedule=schedules, step=st.integers(0, 5000))
def test_a_factor_is_never_negative_and_never_above_one(schedule, step):
    assert 0.0 <= schedule(step) <= 1.0 + 1e-12


@given(schedule=schedules)
def test_the_warm_up_rises_in_equal_parts_from_above_zero_to_one(schedule):
    assume(schedule.total_steps is None or schedule.warmup_steps < schedule.total_steps)
    assert schedule(0) == pytest.approx(1 / (schedule.warmup_steps + 1))
    assert schedule(schedule.warmup_steps) == pytest.approx(1.0)
    assert schedule(schedule.warmup_steps / 2) == pytest.approx((schedule(0) + 1.0) / 2)


@given(schedule=schedules)
def test_it_never_rises_after_the_warm_up(schedule):
    factors = [schedule(step) for step in range(schedule.warmup_steps, 2500, 7)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(factors))


@given(schedule=endings, beyond=st.integers(0, 100))
def test_it_ends_at_the_final_fraction_and_stays_there(schedule, beyond):
    assume(schedule.warmup_steps < schedule.total_steps)
    assert schedule(schedule.total_steps + beyond) == pytest.approx(schedule.final_fraction)


@given(schedule=schedules, data=st.data())
def test_it_is_continuous_wherever_two_pieces_join(schedule, data):
    joins = [schedule.warmup_steps]
    if schedule.total_steps is not None:
        assume(schedule.warmup_steps < schedule.total_steps)
        joins.append(schedule.total_steps)
    if isinstance(schedule, WarmupStableDecay):
        assume(schedule.decay_fraction > 0.01)
        joins.append((1 - schedule.decay_fraction) * schedule.total_steps)
    join = data.draw(st.sampled_from(joins))
    assert abs(schedule(join + 1e-9) - schedule(max(0.0, join - 1e-9))) < 1e-3


def test_the_cosine_is_half_way_down_in_the_middle():
    schedule = WarmupCosine(warmup_steps=100, total_steps=300, final_fraction=0.2)
    assert schedule(200) == pytest.approx(0.6)


@pytest.mark.parametrize(("shape", "expected"), [("linear", 0.75), ("sqrt", 0.5)])
def test_wsd_stays_up_and_comes_down_in_its_own_shape(shape, expected):
    schedule = WarmupStableDecay(warmup_steps=10, total_steps=1000, final_fraction=0.0, decay_fraction=0.2, shape=shape)
    assert {schedule(step) for step in (10, 500, 800)} == {1.0}
    assert schedule(850) == pytest.approx(expected)


def test_the_inverse_square_root_halves_when_the_steps_are_fourfold():
    schedule = InverseSquareRoot(warmup_steps=99)
    assert schedule(399) == pytest.approx(0.5)
    assert schedule(1599) == pytest.approx(0.25)


def test_constant_is_one_from_the_first_step_on():
    assert {Constant()(step) for step in (0, 1, 10**6)} == {1.0}


@given(schedule=endings)
def test_the_first_factor_does_not_depend_on_where_the_run_ends(schedule):
    """MusicModule makes the first factor before it knows the end."""
    assert schedule(0) == replace(schedule, total_steps=None).over(10**9)(0)


def test_the_runs_length_fills_in_only_what_was_left_open():
    assert WarmupCosine().needs_total_steps
    assert WarmupCosine(warmup_steps=7).over(50) == WarmupCosine(warmup_steps=7, total_steps=50)
    assert WarmupCosine(total_steps=30).over(50) == WarmupCosine(total_steps=30)
    assert not WarmupCosine().over(50).needs_total_steps
    assert not Constant().needs_total_steps
    assert Constant().over(50) == Constant()


def test_a_run_shorter_than_the_warm_up_ends_in_it():
    schedule = WarmupCosine(warmup_steps=100).over(20)
    assert [schedule(step) for step in (0, 19)] == [pytest.approx(1 / 101), pytest.approx(20 / 101)]


@pytest.mark.parametrize("schedule", [WarmupCosine(), WarmupStableDecay()])
def test_a_schedule_without_its_end_says_so(schedule):
    with pytest.raises(ValueError, match="has no total_steps yet"):
        schedule(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WarmupCosine(warmup_steps=-1), "WarmupCosine got warmup_steps=-1"),
        (lambda: Constant(warmup_steps=-1), "Constant got warmup_steps=-1"),
        (lambda: InverseSquareRoot(warmup_steps=-1), "InverseSquareRoot got warmup_steps=-1"),
        (lambda: WarmupCosine(total_steps=0), "got total_steps=0, expected at least 1"),
        (lambda: WarmupCosine(final_fraction=1.5), "got final_fraction=1.5, expected a share"),
        (lambda: WarmupStableDecay(decay_fraction=math.nan), "got decay_fraction=nan, expected a share"),
        (lambda: WarmupStableDecay(shape="cubic"), "got shape='cubic', expected 'linear' or 'sqrt'"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_at_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_of_ones_own_is_a_dataclass_with_a_call():
    class Half(Schedule):
        def __call__(self, step: float) -> float:
            return 0.5

    assert Half().over(10)(3) == 0.5
