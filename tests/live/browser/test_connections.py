"""Two browsers, a browser that is opened after they have closed, and a server that restarts."""

from __future__ import annotations

import sys

from gpuconv.live.server import listening_socket
from tests.live.browser.page import MARKS, serving, step, wait_for_accuracy, wait_until

pytestmark = MARKS


def test_two_browsers_show_the_same_run_and_a_later_browser_shows_its_progress(open_page):
    one, other = open_page(), open_page()
    wait_for_accuracy(one, 0.2)
    other.click("#toggle")
    wait_until(one, "document.getElementById('phase').textContent === 'paused'")
    one.click("#toggle")
    wait_until(other, "document.getElementById('phase').textContent === 'training'")
    step_at_close = step(one)
    one.context.close()
    other.context.close()
    again = open_page()
    wait_until(again, f"Number(document.getElementById('step').textContent) > {step_at_close + 20}")


def test_a_page_reconnects_after_the_server_restarts(browser, tmp_path):
    with listening_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
    command = [sys.executable, "-m", "gpuconv", "live", "--port", str(port), "--device", "numpy"]
    page = browser.new_page()
    try:
        with serving(command, tmp_path):
            page.goto(f"http://127.0.0.1:{port}")
            wait_for_accuracy(page, 0.1)
        wait_until(page, "document.getElementById('phase').textContent.includes('does not answer; trying again')")
        with serving([*command, "runs/live-digits-digits-net-1"], tmp_path):
            wait_until(page, "document.getElementById('phase').textContent === 'paused'")
            page.click("#toggle")
            wait_until(page, "document.getElementById('phase').textContent === 'training'")
    finally:
        page.close()
