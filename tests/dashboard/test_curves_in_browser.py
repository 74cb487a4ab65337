"""What the page computes of curves, by its laws: straight lines stay straight, axes turn back, ranges stay within the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import write_data, write_page
from musictrain.runs.rows import marker
from tests.dashboard.browser import OpenPage, wait_until
from tests.dashboard.run_folders import make_run

pytestmark = pytest.mark.slow


@pytest.fixture
def page(open_page: OpenPage, tmp_path: Path) -> Any:
    """A run of a hundred steps whose later half took twice as long, with 500 tokens a step."""
    rows = [marker(1, 0, 1000.0)]
    for step in range(1, 101):
        time = 1000.0 + step + max(0, step - 50)
        rows.append({"time": time, "step": step, "train/loss": 3 - step / 50, "train/tokens": 500 * step})
    run = make_run(tmp_path / "run", rows=rows)
    write_page(run)
    write_data(run, PageData(run).read())
    page = open_page(run.dashboard)
    wait_until(page, "musictrain.curves.get('train/loss') !== undefined")
    return page


def test_smoothing_leaves_a_straight_line_alone_and_keeps_gaps(page: Any) -> None:
    page.evaluate("musictrain.plot.set({smoothing: 0.8})")
    smoothed = page.evaluate("musictrain.curves.smoothed([0, 1, 2, 5, 9, 40], [0, 2, 4, null, 18, 80])")
    assert smoothed[3] is None
    assert [smoothed[place] for place in (0, 1, 2, 4, 5)] == pytest.approx([0, 2, 4, 18, 80])


def test_smoothing_draws_noise_together_without_delay(page: Any) -> None:
    page.evaluate("musictrain.plot.set({smoothing: 1})")
    steps = list(range(100))
    values = [(10 if step >= 50 else 0) + (1 if step % 2 else -1) for step in steps]
    smoothed = page.evaluate("([steps, values]) => musictrain.curves.smoothed(steps, values)", [steps, values])
    # Half way up exactly where the values step up: an average over the past would come later.
    assert smoothed[20] == pytest.approx(0, abs=0.2)
    assert smoothed[80] == pytest.approx(10, abs=0.2)
    assert (smoothed[49] + smoothed[50]) / 2 == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize("axis", ["step", "tokens", "time"])
def test_an_axis_can_be_turned_back_into_steps(page: Any, axis: str) -> None:
    page.evaluate("axis => musictrain.plot.set({axis})", axis)
    turned = page.evaluate("[0, 1, 10, 49.5, 75, 100, 110].map(musictrain.curves.xOfStep).map(musictrain.curves.stepOfX)")
    assert turned == pytest.approx([0, 1, 10, 49.5, 75, 100, 110])


def test_axes_show_what_was_recorded(page: Any) -> None:
    page.evaluate("musictrain.plot.set({axis: 'tokens'})")
    assert page.evaluate("[50, 100].map(musictrain.curves.xOfStep)") == [25_000, 50_000]
    page.evaluate("musictrain.plot.set({axis: 'time'})")
    assert page.evaluate("[50, 100].map(musictrain.curves.xOfStep)") == [50, 150]


@pytest.mark.parametrize(("asked", "got"), [([20, 40], [20, 40]), ([-10, 10], [0, 20]), ([95, 115], [80, 100]), ([0, 100], None)])
def test_a_range_stays_within_the_run(page: Any, asked: list[float], got: list[float] | None) -> None:
    page.evaluate("range => musictrain.curves.setRange(range)", asked)
    assert page.evaluate("musictrain.curves.view.range") == got


def test_numbers_are_told_shortly_and_rightly(page: Any) -> None:
    numbers = "[0, 0.36341, 12.3456, 20965.4, -3.2, 0.00012, 1e-9, NaN, Infinity, null].map(value => musictrain.number(value))"
    assert page.evaluate(numbers) == ["0", "0.3634", "12.35", "20,965", "−3.2", "1.2e−4", "1e−9", "NaN", "∞", "–"]
    spans = "[7, 59.7, 200, 7500, 200000].map(value => musictrain.duration(value))"
    assert page.evaluate(spans) == ["7 s", "1 min 0 s", "3 min 20 s", "2 h 5 min", "2 d 7 h"]
