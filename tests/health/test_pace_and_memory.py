"""Speed, waiting, ranks and memory: found within their patience; a pause now and then, and caches that fill, are well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.health import DataWait, Memory, SlowRank, Throughput
from musictrain.health.memory import SCALES
from tests.health.sequences import begun, of, rows, told

GIB = 2.0**30


def speeds(seed: int = 0, looks: int = 200) -> np.ndarray:
    return 10_000 * np.exp(0.1 * np.random.default_rng(seed).standard_normal(looks))


def test_a_third_of_the_speed_is_found_after_its_patience_and_over_again() -> None:
    rates = speeds()
    rates[100:130] *= 0.33
    first, last = told(Throughput().detector(), of("tokens_per_second", rates, every=10))
    assert first.step == 10 * (100 + Throughput().patience - 1)
    assert "% less than the median" in first.sentence()
    assert (last.over, last.step) == (True, 1_290)


def test_speed_that_stays_low_is_taken_for_normal() -> None:
    rates = speeds()
    rates[100:] *= 0.33
    _, last = told(Throughput().detector(), of("tokens_per_second", rates))
    assert last.details["stayed"] is True


def test_a_validation_now_and_then_is_well() -> None:
    rates = speeds(looks=400)
    rates[::7] *= 0.2
    assert told(Throughput().detector(), of("tokens_per_second", rates)) == []


@given(st.sampled_from([2.0**-10, 2.0**10]), st.integers(0, 5))
@settings(max_examples=8)
def test_speed_in_other_units_gives_the_same(unit: float, seed: int) -> None:
    rates = speeds(seed)
    rates[100:] *= 0.4
    plain, scaled = (told(Throughput().detector(), of("tokens_per_second", rates * factor)) for factor in (1.0, unit))
    assert [(one.step, one.score) for one in plain] == [(one.step, one.score) for one in scaled]


@pytest.mark.parametrize(("share", "looks"), [(0.5, DataWait().patience), (0.95, DataWait().stalled_looks)])
def test_waiting_is_found_the_sooner_the_worse(share: float, looks: int) -> None:
    shares = [0.02] * 20 + [share] * 20 + [0.02] * 20
    first, last = told(DataWait().detector(), of("data_wait", shares))
    assert first.step == 20 + looks - 1
    assert (last.over, last.step) == (True, 39)


def test_a_wait_now_and_then_is_well() -> None:
    assert told(DataWait().detector(), of("data_wait", [0.95 if look % 5 == 0 else 0.1 for look in range(100)])) == []


def busy(seconds: dict[int, float], looks: int = 40, noise: float = 0.05) -> list:
    rng = np.random.default_rng(0)
    return rows(
        [{f"rank_seconds/{rank}": taken * np.exp(noise * rng.standard_normal()) for rank, taken in seconds.items()} for _ in range(looks)]
    )


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_slow_rank_is_named_among_any_number(ranks: int) -> None:
    found = told(SlowRank().detector(), busy({**dict.fromkeys(range(ranks), 0.1), 1: 0.2}))
    assert [(one.step, one.where, one.details["rank"]) for one in found] == [(SlowRank().patience - 1, "rank 1", 1)]


def test_ranks_that_are_alike_are_well() -> None:
    assert told(SlowRank().detector(), busy(dict.fromkeys(range(4), 0.1), looks=300, noise=0.1)) == []
    assert told(SlowRank().detector(), busy({0: 0.1}, looks=20)) == []


def test_ranks_that_are_slow_in_turn_are_well() -> None:
    looks = [{f"rank_seconds/{rank}": 0.3 if look // 3 % 4 == rank else 0.1 for rank in range(4)} for look in range(200)]
    assert told(SlowRank().detector(), rows(looks)) == []


def bound(rule: Memory, scale: int = 0) -> int:
    """Looks within which a leak is found at this scale, whatever its phase."""
    return (rule.patience + 2) * rule.block * 4**scale


def test_a_leak_is_found_within_its_blocks_and_its_pace_is_told() -> None:
    sizes = GIB * (1 + 0.02 * np.random.default_rng(0).random(200))
    sizes[100:] += GIB * 0.01 * np.arange(100)
    found = begun(Memory().detector(), of("memory", sizes, every=10))
    assert len(found) == 1
    assert 1_000 < found[0].step <= 1_000 + 10 * bound(Memory())
    assert found[0].details["bytes_a_step"] == pytest.approx(GIB * 0.001, rel=0.3)


def test_a_slow_leak_is_found_at_a_longer_scale() -> None:
    sizes = GIB * (1 + 0.02 * np.random.default_rng(0).random(1_000))
    sizes[100:] += GIB * 0.0006 * np.arange(900)
    found = begun(Memory().detector(), of("memory", sizes))
    assert len(found) == 1
    assert 100 + bound(Memory()) < found[0].step <= 100 + bound(Memory(), scale=2)


def test_the_leak_is_over_when_the_growth_is() -> None:
    sizes = GIB * (1 + np.minimum(0.01 * np.arange(300), 1.2))
    assert [one.over for one in told(Memory().detector(), of("memory", sizes))] == [False, True]


@pytest.mark.parametrize(
    "sizes",
    [
        np.full(2_000, GIB),
        GIB * (1 + 0.5 * (1 - np.exp(-np.arange(2_000) / 15))),  # caches fill
        GIB * (1 + 0.3 * (np.arange(2_000) > 500)),  # something more is kept from here on
        GIB * (1 + 0.2 * (np.arange(2_000) % 24) / 24),  # comes and goes
        GIB * (2 - np.arange(2_000) / 2_000),
    ],
)
def test_what_fills_jumps_comes_and_goes_or_shrinks_is_no_leak(sizes: np.ndarray) -> None:
    assert told(Memory().detector(), of("memory", sizes)) == []


def test_what_comes_and_goes_slowly_is_told_once_at_each_scale_at_most() -> None:
    sizes = GIB * (1 + 0.2 * (np.arange(2_000) % 100) / 100)
    assert 1 <= len(begun(Memory().detector(), of("memory", sizes))) <= SCALES


@given(st.sampled_from([2.0**-10, 2.0**4]))
@settings(max_examples=2)
def test_memory_in_other_units_gives_the_same(unit: float) -> None:
    sizes = GIB * (1 + 0.01 * np.arange(100))
    plain, scaled = (told(Memory().detector(), of("memory", sizes * factor)) for factor in (1.0, unit))
    assert [(one.step, one.score) for one in plain] == [(one.step, one.score) for one in scaled]
    assert plain
