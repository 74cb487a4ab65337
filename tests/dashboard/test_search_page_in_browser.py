"""The page of a search in a real browser without a network: what it shows, how choices go through it, and what no name can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.search import PAGE_NAME, SearchData, write_search_data, write_search_page
from tests.dashboard.browser import PHONE, WIDE, OpenPage, wait_until
from tests.dashboard.made_up_search import DEPTH, KIND, LR, told, write_trials
from tests.dashboard.run_folders import HOSTILE

pytestmark = pytest.mark.slow


def write_page(folder: Path, search: dict[str, Any], *, going_on: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    write_search_page(folder, folder.name)
    write_search_data(folder, SearchData(folder, folder.name).read(search, going_on=going_on))
    return folder / PAGE_NAME


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_it_shows_the_best_first_and_everything_that_is_known(size: tuple[int, int], open_page: OpenPage, tmp_path: Path) -> None:
    search = told(9)
    write_trials(tmp_path, search)
    search["failures"] = [
        {"name": "bad", "run": "", "seed": 2, "step": 0, "attempts": 3, "words": "lr=1", "reason": "killed by signal 9", "page": False}
    ]
    page = open_page(write_page(tmp_path / "small", search), size=size, dark=size == PHONE)
    wait_until(page, "document.querySelectorAll('#charts .plot .main-svg').length >= 6")
    assert "22 of 27" in page.inner_text("#facts")
    assert "about 25 min" in page.inner_text("#facts")
    assert page.get_attribute("#progress", "aria-valuenow") == "60"
    rows = page.locator("#rows tr")
    assert rows.count() == 9
    assert f"{search['points'][0]['results'][0][0]:.3f}"[:4] in rows.nth(0).inner_text()
    assert page.locator("#rows input:checked").count() == 3, "the three best are coloured"
    assert rows.nth(0).locator("a").nth(0).get_attribute("href") == f"../{search['points'][0]['trials'][0]['run']}/dashboard.html"
    assert [page.locator("#charts h3").nth(place).inner_text() for place in range(3)] == ["lr", "layers", "optimizer"]
    assert page.locator("#plot .scatterlayer .trace").count() == 27
    assert "R2 0.70, 27 points" in page.inner_text("#importance-sentence")
    assert "killed by signal 9" in page.inner_text("#failure-list")
    assert page.locator("#front").is_hidden()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_range_narrows_the_table_and_a_new_best_comes_by_itself(open_page: OpenPage, tmp_path: Path) -> None:
    search = told(9, seeds=1)
    write_trials(tmp_path, search)
    page = open_page(write_page(tmp_path / "small", search))
    wait_until(page, "document.querySelectorAll('.axis-line').length === 4")
    strip = page.locator(f'.axis-line[data-axis="{LR}"]').bounding_box()
    assert strip is not None
    page.mouse.move(strip["x"] + 20, strip["y"] + 2)
    page.mouse.down()
    page.mouse.move(strip["x"] + 20, strip["y"] + strip["height"] * 0.4, steps=4)
    page.mouse.up()
    kept = page.locator("#rows tr").count()
    assert 0 < kept < 9
    assert page.inner_text("#points-title") == f"Points, {kept} of 9"
    page.click("#clear-ranges")
    assert page.locator("#rows tr").count() == 9
    search["points"].insert(0, search["points"].pop(5))
    for place, point in enumerate(search["points"]):
        point["rank"] = place + 1
    search["facts"]["state"] = "finished"
    write_page(tmp_path / "small", search, going_on=False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(page, "document.getElementById('state').textContent === 'finished'")
    assert page.locator("#rows tr").nth(0).get_attribute("title") == search["points"][0]["name"]
    assert page.get_attribute("#progress", "aria-valuenow") == "100"


def test_two_objectives_have_a_front_and_the_charts_show_the_one_that_is_asked_for(open_page: OpenPage, tmp_path: Path) -> None:
    search = told(9, seeds=1, objectives=2)
    write_trials(tmp_path, search)
    page = open_page(write_page(tmp_path / "small", search))
    wait_until(page, "document.querySelectorAll('#front-plot .scatterlayer .trace').length === 2")
    assert page.locator("#rows .star").count() == sum(point["front"] for point in search["points"])
    page.select_option("#objective", label="highest val/groove")
    wait_until(page, "document.querySelector('#charts .plot').getAttribute('aria-label').startsWith('val/groove against')")
    assert page.inner_text("#scale-name").startswith("val/groove")
    assert page.locator("#plot .scatterlayer .trace").count() == 9


def test_no_name_and_no_value_becomes_anything_but_text(open_page: OpenPage, tmp_path: Path) -> None:
    search = told(9, seeds=1, objectives=2)
    write_trials(tmp_path, search)
    for place, point in enumerate(search["points"]):
        point["values"] = {LR: point["values"][LR], KIND: f"{HOSTILE}{place % 2}", DEPTH: [HOSTILE, place]}
        point["reason"], point["trials"][0]["reason"], point["trials"][0]["state"] = HOSTILE, HOSTILE, HOSTILE
    for each in (*search["parameters"], *search["objectives"]):
        each |= {"name": HOSTILE, "told": HOSTILE, "words": HOSTILE}
    search["failures"] = [
        {"name": HOSTILE, "run": HOSTILE, "seed": HOSTILE, "step": 0, "attempts": 1, "words": HOSTILE, "reason": HOSTILE, "page": True}
    ]
    search["importance"] |= {"sentence": HOSTILE, "about": HOSTILE}
    search["facts"] |= {"rule": HOSTILE, "space": HOSTILE, "about": HOSTILE, "constraints": [HOSTILE]}
    page = open_page(write_page(tmp_path / "small", search))
    wait_until(page, "document.querySelectorAll('#charts .plot .main-svg').length >= 6")
    page.locator("#charts .plot").nth(0).hover()
    page.locator("#plot").hover()
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main b b, main script").count() == 0
    assert "onerror" in page.inner_text("#failure-list")


def test_before_the_first_result_and_without_plotly_it_says_so(open_page: OpenPage, tmp_path: Path) -> None:
    search = told(2, seeds=1)
    for point in search["points"]:
        point |= {"results": [None], "rank": None, "step": 0, "state": "training"}
    search |= {"importance": None}
    file = write_page(tmp_path / "small", search)
    for plotly in tmp_path.glob("plotly*"):
        plotly.unlink()
    page = open_page(file, allow=("ERR_FILE_NOT_FOUND",))
    wait_until(page, "document.querySelectorAll('#rows tr').length === 2")
    assert "no point has a result yet" in page.inner_text("#facts")
    assert page.inner_text("#curve-note") == "No trial has recorded val/loss yet."
    assert "Without plotly.js" in page.inner_text("#plot")
    assert page.locator("#importance").is_hidden()
    assert page.locator("#parameters").is_hidden()
