"""Pacings begin where they should, never fall, and end at everything; each has the shape that its source gives it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.curriculum import Pacing, Shift
from musictrain.curriculum.pacing import SHAPES, made_of

pacings = st.builds(
    Pacing,
    until=st.floats(1.0, 1e7),
    shape=st.sampled_from(sorted(SHAPES)),
    start=st.floats(1e-3, 1.0),
    begin=st.floats(0.0, 0.99),
    power=st.floats(0.2, 10.0),
    stages=st.integers(1, 50),
)


@given(pacings, st.lists(st.floats(0.0, 2e7), min_size=2, max_size=20))
def test_a_pacing_begins_at_its_start_never_falls_and_ends_at_everything(pacing: Pacing, amounts: list[float]) -> None:
    assert pacing.until is not None
    shares = [pacing.at(amount) for amount in sorted([0.0, pacing.begin, *amounts, pacing.until, 3e7])]
    assert shares[0] == shares[1] == pytest.approx(pacing.start)
    assert shares == sorted(shares)
    assert all(pacing.start <= share <= 1.0 for share in shares)
    assert pacing.at(pacing.until) == shares[-1] == 1.0


@given(st.floats(0.01, 1.0), st.integers(1, 10_000), st.integers(0, 10_000))
def test_a_root_of_power_2_is_the_competence_of_platanios_et_al(start: float, until: int, amount: int) -> None:
    expected = min(1.0, math.sqrt(amount * (1 - start**2) / until + start**2))
    assert Pacing(until=until, shape="root", start=start).at(amount) == pytest.approx(expected)


@given(st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_a_root_of_power_1_is_a_line_and_greater_powers_are_faster_at_first(start: float, way: float) -> None:
    shares = [Pacing(until=1.0, shape="root", start=start, power=power).at(way) for power in (1.0, 2.0, 5.0)]
    assert shares[0] == pytest.approx(Pacing(until=1.0, start=start).at(way))
    assert shares == sorted(shares) or shares == pytest.approx(sorted(shares))


@given(st.floats(0.01, 0.99), st.floats(0.0, 0.9))
def test_a_geometric_pacing_grows_by_the_same_factor_in_the_same_time(start: float, way: float) -> None:
    pacing = Pacing(until=1.0, shape="geometric", start=start)
    assert pacing.at(way + 0.1) / pacing.at(way) == pytest.approx(start**-0.1)


@given(st.floats(0.01, 0.9), st.integers(1, 20))
def test_steps_jump_as_often_as_they_should_by_equal_heights(start: float, stages: int) -> None:
    pacing = Pacing(until=1.0, shape="step", start=start, stages=stages)
    levels = sorted({round(pacing.at(place / (7 * stages)), 12) for place in range(7 * stages + 1)})
    assert levels == pytest.approx([start + (1 - start) * stage / stages for stage in range(stages + 1)])


amount_of_rows = st.dictionaries(st.sampled_from(["ryans", "airds", "chorales"]), st.floats(0.0, 9.0), min_size=1).filter(
    lambda shares: sum(shares.values()) > 0.1
)


@given(amount_of_rows, amount_of_rows, st.floats(-5.0, 20.0), st.one_of(st.none(), st.integers(1, 5)))
def test_a_mixture_sums_to_1_and_goes_from_its_start_to_its_end(
    start: dict[str, float], end: dict[str, float], amount: float, stages: int | None
) -> None:
    shift = Shift(start, end, begin=2.0, until=10.0, stages=stages)
    assert math.fsum(share for _, share in shift.at(amount)) == pytest.approx(1.0)
    for name, share in shift.at(amount):
        low, high = sorted([shift.start.get(name, 0.0), shift.end.get(name, 0.0)])
        assert low - 1e-12 <= share <= high + 1e-12
    for place, expected in ((0.0, shift.start), (2.0, shift.start), (10.0, shift.end), (99.0, shift.end)):
        assert dict(shift.at(place)) == pytest.approx({name: expected.get(name, 0.0) for name in {**start, **end}})


def test_it_says_what_is_wrong_with_a_setting() -> None:
    pacings: list[tuple[Any, str]] = [
        ({"shape": "liner"}, "Did you mean 'linear'"),
        ({"start": 0.0}, "start=0.0; it needs a share above 0"),
        ({"start": 1.5}, "at most 1"),
        ({"begin": 10, "until": 10}, "`begin` the lower one"),
        ({"power": 0}, "power=0"),
        ({"stages": 0}, "stages=0"),
        ({"untill": 10}, "has no 'untill'.*Did you mean 'until'"),
        (7, "needs settings by name"),
    ]
    for settings, words in pacings:
        with pytest.raises(ValueError, match=f"(?s)The length.*{words}"):
            made_of(Pacing, "The length", settings)
    shifts: list[tuple[Any, str]] = [
        ({"start": {"ryans": 1}}, "lacks end"),
        ({"start": {"ryans": -1}, "end": {"chorales": 1}}, "start got"),
        ({"start": {"ryans": 0}, "end": {"chorales": 1}}, "needs shares by the name of a corpus"),
        ({"start": {"ryans": 1}, "end": {"chorales": 1}, "stages": 0}, "stages=0"),
    ]
    for settings, words in shifts:
        with pytest.raises(ValueError, match=f"(?s)The mixture.*{words}"):
            made_of(Shift, "The mixture", settings)
