"""The picture of a layer's filters: every filter, and what is refused."""

from __future__ import annotations

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
