"""The picture of a layer's filters: every filter, and what is refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import plots

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")

RNG = np.random.default_rng(7)


@pytest.mark.parametrize(("shape", "tiles"), [((12, 5, 3, 3), 12), ((7, 3, 3, 1), 7), ((4, 3, 3, 2), 8)])
def test_filters_shows_every_filter(shape, tiles):
    figure = plots.filters(RNG.normal(size=shape), title="conv1")
    sheet = figure.axes[0].images[0].get_array()
    covered = sheet[..., 3] > 0
    side = 110  # pixels of a tile's longer side
    assert covered.sum() == tiles * side * round(side * min(1, shape[2] / shape[1]))


def test_filters_refuses_layers_nets_and_none():
    layer = gc.layers.Conv2D(2, 3)
    for wrong in (layer, gc.Sequential([layer]), None):
        with pytest.raises(TypeError, match=r"net\['conv1.weight'\], received"):
            plots.filters(wrong)


def test_filters_refuses_arrays_of_another_rank():
    with pytest.raises(ValueError, match=r"\(K, R, S, C\), received shape \(3, 3\)"):
        plots.filters(np.zeros((3, 3)))


def test_of_many_tiles_the_first_are_drawn(monkeypatch):
    monkeypatch.setattr(importlib.import_module("gpuconv.plots.filters"), "MOST_TILES", 10)
    for shape, total in (((4, 3, 3, 4), 16), ((12, 3, 3, 3), 12), ((1, 3, 3, 16), 16)):
        figure = plots.filters(RNG.normal(size=shape))
        covered = figure.axes[0].images[0].get_array()[..., 3] > 0
        assert covered.sum() == 10 * 110 * 110
        assert any(text.get_text().endswith(f"; the first 10 of {total} tiles") for text in figure.texts)
