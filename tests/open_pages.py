"""Report pages in a browser, as a user sees them: headless Chromium, by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, ViewportSize, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = {"desktop": 1280, "phone": 390}

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(PATH is None, reason="no Chromium on the path"),
]
"""Of a module of tests that opens pages."""


@contextmanager
def opened_browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        # Its own sandbox wants rights that containers lack; the pages are ours.
        opened = started.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page, with all that it says and asks for besides."""

    def __init__(self, browser: Browser, path: Path, width: int, touch: bool = False):
        size: ViewportSize = {"width": width, "height": 900}
        self.page: Page = browser.new_page(viewport=size, has_touch=touch)
        self.page.set_default_timeout(10_000)
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.said.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("article")

    def record(self, prompt: str) -> Locator:
        """The one with these words in its prompt, where it is on the page."""
        dd = self.page.locator("dd:nth-of-type(1)", has_text=prompt)
        return self.page.locator("article", has=dd)

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_inner_texts()
