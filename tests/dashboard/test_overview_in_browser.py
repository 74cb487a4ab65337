"""The page over all runs in a real browser without a network: what it shows, what a reader can do, and what no name can do to it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.runs_query import Runs
from musictrain.dashboard.overview import write_overview, write_overview_data
from musictrain.dashboard.overview_data import overview_data
from musictrain.runs import RunFolder
from musictrain.runs.index import RunIndex
from musictrain.runs.labels import add_tags, set_note
from musictrain.runs.lineage import add_parent
from tests.dashboard.browser import PHONE, WIDE, OpenPage
from tests.runs.some_runs import append, losses, read_json, write_run, write_status

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>'\"&#39;"
TAG = "</script><script>alert(2)</script>"


def write_pages(runs_dir: Path, *, data_only: bool = False) -> Path:
    with RunIndex(runs_dir, read_json) as index:
        index.refresh()
        data = overview_data(index, Runs(index).rows, "Some runs", live=True)
    page = runs_dir / "overview.html"
    if data_only:
        write_overview_data(page, data)
    else:
        write_overview(page, runs_dir, data)
    return page


def some_run(runs_dir: Path, number: int, **status: Any) -> RunFolder:
    values = [1 / step + 0.1 * number for step in range(1, 40)]
    config = {"optimizer": {"lr": 10.0**-number}, "dropout": 0.1 * (number % 3), "model": f"m.Net{number % 2}"}
    rows = [*losses(*values), *losses(*values, key="train/loss")]
    told = {"state": "finished", "step": 390, "total": 400, "first_started": 1e9 + 1000 * number, **status}
    told["best"] = {"metric": "val/loss", "value": min(values), "step": 390}
    return write_run(runs_dir, f"2026-01-0{number + 1}_000000-tunes-run{number}", rows, config=config, **told)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for number in range(7):
        some_run(tmp_path / "runs", number, **({"state": "failed"} if number == 3 else {}))
    add_tags(RunFolder(tmp_path / "runs" / "2026-01-02_000000-tunes-run1"), ["paper"])
    own = tmp_path / "runs" / "2026-01-02_000000-tunes-run1" / "dashboard.html"
    own.write_text("<title>its own page</title>")
    return tmp_path / "runs"


def wait_until(page: Any, expression: str, wanted: Any = True, seconds: float = 60) -> None:
    # Playwright's own wait_for_function needs eval, which the page's policy forbids.
    until = time.monotonic() + seconds
    while page.evaluate(expression) != wanted and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert page.evaluate(expression) == wanted


def wait_for_names(page: Any, wanted: list[str]) -> None:
    expression = "[...document.querySelectorAll('#rows .run-name')].map((each) => each.textContent.replace(/^tunes-run/, ''))"
    wait_until(page, expression, wanted)


def wait_for_curves(page: Any, wanted: int) -> None:
    wait_until(page, "document.querySelectorAll('#plot .scatterlayer .trace').length", wanted)


@pytest.mark.parametrize("size", [WIDE, PHONE])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_shows_every_run_in_light_and_dark_wide_and_small(
    runs: Path, open_page: OpenPage, size: tuple[int, int], dark: bool
) -> None:
    page = open_page(write_pages(runs), size=size, dark=dark)
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    assert page.title() == "Some runs"
    wait_for_curves(page, 5)
    assert page.locator("html").get_attribute("data-theme") == ("dark" if dark else "light")
    assert page.locator("#parallel-body canvas").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#summary").inner_text() == "7 runs · lowest val/loss 0.02564 by tunes-run0"
    assert page.locator("#message").is_hidden()


def test_the_table_is_sorted_and_filtered(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs))
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    page.get_by_role("button", name=re.compile("^Best")).click()
    wait_for_names(page, ["0", "1", "2", "3", "4", "5", "6"])
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name=re.compile("^Best")).click()
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    page.locator(".chip", has_text="failed").click()
    wait_for_names(page, ["3"])
    assert page.locator("#runs-title").inner_text() == "Runs, 1 of 7"
    page.locator(".chip", has_text="failed").click()
    page.locator(".chip", has_text="paper").click()
    wait_for_names(page, ["1"])
    page.locator(".chip", has_text="paper").click()
    page.locator("#search").fill("RUN2")
    wait_for_names(page, ["2"])
    page.locator("#search").fill("nothing like it")
    wait_for_names(page, [])
    assert page.locator("#no-rows").inner_text() == "No run fits what you look for."


def test_a_small_screen_sorts_by_a_list(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs), size=PHONE)
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    page.locator("#sort").select_option("best up")
    wait_for_names(page, ["0", "1", "2", "3", "4", "5", "6"])


def test_chosen_runs_are_laid_over_one_another(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs))
    wait_for_curves(page, 5)
    page.locator("#rows tr", has_text="run6").locator("label").click()
    wait_for_curves(page, 6)
    assert page.locator("#legend li").count() == 6
    swatch = page.locator("#rows tr", has_text="run6").locator(".swatch")
    traced = page.evaluate("document.querySelector('#plot').data.find((each) => each.name === 'tunes-run6').line.color")
    assert swatch.evaluate("(node) => getComputedStyle(node).getPropertyValue('--swatch')").strip() == traced
    page.locator("#curve-metric").select_option("train/loss")
    page.locator("#log-y").click()
    wait_until(page, "document.querySelector('#plot').layout.yaxis.type === 'log'")
    page.locator("#clear-chosen").click()
    wait_for_curves(page, 0)
    assert page.locator("#curve-note").is_visible()


def test_a_range_kept_on_an_axis_narrows_the_table(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs))
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    page.locator("#parallel").scroll_into_view_if_needed()
    box = page.locator(".axis-line[data-axis='optimizer.lr']").bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] - 3)
    page.mouse.down()
    page.mouse.move(middle, box["y"] + 0.4 * box["height"], steps=4)
    page.mouse.up()
    wait_for_names(page, ["2", "1", "0"])  # rates are drawn by their logarithm: 1 to 0.01 are the upper third
    assert page.locator(".axis-range").count() == 1
    page.locator("#clear-ranges").click()
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])


def test_axes_are_chosen(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs))
    page.locator("#axes summary").click()
    assert page.locator(".axis-name").count() == 4
    page.get_by_role("checkbox", name="dropout").uncheck()
    wait_until(page, "document.querySelectorAll('.axis-name').length === 3")
    page.locator("#result-metric").select_option("train/loss")
    page.get_by_role("button", name="Highest").click()
    assert page.locator(".axis-name").last.inner_text().split("\n") == ["train/loss", "highest"]


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_the_trials_of_a_search_stand_behind_one_row_until_it_is_opened(size: tuple[int, int], runs: Path, open_page: OpenPage) -> None:
    for number in (2, 4, 5):
        add_parent(RunFolder(runs / f"2026-01-0{number + 1}_000000-tunes-run{number}"), "trial of", "rates")
    add_parent(RunFolder(runs / "2026-01-01_000000-tunes-run0"), "trial of", EVIL)
    page = open_page(write_pages(runs), size=size)
    wait_for_names(page, ["6", "rates", "3", "1", "0"])
    row = page.locator("#rows tr.search")
    assert "search, 3 trials" in row.inner_text()
    assert "3 of 3 done" in row.inner_text()
    row.locator("button").click()
    wait_for_names(page, ["6", "rates", "5", "4", "2", "3", "1", "0"])
    page.locator("#rows tr.inside label").nth(0).click()
    assert page.locator("#rows .search button").get_attribute("aria-expanded") == "true"
    page.locator("#rows .search button").click()
    wait_for_names(page, ["6", "rates", "3", "1", "0"])
    page.fill("#search", "run4")
    wait_for_names(page, ["4"])


def test_a_run_leads_to_its_own_page(runs: Path, open_page: OpenPage) -> None:
    page = open_page(write_pages(runs))
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    assert page.locator("a.run-name").count() == 1
    page.locator("a.run-name").click()
    page.wait_for_url("**/2026-01-02_000000-tunes-run1/dashboard.html")
    assert page.title() == "its own page"


def test_new_data_are_shown_without_a_reload_and_what_the_reader_did_stays(runs: Path, open_page: OpenPage) -> None:
    run = some_run(runs, 7, state="training", step=100, updated=time.time())
    file = write_pages(runs)
    page = open_page(file)
    wait_for_names(page, ["7", "6", "5", "4", "3", "2", "1", "0"])
    page.locator("#rows tr", has_text="run0").locator("label").click()
    page.locator("#search").fill("run7")
    wait_for_names(page, ["7"])
    chosen = page.locator("#legend .name").all_inner_texts()
    page.evaluate("window.stillThisPage = true")
    append(run.metrics, [{"step": 400, "val/loss": 0.001}])
    write_status(run, state="finished", step=400, total=400, best={"metric": "val/loss", "value": 0.001, "step": 400})
    write_pages(runs, data_only=True)
    wait_until(page, "document.querySelector('#rows .pill').textContent === 'finished'")
    assert page.evaluate("window.stillThisPage")
    assert page.locator("#search").input_value() == "run7"
    assert page.locator("#legend .name").all_inner_texts() == chosen
    assert "lowest val/loss 0.001 by tunes-run7" in page.locator("#summary").inner_text()


def test_no_name_tag_note_setting_or_metric_can_do_anything(tmp_path: Path, open_page: OpenPage) -> None:
    for number in range(3):
        run = write_run(
            tmp_path / "runs",
            f"2026-01-0{number + 1}_000000-{EVIL}{number}",
            [*losses(0.5, 0.4 - number / 10), *losses(1.0, 2.0, key=EVIL)],
            config={"a": {EVIL: TAG + str(number), "lr": number + 1, TAG: number}},
            **{"state": EVIL if number == 2 else "finished", "step": 20, "total": 20, "first_started": 1e9 - number},
        )
        add_tags(run, [TAG, EVIL, "{{scripts}}"])
        set_note(run, f"{TAG}{EVIL}")
        (run.path / "dashboard.html").write_text("<title>its own page</title>")
    page = open_page(write_pages(tmp_path / "runs"))
    wait_for_names(page, [f"{EVIL}{number}" for number in range(3)])
    wait_for_curves(page, 3)
    page.locator("#curve-metric").select_option(EVIL)
    page.locator("#result-metric").select_option(EVIL)
    page.locator("#axes summary").click()
    page.locator("#plot").hover()
    page.locator(".chip", has_text="{{scripts}}").click()
    assert page.locator("img").count() == 0
    assert page.locator("#rows script").count() == 0
    page.locator("a.run-name").first.click()
    wait_until(page, "document.title === 'its own page'")


def test_without_plotly_everything_else_is_there_and_it_is_said(runs: Path, open_page: OpenPage) -> None:
    file = write_pages(runs)
    for copy in runs.glob("plotly-*.js"):
        copy.unlink()
    page = open_page(file, allow=("ERR_FILE_NOT_FOUND",))
    wait_for_names(page, ["6", "5", "4", "3", "2", "1", "0"])
    wait_until(page, "!document.querySelector('#message').hidden")
    assert "which is missing beside this page" in page.locator("#message").inner_text()
    assert page.locator("#legend li").count() == 5
    assert page.locator("#parallel-body canvas").count() == 1


@pytest.mark.parametrize(("content", "told"), [(None, "There is no data file beside this page"), ("overview(", "cannot be understood")])
def test_missing_and_broken_data_are_said(runs: Path, open_page: OpenPage, content: str | None, told: str) -> None:
    file = write_pages(runs)
    data = runs / "overview_data.js"
    if content is None:
        data.unlink()
    else:
        data.write_text(content)
    page = open_page(file, allow=("ERR_FILE_NOT_FOUND", "Unexpected end of input"))
    wait_until(page, "!document.querySelector('#message').hidden")
    assert told in page.locator("#message").inner_text()
    assert "musictrain runs overview" in page.locator("#message").inner_text()
