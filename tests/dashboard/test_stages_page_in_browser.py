"""The page of a protocol in a real browser without a network: what it shows while stages train, and what no name can do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.stages import PAGE_NAME, StagesData, write_stages_data, write_stages_page
from tests.dashboard.browser import PHONE, WIDE, OpenPage, wait_until
from tests.dashboard.test_stages_page import stage, told, write_run

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>'\"&#39;"


def write_page(folder: Path, *stages: dict[str, Any], going_on: bool = True, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_stages_page(folder, folder.name)
    write_stages_data(folder, StagesData(folder, folder.name).read(told(*stages, **more), going_on=going_on))
    return folder / PAGE_NAME


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_it_shows_every_stage_how_far_all_of_it_is_and_follows_it(size: tuple[int, int], open_page: OpenPage, tmp_path: Path) -> None:
    write_run(tmp_path, "one", [3.0, 2.0, 1.0])
    begun = stage(EVIL, state="to come", reason=EVIL)
    page = open_page(write_page(tmp_path / "some-stages", stage("first", "one"), begun, left=[60.0, 30.0, 120.0], share=0.25), size=size)
    wait_until(page, "document.querySelectorAll('.stage').length === 2")
    assert "1 of 2 stages done · about 1 min 0 s left (30 s to 2 min)" in page.inner_text("#summary")
    assert page.get_attribute("#progress", "aria-valuenow") == "25"
    assert page.evaluate("document.getElementById('bar').style.width") == "25%"
    box = page.locator("#progress").bounding_box()
    assert box is not None
    assert box["width"] > 200
    assert [page.locator(".stage h3 span").nth(place).inner_text() for place in (0, 2)] == ["1. first", f"2. {EVIL}"]
    assert page.input_value("#curve-metric") == "train/loss"
    assert page.locator("#legend li").count() == 1
    write_run(tmp_path, "two", [0.5])
    write_page(tmp_path / "some-stages", stage("first", "one"), stage("second", "two"), going_on=False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(page, "document.getElementById('summary').textContent === '2 of 2 stages done'")
    assert page.locator("#legend li").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
