"""Where a run stands, in words."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs.eta import TimeLeft
from musictrain.runs.standing import Standing, clock, duration

NOON = datetime(2026, 11, 20, 12, 0).timestamp()  # a Friday
VALUES = {"train/loss": 1.10415, "val/loss": 1.03, "train/tokens_per_second": 21499.6}
HALFWAY = Standing(400, 1500, 80.4, TimeLeft(4800, 4200, 5700), VALUES, "validating", NOON)


def test_a_line_says_where_a_run_stands() -> None:
    assert HALFWAY.line() == (
        "step 400/1,500   27 %  loss 1.104  val 1.03  21,500 tokens/s  validating  1 min 20 s elapsed  "
        "1 h 20 min left (1 h 10 to 1 h 35), ends 13:20"
    )


def test_what_is_unknown_is_left_out() -> None:
    assert Standing(7, None, 3).line() == "step 7  3 s elapsed"
    assert Standing(900, 900, 3, TimeLeft(0, 0, 0)).line() == "step 900/900  100 %  3 s elapsed"


def test_a_guess_is_called_one_and_a_minute_needs_no_bounds() -> None:
    assert "about 10 min 0 s left (4 min 0 to 20 min 0)" in Standing(1, 9, 3, TimeLeft(600, 240, 1200)).line()
    assert Standing(1, 9, 3, TimeLeft(10, 9, 11)).line().endswith("3 s elapsed  10 s left")


def test_other_people_name_their_losses_otherwise() -> None:
    assert Standing(1, None, 1, values={"train_loss": 2.0, "val_loss": 3.0}).line() == "step 1  loss 2  val 3  1 s elapsed"


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (200, HALFWAY.line()),
        (100, "step 400/1,500   27 %  loss 1.104  val 1.03  validating  1 h 20 min left, ends 13:20"),
        (62, "step 400/1,500   27 %  loss 1.104  validating  1 h 20 min left"),
        (40, "step 400/1,500  1 h 20 min left"),
        (20, "step 400/1,500"),
        (8, "step 400"),
    ],
)
def test_a_narrow_terminal_is_told_what_matters_most(width: int, line: str) -> None:
    assert HALFWAY.line(width) == line


@given(st.integers(0, 300), st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.floats(0, 1e9))
def test_a_line_is_never_wider_than_there_is_room(width: int, step: int, total: int | None, seconds: float) -> None:
    line = Standing(step, total, seconds, TimeLeft(seconds, seconds / 2, seconds * 2), VALUES, "saving", NOON).line(width)
    assert len(line) <= width
    assert "\n" not in line


@pytest.mark.parametrize(
    ("hours", "words"), [(0, "12:00"), (5, "17:00"), (13, "Sat 01:00"), (6 * 24, "Thu 12:00"), (7 * 24, "2026-11-27 12:00")]
)
def test_the_end_is_said_by_the_clock_and_the_day(hours: float, words: str) -> None:
    assert clock(NOON + 3600 * hours, NOON) == words


@given(st.integers(0, 10**7))
def test_a_duration_is_right_to_its_second_unit(seconds: int) -> None:
    units = {"d": 86400, "h": 3600, "min": 60, "s": 1}
    words = duration(seconds).split()
    said = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert said <= seconds < said + units[words[-1]]
