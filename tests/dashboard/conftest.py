"""The browser, for every test of a page."""

from tests.dashboard.browser import chromium, open_page

__all__ = ["chromium", "open_page"]
