"""Output in notebooks: histories and tables as HTML, and figures as pictures."""

from __future__ import annotations

import copy
import json
from xml.etree import ElementTree

import pytest

from gpuconv import plots
from gpuconv.text import html
from gpuconv.training.history import History
from tests import toy_run


def parsed(text):
    """The parsed text, after a check that its colors are visible on light and on dark pages."""
    for color in ("black", "white", "#000", "#fff"):
        assert color not in text
    return ElementTree.fromstring(text)


def words(tree):
    return ["".join(element.itertext()) for element in tree.iter() if element.tag in ("td", "th", "caption", "text")]


def test_a_history_is_a_list_displayed_as_curves_and_a_table():
    history = toy_run.fit(toy_run.trainer(), epochs=3)
    assert isinstance(history, History)
    assert history == json.loads(json.dumps(history))
    assert copy.deepcopy(history) == history
    tree = parsed(history._repr_html_())
    texts = words(tree)
    assert [text for text in texts if text in ("loss", "accuracy")] == ["loss", "accuracy"]
    assert {"train", "validation", "epoch", "validation accuracy"} <= {*texts}
    assert f"{history[-1]['validation_loss']:.4f}" in texts
    assert len([element for element in tree.iter() if element.tag == "polyline"]) == 4
    assert len([element for element in tree.iter() if element.tag == "tr"]) == 4
    assert "no epoch yet" in "".join(parsed(History()._repr_html_()).itertext())


def test_the_final_test_is_the_caption_and_long_histories_are_shortened():
    trainer = toy_run.trainer()
    history = trainer.fit(toy_run.images(60), epochs=2, validation=0.2, test=toy_run.images(9, seed=5), progress=False)
    assert history.tested == trainer.tested
    (caption,) = [element for element in parsed(history._repr_html_()).iter() if element.tag == "caption"]
    assert f"test accuracy {trainer.tested['test_accuracy']:.4f}" in caption.text
    record = {"event": "epoch", "step": 1, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5}
    long_history = History(record | {"epoch": epoch} for epoch in range(1, 101))
    first = [element[0].text for element in parsed(long_history._repr_html_()).iter() if element.tag == "tr"]
    assert first == ["epoch", "1", "2", "3", "4", "5", "6", "…", "95", "96", "97", "98", "99", "100"]
    one = parsed(History(long_history[:1])._repr_html_())
    assert len([element for element in one.iter() if element.tag == "circle"]) == 2


def test_text_is_escaped_and_charts_leave_out_points_that_are_not_finite():
    shown = html.table(["<a>"], [["<script>", float("nan")], [None, 3]], "a & b")
    assert words(parsed(shown)) == ["a & b", "<a>", "<script>", "nan", "", "3"]
    nan = float("nan")
    line = parsed(html.chart({"x": [(1, nan), (2, 1.0), (3, 2.0), (4, float("inf"))]}, "<loss>"))
    assert next(element for element in line.iter() if element.tag == "polyline").get("points").count(",") == 2
    assert html.chart({"x": [(1, nan)]}, "loss") == ""


def test_numbers_are_right_aligned_with_their_heading():
    rows = [["conv1", "8 x 8 x 16", "1,160", "3.2e-08", ""], ["fc1", "10", 25, -0.5, ""], ["…", "", "", "nan", ""]]
    tree = parsed(html.table(["layer", "output", "parameters", "error", "total"], rows))
    sides = [[cell.get("style") for cell in row] for row in tree.iter("tr")]
    assert sides == [[f"text-align:{side}" for side in ("left", "left", "right", "right", "left")]] * 4


def test_a_figure_has_a_png_display():
    pytest.importorskip("matplotlib")
    figure = plots.curves(toy_run.fit(toy_run.trainer(), epochs=1))
    assert figure._repr_png_().startswith(b"\x89PNG")
