"""Text in pictures: drawn literally, without letters that the font lacks, and cut if it is long."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpuconv import plots
from tests.plots.figures import HISTORY, panels, words

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")


def test_text_is_drawn_literally(tmp_path):
    name = "cost $x_$ low"
    pictures = [
        plots.activations(np.zeros((4, 4)), [], np.array([0.3, 0.7]), ["cat", name], truth=1, title=f"at {name}"),
        plots.curves(HISTORY, title=name),
        plots.filters(np.zeros((2, 3, 3, 3)), title=name),
        plots.shares({name: {"A": 0.1}}),
        plots.differences({("loss", name): {1: 0.1}}),
    ]
    for number, figure in enumerate(pictures):
        plots.save(figure, tmp_path / f"{number}.png")
        assert any(name in text for text in words(figure))


def test_names_and_titles_that_are_no_text_are_written_as_text():
    figure = plots.activations(np.zeros((4, 4)), [(1, np.ones(3))], np.array([0.3, 0.7]), range(2), truth=1, title=2026)
    assert {"2026", "1", "0", "this is: 1"} <= {*words(figure)}


def test_letters_missing_from_the_font_are_question_marks(tmp_path):
    name = "a\N{CJK UNIFIED IDEOGRAPH-732B}b\n\udc80é"
    figure = plots.activations(np.zeros((4, 4)), [], np.array([1.0]), [name], truth=0, title=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(figure, tmp_path / "a.png")
    assert "a?b??é" in words(figure)


@pytest.mark.parametrize("letter", ["W", "i"])
def test_long_text_is_cut_with_an_ellipsis(letter):
    long = 200 * letter
    figure = plots.activations(np.zeros((4, 4)), [], np.array([1.0]), [long], truth=0, title=long)
    name, percentage = panels(figure)["scores"].texts
    assert name.get_text().endswith("…")
    assert name.get_window_extent().x1 < percentage.get_window_extent().x0
    (title,) = (text for text in figure.texts if text.get_weight() == "bold")
    (truth,) = (text for text in figure.texts if text.get_text().startswith("this is"))
    for text in (title, truth):
        assert text.get_text().endswith("…")
        assert text.get_window_extent().x0 > 0
        assert text.get_window_extent().x1 < figure.bbox.width
