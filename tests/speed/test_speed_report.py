"""Rates, shares and stragglers of windows small enough to compute by hand."""

from __future__ import annotations

import math

import pytest

from musictrain.speed.complaints import Complaint, about_data, about_straggler
from musictrain.speed.phases import PHASES
from musictrain.speed.speed_report import RankWindow, SpeedReport, as_table


def window(memory_mib: float = 100.0, tokens: float = 600.0, **seconds: float) -> RankWindow:
    return RankWindow(
        steps=2,
        tokens=tokens,
        notes=60,
        pieces=6,
        flops=12e9,
        memory_mib=memory_mib,
        seconds=tuple(seconds.get(name, 0.0) for name in PHASES),
    )


ALONE = SpeedReport((window(data=1.0, forward=2.0, backward=3.0, validation=3.0, saving=1.0),), known=("tokens", "notes"), peak=4e9)
RANKS = SpeedReport((window(forward=1.0, backward=3.0), window(200.0, data=1.0, forward=1.0, backward=2.0)), 2, ("tokens",), 1e9)


def test_rates_are_those_of_training_and_shares_those_of_all_time():
    values = ALONE.values()
    assert values["tokens_per_second"] == 600 / 6
    assert values["notes_per_second"] == 60 / 6
    assert "pieces_per_second" not in values
    assert values["steps_per_second"] == 2 / 6
    assert values["data_wait"] == pytest.approx(1 / 6)
    assert values["data_share"] == pytest.approx(1 / 10)
    assert sum(values[f"{name}_share"] for name in PHASES) == pytest.approx(1.0)
    assert values["mfu"] == pytest.approx(12e9 / (6 * 4e9))
    assert "straggler" not in values


def test_ranks_are_added_up_and_the_slowest_is_named():
    values = RANKS.values()
    assert values["tokens_per_second"] == 1200 / 4
    assert values["mfu"] == pytest.approx(24e9 / (4 * 2 * 1e9))
    assert (values["slowest_rank"], values["straggler"]) == (1, 1.0), "busy 2 s against 1 s; in backward they wait for one another"
    assert values["memory_peak_mib"] == 200.0
    assert (values["rank_0/busy_ms_per_step"], values["rank_1/busy_ms_per_step"]) == (500.0, 1000.0)
    assert not [name for name in RANKS.values(most_ranks=1) if name.startswith("rank_")]


def test_ranks_that_read_the_same_count_once():
    shared = SpeedReport(RANKS.ranks, 1, ("tokens",), 1e9)
    assert shared.per_second("tokens") == 600 / 4
    assert shared.mfu == RANKS.mfu / 2


def test_a_window_travels_as_a_row_of_numbers():
    assert RankWindow.from_row(RANKS.ranks[1].as_row()) == RANKS.ranks[1]


def test_reports_add_up():
    total = ALONE + ALONE
    assert total.per_second("tokens") == ALONE.per_second("tokens")
    assert total.ranks[0].wall == 20.0
    assert total.ranks[0].memory_mib == 100.0


def test_nothing_at_all_gives_nan_and_no_error():
    assert math.isnan(SpeedReport((RankWindow(),), known=("tokens",)).values()["tokens_per_second"])


def test_the_table_tells_what_the_values_do():
    text = as_table(ALONE) + as_table(RANKS)
    for part in (
        "100  tokens per second",
        "50.0 %  of the device's peak",
        "3.0 s  validation (30.0 %)",
        "100 MiB",
        "100 %  longer busy was rank 1",
    ):
        assert part in text


def test_a_complaint_needs_patience_and_then_rests():
    complaint = Complaint(patience=3, pause=4)
    assert [complaint.due(bad) for bad in (True, True, False, True, True, True)] == [False] * 5 + [True]
    assert [complaint.due(True) for _ in range(5)] == [False, False, False, True, False]


def test_complaints_say_what_to_do():
    assert "waits for data 17 % of its time. Read ahead in more worker processes (num_workers is 0)" in " ".join(about_data(ALONE, 0))
    assert "Rank 1 is busy 100 % longer" in about_straggler(RANKS)[0]
    assert "waits longer for data" in about_straggler(RANKS)[0]
