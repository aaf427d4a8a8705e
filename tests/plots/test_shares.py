"""The picture of errors relative to their bounds."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import plots
from gpuconv.plots import canvas
from tests.plots.figures import words

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")


def test_errors_are_drawn_relative_to_their_bound():
    rows = {"conv2d of conv1": {"A": 0.1, "B": 1e-3}, "relu": {"A": 0.0}, "pool": {"B": 2.5e6}, "add": {"A": np.inf}}
    figure = plots.shares(rows, title="who is wrong")
    for text in ["who is wrong", *rows, "the bound", "B: 2.5e+06 times its bound", "A: inf times its bound"]:
        assert text in words(figure)
    (axes,) = figure.axes
    bound, *dots = axes.lines
    assert set(bound.get_xdata()) == {1}
    low, high = axes.get_xlim()
    drawn = [(dot.get_ydata()[0], dot.get_xdata()[0], dot.get_color()) for dot in dots]
    cold, good, warm = canvas.COLD, canvas.GOOD, canvas.WARM
    assert drawn == [(0, 0.1, cold), (0, 1e-3, good), (1, low, cold), (2, 2.5e6, warm), (3, high, warm)]
    assert high > 2.5e6
    with pytest.raises(ValueError, match="at least one row"):
        plots.shares({})


def test_text_is_measured_without_a_canvas_of_the_size_of_the_figure(monkeypatch):
    """Such a canvas takes tens of megabytes, and the name of every row is measured."""
    from matplotlib.backends.backend_agg import RendererAgg

    pixels, begin = [], RendererAgg.__init__

    def recorded(self, width, height, dpi):
        pixels.append(width * height)
        begin(self, width, height, dpi)

    monkeypatch.setattr(RendererAgg, "__init__", recorded)
    canvas._measuring_renderer.cache_clear()
    plots.shares({f"conv2d of conv{number}, forward": {"A": 0.1} for number in range(20)})
    assert pixels == [1]


def test_shares_and_differences_refuse_rows_of_other_types():
    for draw in (plots.shares, plots.differences):
        for rows, kind in (([("relu", {"A": 0.1})], "list"), (None, "NoneType"), ({"relu": 0.1}, "float")):
            with pytest.raises(TypeError, match=f"rows must be a dictionary of dictionaries, received {kind} in place"):
                draw(rows)


def test_nan_is_drawn_as_infinity_and_names_of_series_literally():
    rows = {"conv2d": {"cost in $": np.nan, "$x^2$": 1.0}}
    figure = plots.shares(rows)
    (axes,) = figure.axes
    _, nan, one = axes.lines
    assert (nan.get_xdata()[0], nan.get_color()) == (axes.get_xlim()[1], canvas.WARM)
    assert one.get_xdata()[0] == 1
    assert "cost in $: nan times its bound" in words(figure)
    assert not any(text.get_parse_math() for text in [*figure.texts, *axes.texts])


def test_a_figure_keeps_its_canvas_when_its_pixels_are_read():
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure = plots.shares({"conv2d": {"A": 0.1}})
    own = FigureCanvasSVG(figure)
    assert plots.pixels(figure).dtype == np.uint8
    assert figure.canvas is own
