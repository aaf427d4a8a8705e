"""What the page shows of a net: its activations, gradients, explanations, maps and scores."""

from __future__ import annotations

import io
import re

import numpy as np

import gpuconv as gc
from tests.live.browser.page import MARKS, draw, eventually, screenshot, step, text, wait_for_accuracy, wait_until

pytestmark = MARKS

SEVEN = [(60, 50), (165, 50), (100, 185)]
ONE = [(112, 30), (112, 190)]


def test_a_net_trains_and_is_inspected(open_page, tmp_path):
    page = open_page()
    wait_for_accuracy(page, 0.97)  # enough for digits drawn with the mouse; 0.95 was not always enough
    wait_until(page, "document.querySelectorAll('#right .example').length > 5")
    page.click("#toggle")
    wait_until(page, "document.getElementById('phase').textContent === 'paused'")
    paused_step = step(page)
    page.wait_for_timeout(500)
    assert step(page) == paused_step
    page.click("#one")
    wait_until(page, f"Number(document.getElementById('step').textContent) === {paused_step + 1}")
    screenshot(page, "learning", tmp_path)

    for digit, points in ((7, SEVEN), (1, ONE)):
        draw(page, points)
        wait_until(page, f"document.getElementById('guess').textContent === 'The net says: {digit}'")
    screenshot(page, "drawn", tmp_path)

    page.locator("#layers .layer:nth-child(2) canvas").first.click()
    page.wait_for_selector("#explanation table")
    assert re.search(r"conv1\[\d, \d, 0\] = .* sum to .* in float64", text(page, "#explanation"))
    screenshot(page, "explained", tmp_path)
    tile = page.locator("#layers .layer:nth-child(2) canvas").nth(1)
    tile.focus()
    tile.press("ArrowDown")
    wait_until(page, "document.getElementById('explanation').textContent.includes('conv1[1, 0, 1]')")

    for kind in ("gradients", "filters"):
        page.click(f"[data-kind={kind}]")
        wait_until(page, f"document.querySelector('#layers canvas').getAttribute('aria-label').startsWith('{kind}')")

    assert page.locator("#map-figure").is_hidden()
    for kind in ("saliency", "occlusion", "grad-cam"):
        page.select_option("#map", kind)
        wait_until(page, f"document.getElementById('map-canvas').ariaLabel.includes('{kind} for 1, step')")
        assert page.locator("#map-canvas").is_visible()
        page.wait_for_timeout(300)  # until the last parts of an occlusion are shown
        screenshot(page, f"map-{kind}", tmp_path)
    page.focus("#map")
    page.keyboard.press("ArrowUp")
    wait_until(page, "document.getElementById('map-canvas').ariaLabel.includes('occlusion')")

    page.fill("[name=lr]", "0.001")
    page.fill("[name=batch_size]", "32")
    page.click("#settings button")
    wait_until(page, "document.getElementById('log').textContent.includes('on: lr 0.001, batch_size 32')")
    wait_until(page, "Number(document.getElementById('rate').textContent) <= 0.001")  # the schedule lowers it further
    assert text(page, "#schedule").strip() == ", before the schedule"
    page.fill("[name=lr]", "-1")
    page.click("#settings button")
    page.wait_for_selector("#error:not([hidden])")
    assert "lr" in text(page, "#error")

    page.click("#save")
    wait_until(page, "document.querySelectorAll('#saved option').length === 1")

    layers = page.input_value("#text")
    page.fill("#text", layers.replace('"kernel_size": 3', '"kernel_size": 30', 1))
    page.click("#begin")
    page.wait_for_selector("#text-error:not([hidden])")
    assert "layer 1" in text(page, "#text-error")
    assert page.evaluate("document.getElementById('text').scrollTop") < 20
    assert "30" in page.evaluate("document.getSelection().toString()")
    screenshot(page, "bad-net", tmp_path)
    page.fill("#text", '[\n  {"layer": "Flatten"},\n  {"layer": "Linear", "out_features": 10}\n]')
    page.click("#begin")
    wait_until(page, "document.querySelectorAll('#layers .layer').length === 3")
    wait_until(page, "document.getElementById('phase').textContent === 'training'")


def legend(page, part="train"):
    """The loss and the accuracy in percent, as shown under the curves."""
    found = re.fullmatch(r"\w+: loss (\S+), accuracy (\S+) %", text(page, f"[data-part={part}]"))
    assert found
    return float(found[1]), float(found[2])


def scales(page):
    """The scale of each parameter and of its last update, as the table shows them."""
    rows = page.locator("#scales tbody tr").all_inner_texts()
    return {name: (float(weight), float(update)) for name, weight, update, _ in (row.split("\t") for row in rows)}


