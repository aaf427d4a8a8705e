"""Chromium and pages in it, for a new server in each test."""

from __future__ import annotations

import re
import sys

import pytest

from tests.live.browser.page import WAIT, serving


@pytest.fixture
def address(tmp_path):
    """The address of a new `gpuconv live`. `open_page` requests it, so its pages are closed before the server ends."""
    with serving([sys.executable, "-m", "gpuconv", "live", "--port", "0", "--device", "numpy"], tmp_path) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with pytest.importorskip("playwright.sync_api").sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens pages. Fails if a page logged a warning or an error (except for status 400), raised an error, or sent a
    request to another host."""
    wrong: list[str] = []
    contexts = []

    def make(**options):
        context = browser.new_context(viewport={"width": 1400, "height": 1000}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        refused = re.compile("status of 400")  # errors that the test provokes; the page shows them
        page.on(
            "console", lambda m: m.type in ("error", "warning") and not refused.search(m.text) and wrong.append(m.text)
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or wrong.append(r.url))
        page.goto(address)
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []
