"""The browser of these tests notices what a page must not do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.browser import Faults, OpenPage

pytestmark = pytest.mark.slow


def test_a_file_opens_without_a_network(open_page: OpenPage, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><title>calm</title><p id='p'>text</p>", encoding="utf-8")
    page = open_page(file)
    assert page.inner_text("#p") == "text"
    assert page.evaluate("navigator.onLine") is False


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("<img src='http://localhost:9/x.png'>", "request"),
        ("<script>console.error('bad')</script>", "console: bad"),
        ("<script>throw new Error('thrown')</script>", "thrown"),
        ("<script>alert('hello')</script>", "dialog: hello"),
    ],
)
def test_what_a_page_must_not_do_is_noticed(chromium: Any, tmp_path: Path, body: str, word: str) -> None:
    file = tmp_path / "page.html"
    file.write_text(f"<!doctype html>{body}", encoding="utf-8")
    faults = Faults()
    with chromium.new_context() as context:
        faults.watch(context)
        page = context.new_page()
        page.goto(file.as_uri())
        page.wait_for_timeout(200)
    assert any(word in fault for fault in faults.found), faults.found