def examples(page):
    """Checks that each test image is in the right part of the page and shows its five best scores in order. Returns the
    parts that show images."""
    shown = page.evaluate(
        """[...document.querySelectorAll('.examples .example')].map((one) =>
            [one.parentElement.id, one.ariaLabel, one.innerText])"""
    )
    for part, label, scores in shown:
        title = re.match(r"test image \d+, a (\w+), taken for (\w+);", label)
        assert title
        assert (title[1] == title[2]) == (part == "right")
        shares = [float(share) for share in re.findall(r"([\d.]+) %", scores)]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
    return {part for part, _, _ in shown}


def test_what_is_shown_changes_as_the_net_learns(open_page):
    page = open_page()
    wait_for_accuracy(page, 0.1)
    assert text(page, "#device") == "numpy (as you asked)"
    wait_until(page, "parseInt(document.getElementById('speed').textContent) > 0")
    wait_until(page, "document.querySelectorAll('.examples .example').length > 10")
    assert "wrong" in examples(page)
    layer = page.locator("#layers .layer:nth-child(2)").inner_text().split("\n")
    assert layer[:3] == ["conv1", "8×8×48", "432 par."]
    assert page.locator("#layers .layer:nth-child(2) canvas").count() == 10
    curve = "['loss', 'accuracy'].map((id) => document.getElementById(id).toDataURL())"
    before, (loss, accuracy), drawn = scales(page), legend(page), page.evaluate(curve)
    assert list(before) == list(gc.models.build("digits-net", input_shape=(8, 8, 1), classes=10).params())
    wait_for_accuracy(page, 0.9)
    eventually(page, lambda: legend(page)[0] < loss, "the loss falls")
    eventually(page, lambda: legend(page)[1] > accuracy, "the accuracy rises")
    assert all(now != then for now, then in zip(page.evaluate(curve), drawn))
    eventually(page, lambda: all(scale != before[name] for name, scale in scales(page).items()))
    assert list(scales(page)) == list(before)
    assert all(0 < update < weight for weight, update in scales(page).values())
    assert sum(int(cell or 0) for cell in page.locator("#confusion td").all_inner_texts()) == 360  # test images
    assert "right" in examples(page)


def test_a_click_explains_a_layer_inside_others(open_page, tmp_path):
    net = """[
  {"layer": "Residual", "body":
    [{"layer": "Conv2D", "out_channels": 1, "kernel_size": 3, "padding": 1}, {"layer": "ReLU"}]},
  {"layer": "Branches", "branches": [[], [{"layer": "Conv2D", "out_channels": 3, "kernel_size": 1}]]},
  {"layer": "Flatten"},
  {"layer": "Linear", "out_features": 10}
]"""
    page = open_page()
    page.fill("#text", net)
    page.click("#begin")
    wait_until(page, "document.querySelectorAll('#layers .layer').length === 8")
    names = page.evaluate("[...document.querySelectorAll('#layers .layer')].map((one) => one.title.split(':')[0])")
    assert names == [
        *("input", "residual1.conv1", "residual1.relu1", "residual1", "branches1.branch2.conv1", "branches1"),
        *("flatten1", "fc1"),
    ]
    wait_until(page, "document.querySelectorAll('#layers .within canvas').length === 5")
    explanations = {
        "residual1.conv1": "9 products and the bias",
        "residual1.relu1": "from the input",
        "residual1": "the body's",
        "branches1.branch2.conv1": "1 product and the bias",
        "branches1": "the value of branch2 at",
        "fc1": "256 products and the bias",
    }
    for name, words in explanations.items():
        tile = page.locator(f"#layers .layer[title^='{name}: '] canvas").last
        tile.click()
        wait_until(page, f"document.getElementById('explanation').textContent.startsWith('{name}[')")
        assert words in text(page, "#explanation p"), name
        assert re.search(r" \(error \d", text(page, "#explanation p")), name
    assert "window (16 of 256 values)" in text(page, "#explanation")
    assert "240 more products" in text(page, "#explanation")
    page.click("[data-kind=gradients]")
    wait_until(
        page, "document.querySelector('#layers .within canvas').ariaLabel.startsWith('gradients of residual1.conv1')"
    )
    screenshot(page, "nested", tmp_path)
    page.set_viewport_size({"width": 360, "height": 900})
    page.wait_for_timeout(150)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_dropped_image_goes_through_the_net(open_page):
    from PIL import Image

    page = open_page()
    file = io.BytesIO()
    Image.fromarray(np.zeros((40, 90, 4), np.uint8) + 255).save(file, "PNG")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": file.getvalue()})
    wait_until(page, "document.getElementById('shown').textContent.includes('40x90, mode RGBA, as 8x8')")
    drop = """(bytes) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([new Uint8Array(bytes)], "y.bmp"));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    file = io.BytesIO()
    Image.fromarray(np.zeros((300, 20), np.uint8)).save(file, "BMP")
    page.evaluate(drop, list(file.getvalue()))
    wait_until(page, "document.getElementById('shown').textContent.includes('300x20, mode L, as 8x8')")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot read this file as an image" in text(page, "#error")
