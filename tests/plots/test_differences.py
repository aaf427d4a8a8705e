"""The picture of the differences of two runs by step and tensor."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gpuconv import plots
from tests.plots.figures import words

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("pictures")


def test_differences_of_two_runs_are_drawn_by_step_and_tensor():
    rows = {("outputs", "conv1"): {1: 0.0, 3: 1e-9}, ("gradients", "conv1.weight"): {1: 0.0, 2: 0.5, 3: np.inf}}
    figure = plots.differences(rows, first=(2, ("gradients", "conv1.weight")))
    for text in ["outputs", "gradients", "conv1", "conv1.weight", "what rounding explains"]:
        assert text in words(figure)
    axes = figure.axes[0]
    pixels = axes.images[0].get_array()
    assert pixels[..., 3].tolist() == [[1, 0, 1], [1, 1, 1]]  # step 2 has no output
    same, far, near, beyond = pixels[0, 0], pixels[0, 2], pixels[1, 1], pixels[1, 2]
    assert near[2] > far[2] > same[2]  # blue, lighter near the bound
    assert beyond[0] > beyond[2]
    (mark,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (1, 1)
    with pytest.raises(ValueError, match="at least one step"):
        plots.differences({})
    for first in ((4, ("outputs", "conv1")), (1, ("outputs", "conv2"))):
        with pytest.raises(ValueError, match=r"first must be \(step, tensor\) such that rows"):
            plots.differences(rows, first=first)


def test_a_difference_of_nan_is_drawn_empty():
    with warnings.catch_warnings(action="error"):
        pixels = plots.differences({("loss", "loss"): {1: 0.0, 2: np.nan}}).axes[0].images[0].get_array()
    assert pixels[0, :, 3].tolist() == [1, 0]


def test_the_steps_of_a_long_run_share_columns_that_show_the_largest_difference():
    shares = dict.fromkeys(range(1, 2001), 0.0) | {1500: 4.0}
    pixels = plots.differences({("loss", "loss"): shares}).axes[0].images[0].get_array()
    assert pixels.shape[:2] == (1, 600)
    assert [at for at, color in enumerate(pixels[0]) if color[0] > color[2]] == [1499 * 600 // 2000]
