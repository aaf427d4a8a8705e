"""The page on small and large screens, in light and dark, and from the keyboard."""

from __future__ import annotations

from tests.live.browser.page import MARKS, screenshot, step, wait_for_accuracy, wait_until

pytestmark = MARKS


def test_the_page_fits_a_phone_in_light_and_dark_and_works_from_the_keyboard(open_page, tmp_path):
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        wait_for_accuracy(page, 0.5)
        for width in (360, 768, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(150)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            screenshot(page, f"{scheme}-{width}", tmp_path)
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, input, select, textarea, canvas, [tabindex]')].filter(one =>
            !(one.ariaLabel || one.textContent.trim() || one.closest('label') || one.ariaHidden === 'true' ||
              document.querySelector(`label[for="${one.id}"]`) || one.closest('[role=listitem], button')))
            .map(one => one.outerHTML)"""
        )
        assert unnamed == []
    page.locator("h1").click()
    page.keyboard.press("p")
    wait_until(page, "document.getElementById('phase').textContent === 'paused'")
    paused_step = step(page)
    page.keyboard.press("s")
    wait_until(page, f"Number(document.getElementById('step').textContent) === {paused_step + 1}")
    page.focus("#pad")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowDown")
    wait_until(page, "document.getElementById('shown').textContent === 'your drawing'")
    heights = page.evaluate(  # with a hundred classes or layers
        """[...document.querySelectorAll('#confusion, #scales')].map(table => {
            table.style.height = '5000px';
            return table.closest('section').offsetHeight;
        })"""
    )
    assert all(height < 1000 for height in heights), heights
