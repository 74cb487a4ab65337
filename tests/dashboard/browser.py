"""A real browser without a network for the tests of the pages: whatever a page should not do in it is a failure of the test.

A test asks for ``open_page`` and gives it a file; the page that comes back is Playwright's. When the test ends, every request that was
for anything but a file, every error on the console and every exception in the page's scripts fails it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"),
)
LOCAL = ("file:", "data:", "blob:", "about:")
PATIENCE_MS = 60_000
WIDE, PHONE = (1400, 900), (390, 844)

OpenPage = Callable[..., Any]


@dataclass
class Faults:
    """What a page did that it should not, and what it may do in this test."""

    found: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()

    def note(self, fault: str) -> None:
        """Remember a fault unless a part of it is allowed."""
        if not any(part in fault for part in self.allowed):
            self.found.append(fault)

    def watch(self, context: Any) -> None:
        """Listen to every page of a browser context, and let nothing but files through."""
        context.route("**/*", self._answer)
        context.on("page", self._listen)

    def _answer(self, route: Any) -> None:
        if route.request.url.startswith(LOCAL):
            route.continue_()
        else:
            self.note(f"request: {route.request.url}")
            route.abort()

    def _listen(self, page: Any) -> None:
        page.on("request", lambda request: None if request.url.startswith(LOCAL) else self.note(f"request: {request.url}"))
        page.on("console", lambda message: self.note(f"console: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error: self.note(f"exception: {error}"))
        page.on("dialog", lambda dialog: (self.note(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("popup", lambda popup: self.note(f"popup: {popup.url}"))


def wait_until(page: Any, expression: str, seconds: float = PATIENCE_MS / 1000) -> None:
    """Wait until a JavaScript expression is true in the page; Playwright's own way needs ``eval``, which the pages' policy forbids."""
    until = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < until, f"still not so after {seconds:g} seconds: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, started once; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[OpenPage]:
    """``open_page(file, size=WIDE, dark=False, allow=(), init="")``: a file in a fresh, offline browser window.

    ``allow`` names parts of faults that this test expects, ``init`` is JavaScript that runs before the page's own.
    """
    contexts: list[Any] = []
    every: list[Faults] = []

    def open_file(
        file: Path, *, size: tuple[int, int] = WIDE, dark: bool = False, allow: tuple[str, ...] = (), init: str = "", **options: Any
    ) -> Any:
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            is_mobile=size[0] < 600,
            has_touch=size[0] < 600,
            accept_downloads=True,
            **options,
        )
        context.set_offline(True)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        every.append(Faults(allowed=allow))
        every[-1].watch(context)
        if init:
            context.add_init_script(init)
        page = context.new_page()
        page.goto(Path(file).resolve().as_uri(), wait_until="domcontentloaded")
        return page

    yield open_file
    found = [fault for faults in every for fault in faults.found]
    for context in contexts:
        context.close()
    assert not found, "\n".join(found)
