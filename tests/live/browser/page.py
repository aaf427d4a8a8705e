"""The live page in Debian's Chromium: a server for it, and what a person sees and does there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/usr/bin/chromium").exists(), reason="needs Debian's chromium"),
    pytest.mark.filterwarnings("default"),
]
SCREENSHOTS = os.environ.get("GPUCONV_SCREENSHOTS")  # a folder to keep them in
WAIT = 60_000  # milliseconds


@contextlib.contextmanager
def serving(command, folder):
    """The address of a server that runs within this context."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(line.split()[1] for line in server.stdout if line.startswith("page"))
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130


def screenshot(page, name, tmp_path):
    folder = Path(SCREENSHOTS or tmp_path)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
    assert (folder / f"{name}.png").stat().st_size > 10_000


def text(page, selector):
    return page.locator(selector).inner_text()


def step(page):
    return int(text(page, "#step"))


def wait_until(page, expression):
    """Wait until a JavaScript expression is true. Playwright's own wait evaluates text in the page, which the page's
    content security policy forbids."""
    eventually(page, lambda: page.evaluate(expression), expression)


def eventually(page, condition, what=""):
    end = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < end, what
        page.wait_for_timeout(50)


def wait_for_accuracy(page, accuracy):
    wait_until(page, f"Number(document.querySelector('[data-part=test]')?.dataset.accuracy) > {accuracy}")


def draw(page, points):
    page.click("#clear")
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    scale = box["width"] / 224
    positions = [(box["x"] + x * scale, box["y"] + y * scale) for x, y in points]
    page.mouse.move(*positions[0])
    page.mouse.down()
    for point in positions[1:]:
        page.mouse.move(*point, steps=12)
    page.mouse.up()
