"""The optimizer is changed and a saved checkpoint is loaded while the net trains."""

from __future__ import annotations

import re

from tests.live.browser.page import MARKS, step, text, wait_for_accuracy, wait_until

pytestmark = MARKS


def test_the_optimizer_can_be_changed_and_a_checkpoint_loaded_while_the_net_trains(open_page):
    page = open_page()
    wait_for_accuracy(page, 0.5)
    assert page.locator("#load").is_disabled()
    page.click("#save")
    wait_until(page, "document.querySelectorAll('#saved option').length === 1")
    saved_step = step(page)

    page.select_option("[name=optimizer]", "adam")
    page.fill("[name=lr]", "0.002")
    page.click("#settings button")
    wait_until(page, "document.getElementById('log').textContent.includes('on: optimizer adam, lr 0.002')")
    wait_until(page, "document.querySelector('[name=momentum]').disabled")  # Adam has no momentum setting
    wait_until(page, f"Number(document.getElementById('step').textContent) > {saved_step + 50}")
    assert text(page, "#phase") == "training"
    assert page.input_value("[name=optimizer]") == "adam"

    page.select_option("#saved", "1")
    page.click("#load")
    wait_until(page, "document.getElementById('phase').textContent === 'paused'")
    wait_until(page, "document.getElementById('log').textContent.includes('went to checkpoint 1, step ')")
    loaded_step = int(re.search(r"went to checkpoint 1, step (\d+)", text(page, "#log"))[1])
    wait_until(page, f"Number(document.getElementById('step').textContent) === {loaded_step}")
    assert loaded_step <= saved_step + 5
    wait_until(page, "document.querySelector('[name=optimizer]').value !== 'adam'")
    page.click("#toggle")
    wait_until(page, f"Number(document.getElementById('step').textContent) > {loaded_step + 20}")
